"""The log as it is told: every record with what became of it.

Reads from record 1, one request each, and folds along, because whether a record was void is decided by the
state it met. Left out: how it is shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from mldeploy.core import records
from mldeploy.core.fold import Folding, Verdict
from mldeploy.core.records import Record
from mldeploy.core.state import State
from mldeploy.errors import IntegrityError
from mldeploy.store.log import record_key
from mldeploy.store.objects import ObjectStore


def history(store: ObjectStore, *, state: State | None = None) -> Iterator[Verdict]:
    """Each record after `state` (default: from the first) in order, decoded, with its verdict.

    Raises StoreError when the store cannot be reached, StoreFormatError at a record of a newer format.
    """
    folding = Folding(state or State())
    while (found := store.get(record_key(folding.head + 1))) is not None:
        yield folding.take(folding.head + 1, found.data)


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
