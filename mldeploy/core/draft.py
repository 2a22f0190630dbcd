"""A State being changed: the working copy of `core/fold.py`.

Rules: the State it starts from is never touched; what a record changed can be undone as a whole; a dict is
copied once, however many records follow (so a long log folds in linear time). What would otherwise be
searched for (live digests, rollouts and shadows, how often a blob is needed) is indexed on first use.
Left out: what an action means (`core/lifecycle.py`, `core/traffic.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from mldeploy.core.records import Setting
from mldeploy.core.state import Blob, Host, Model, Notice, Serving, State, Version
from mldeploy.core.types import ModelRef

_K = TypeVar("_K")
_V = TypeVar("_V")
_ABSENT: Any = object()

#: What to put back, newest last: (table, key, value before or _ABSENT).
Journal = list[tuple["Table[Any, Any]", Any, Any]]


class Table(Generic[_K, _V]):
    """A dict that is copied when first written to, and whose every write stands in a journal."""

    def __init__(self, base: dict[_K, _V], journal: Journal) -> None:
        self._dict = base
        self._journal = journal
        self.owned = False

    def get(self, key: _K) -> _V | None:
        """The value, or None."""
        return self._dict.get(key)

    def __contains__(self, key: _K) -> bool:
        return key in self._dict

    def items(self) -> Iterator[tuple[_K, _V]]:
        """All of it; do not write meanwhile."""
        return iter(self._dict.items())

    def values(self) -> Iterator[_V]:
        """All values; do not write meanwhile."""
        return iter(self._dict.values())

    def put(self, key: _K, value: _V) -> None:
        """Set `key`."""
        self._journal.append((self, key, self._dict.get(key, _ABSENT)))
        self._write(key, value)

    def drop(self, key: _K) -> None:
        """Remove `key`, if it is there."""
        if key in self._dict:
            self._journal.append((self, key, self._dict[key]))
            self._write(key, _ABSENT)

    def restore(self, key: _K, value: Any) -> None:
        """Put back what a journal says, without a journal entry."""
        self._write(key, value)

    def dict(self) -> dict[_K, _V]:
        """What it holds now. The table must not be written to any more."""
        return self._dict

    def _write(self, key: _K, value: Any) -> None:
        if not self.owned:
            self._dict = dict(self._dict)
            self.owned = True
        if value is _ABSENT:
            self._dict.pop(key, None)
        else:
            self._dict[key] = value


class Draft:
    """See the module. Read and write through the methods; `commit` or `undo` after each record."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._journal: Journal = []
        self.head, self.head_sha256 = state.head, state.head_sha256
        self.void: list[int] = []  # numbers of records that changed nothing, since `state`
        self.blobs: Table[str, Blob] = Table(state.blobs, self._journal)
        self.hosts: Table[str, Host] = Table(state.hosts, self._journal)
        self.frozen: Table[str, str] = Table(state.frozen, self._journal)
        self.policy: Table[str, dict[str, Setting]] = Table(state.policy, self._journal)
        self.notices: Table[str, Notice] = Table(state.notices, self._journal)
        self._marks: Table[str, str] = Table({"horizon": state.horizon}, self._journal)
        self._versions: dict[str, Table[int, Version]] = {}
        self._live: dict[str, Table[str, int]] = {}
        self._highest: Table[str, int] = Table({}, self._journal)
        self._serving: dict[str, Table[str, Serving]] = {
            name: Table(serving, self._journal) for name, serving in state.environments.items()
        }
        self._under_way: Table[str, tuple[str, str]] | None = None
        self._needed: Table[str, int] | None = None
        self.published: list[ModelRef] = []  # by the record being applied

    # --- records

    def commit(self) -> tuple[ModelRef, ...]:
        """Keep what was written since the last commit or undo; returns the versions published in it."""
        self._journal.clear()
        published, self.published = tuple(self.published), []
        return published

    def undo(self) -> None:
        """Forget what was written since the last commit or undo."""
        for table, key, value in reversed(self._journal):
            table.restore(key, value)
        self.commit()

    def finish(self) -> State:
        """The new State. The draft must not be used any more."""
        state = self._state
        models = state.models
        changed = {name: table for name, table in self._versions.items() if table.owned and table.dict()}
        if changed:
            models = dict(models)
            models.update((name, Model(name=name, versions=table.dict())) for name, table in changed.items())
        environments = state.environments
        if any(table.owned for table in self._serving.values()):
            environments = {name: table.dict() for name, table in self._serving.items() if table.dict()}
        return State(
            head=self.head,
            head_sha256=self.head_sha256,
            models=models,
            environments=environments,
            frozen=self.frozen.dict(),
            hosts=self.hosts.dict(),
            blobs=self.blobs.dict(),
            horizon=self.horizon,
            void=(*state.void, *self.void) if self.void else state.void,
            policy=self.policy.dict(),
            notices=self.notices.dict(),
