"""The fold: from the bytes of the log to the State.

Rules: a record takes effect as a whole or not at all; one that cannot be read, does not chain to the bytes
before it, or does not fit the state it meets is void: it keeps its number, the next record chains to its
bytes, and nothing else changes. That is judged from the log alone, so every reader folds alike. Only a
record of a newer format stops a reader (StoreFormatError).
A writer asks `refusal` about its intent: the same code that will fold the record.
Left out: reading the records (`store/log.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mldeploy.core import lifecycle, notices, policy, records, shadows, traffic
from mldeploy.core.draft import Draft
from mldeploy.core.lifecycle import Context
from mldeploy.core.records import Action, Record
from mldeploy.core.state import State
from mldeploy.core.types import ModelRef
from mldeploy.errors import IntegrityError, MldeployError, NotAllowedError, NotFoundError

#: Raised whenever the same records fold to another State though no type has changed (which is seen by
#: itself): checkpoints of another fold are left alone. `tests/core/test_checkpoint.py` notices.
FOLD = 5

_APPLY: dict[type, Callable[[Draft, Any, Context], None]] = {
    records.Publish: lifecycle.publish,
    records.Promote: traffic.promote,
    records.Advance: traffic.advance,
    records.Complete: traffic.complete,
    records.Halt: traffic.halt,
    records.Pause: traffic.pause,
    records.Resume: traffic.pause,
    records.Rollback: traffic.rollback,
    records.Shadow: shadows.shadow,
    records.Unshadow: shadows.unshadow,
    records.Retire: notices.retire,
    records.Restore: lifecycle.restore,
    records.Extend: lifecycle.extend,
    records.Freeze: traffic.freeze,
    records.Unfreeze: traffic.unfreeze,
    records.Policy: policy.set_policy,
    records.Notified: notices.notified,
    records.Join: lifecycle.join,
    records.Leave: lifecycle.leave,
    records.Forget: lifecycle.leave,
    records.Drain: lifecycle.drain,
    records.Undrain: lifecycle.undrain,
    records.Sweep: lifecycle.sweep,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one record."""

    seq: int
    record: Record | None  # None: it could not be read
    void: MldeployError | None  # why it changed nothing; None: it was applied
    published: tuple[ModelRef, ...] = ()  # the versions it made, in the order of its publish actions


class Folding:
    """A fold under way, for many records in a row: `take` each, then `state` once."""

    def __init__(self, state: State) -> None:
        self._draft = Draft(state)

    @property
    def head(self) -> int:
        """The number of the last record taken."""
        return self._draft.head

    def take(self, seq: int, data: bytes) -> Verdict:
        """Fold the record found at number `seq`, which must be the next.

        Raises StoreFormatError for a newer format, and then nothing has changed; ValueError for a number
        that is not the next (a mistake of the caller).
        """
        draft = self._draft
        if seq != draft.head + 1:
            raise ValueError(f"record {seq} cannot follow record {draft.head}")
        record, void = _read(draft, seq, data)
        published: tuple[ModelRef, ...] = ()
        if record is not None and void is None:
            void = _apply(draft, record.actions, Context(seq, record.time, record.actor))
            published = draft.commit() if void is None else ()
        draft.head = seq
        draft.head_sha256 = hashlib.sha256(data).hexdigest()
        if void is not None:
            draft.void.append(seq)
        return Verdict(seq, record, void, published)

    def state(self) -> State:
        """The State after all that was taken. Ends this folding: take nothing more."""
        return self._draft.finish()


def fold(state: State, seq: int, data: bytes) -> State:
    """`state` after the record `data` found at number `seq` (the next). Raises as `Folding.take`."""
    return fold_many(state, [(seq, data)])


def fold_many(state: State, found: Iterable[tuple[int, bytes]]) -> State:
    """`state` after these records, in order; the same as `fold` one by one, in linear time."""
    folding = Folding(state)
    for seq, data in found:
        folding.take(seq, data)
    return folding.state()


def refusal(state: State, actions: Sequence[Action]) -> MldeployError | None:
    """Why a record of these actions, appended now, would be void; None if it would be applied.

    What is asked for and already so is refused as well, with a NotAllowedError that says so.
    """
    # the time and actor of the record decide nothing, so any will do
    return _apply(Draft(state), actions, Context(state.head + 1, "-", "-"))


def _read(draft: Draft, seq: int, data: bytes) -> tuple[Record | None, MldeployError | None]:
    try:
        record = records.decode(data, seq)
    except IntegrityError as error:
        return None, error
    if record.prev != draft.head_sha256:
        return record, IntegrityError(
            f"record {seq} does not chain to record {seq - 1}",
            "it counts for nothing and harms nothing; find out who wrote it",
        )
    return record, None


def _apply(draft: Draft, actions: Sequence[Action], told: Context) -> MldeployError | None:
    try:
        for action in actions:
            _APPLY[type(action)](draft, action, told)
    except (NotAllowedError, NotFoundError) as error:
        draft.undo()
        return error
    return None
