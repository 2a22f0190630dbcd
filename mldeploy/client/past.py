"""Records of the log, read one by one: `history`, and what a single record said.

Rules: records are immutable, so whatever is read here needs no second look; one that cannot be read is
shown as void. Left out: the state they fold into (`store/log.py`).
"""

from __future__ import annotations

from mldeploy.client.connection import Connection
from mldeploy.client.describe import describe, models_of
from mldeploy.client.intents import find_model
from mldeploy.client.types import Event, History
from mldeploy.core import records
from mldeploy.core.records import Record
from mldeploy.core.state import State
from mldeploy.errors import IntegrityError
from mldeploy.store.history import history as told
from mldeploy.store.log import record_key

#: The state folds every record there is, but nobody reads thousands of lines.
MAX_SCAN = 5_000


def record_at(at: Connection, seq: int) -> Record | None:
    """The record of that number; None where there is none or it cannot be read."""
    fetched = at.store.get(record_key(seq))
    if fetched is None:
        return None
    try:
        return records.decode(fetched.data, seq)
    except IntegrityError:
        return None


def history(at: Connection, model: str | None, limit: int) -> History:
    """See Client.history."""
    state = at.refresh()
    if model is not None:
        find_model(state, model)
    void = _void(at, state)
    events: list[Event] = []
    seq = state.head
    while seq > 0 and len(events) < limit and state.head - seq < MAX_SCAN:
        event = _event(at, state, seq, model, seq in void)
        if event is not None:
            events.append(event)
        seq -= 1
    return History(store=at.settings.store, head=state.head, events=tuple(events), more=seq > 0)


def _event(at: Connection, state: State, seq: int, model: str | None, void: bool) -> Event | None:
    record = record_at(at, seq)
    if record is None:
        return None if model else Event(seq=seq, time="", actor="", actions=("unreadable",), id="", void=True)
    if model is not None and not any(_concerns(state, action, model) for action in record.actions):
        return None
    return Event(
        seq=seq, time=record.time, actor=record.actor, id=record.id, void=void,
        actions=tuple(_told(state, action, seq) for action in record.actions),
    )  # fmt: skip


def _told(state: State, action: records.Action, seq: int) -> str:
    """The action in words; a publish with the version it became."""
    text = describe(action)
    if isinstance(action, records.Publish) and action.model in state.models:
        for version in state.models[action.model].versions.values():
            if (version.seq, version.digest) == (seq, action.digest):
                return text.replace(action.model, f"{action.model}@{version.version}", 1)
    return text


def _void(at: Connection, state: State) -> frozenset[int]:
    """The numbers of records that changed nothing; only a fold knows, so a log without any is spared."""
    if not state.voids:
        return frozenset()
    return frozenset(verdict.seq for verdict in told(at.store) if verdict.void is not None)


def _concerns(state: State, action: records.Action, model: str) -> bool:
    named = models_of(action)
    if named or isinstance(action, records.Freeze | records.Unfreeze):
        # a freeze of every model concerns this one too
        return model in named or not named
    rollout = getattr(action, "rollout", None)
    return rollout is not None and any(
        rollout in {said.rollout for said in (now.ramp, now.ended) if said is not None}
        for now in (models.get(model) for models in state.environments.values())
        if now is not None
    )
