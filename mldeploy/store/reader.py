"""Reads the log: keeps the State that its records fold to, from a checkpoint where there is one.

`refresh` asks for the number after the head until there is none: one request when nothing is new, no listing,
and never back behind a head once seen. A reader that knows nothing, or finds itself far behind, starts from a
checkpoint (`store/checkpoints.py`). A record that is void keeps its number (`core/fold.py`).
A record that is missing below one that is known to have been written is a hole: readers stop there, as they
do before a record that chains to another than the one they have read.
Left out: writing (`store/log.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mldeploy.core import records
from mldeploy.core.fold import Folding
from mldeploy.core.state import State
from mldeploy.errors import IntegrityError, LogHoleError, MldeployError
from mldeploy.store import checkpoints
from mldeploy.store.checkpoints import Named
from mldeploy.store.objects import ObjectStore
from mldeploy.store.tail import Pool, hole, read_records, reads_ahead, record_key, replaced

logger = logging.getLogger(__name__)

#: Called with the number and the bytes of each record that is folded.
Taken = Callable[[int, bytes], None]


class Reader:
    """A reader of a store's log. Not for several threads at once, but `state` may be read by any: it is
    replaced whole. The constructor does no I/O.

    `state`: where to start (default: from nothing, or a checkpoint). `seen`: a head that was seen before; a
    log that ends below it has a hole. `ahead`: records read at a time, at the
    most (default: 64, and 1 from a store that is near). `taken` is told of every record folded; after a
    start from a checkpoint the first is that after its head. `pool` makes what reads at the same time.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        state: State | None = None,
        seen: int = 0,
        ahead: int | None = None,
        taken: Taken | None = None,
        pool: Pool = ThreadPoolExecutor,
    ) -> None:
        self._store = store
        self._state = state or State()
        self._ahead = ahead or reads_ahead(store)
        self._taken = taken
        self._pool = pool
        self._known: tuple[Named, ...] = ()  # what the hint last said
        self._tried = 0  # no checkpoint is tried for before this record
        self._seen = seen  # a record of this number is known to have been written

    @property
    def state(self) -> State:
        """Everything up to the head that the last `refresh` saw."""
        return self._state

    def refresh(self, limit: int | None = None) -> int:
        """Read what is new, at most `limit` records; returns by how many records the head went on.

        With a limit no checkpoint is used: it is for those who want to see every record. Raises StoreError
        when the store cannot be reached, StoreFormatError at a record of a newer format and LogHoleError at
        a hole; the state then stands at the last record before that.
        """
        before = self._state.head
        if limit is not None:
            self._read(limit)
        else:
            if not before:
                self._leap()
            if self._read(checkpoints.INTERVAL) == checkpoints.INTERVAL:  # far behind
                self._leap()
                self._read(None)
            self._refuse_hole()
        self._tried = self._tried or self._state.head
        return self._state.head - before

    def checkpoint_is_due(self, *, intervals: int = 1, late: int = 0) -> bool:
        """Whether the last checkpoint that this reader knows of is so many intervals, and records, behind."""
        head = self._state.head
        return head >= max(self._checkpointed + intervals * checkpoints.interval(head), self._tried) + late

    def checkpoint(self, *, intervals: int = 1, late: int = 0) -> bool:
        """Write a checkpoint, if one is due and others have not; True if one was written.

        `late`: records to wait for others to do it. They count from the head at which this reader began, so
        that many who start at once do not all write. Best effort, since nothing depends on a checkpoint: what
        goes wrong is left to whoever is next.
        """
        if not self.checkpoint_is_due(intervals=intervals, late=late):
            return False
        head = self._state.head
        try:
            self._known = checkpoints.read_hint(self._store)  # another may have been quicker
            if not self.checkpoint_is_due(intervals=intervals, late=late):
                return False
            written = checkpoints.write(self._store, self._state, self._known)
        except (MldeployError, ValueError) as error:
            logger.info("no checkpoint of record %d was written: %s", head, error)
            self._tried = head + checkpoints.INTERVAL
            return False
        self._known = (written, *self._known)
        return True

    @property
    def _checkpointed(self) -> int:
        return self._known[0].head if self._known else 0

    def _leap(self) -> None:
        """Go on to the newest checkpoint that is worth its bytes and can be believed, if there is one."""
        try:
            self._known = checkpoints.read_hint(self._store)
        except MldeployError as error:  # who may read log/ alone still reads the log
            logger.info("the hint is not used: %s", error)
        for named in self._known:
            if named.head < self._state.head + (checkpoints.INTERVAL if self._state.head else 1):
                return
            state = checkpoints.load(self._store, named)
            if state is not None:
                self._state = state
                return

    def _read(self, limit: int | None) -> int:
        first = self._state.head + 1
        numbers = itertools.count(first) if limit is None else range(first, first + limit)
        folding: Folding | None = None
        count = 0
        try:
            with contextlib.closing(read_records(self._store, numbers, self._ahead, self._pool)) as found:
                for seq, record in found:
                    if folding is None:
                        self._refuse_other_history(seq, record.data)
                        folding = Folding(self._state)
                    folding.take(seq, record.data)
                    count += 1
                    if self._taken is not None:
                        self._taken(seq, record.data)
        except LogHoleError:
            if folding is not None:  # else it was of another log, and numbers of that one mean nothing
                self._seen = max(self._seen, first + count)
            raise
        finally:
            if folding is not None:
                self._state = folding.state()
        return count

    def _refuse_other_history(self, seq: int, data: bytes) -> None:
        """LogHoleError where the next record chains to other bytes than the head that was read, and these are
        in the store no more: folded as void, it would leave this reader with a state of its own.
        """
        try:
            chained = records.decode(data, seq).prev == self._state.head_sha256
        except IntegrityError:
            chained = False  # void whatever came before it, but the next may chain to it
        if not chained and self._state.head:
            self._refuse_other_head()

    def _refuse_other_head(self) -> None:
        """LogHoleError where the record at the head is not there any more, or is another."""
        head = self._state.head
        there = self._store.get(record_key(head))
        if there is None:
            raise hole(self._store, head)  # emptied, or put back from an older backup, hint and all
        if hashlib.sha256(there.data).hexdigest() != self._state.head_sha256:
            raise replaced(self._store, head)

    def _refuse_hole(self) -> None:
        """LogHoleError where the log ends before a record that was seen, here or by a checkpoint."""
        if self._state.head < self._seen:
            raise hole(self._store, self._state.head + 1)
        while self._state.head < self._checkpointed:
            if checkpoints.vouches(self._store, self._known[0]):
                raise hole(self._store, self._state.head + 1)
            self._known = self._known[1:]  # garbage: it stops nobody

    def _take(self, seq: int, data: bytes) -> None:
        folding = Folding(self._state)
        folding.take(seq, data)
        self._state = folding.state()
        if self._taken is not None:
            self._taken(seq, data)
