"""What failed on this host, and when it may be tried again: bad.json.

A version that never became ready, and an environment that did not build or start, are out until their
backoff has passed (5 s, doubled up to 10 min). A ready worker that ends is started again at once after a long
life; dying young again and again it waits 2, 4, 8 … seconds, and from the fifth time on its version is out.
The book survives the agent; it holds nothing that could not be found out again. Its times are of the clock on
the wall, which may be set back: nothing waits longer from now than its backoff.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import msgspec

from mldeploy.core.host import Bad
from mldeploy.errors import DiskError
from mldeploy_daemon.disk import Disk

logger = logging.getLogger(__name__)
#: Seconds after the first failure; each further one doubles them, up to the second number.
FIRST_BACKOFF, LONGEST_BACKOFF = 5.0, 600.0
#: Seconds after its backoff in which whoever still wants an environment has tried it again.
WANTED = 3600.0
#: A worker that was ready for less than this many seconds died young.
YOUNG = 60.0
#: So many young deaths take a version out of rotation.
TOO_MANY = 5


def backoff(attempts: int) -> float:
    """Seconds after the n-th failure in a row."""
    return min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(attempts - 1, 20))


class Book:
    """By `model@version`, or by id for an environment. Every change goes to the disk."""

    def __init__(self, disk: Disk, now: Callable[[], float]) -> None:
        self.disk, self.now = disk, now
        self.bad: dict[str, Bad] = {}

    def load(self) -> None:
        """Read bad.json."""
        self.bad = self.disk.load_bad()
        self._shorten()

    def failed(self, key: str, digest: str, stage: str, reason: str, log_tail: str = "") -> None:
        """Something that was started did not come up."""
        attempts = self._attempts(key, digest) + 1
        retry_at = self.now() + backoff(attempts)
        logger.warning("%s failed (%s, attempt %d): %s", key, stage, attempts, reason)
        bad = Bad(
            digest=digest,
            reason=reason,
            stage=stage,
            attempts=attempts,
            retry_at=retry_at,
            log_tail=log_tail,
        )
        self._write(key, bad)

    def died(self, key: str, digest: str, lived: float, reason: str, log_tail: str = "") -> None:
        """A worker that had been ready ended by itself after `lived` seconds."""
        attempts = self._attempts(key, digest) + 1 if lived < YOUNG else 1
        out = attempts >= TOO_MANY
        delay = backoff(attempts) if out else 0.0 if attempts == 1 else 2.0 ** (attempts - 1)
        logger.warning("a worker of %s ended after %.0f s (%d times): %s", key, lived, attempts, reason)
        bad = Bad(
            digest=digest,
            reason=reason,
            stage="serve",
            attempts=attempts,
            retry_at=self.now() + delay,
            out=out,
            log_tail=log_tail,
        )
        self._write(key, bad)

    def came_up(self, key: str) -> None:
        """It works now. Deaths of ready workers are remembered until one has grown old (`grew_old`)."""
        if key in self.bad and self.bad[key].stage != "serve":
            self.forget([key])

    def grew_old(self, key: str) -> None:
        """A worker of it has been ready for YOUNG seconds."""
        self.forget([key])

    def forget(self, keys: Iterable[str]) -> None:
        """Nothing is held against these any more."""
        left = {key: bad for key, bad in self.bad.items() if key not in set(keys)}
        if len(left) != len(self.bad):
            self.bad = left
            self._save()

    def try_fetching(self) -> None:
        """What could not be fetched is tried again at once: the store is back."""
        self.forget([key for key, bad in self.bad.items() if bad.stage in ("fetch", "install")])

    def keep(self, refs: frozenset[str]) -> None:
        """At every look. Forget versions that are not asked for any more: who asks again wants them tried at
        once; environments that nobody has tried again; and wait for nothing from before the clock was set
        back.
        """
        past = self.now() - WANTED
        self.forget(
            [key for key, bad in self.bad.items() if (key not in refs if "@" in key else bad.retry_at < past)]
        )
        self._shorten()

    def _shorten(self) -> None:
        """No wait was ever longer than its backoff. One that is was written by a clock that ran ahead: a host
        that boots with one would not try again for as long as it was wrong.
        """
        latest = {key: self.now() + backoff(bad.attempts) for key, bad in self.bad.items()}
        late = {
            key: msgspec.structs.replace(bad, retry_at=latest[key])
            for key, bad in self.bad.items()
            if bad.retry_at > latest[key]
        }
        if late:
            self.bad = {**self.bad, **late}
            self._save()

    def _attempts(self, key: str, digest: str) -> int:
        bad = self.bad.get(key)
        return bad.attempts if bad is not None and bad.digest == digest else 0

    def _write(self, key: str, bad: Bad) -> None:
        self.bad = {**self.bad, key: bad}
        self._save()

    def _save(self) -> None:
        try:
            self.disk.write("bad.json", msgspec.json.encode(self.bad))
        except DiskError as error:
            logger.error("%s", error)  # remembered in memory; written with the next change
