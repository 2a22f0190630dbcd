"""A store in this process's memory, for tests and the simulated world. It keeps every promise of a driver.

`MemoryStore()` is one of its own; memory://NAME names one that lives as long as the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mldeploy.errors import DiskError, NotFoundError
from mldeploy.store.objects import Entry, Fetched, Progress, check_key
from mldeploy.store.streams import save


class MemoryStore:
    """`clock` gives the store's time, seconds since the epoch (default: the machine's)."""

    _named: dict[str, MemoryStore] = {}  # noqa: RUF012 - the point of it is that they are shared
    _naming = threading.Lock()

    def __init__(self, url: str = "memory://", *, clock: Callable[[], float] = time.time) -> None:
        self._url = url
        self._clock = clock
        self._objects: dict[str, Fetched] = {}
        self._watchers: dict[object, tuple[str, Callable[[], None]]] = {}
        self._lock = threading.Lock()

    @classmethod
    def named(cls, url: str) -> MemoryStore:
        """The one store of this name."""
        with cls._naming:
            return cls._named.setdefault(url, cls(url))

    @property
    def url(self) -> str:
        """As it was opened."""
        return self._url

    def get(self, key: str) -> Fetched | None:
        """The object, or None."""
        return self._objects.get(check_key(key))

    def create(self, key: str, data: bytes) -> bool:
        """True if this call wrote it."""
        with self._lock:
            if check_key(key) in self._objects:
                return False
            self._objects[key] = Fetched(bytes(data), self._clock())
        self._wake(key)
        return True

    def put(self, key: str, data: bytes) -> None:
        """Write or overwrite."""
        with self._lock:
            self._objects[check_key(key)] = Fetched(bytes(data), self._clock())
        self._wake(key)

    def list(self, prefix: str) -> Iterator[Entry]:
        """In order of the keys, as it was when asked."""
        with self._lock:
            found = sorted((k, v) for k, v in self._objects.items() if k.startswith(prefix))
        return (Entry(key, len(value.data), value.modified) for key, value in found)

    def delete(self, key: str) -> None:
        """Remove, if it is there."""
        with self._lock:
            self._objects.pop(check_key(key), None)

    def upload(self, key: str, source: Path, progress: Progress | None = None) -> None:
        """Keep the file's bytes (all of them in memory)."""
        check_key(key)
        try:
            data = source.read_bytes()
        except OSError as error:
            raise DiskError(f"cannot read {source}: {error.strerror}", "pack it again") from error
        self.put(key, data)
        if progress:
            progress(len(data))

    def download(self, key: str, target: Path, progress: Progress | None = None) -> str:
        """Write the object into the new file `target`."""
        found = self.get(key)
        if found is None:
            raise NotFoundError(f"there is no {key} in {self.url}", "it may have been collected")
        return save([found.data], target, progress)

    def watch(self, prefix: str, wake: Callable[[], None]) -> Callable[[], None] | None:
        """Call `wake` in the writer's thread."""
        token = object()
        with self._lock:
            self._watchers[token] = (prefix, wake)

        def stop() -> None:
            with self._lock:
                self._watchers.pop(token, None)

        return stop

    def _wake(self, key: str) -> None:
        with self._lock:
            watchers = list(self._watchers.values())
        for prefix, wake in watchers:
            if key.startswith(prefix):
                wake()
