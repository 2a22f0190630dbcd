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
from mldeploy.client.describe import describe, ids_of, models_of, named_by, names_of, thread_of, threads_of
from mldeploy.client.environments import find_environment
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
#: Records looked at besides, for the names of what began before those that are told.
MAX_NAMES = 64


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
    """Which records: of a model, by an actor (a glob), stored from `since` on and until `until`.

    Of an environment: all but those that are about others alone.
    """

    model: str | None = None
    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 30
    environment: str | None = None


def history(at: Connection, asked: Asked) -> History:
    """See Client.history."""
    if asked.limit < 1:
        raise UsageError(f"a limit of {asked.limit} records", "ask for one or more")
    state = at.refresh()
    if asked.environment is not None:
        find_environment(state, asked.environment)
    oldest = 1
    if asked.model is not None:
        oldest = min(version.seq for version in find_model(state, asked.model).versions.values())
    top = state.head if asked.until is None else head_at(at.store, state.head, asked.until.timestamp())
    since = asked.since.timestamp() if asked.since is not None else float("-inf")
    telling = _Telling(state, asked)
    more = done = False
    names = MAX_NAMES
    with contextlib.closing(newest_first(at.store, top)) as found:
        for past in found:
            # what is told of a model begins with its first version; older freezes of everything do not count
            if not done and (past.modified < since or past.seq < oldest):
                done = True
            if not done and (telling.enough() or top - past.seq >= MAX_SCAN):
                more = done = True
            if not done:
                telling.look(past)
            elif names and telling.unnamed():
                names -= 1
                telling.learn(past)
            else:
                break
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
        self._told: list[Past] = []
        self._waiting: dict[str, list[Past]] = {}
        # environment and model of every rollout and shadow, as far as it is known
        self._places = {one: (said.environment, said.model) for one, said in threads_of(state).items()}
        self._names = names_of(state)

    def look(self, past: Past) -> None:
        """Take the next older record."""
        record, model = past.record, self._asked.model
        if record is None:
            if model is None and self._asked.actor is None:
                self._told.append(past)
            return
        self.learn(past)
        if self._asked.actor is not None and not _is(record.actor, self._asked.actor):
            return
        if any(self._concerns(action) for action in record.actions):
            self._told.append(past)
            return
        for unknown in {thread_of(action) for action in record.actions} - self._places.keys() - {""}:
            self._waiting.setdefault(unknown, []).append(past)

    def learn(self, past: Past) -> None:
        """Take from a record alone what the ids in newer ones stand for."""
        for action in past.record.actions if past.record is not None else ():
            for one, name in named_by(action).items():
                self._names.setdefault(one, name)
            self._learn(action)

    def enough(self) -> bool:
        """Whether what is older than this cannot change the answer."""
        limit = self._asked.limit
        if len(self._told) < limit:
            return False
        last = self._shown()[-1].seq
        # a void record may name a rollout that never was
        return not any(
            past.seq > last and past.seq not in self._void
            for waiting in self._waiting.values()
            for past in waiting
        )

    def unnamed(self) -> bool:
        """Whether something that is told is known by an id alone. A void record may name what never was."""
        return any(
            one not in self._names
            for past in self._shown()
            if past.seq not in self._void
            for action in (past.record.actions if past.record is not None else ())
            for one in ids_of(action)
        )

    def events(self) -> tuple[Event, ...]:
        """What was found, the newest first; one more than asked for where there is more."""
        return tuple(self._event(past) for past in self._shown(1))

    def _shown(self, more: int = 0) -> list[Past]:
        return sorted(self._told, key=lambda past: past.seq, reverse=True)[: self._asked.limit + more]

    def _learn(self, action: records.Action) -> None:
        thread, model = thread_of(action), getattr(action, "model", "")
        if thread and model:
            self._places.setdefault(thread, (getattr(action, "environment", ""), model))
            waiting = self._waiting.pop(thread, ())
            if self._wanted(*self._places[thread]):
                known = {past.seq for past in self._told}
                self._told += [past for past in waiting if past.seq not in known]

    def _concerns(self, action: records.Action) -> bool:
        asked, named = self._asked, models_of(action)
        environment = getattr(action, "environment", "")
        if asked.model is None and asked.environment is None:
            return True
        if not named and thread_of(action):
            place = self._places.get(thread_of(action))
            return place is not None and self._wanted(*place)
        if (
            not named
            and asked.model is not None
            and not isinstance(action, records.Freeze | records.Unfreeze)
        ):
            return False
        # a freeze of every model concerns each of them, and what names no environment every one
        return self._wanted(environment, next(iter(named), ""))

    def _wanted(self, environment: str, model: str) -> bool:
        """Whether it was asked for; each "" where all of them are meant."""
        asked = self._asked
        return asked.model in (None, model or asked.model) and asked.environment in (
            None, environment or asked.environment,
        )  # fmt: skip

    def _words(self, action: records.Action, seq: int) -> str:
        """The action in words; a publish with the version it became."""
        text = describe(action, self._names)
        if isinstance(action, records.Publish) and action.model in self._state.models:
            for version in self._state.models[action.model].versions.values():
                if (version.seq, version.digest) == (seq, action.digest):
                    return text.replace(action.model, f"{action.model}@{version.version}", 1)
        return text

    def _event(self, past: Past) -> Event:
        record = past.record
        words = [self._words(action, past.seq) for action in record.actions] if record else ["unreadable"]
        return Event(
            seq=past.seq, actions=tuple(words), void=past.seq in self._void,
            stored=format_time(datetime.fromtimestamp(past.modified, UTC)),
            time=record.time if record else "", actor=record.actor if record else "",
            id=record.id if record else "",
        )  # fmt: skip


def _is(actor: str, asked: str) -> bool:
    return actor == asked or fnmatchcase(actor, asked)
