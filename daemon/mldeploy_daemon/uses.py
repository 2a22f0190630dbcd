"""How long ago each version was asked for on this host, over all the runs of its daemon: uses.json.

Rules: time is added up while the agent runs, from a clock that nobody sets; what passes while it does not is
not counted. So a version seems used more lately than it was, never longer ago: a wrong clock retires
nothing. Pinned requests count as well. A front forgets what it counted of a version that has been out of the
table for an hour, so a count that is another one than last time is a use, also where it is smaller.
Left out: what follows (`mldeploy.core.retirement`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping

import msgspec

from mldeploy.errors import DiskError
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.fronts import Total

logger = logging.getLogger(__name__)
USES = "uses.json"
#: Seconds between two writings of the file: as much is lost where the agent is killed.
WRITE = 10.0


class _Kept(msgspec.Struct):
    watched: float = 0.0
    uses: dict[str, float] = {}  # by `churn@7`: seconds of `watched` at its last use


class Uses:
    """One host's. `live` says whether a version (`churn@7`) is published and not retired."""

    def __init__(
        self, disk: Disk, live: Callable[[str], bool], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.disk, self.live, self.monotonic = disk, live, monotonic
        self._kept = _Kept()
        self._at = monotonic()
        self._requests: dict[str, int] = {}
        self._written = self._at
        self._lost = False  # whether the disk did not take it the last time

    def load(self) -> None:
        """Go on from uses.json."""
        data = self.disk.read(USES)
        if data is not None:
            with contextlib.suppress(msgspec.MsgspecError):
                self._kept = msgspec.json.decode(data, type=_Kept)

    def note(self, totals: Mapping[tuple[str, int], Total], waiting: Collection[str] = ()) -> None:
        """What has been answered since this agent started; and what requests wait for now."""
        now = self.monotonic()
        self._kept.watched += now - self._at
        self._at = now
        before = self._requests
        self._requests = {f"{model}@{version}": total.requests for (model, version), total in totals.items()}
        for ref, requests in self._requests.items():
            if requests not in (0, before.get(ref, 0)):
                self._kept.uses[ref] = self._kept.watched
        for ref in waiting:
            self._kept.uses[ref] = self._kept.watched
        if now - self._written >= WRITE:
            self.write()

    @property
    def watched(self) -> float:
        """Seconds counted."""
        return self._kept.watched

    def since(self) -> dict[str, float]:
        """Seconds since each version was last asked for."""
        return {ref: self._kept.watched - at for ref, at in self._kept.uses.items()}

    def write(self) -> None:
        """Now, without the versions that are no more."""
        self._written = self.monotonic()
        self._kept.uses = {ref: at for ref, at in self._kept.uses.items() if self.live(ref)}
        try:
            self.disk.write(USES, msgspec.json.encode(self._kept))
        except DiskError as error:  # it is in memory, and written with the next
            if not self._lost:
                logger.error("%s", error)
            self._lost = True
        else:
            self._lost = False
