"""Collects garbage: one `sweep` in the log, and only then the deletes.

How it goes (`collect`): read to the head; list blobs/ for keys that no version needs; append the sweep, which
is planned anew whenever another record came first; then delete those of the listed keys, and the keys of the
swept blobs, that the state so reached says may go. Killed anywhere it is finished by running it again: what
was swept and is still there is an orphan to the next run. Several at once do no harm, and neither does a
listing that is empty, old or wrong, or a delete that arrives late: a key that may be deleted once may be
deleted for ever (`core/collection.py`; tests/protocol explores every interleaving of a small world).
Besides it removes what a killed probe left behind, checkpoints that newer ones have superseded, and at last,
where it may, reports of hosts that are gone (`gone.py`).
Left out: when to collect, and the clock: `now` is passed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mldeploy.core.collection import (
    GRACE,
    deletable,
    horizon_at,
    is_orphan,
    no_longer_restorable,
    plan_collection,
    push_of,
)
from mldeploy.core.records import Action, Sweep
from mldeploy.core.state import State
from mldeploy.core.types import ModelRef
from mldeploy.errors import MldeployError, StoreError
from mldeploy.progress import Reporter, Silent
from mldeploy.store.blobs import blob_key
from mldeploy.store.checkpoints import PREFIX, superseded
from mldeploy.store.gone import is_gone, old_reports
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import DEADLINE, Log
from mldeploy.store.objects import Entry, ObjectStore

#: Deletes at the same time, on a store that answers from afar.
THREADS = 16
#: What a probe leaves behind is younger than this while the probe still runs.
PROBE = timedelta(hours=1)
_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Found:
    """Objects of one kind: how many, and their bytes."""

    objects: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection did, or in a dry run would do.

    `seqs`: the records it wrote. `blobs`: swept, and deleted. `orphans`: objects below blobs/ that no state
    calls live any more, left by pushes and collections that were cut off. `leftovers`: of killed probes.
    `checkpoints`: superseded. `reports`: of hosts that are gone; `kept_reports`: why they could not be
    deleted. `versions`: those that could be restored until now.
    """

    horizon: str
    seqs: tuple[int, ...] = ()
    blobs: Found = Found()
    orphans: Found = Found()
    leftovers: Found = Found()
    checkpoints: Found = Found()
    reports: Found = Found()
    kept_reports: str = ""
    versions: tuple[ModelRef, ...] = ()


@dataclass(slots=True)
class _Listed:
    """Keys of blobs that may have to go, with their sizes: candidates, to be judged by a state."""

    keys: dict[str, int]

    def beyond(self, state: State) -> bool:
        """Whether a candidate waits for a later horizon than the state has."""
        return any(found is not None and found[1] >= state.horizon for found in map(push_of, self.keys))


@dataclass(frozen=True, slots=True)
class _Others:
    """What goes whatever the log says: keys with their sizes."""

    leftovers: dict[str, int]
    checkpoints: dict[str, int]
    reports: dict[str, int]  # of these the ones whose hosts are gone by the state that was reached

    def gone(self, state: State) -> dict[str, int]:
        """The reports that go."""
        return {key: size for key, size in self.reports.items() if is_gone(state, key)}


@dataclass(slots=True)
class _Swept:
    """The sweeps of one collection that were written; `planned` is the one being written, and the state it
    meets: the intent is asked in no other.
    """

    planned: tuple[State, Sweep | None] = (State(), None)
    keys: dict[str, int] = field(default_factory=dict)
    versions: set[ModelRef] = field(default_factory=set)
    seqs: list[int] = field(default_factory=list)

    def take(self, seq: int) -> None:
        state, sweep = self.planned
        blobs = sweep.blobs if sweep is not None else ()
        self.keys.update(_keys(state, blobs))
        self.versions.update(no_longer_restorable(state, blobs))
        self.seqs.append(seq)


