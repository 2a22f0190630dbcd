"""The record that `wait --record` names: whether there is one, and whether it says anything of the model.

A wait for a record that is about something else would end at once and prove nothing. Records that name no
model, of hosts or policies, may be waited for: whoever has read them has read that far. Left out: what
follows from the record (`waiting.py`).
"""

from __future__ import annotations

from mldeploy.client.connection import Connection
from mldeploy.client.describe import thread_of, threads_of
from mldeploy.client.hints import command
from mldeploy.client.past import record_at
from mldeploy.core.records import Action, Record
from mldeploy.core.state import State
from mldeploy.errors import NotFoundError, UsageError


def awaited(at: Connection, state: State, model: str, seq: int) -> Record | None:
    """The record, None where it is not for us to read. Raises NotFoundError and UsageError."""
    if seq > state.head:
        raise NotFoundError(
            f"there is no record {seq}",
            f"the last one is record {state.head}; "
            f"{command(f'history {model}', at.environment)} shows those about {model}",
        )
    if seq in state.void:
        raise UsageError(
            f"record {seq} is void: it changed nothing",
            f"{command(f'history {model}', at.environment)} shows what was done",
        )
    record = record_at(at, seq)
    places = {_place(state, action) for action in record.actions} if record is not None else set()
    here = {(name, environment) for name in (model, "") for environment in (at.environment, "")}
    if places and not places & here:
        raise UsageError(f"record {seq} is about {_words(places)}", _hint(at, places, model, seq))
    return record


def _hint(at: Connection, places: set[tuple[str, str]], model: str, seq: int) -> str:
    for name, environment in sorted(places):
        if name == model:
            return f"{command(f'wait {model} --record {seq}', environment)} waits for it there"
    return f"{command(f'wait {model}', at.environment)} waits for all that the log says now"


def _place(state: State, action: Action) -> tuple[str, str]:
    """Model and environment of an action, each empty where it is about all of them or nobody knows."""
    model, environment = getattr(action, "model", ""), getattr(action, "environment", "")
    if model or environment:
        return model, environment
    thread = threads_of(state).get(thread_of(action))
    return (thread.model, thread.environment) if thread is not None else ("", "")


def _words(places: set[tuple[str, str]]) -> str:
    said = [
        f"{model or 'every model'}{f' in {environment}' if environment else ''}"
        for model, environment in sorted(places)
    ]
    return f"{', '.join(said[:3])}{' and more' if len(said) > 3 else ''}"
