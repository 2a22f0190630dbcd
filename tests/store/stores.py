"""Stores for the tests: a deliberately broken driver, and one whose answers get lost."""

from __future__ import annotations

import os
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
    get: "ok"; "error" (StoreError); "stale" (None, whatever is there).
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
        how = self._gets.pop(0) if self._gets else "ok"
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
