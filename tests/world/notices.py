"""What people are to be told, reckoned by the monitor itself: from a record, and from the states before and
after it.

Nothing here asks the code that opens notices or that says which warnings are due: what that code leaves out
would be missed by nobody. Left out: whether it is told (`telling.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import NamedTuple

from mldeploy.core.policy import settings
from mldeploy.core.records import Halt, Record, Retire, Rollback
from mldeploy.core.state import Serving, State, Version


class Event(NamedTuple):
    """Something of which a notice tells."""

    kind: str
    environment: str
    model: str
    version: int


def named(state: State, environment: str) -> bool:
    """Whether the policy says whom to notify."""
    return bool(settings(state, environment).notify)


def happened(before: State, after: State, record: Record) -> set[Event]:
    """What of this record people are to be told.

    Who is named is as before it: nobody names people and does something to a version in one record.
    """
    found = {*_launches(before, after, record), *_ends(before, record)}
    return {event for event in found if named(before, event.environment)}


def opened(before: State, after: State) -> Iterator[tuple[str, Event]]:
    """The notices that a record has opened, by id."""
    for name, notice in after.notices.items():
        if name not in before.notices:
            yield name, Event(notice.kind, notice.environment, notice.model, notice.version)


def due(state: State, today: date) -> dict[tuple[str, int], date]:
    """The versions in traffic of whose expiry somebody is to be warned, and the newest day of a warning."""
    found: dict[tuple[str, int], date] = {}
    for where, models in state.environments.items():
        warn = settings(state, where).warn if named(state, where) else None
        for name, serving in models.items() if warn is not None else ():
            for number in _in_traffic(serving):
                version = state.models[name].versions[number]
                day = _newest(version, warn or (), today)
                if day is not None:
                    found[name, number] = max(day, found.get((name, number), day))
    return found


def _launches(before: State, after: State, record: Record) -> Iterator[Event]:
    """Whatever is stable now and was not; where that was rolled back to, `_ends` says what was left."""
    back = {
        (each.environment, each.model)
        for each in record.actions
        if isinstance(each, Rollback) and _left(before, each) is not None
    }
    for where, models in after.environments.items():
        for name, serving in models.items():
            was = before.environments.get(where, {}).get(name, Serving())
            if serving.stable not in (None, was.stable) and (where, name) not in back:
                yield Event("launched", where, name, serving.stable or 0)


def _ends(before: State, record: Record) -> Iterator[Event]:
    """What has lost its traffic, or may have none any more."""
    for action in record.actions:
        if isinstance(action, Halt):
            for where, name, serving in _all(before):
                if serving.ramp is not None and serving.ramp.rollout == action.rollout:
                    yield Event("halted", where, name, serving.ramp.version)
        elif isinstance(action, Rollback):
            left = _left(before, action)
            if left is not None:
                yield Event("rolled back", action.environment, action.model, left)
        elif isinstance(action, Retire) and not before.models[action.model].versions[action.version].retired:
            yield Event("retired", _whose(before, action.model), action.model, action.version)


def _left(before: State, action: Rollback) -> int | None:
    """What a rollback takes its traffic from; None where nothing was stable, and it is a launch."""
    serving = before.environments.get(action.environment, {}).get(action.model, Serving())
    return serving.ramp.version if serving.ramp is not None else serving.stable


def _whose(state: State, model: str) -> str:
    """Whose people are told of what is done everywhere: the store's (""), or those of the first environment
    by name that has had the model and names somebody.
    """
    if named(state, ""):
        return ""
    having = {where for where, name, serving in _all(state) if name == model and serving != Serving()}
    return min((where for where in having if named(state, where)), default="")


def _all(state: State) -> Iterator[tuple[str, str, Serving]]:
    for where, models in state.environments.items():
        for name, serving in models.items():
            yield where, name, serving


def _in_traffic(serving: Serving) -> set[int]:
    candidate = serving.ramp.version if serving.ramp is not None else None
    return {number for number in (serving.stable, candidate) if number is not None}


def _newest(version: Version, warn: tuple[int, ...], today: date) -> date | None:
    """Every day after the expiry is one; before it, those that the policy names."""
    expires = date.fromisoformat(version.expires)
    if version.retired:
        return None
    if today > expires:
        return today
    ahead = [expires - timedelta(days=before) for before in warn]
    return max((day for day in ahead if day <= today), default=None)
