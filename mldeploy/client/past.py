"""What was: `history`, `status` at a time, and what a single record said.

Rules: records are immutable, so whatever is read here needs no second look; one that cannot be read is shown
as void. A time that is asked for is the store's own time of a record, never a writer's.
Left out: the state that records fold to (`store/reader.py`).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from mldeploy.client.connection import Connection
from mldeploy.client.describe import describe, models_of, names_of, thread_of
from mldeploy.client.intents import find_model
from mldeploy.client.types import Event, History
from mldeploy.core import records
from mldeploy.core.records import Record, format_time
from mldeploy.core.state import State
from mldeploy.errors import IntegrityError, UsageError
from mldeploy.store.history import Past, head_at, newest_first, state_at
from mldeploy.store.log import record_key

#: Records looked at for one answer, at the most: a minute's work on a store that answers from afar.
MAX_SCAN = 100_000


def record_at(at: Connection, seq: int) -> Record | None:
    """The record of that number; None where there is none or it cannot be read."""
    fetched = at.store.get(record_key(seq))
    if fetched is None:
        return None
    try:
        return records.decode(fetched.data, seq)
    except IntegrityError:
        return None


def state_then(at: Connection, moment: datetime) -> State:
    """The state at a time, by the store's clock."""
    now = at.refresh()
    seq = head_at(at.store, now.head, moment.timestamp())
    return now if seq == now.head else state_at(at.store, seq)


@dataclass(frozen=True, slots=True)
class Asked:
    """Which records: of a model, by an actor (a glob), stored from `since` on and until `until`."""

    model: str | None = None
    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 30


def history(at: Connection, asked: Asked) -> History:
    """See Client.history."""
    if asked.limit < 1:
        raise UsageError(f"a limit of {asked.limit} records", "ask for one or more")
    state = at.refresh()
    oldest = 1
    if asked.model is not None:
        oldest = min(version.seq for version in find_model(state, asked.model).versions.values())
    top = state.head if asked.until is None else head_at(at.store, state.head, asked.until.timestamp())
    since = asked.since.timestamp() if asked.since is not None else float("-inf")
    telling = _Telling(state, asked)
    more = False
    with contextlib.closing(newest_first(at.store, top)) as found:
        for past in found:
            # what is told of a model begins with its first version; older freezes of everything do not count
            if past.modified < since or past.seq < oldest:
                break
            if telling.enough() or top - past.seq >= MAX_SCAN:
                more = True
                break
            telling.look(past)
    events = telling.events()
    return History(
        store=at.settings.store, head=state.head, events=events[: asked.limit],
        more=more or len(events) > asked.limit,
    )  # fmt: skip


class _Telling:
    """Goes back through the records. Many name a rollout alone: whose it is, is said by an older one.

    Such a record waits until its promote (or `shadow`) is met, or the state knows its rollout.
    """

    def __init__(self, state: State, asked: Asked) -> None:
        self._state, self._asked = state, asked
        self._void = frozenset(state.void)
        self._told: list[Event] = []
        self._waiting: dict[str, list[Event]] = {}
        self._models = _known(state)
        self._names = names_of(state)

    def look(self, past: Past) -> None:
        """Take the next older record."""
        record, model = past.record, self._asked.model
        if record is None:
            if model is None and self._asked.actor is None:
                self._told.append(self._event(past, ("unreadable",)))
            return
        for action in record.actions:
            self._learn(action)
        if self._asked.actor is not None and not _is(record.actor, self._asked.actor):
            return
        event = self._event(past, tuple(self._words(action, past.seq) for action in record.actions))
        if model is None or any(self._concerns(action, model) for action in record.actions):
            self._told.append(event)
            return
        for unknown in {thread_of(action) for action in record.actions} - self._models.keys() - {""}:
            self._waiting.setdefault(unknown, []).append(event)

    def enough(self) -> bool:
        """Whether what is older than this cannot change the answer."""
        limit = self._asked.limit
        if len(self._told) < limit:
            return False
        last = sorted((event.seq for event in self._told), reverse=True)[limit - 1]
        # a void record may name a rollout that never was
        return not any(e.seq > last and not e.void for events in self._waiting.values() for e in events)

    def events(self) -> tuple[Event, ...]:
        """What was found, the newest first."""
        return tuple(sorted(self._told, key=lambda event: event.seq, reverse=True))

    def _learn(self, action: records.Action) -> None:
        thread, model = thread_of(action), getattr(action, "model", "")
        if thread and model:
            self._models.setdefault(thread, model)
            waiting = self._waiting.pop(thread, ())
            if model == self._asked.model:
                known = {event.seq for event in self._told}
                self._told += [event for event in waiting if event.seq not in known]

    def _concerns(self, action: records.Action, model: str) -> bool:
        named = models_of(action)
        if named or isinstance(action, records.Freeze | records.Unfreeze):
            # a freeze of every model concerns this one too
            return model in named or not named
        return self._models.get(thread_of(action)) == model

    def _words(self, action: records.Action, seq: int) -> str:
        """The action in words; a publish with the version it became."""
        text = describe(action, self._names)
        if isinstance(action, records.Publish) and action.model in self._state.models:
            for version in self._state.models[action.model].versions.values():
                if (version.seq, version.digest) == (seq, action.digest):
                    return text.replace(action.model, f"{action.model}@{version.version}", 1)
        return text

    def _event(self, past: Past, actions: tuple[str, ...]) -> Event:
        record = past.record
        return Event(
            seq=past.seq, actions=actions, void=past.seq in self._void,
            stored=format_time(datetime.fromtimestamp(past.modified, UTC)),
            time=record.time if record else "", actor=record.actor if record else "",
            id=record.id if record else "",
        )  # fmt: skip


def _known(state: State) -> dict[str, str]:
    """The model of every rollout that the state still knows."""
    return {
        said.rollout: model
        for models in state.environments.values()
        for model, now in models.items()
        for said in (now.ramp, now.ended)
        if said is not None
    }


def _is(actor: str, asked: str) -> bool:
    return actor == asked or fnmatchcase(actor, asked)