def collect(
    store: ObjectStore,
    log: Log,
    *,
    now: datetime,
    actor: str,
    grace: timedelta = GRACE,
    dry_run: bool = False,
    threads: int = THREADS,
    progress: Reporter | None = None,
    ids: Callable[[], str] = new_ulid,
    deadline: float | None = DEADLINE,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Collection:
    """Collect what nothing needs and nothing has needed for `grace`; see the module.

    `now` ought to be the store's time: one that is ahead of it makes pushes begin again that need not. With
    one thread everything happens in the caller's. The last four are `Log.append`'s. Raises StoreError where
    the store cannot be reached or a delete fails, and what `Log.append` raises; run it again then.
    """
    reporter = progress or Silent()
    now_ms = round(now.timestamp() * 1000)
    log.refresh()
    reporter.step("listing blobs")
    listed = _list(store, log.state, now_ms, grace)
    others = _Others(_leftovers(store, now, grace), _checkpoints(store), old_reports(store, now, grace))
    if dry_run:
        return _would(log.state, listed, others, now_ms, grace)

    swept = _Swept()

    def intent(state: State) -> Sequence[Action]:
        sweep = plan_collection(state, now_ms, grace, orphans=listed.beyond(state))
        swept.planned = (state, sweep)
        return () if sweep is None else (sweep,)

    reporter.step("writing the record")
    while appended := log.append(
        intent, actor=actor, now=now, ids=ids, deadline=deadline, monotonic=monotonic, sleep=sleep
    ):
        swept.take(appended.seq)
    # the state that was reached decides what goes, not what was planned
    keys = {key: size for key, size in (listed.keys | swept.keys).items() if deletable(log.state, key)}
    _delete(store, [*keys, *others.leftovers, *others.checkpoints], threads, reporter)
    reports, kept = _delete_reports(store, others.gone(log.state), threads, reporter)
    return Collection(
        horizon=log.state.horizon,
        seqs=tuple(swept.seqs),
        blobs=_count(swept.keys),
        orphans=_count({key: size for key, size in keys.items() if key not in swept.keys}),
        leftovers=_count(others.leftovers),
        checkpoints=_count(others.checkpoints),
        reports=reports,
        kept_reports=kept,
        versions=tuple(sorted(swept.versions)),
    )


def _would(state: State, listed: _Listed, others: _Others, now_ms: int, grace: timedelta) -> Collection:
    sweep = plan_collection(state, now_ms, grace, orphans=listed.beyond(state), limit=len(state.blobs))
    horizon = sweep.horizon if sweep is not None else state.horizon
    blobs = sweep.blobs if sweep is not None else ()
    return Collection(
        horizon=horizon,
        blobs=_count(_keys(state, blobs)),
        orphans=_count({key: size for key, size in listed.keys.items() if is_orphan(state, key, horizon)}),
        leftovers=_count(others.leftovers),
        checkpoints=_count(others.checkpoints),
        reports=_count(others.gone(state)),
        versions=no_longer_restorable(state, blobs),
    )


def _list(store: ObjectStore, state: State, now_ms: int, grace: timedelta) -> _Listed:
    """What is not live now, or will not be after the sweep that is planned now."""
    horizon = horizon_at(state, now_ms, grace)
    sweep = plan_collection(state, now_ms, grace, limit=len(state.blobs))
    going = _keys(state, sweep.blobs if sweep is not None else ())
    return _Listed(
        {
            entry.key: entry.size
            for entry in store.list("blobs/")
            if entry.key in going or is_orphan(state, entry.key, horizon)
        }
    )


def _keys(state: State, blobs: Iterable[str]) -> dict[str, int]:
    """The live keys of these blobs, with their sizes in bytes."""
    return {blob_key(sha256, state.blobs[sha256].push): state.blobs[sha256].size for sha256 in blobs}


def _leftovers(store: ObjectStore, now: datetime, grace: timedelta) -> dict[str, int]:
    old = (now - max(grace, PROBE)).timestamp()

    def stale(entry: Entry) -> bool:
        return entry.key.startswith("probe/") and entry.modified < old

    return {entry.key: entry.size for entry in store.list("probe/") if stale(entry)}


def _checkpoints(store: ObjectStore) -> dict[str, int]:
    entries = {entry.key: entry for entry in store.list(PREFIX)}
    return {key: entries[key].size for key in superseded(entries.values())}


def _delete(store: ObjectStore, keys: Sequence[str], threads: int, reporter: Reporter) -> None:
    """Delete, several at a time; ends at the first that fails."""
    done = 0
    with reporter.bar("deleting", len(keys), unit="objects") as advance:
        try:
            if threads <= 1 or len(keys) == 1:
                for key in keys:
                    store.delete(key)
                    done += 1
                    advance(1)
                return
            with ThreadPoolExecutor(min(threads, len(keys) or 1), thread_name_prefix="collect") as pool:
                for start in range(0, len(keys), _BATCH):  # so that an end does not wait for all of them
                    for _ in pool.map(store.delete, keys[start : start + _BATCH]):
                        done += 1
                        advance(1)
        except MldeployError as error:
            raise StoreError(
                f"of {len(keys)} objects that nothing needs, {done} were deleted, then: {error.message}",
                f"nothing is lost; run it again to delete the rest ({error.hint})",
            ) from error


def _delete_reports(
    store: ObjectStore, reports: dict[str, int], threads: int, reporter: Reporter
) -> tuple[Found, str]:
    """Whoever collected before reports went may lack the right to delete them: that fails no collection."""
    if not reports:
        return Found(), ""
    try:
        _delete(store, [*reports], threads, reporter)
    except StoreError as error:
        return Found(), error.message
    return _count(reports), ""


def _count(objects: dict[str, int]) -> Found:
    return Found(len(objects), sum(objects.values()))
