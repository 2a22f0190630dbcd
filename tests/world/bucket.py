"""What lies in the store, and how it got there: one dict, seen by all, changed one call at a time.

It is consistent, as a real store is: what was written is there for everyone at once. Whoever watches is
told of every change before anything else happens, so that an invariant can be checked at each.
Left out: how calls get here, and what goes wrong on the way (`store.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mldeploy.store.objects import Entry, Fetched

#: Seconds since the epoch at which worlds begin.
EPOCH = 1_790_000_000.0


class Change(NamedTuple):
    """One object written or removed. `after` is None where it was removed."""

    verb: str
    key: str
    before: bytes | None
    after: bytes | None
    who: str


class Bucket:
    """`clock` gives seconds since the world's start."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.objects: dict[str, Fetched] = {}
        self.watchers: list[Callable[[Change], None]] = []
        self.past: list[tuple[float, str, int]] = []  # (when, key, size or -1), for listings that lag
        self._clock = clock

    def now(self) -> float:
        """The store's clock, seconds since the epoch."""
        return EPOCH + self._clock()

    def create(self, key: str, data: bytes, who: str) -> bool:
        """Whether it was written."""
        if key in self.objects:
            return False
        self.write("create", key, data, who)
        return True

    def write(self, verb: str, key: str, data: bytes, who: str) -> None:
        """Write, whatever is there."""
        before = self.objects.get(key)
        self.objects[key] = Fetched(data, self.now())
        self.past.append((self._clock(), key, len(data)))
        self._tell(Change(verb, key, before.data if before else None, data, who))

    def delete(self, key: str, who: str) -> None:
        """Remove, if it is there."""
        before = self.objects.pop(key, None)
        if before is not None:
            self.past.append((self._clock(), key, -1))
            self._tell(Change("delete", key, before.data, None, who))

    def entries(self, prefix: str) -> list[Entry]:
        """What is there, in order."""
        return [
            Entry(key, len(found.data), found.modified)
            for key, found in sorted(self.objects.items())
            if key.startswith(prefix)
        ]

    def entries_at(self, prefix: str, moment: float) -> list[Entry]:
        """What was there at `moment`, in seconds since the world's start."""
        there: dict[str, Entry] = {}
        for when, key, size in self.past:
            if when > moment:
                break
            if key.startswith(prefix):
                there.pop(key, None)
                if size >= 0:
                    there[key] = Entry(key, size, EPOCH + when)
        return [there[key] for key in sorted(there)]

    def _tell(self, change: Change) -> None:
        for watcher in self.watchers:
            watcher(change)
