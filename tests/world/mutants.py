"""Variants of pushes, collections and hosts that break one rule each, and all others: see `variants.py`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from mldeploy.bundle.files import sha256_file
from mldeploy.bundle.manifest_file import read_manifest
from mldeploy.bundle.push import Pushed, live_version, next_version
from mldeploy.core.collection import plan_collection, push_id
from mldeploy.core.host import Action, Desired, Limits, Observed, PublishTable
from mldeploy.core.manifest import canonical, digest
from mldeploy.core.plan import plan
from mldeploy.core.records import Publish, Retire
from mldeploy.core.state import State
from mldeploy.core.types import ModelRef, parse_expiry
from mldeploy.store.blobs import blob_key
from mldeploy.store.collect import Collection
from mldeploy.store.log import Log
from tests.world.actors import Process
from tests.world.log_mutants import LOG_MUTANTS
from tests.world.rollout_mutants import ROLLOUT_MUTANTS, SLOW_ROLLOUTS
from tests.world.telling_mutants import SLOW_TO_TELL, TELLING_MUTANTS
from tests.world.variants import Mutant
from tests.world.world import Cast, Parts, Then, real_collect, real_push

# --- pushes


def _push(
    process: Process,
    folder: Path,
    log: Log,
    then: Then,
    *,
    upload_first: bool,
    exists: Callable[[str], bool],
    mixed_up: bool = False,
) -> Pushed:
    """A push made by hand. `exists`: whether a blob need not be sent; `mixed_up`: each is sent as another."""
    manifest = read_manifest(folder)
    log.refresh()
    bundle, push = digest(manifest), push_id(process.ids(), log.state.horizon)
    live = live_version(log.state, manifest.name, bundle)
    if live is not None:
        return Pushed(live, bundle, False, None)
    text = folder.parent / f"{folder.name}.manifest"
    text.write_bytes(canonical(manifest))
    files = [folder / file.path for file in manifest.files]
    wheels = [folder / "wheels" / wheel.name for wheel in manifest.wheels]
    pieces = {sha256_file(path): path for path in (*files, *wheels, text)}
    reused = {sha256 for sha256 in pieces if exists(sha256)}
    brought = {sha256: path for sha256, path in pieces.items() if sha256 not in reused}

    refs: list[ModelRef] = []

    def upload() -> None:
        paths = list(brought.values())
        for sha256, path in zip(brought, [*paths[1:], *paths[:1]] if mixed_up else paths, strict=True):
            process.store.upload(blob_key(sha256, push), path)

    def intent(state: State) -> list[Any]:
        refs.append(next_version(state, manifest.name))
        # what was found is told as brought: the state does not know it
        unknown = {sha256: pieces[sha256].stat().st_size for sha256 in reused if sha256 not in state.blobs}
        record = Publish(
            model=manifest.name, digest=bundle, push=push, owner=manifest.owner,
            brought={sha256: path.stat().st_size for sha256, path in brought.items()} | unknown,
            reused=tuple(sorted(reused - unknown.keys())),
            expires=parse_expiry(manifest.expires, process.now()).isoformat(),
            python=manifest.python, platform=manifest.platform,
        )  # fmt: skip
        return [record, *then(refs[-1])]

    if upload_first:
        upload()
    appended = log.append(intent, actor=process.actor.name, now=process.now())
    assert appended is not None
    if not upload_first:
        upload()
    return Pushed(refs[-1], bundle, True, appended.seq)


def record_first(process: Process, folder: Path, log: Log, then: Then) -> Pushed:
    """The record goes before the blobs."""
    return _push(
        process, folder, log, then, upload_first=False, exists=lambda sha256: sha256 in log.state.blobs
    )


def dedupe_by_head(process: Process, folder: Path, log: Log, then: Then) -> Pushed:
    """What the store shows need not be sent: asked of the store, not of the state."""

    def exists(sha256: str) -> bool:
        return any(process.store.list(f"blobs/sha256/{sha256[:2]}/{sha256}"))

    return _push(process, folder, log, then, upload_first=True, exists=exists)


def mixed_up(process: Process, folder: Path, log: Log, then: Then) -> Pushed:
    """Every blob goes to the key of another."""
    return _push(
        process, folder, log, then, upload_first=True, mixed_up=True,
        exists=lambda sha256: sha256 in log.state.blobs,
    )  # fmt: skip


def tidy(process: Process, folder: Path, log: Log, then: Then) -> Pushed:
    """A push retires the version before."""

    def and_retires(ref: ModelRef) -> list[Any]:
        before = [Retire(model=ref.name, version=ref.version - 1, force=True)] if ref.version > 1 else []
        return [*then(ref), *before]

    return real_push(process, folder, log, and_retires)


# --- collections


def delete_first(process: Process, log: Log, now: datetime, grace: timedelta) -> Collection:
    """The blobs go before the record that says so."""
    log.refresh()
    sweep = plan_collection(log.state, round(now.timestamp() * 1000), grace)
    for sha256 in sweep.blobs if sweep is not None else ():
        process.store.delete(blob_key(sha256, log.state.blobs[sha256].push))
    return real_collect(process, log, now, grace)


def delete_unlisted(process: Process, log: Log, now: datetime, grace: timedelta) -> Collection:
    """Whatever no version names goes, however young the push that brought it."""
    done = real_collect(process, log, now, grace)
    live = {blob_key(sha256, blob.push) for sha256, blob in log.state.blobs.items()}
    for entry in process.store.list("blobs/"):
        if entry.key not in live:
            process.store.delete(entry.key)
    return done


# --- hosts


def impatient(desired: Desired, observed: Observed, now: float, limits: Limits) -> tuple[Action, ...]:
    """Old workers are stopped although fronts still have them in their tables, or wait for answers."""
    fronts = tuple(msgspec.structs.replace(f, generation=1 << 30, inflight={}) for f in observed.fronts)
    return plan(desired, msgspec.structs.replace(observed, fronts=fronts), now, limits)


def trusting(desired: Desired, observed: Observed, now: float, limits: Limits) -> tuple[Action, ...]:
    """A worker that has been started is as good as one that is ready."""
    workers = tuple(
        msgspec.structs.replace(worker, state="ready") if worker.state == "loading" else worker
        for worker in observed.workers
    )
    return plan(desired, msgspec.structs.replace(observed, workers=workers), now, limits)


def hasty(desired: Desired, observed: Observed, now: float, limits: Limits) -> tuple[Action, ...]:
    """What serves goes as soon as another version is asked for, whether that is there or not."""
    routes = {
        name: msgspec.structs.replace(route, stable=asked.stable.version, workers={})
        for name, route in observed.routes.items()
        if (asked := desired.models.get(name)) is not None
        and asked.stable is not None
        and route.workers
        and asked.stable.version not in route.workers
    }
    actions = plan(desired, observed, now, limits)
    return (
        (PublishTable(routes=tuple(sorted({**observed.routes, **routes}.items()))), *actions)
        if routes
        else actions
    )


_PUSHES = Cast(writers=2, pushers=3, collectors=2, vandals=0, hosts=0, storm=1800.0)
_HOSTS = Cast(writers=2, pushers=2, collectors=0, vandals=0, hosts=2, storm=1200.0, requests=5.0)

MUTANTS = {
    **LOG_MUTANTS,
    "the record before the blobs": Mutant(
        "lost blob: record .* which is not there", Parts(push=record_first), cast=_PUSHES
    ),
    "reuse what the store shows": Mutant(
        "lost blob: record .* which is not there", Parts(push=dedupe_by_head), cast=_PUSHES
    ),
    "every blob under another's name": Mutant("wrote other bytes", Parts(push=mixed_up), cast=_PUSHES),
    "a push retires": Mutant("pusher-. retired", Parts(push=tidy), cast=_PUSHES),
    "delete before the sweep": Mutant(
        "lost blob: .* removed .* which is live", Parts(collect=delete_first), cast=_PUSHES
    ),
    "delete what is young": Mutant("lost blob", Parts(collect=delete_unlisted), cast=_PUSHES),
    "stop before the fronts have let go": Mutant("stops worker", Parts(plan=impatient), cast=_HOSTS),
    "route what is loading": Mutant("which is not ready", Parts(plan=trusting), cast=_HOSTS),
    "route the new one before it is there": Mutant("takes away what serves", Parts(plan=hasty), cast=_HOSTS),
    **ROLLOUT_MUTANTS,
    **TELLING_MUTANTS,
}

#: Those that take many worlds.
SLOW = SLOW_ROLLOUTS | SLOW_TO_TELL
