"""The log as it was: each record with what became of it, the newest first, and where it stood at a time.

A record's time is the store's own of its object: the writers' clocks order nothing. So a store that was
copied has the times of the copy. Left out: how it is shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from mldeploy.core import records
from mldeploy.core.fold import Folding, Verdict
from mldeploy.core.records import Record
from mldeploy.core.state import State
from mldeploy.errors import IntegrityError
from mldeploy.store import checkpoints
from mldeploy.store.objects import Fetched, ObjectStore
from mldeploy.store.reader import Reader
from mldeploy.store.tail import hole, read_records, reads_ahead, record_key


@dataclass(frozen=True, slots=True)
class Past:
    """One record. `record` is None where it cannot be read; `modified` is the store's, unix seconds."""

    seq: int
    modified: float
    record: Record | None


def history(store: ObjectStore, *, state: State | None = None) -> Iterator[Verdict]:
    """Each record after `state` (default: from the first) in order, decoded, with its verdict.

    Raises StoreError when the store cannot be reached, StoreFormatError at a record of a newer format.
    """
    folding = Folding(state or State())
    numbers = iter(range(folding.head + 1, 1 << 62))
    with contextlib.closing(read_records(store, numbers, reads_ahead(store))) as found:
        for seq, fetched in found:
            yield folding.take(seq, fetched.data)


def records_at(store: ObjectStore, numbers: Sequence[int]) -> Iterator[tuple[Record, float]]:
    """The records of these numbers, in this order, and when the store says each was written (unix seconds).

    One request each. What is not there or cannot be read is left out. Raises StoreError when the store
    cannot be reached, StoreFormatError at a record of a newer format.
    """
    for seq in numbers:
        found = store.get(record_key(seq))
        if found is not None:
            with contextlib.suppress(IntegrityError):
                yield records.decode(found.data, seq), found.modified


def newest_first(store: ObjectStore, head: int, *, ahead: int | None = None) -> Generator[Past]:
    """The records from `head` down to the first; close it where that is more than is wanted.

    Many are read at a time. Raises StoreError, and LogHoleError where one is missing.
    """
    wanted = head
    with contextlib.closing(read_records(store, range(head, 0, -1), ahead or reads_ahead(store))) as found:
        for seq, fetched in found:
            yield Past(seq, fetched.modified, _decode(fetched, seq))
            wanted = seq - 1
    if wanted:
        raise hole(store, wanted)


def _decode(fetched: Fetched, seq: int) -> Record | None:
    try:
        return records.decode(fetched.data, seq)
    except IntegrityError:
        return None


def head_at(store: ObjectStore, head: int, moment: float) -> int:
    """The last record up to `head` that the store had at `moment` (unix seconds); 0 where it had none.

    A search: some 2 log2(records since) requests, since what is asked for is mostly not long ago.
    """
    step, high = 1, head + 1  # `high` was written later, or is beyond the head
    while high > 1 and _written(store, max(high - step, 1)) > moment:
        high, step = max(high - step, 1), step * 2
    low = max(high - step, 1) if high > 1 else 0  # `low` was there, or is before the first
    while high - low > 1:
        middle = (low + high) // 2
        if _written(store, middle) > moment:
            high = middle
        else:
            low = middle
    return low


def _written(store: ObjectStore, seq: int) -> float:
    found = store.get(record_key(seq))
    if found is None:
        raise hole(store, seq)
    return found.modified


def state_at(store: ObjectStore, seq: int) -> State:
    """The state after record `seq`, from the nearest checkpoint before it.

    Raises StoreError, and LogHoleError where record `seq` is not there.
    """
    start = checkpoints.load_before(store, seq) if seq else None
    reader = Reader(store, state=start)
    reader.refresh(limit=seq - reader.state.head)
    if reader.state.head < seq:
        raise hole(store, reader.state.head + 1)
    return reader.state
