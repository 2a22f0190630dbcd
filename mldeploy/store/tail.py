"""Reads records of the log, many at a time and in order.

One request when nothing is new; the further the log goes on, the more are asked for ahead: 2, 4, … up to
`ahead` at a time. Records are given in the order of their numbers, so that who folds them notices none of
it: a read that fails, fails in its turn, and what came before it counts.
Left out: what the records say (`core/fold.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor

from mldeploy.errors import LogHoleError, MldeployError
from mldeploy.store.objects import Fetched, ObjectStore

#: Makes what reads at the same time, given how many at the most.
Pool = Callable[[int], Executor]
#: Reads under way at a time, at the most.
AHEAD = 64
#: In these a read takes less time than handing it to a thread.
_NEAR = ("file:", "memory:")


def record_key(seq: int) -> str:
    """log/00000000000000000042.json"""
    return f"log/{seq:020d}.json"


def reads_ahead(store: ObjectStore) -> int:
    """How many records to read at a time from this store: 1 where it is near."""
    return 1 if store.url.startswith(_NEAR) else AHEAD


def read_records(
    store: ObjectStore, numbers: Iterable[int], ahead: int, pool: Pool = ThreadPoolExecutor
) -> Generator[tuple[int, Fetched]]:
    """The records of these numbers, in this order, up to the first that is not there.

    Threads end with the iterator: exhaust or close it. Raises StoreError where a read fails, LogHoleError
    where a record is missing and one asked for after it is there.
    """
    reading = _Reading(store, iter(numbers), ahead, pool)
    try:
        while (found := reading.next()) is not None:
            yield found
    finally:
        reading.close()


class _Reading:
    """Reads under way: at most `width` at a time, which doubles with every `width` that have come."""

    def __init__(self, store: ObjectStore, numbers: Iterator[int], ahead: int, pool: Pool) -> None:
        self._store, self._numbers, self._ahead, self._make = store, numbers, ahead, pool
        self._pool: Executor | None = None
        self._waiting: deque[tuple[int, Future[Fetched | None]]] = deque()
        self._width, self._came = 1, 0

    def next(self) -> tuple[int, Fetched] | None:
        """The next record; None at the end."""
        if self._width == 1:
            seq = next(self._numbers, None)
            found = None if seq is None else self._store.get(record_key(seq))
        else:
            self._fill()
            if not self._waiting:
                return None
            seq, future = self._waiting.popleft()
            self._fill()  # while the caller folds this one
            found = future.result()
            if found is None and self._later_is_there():
                found = self._again(seq)
        if seq is None or found is None:
            return None
        self._came += 1
        if self._came >= self._width:
            self._width, self._came = min(2 * self._width, self._ahead), 0
        return seq, found

    def close(self) -> None:
        """Ask for nothing more, and wait for what is under way."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self) -> None:
        while len(self._waiting) < self._width and (seq := next(self._numbers, None)) is not None:
            self._pool = self._pool or self._make(self._ahead)
            self._waiting.append((seq, self._pool.submit(self._store.get, record_key(seq))))

    def _later_is_there(self) -> bool:
        for _, future in self._waiting:
            try:
                if future.result() is not None:
                    return True
            except MldeployError:  # told in its turn, if that comes
                continue
        return False

    def _again(self, seq: int) -> Fetched:
        """It came between two reads of this window, or it is gone: a record after it is there."""
        found = self._store.get(record_key(seq))
        if found is None:
            raise hole(self._store, seq)
        return found


def hole(store: ObjectStore, seq: int) -> LogHoleError:
    """Record `seq` ought to be there."""
    return LogHoleError(
        f"record {seq} is missing in {store.url}, though later ones were written",
        f"put {record_key(seq)} back from a backup (docs/hosts.md); until then nobody reads on or writes",
    )


def replaced(store: ObjectStore, seq: int) -> LogHoleError:
    """Record `seq` is not the one that was read before."""
    return LogHoleError(
        f"record {seq} in {store.url} is not the one that was read here before",
        "another log is in its place, or an older backup that was written on: see docs/hosts.md",
    )
