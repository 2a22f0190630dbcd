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
        self.drained: Table[str, str] = Table(state.drained, self._journal)
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
        self._needed_midway = False  # counted from tables that held changes which may yet be undone
        self.published: list[ModelRef] = []  # by the record being applied

    # --- records

    def commit(self) -> tuple[ModelRef, ...]:
        """Keep what was written since the last commit or undo; returns the versions published in it."""
        self._journal.clear()
        self._needed_midway = False
        published, self.published = tuple(self.published), []
        return published

    def undo(self) -> None:
        """Forget what was written since the last commit or undo."""
        for table, key, value in reversed(self._journal):
            table.restore(key, value)
        if self._needed_midway:
            self._needed = None  # no journal knows what was counted of what has just been undone
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
            drained=self.drained.dict(),
            blobs=self.blobs.dict(),
            horizon=self.horizon,
            void=(*state.void, *self.void) if self.void else state.void,
            policy=self.policy.dict(),
            notices=self.notices.dict(),
        )

    # --- models and versions

    def versions(self, model: str) -> Table[int, Version]:
        """The versions of a model; empty for one that does not exist. Write with `put_version`."""
        table = self._versions.get(model)
        if table is None:
            known = self._state.models.get(model)
            table = self._versions[model] = Table(known.versions if known else {}, self._journal)
        return table

    def next_version(self, model: str) -> int:
        """One more than the highest ever."""
        highest = self._highest.get(model)
        if highest is None:
            highest = max((number for number, _ in self.versions(model).items()), default=0)
        return highest + 1

    def live_version(self, model: str, digest: str) -> int | None:
        """The version of `model`, not retired, that has this digest."""
        return self._live_of(model).get(digest)

    def put_version(self, model: str, version: Version) -> None:
        """Set one version, new or changed."""
        table = self.versions(model)
        before = table.get(version.version)
        live = self._live_of(model)
        if before is not None and not before.retired:
            live.drop(before.digest)
            self._count(before, -1)
        if not version.retired:
            live.put(version.digest, version.version)
            self._count(version, 1)
        self._highest.put(model, max(self.next_version(model) - 1, version.version))
        table.put(version.version, version)

    def is_needed(self, blob: str) -> bool:
        """Whether a version that is not retired needs this blob."""
        if self._needed is None:
            counts: dict[str, int] = {}
            for name in {*self._state.models, *self._versions}:
                for version in self.versions(name).values():
                    for needed in () if version.retired else version.blobs:
                        counts[needed] = counts.get(needed, 0) + 1
            self._needed = Table(counts, self._journal)
            self._needed.owned = True  # made here, so there is no one to copy it from
            self._needed_midway = bool(self._journal)
        return bool(self._needed.get(blob))

    def _live_of(self, model: str) -> Table[str, int]:
        live = self._live.get(model)
        if live is None:
            found = {v.digest: number for number, v in self.versions(model).items() if not v.retired}
            live = self._live[model] = Table(found, self._journal)
            live.owned = True
        return live

    def _count(self, version: Version, by: int) -> None:
        if self._needed is not None:
            for blob in version.blobs:
                self._needed.put(blob, (self._needed.get(blob) or 0) + by)

    @property
    def horizon(self) -> str:
        """Pushes with smaller ids are void."""
        return self._marks.get("horizon") or ""

    @horizon.setter
    def horizon(self, value: str) -> None:
        self._marks.put("horizon", value)

    # --- traffic

    def environments(self) -> list[str]:
        """Every environment that was ever promoted to or frozen in."""
        return list(self._serving)

    def serving(self, environment: str, model: str) -> Serving:
        """What the model does there; an empty Serving if nothing."""
        table = self._serving.get(environment)
        return (table.get(model) if table else None) or Serving()

    def put_serving(self, environment: str, model: str, serving: Serving) -> None:
        """Set what the model does there."""
        table = self._serving.get(environment)
        if table is None:
            table = self._serving[environment] = Table({}, self._journal)
        index = self._index()
        for gone in _ids(table.get(model) or Serving()):
            index.drop(gone)
        for here in _ids(serving):
            index.put(here, (environment, model))
        table.put(model, serving)

    def under_way(self, name: str) -> tuple[str, str] | None:
        """Where the rollout or shadow of this id is under way, as (environment, model); None if nowhere."""
        return self._index().get(name)

    def _index(self) -> Table[str, tuple[str, str]]:
        if self._under_way is None:
            found = {
                name: (environment, model)
                for environment, table in self._serving.items()
                for model, serving in table.items()
                for name in _ids(serving)
            }
            self._under_way = Table(found, self._journal)
            self._under_way.owned = True
        return self._under_way


def _ids(serving: Serving) -> list[str]:
    """The rollout and the shadows of one model."""
    found = [shadow.shadow for shadow in serving.shadows]
    return found if serving.ramp is None else [serving.ramp.rollout, *found]
