"""The log as it is told: every record with what became of it.

Reads from record 1, one request each, and folds along, because whether a record was void is decided by the
state it met. Left out: how it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator

from mldeploy.core.fold import Folding, Verdict
from mldeploy.core.state import State
from mldeploy.store.log import record_key
from mldeploy.store.objects import ObjectStore


def history(store: ObjectStore, *, state: State | None = None) -> Iterator[Verdict]:
    """Each record after `state` (default: from the first) in order, decoded, with its verdict.

    Raises StoreError when the store cannot be reached, StoreFormatError at a record of a newer format.
    """
    folding = Folding(state or State())
    while (found := store.get(record_key(folding.head + 1))) is not None:
        yield folding.take(folding.head + 1, found.data)
