"""The store as one process of the world sees it: the production interface, over the bucket all share.

Every call is a request that takes time to arrive, takes effect (whoever has died by then), and is answered
in time or not. What goes wrong is drawn from the world's weather. Errors are those the drivers raise, with
the promises of `mldeploy/store/objects.py`: a `create` that raises anything but OutcomeUnknownError was
not written and never will be; a read that fails is an error and never another's data. A call of a dead
process is refused.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from mldeploy.errors import DiskError, NotFoundError, OutcomeUnknownError, StoreError
from mldeploy.store.objects import Entry, Fetched, Progress, check_key
from tests.world.bucket import Bucket
from tests.world.faults import Weather
from tests.world.scheduler import Life, Scheduler

#: Chance that a request on its way is lost when its sender dies; else it arrives.
LOST_WITH_SENDER = 0.3
_checked = functools.lru_cache(1 << 16)(check_key)
_READS = frozenset({"get", "list", "download"})
_WRITES = ("create", "put", "upload", "delete")


class WorldStore:
    """One per life of a process. `cut_off` says whether it can reach the store now."""

    def __init__(
        self,
        bucket: Bucket,
        scheduler: Scheduler,
        weather: Weather,
        rng: random.Random,
        life: Life,
        *,
        cut_off: Callable[[], bool] = lambda: False,
        trace: Callable[[str, str], None] = lambda who, what: None,
    ) -> None:
        self._bucket, self._scheduler, self._weather = bucket, scheduler, weather
        self._rng, self._life, self._cut_off, self._trace = rng, life, cut_off, trace

    @property
    def url(self) -> str:
        return "world://store"

    def get(self, key: str) -> Fetched | None:
        _checked(key)
        return self._call("get", key, lambda: self._bucket.objects.get(key))  # type: ignore[no-any-return]

    def create(self, key: str, data: bytes) -> bool:
        _checked(key)
        frozen = bytes(data)
        return bool(self._call("create", key, lambda: self._bucket.create(key, frozen, self._life.name)))

    def put(self, key: str, data: bytes) -> None:
        _checked(key)
        frozen = bytes(data)
        self._call("put", key, lambda: self._bucket.write("put", key, frozen, self._life.name))

    def list(self, prefix: str) -> Iterator[Entry]:
        return iter(self._call("list", prefix, lambda: self._bucket.entries(prefix)))

    def delete(self, key: str) -> None:
        _checked(key)
        self._call("delete", key, lambda: self._bucket.delete(key, self._life.name))

    def upload(self, key: str, source: Path, progress: Progress | None = None) -> None:
        _checked(key)
        try:
            data = source.read_bytes()
        except OSError as error:
            raise DiskError(f"cannot read {source}: {error.strerror}", "pack it again") from error
        self._call("upload", key, lambda: self._bucket.write("upload", key, data, self._life.name))
        if progress:
            progress(len(data))

    def download(self, key: str, target: Path, progress: Progress | None = None) -> str:
        _checked(key)
        found = self._call("download", key, lambda: self._bucket.objects.get(key))
        if found is None:
            raise NotFoundError(f"there is no {key} in {self.url}", "it may have been collected")
        with target.open("xb") as file:
            file.write(found.data)
        if progress:
            progress(len(found.data))
        return hashlib.sha256(found.data).hexdigest()

    def watch(self, prefix: str, wake: Callable[[], None]) -> Callable[[], None] | None:
        return None

    # --- one request

    def _call(self, verb: str, key: str, effect: Callable[[], Any]) -> Any:
        self._scheduler.check()  # the dead go no further
        if self._cut_off():
            self._trace(self._life.name, f"{verb} {key}: cut off")
            self._give_up(verb, key, self._rng.uniform(0, self._weather.timeout), sent=False)
        fault = self._weather.draw(verb, self._rng)
        if fault:
            self._trace(self._life.name, f"{verb} {key}: {fault}")
            return self._faulty(verb, key, effect, fault)
        answer = (
            self._read(effect) if verb in _READS else self._request(effect, self._latency(), self._latency())
        )
        self._trace(self._life.name, f"{verb} {key} -> {_said(answer)}")
        return answer

    def _faulty(self, verb: str, key: str, effect: Callable[[], Any], fault: str) -> Any:
        patience = self._weather.timeout
        match fault:
            case "slow":
                return self._request(effect, self._rng.uniform(0, 30), self._rng.uniform(0, 30))
            case "lost":
                self._give_up(verb, key, patience)
            case "dropped":
                self._send(effect, self._latency())
                self._give_up(verb, key, patience)
            case "late":
                self._send(effect, self._rng.choice([patience, 60.0, 1800.0]) * self._rng.random())
                self._give_up(verb, key, patience * self._rng.random())
            case "refused" | "throttled":
                self._scheduler.pause(self._latency())
                raise StoreError(f"{verb} {key}: {fault}", "try again later")
            case "broken":
                if self._rng.random() < 0.5:
                    self._send(effect, self._latency())
                self._give_up(verb, key, self._latency() * 2)
            case "conflict":
                self._scheduler.pause(self._latency() * 2)
                if self._rng.random() < 0.5:
                    return False
                raise OutcomeUnknownError(f"{verb} {key}: {fault}", "look")
            case "taken":
                self._request(effect, self._latency(), self._latency())
                return False
        return self._listed(key, effect, fault)

    def _listed(self, prefix: str, effect: Callable[[], Any], fault: str) -> list[Entry]:
        now = self._scheduler.now
        entries: list[Entry] = self._request(effect, self._latency(), self._latency())
        match fault:
            case "empty":
                return []
            case "lagging":
                return self._bucket.entries_at(prefix, now - self._rng.choice([1.0, 60.0, 3600.0]))
            case "partial":
                return [entry for entry in entries if self._rng.random() < 0.5]
        raise AssertionError(f"nobody knows the fault {fault}")

    def _read(self, effect: Callable[[], Any]) -> Any:
        """A read that is answered: all that matters is whether it was before or after what others do."""
        early = self._rng.random() < 0.5
        found = effect() if early else None
        self._scheduler.pause(self._latency() * 2)
        return found if early else effect()

    def _request(self, effect: Callable[[], Any], there: float, back: float) -> Any:
        """Arrives and is answered, unless this process dies; it may arrive even then."""
        answers: list[Any] = []
        self._send(lambda: answers.append(effect()), there)
        self._scheduler.pause(there + back)
        while not answers:  # of the same moment: the seed may have chosen us first
            self._scheduler.pause()
        return answers[0]

    def _send(self, effect: Callable[[], Any], there: float) -> None:
        def arrive() -> None:
            if not self._life.dead or self._rng.random() >= LOST_WITH_SENDER:
                effect()

        self._scheduler.at(there, arrive)

    def _give_up(self, verb: str, key: str, patience: float, *, sent: bool = True) -> NoReturn:
        self._scheduler.pause(patience)
        if verb == "create" and (sent or self._rng.random() < 0.5):
            raise OutcomeUnknownError(f"{verb} {key}: no answer", "look")
        if verb in _WRITES and verb != "create" and self._rng.random() < 0.5:
            raise OutcomeUnknownError(f"{verb} {key}: no answer", "run it again")
        raise StoreError(f"{verb} {key}: no answer", "check the network")

    def _latency(self) -> float:
        mean = self._weather.latency
        # often the same for two calls, so that the seed decides which comes first
        return mean if self._rng.random() < 0.5 else self._rng.uniform(0, 2 * mean)


def _said(answer: Any) -> str:
    if isinstance(answer, Fetched):
        return f"{len(answer.data)} bytes"
    return f"{len(answer)} keys" if isinstance(answer, list) else repr(answer)
