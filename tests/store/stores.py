"""Stores for the tests: a deliberately broken driver, and one whose answers get lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mldeploy.errors import OutcomeUnknownError, StoreError
from mldeploy.store.file import FileStore
from mldeploy.store.objects import Entry, Fetched, ObjectStore, Progress


class BrokenStore(FileStore):
    """Looks whether the key is there and then opens it for writing: what a driver must never do."""

    def __init__(self, root: Path, between: Callable[[], None] = lambda: None) -> None:
        super().__init__(root)
        self._folder = root
        self._between = between

    def create(self, key: str, data: bytes) -> bool:
        path = self._folder / key
        if path.exists():
            return False
        self._between()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            os.sched_yield()
            file.write(data)
        return True


class FaultyStore:
    """Another store whose `create` and `get` misbehave as scripted, one word a call, then behave.

    create: "ok"; "drop" (written, and the answer lost); "fail" (not written, and the answer lost); "late"
    (the answer lost, and written only at the next call of any verb); "taken" (written, and answered as
    taken: a retry inside the driver met its own write); "conflict" (not written, answered as taken);
    "refuse" (StoreError: certainly not written); "rival" (`rival` is called first, then it behaves).
    get of a record: "ok"; "error" (StoreError); "stale" (None, whatever is there).
    """

    def __init__(
        self,
        inner: ObjectStore,
        creates: Sequence[str] = (),
        gets: Sequence[str] = (),
        rival: Callable[[], object] = lambda: None,
    ) -> None:
        self._inner = inner
        self._creates, self._gets = list(creates), list(gets)
        self._rival = rival
        self._late: list[tuple[str, bytes]] = []
        self.created: list[tuple[str, bytes]] = []

    @property
    def url(self) -> str:
        return self._inner.url

    def arrive(self) -> None:
        """What was late is written now."""
        late, self._late = self._late, []
        for key, data in late:
            self._inner.create(key, data)

    def create(self, key: str, data: bytes) -> bool:
        self.arrive()
        self.created.append((key, data))
        how = self._creates.pop(0) if self._creates else "ok"
        if how == "rival":
            self._rival()
        if how in ("ok", "rival"):
            return self._inner.create(key, data)
        if how in ("drop", "taken"):
            self._inner.create(key, data)
        if how == "late":
            self._late.append((key, data))
        if how == "refuse":
            raise StoreError("refused", "ask")
        if how in ("taken", "conflict"):
            return False
        raise OutcomeUnknownError("the answer was lost", "look")

    def get(self, key: str) -> Fetched | None:
        how = self._gets.pop(0) if self._gets and key.startswith("log/") else "ok"
        if how == "error":
            raise StoreError("no answer", "wait")
        found = None if how == "stale" else self._inner.get(key)
        self.arrive()
        return found

    def put(self, key: str, data: bytes) -> None:
        self._inner.put(key, data)

    def list(self, prefix: str) -> Iterator[Entry]:
        return self._inner.list(prefix)

    def delete(self, key: str) -> None:
        self._inner.delete(key)

    def upload(self, key: str, source: Path, progress: Progress | None = None) -> None:
        self._inner.upload(key, source, progress)

    def download(self, key: str, target: Path, progress: Progress | None = None) -> str:
        return self._inner.download(key, target, progress)

    def watch(self, prefix: str, wake: Callable[[], None]) -> Callable[[], None] | None:
        return self._inner.watch(prefix, wake)


class CountingStore:
    """Another store, far away by its URL, that remembers every request, and how many gets were under way
    at once. `before` is called with the key in the thread of each get; what it raises, the get raises.
    """

    def __init__(self, inner: ObjectStore, url: str = "far://store") -> None:
        self._inner = inner
        self._url = url
        self._lock = threading.Lock()
        self._under_way = 0
        self.requests: list[tuple[str, str]] = []
        self.at_once = 0
        self.before: Callable[[str], object] = lambda _: None

    @property
    def url(self) -> str:
        return self._url

    def count(self, verb: str, prefix: str = "") -> int:
        return sum(one == verb and key.startswith(prefix) for one, key in self.requests)

    def _note(self, verb: str, key: str) -> None:
        with self._lock:
            self.requests.append((verb, key))

    def get(self, key: str) -> Fetched | None:
        self._note("get", key)
        with self._lock:
            self._under_way += 1
            self.at_once = max(self.at_once, self._under_way)
        try:
            self.before(key)
            return self._inner.get(key)
        finally:
            with self._lock:
                self._under_way -= 1

    def create(self, key: str, data: bytes) -> bool:
        self._note("create", key)
        return self._inner.create(key, data)

    def put(self, key: str, data: bytes) -> None:
        self._note("put", key)
        self._inner.put(key, data)

    def list(self, prefix: str) -> Iterator[Entry]:
        self._note("list", prefix)
        return self._inner.list(prefix)

    def delete(self, key: str) -> None:
        self._note("delete", key)
        self._inner.delete(key)

    def upload(self, key: str, source: Path, progress: Progress | None = None) -> None:
        self._note("upload", key)
        self._inner.upload(key, source, progress)

    def download(self, key: str, target: Path, progress: Progress | None = None) -> str:
        self._note("download", key)
        return self._inner.download(key, target, progress)

    def watch(self, prefix: str, wake: Callable[[], None]) -> Callable[[], None] | None:
        return self._inner.watch(prefix, wake)
