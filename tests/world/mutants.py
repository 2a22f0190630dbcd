"""Variants of the code under test that break one rule each, on purpose.

The world has to find every one of them within a bounded number of seeds (`test_mutants.py`): a rule whose
absence nobody notices is not checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from mldeploy.bundle.files import sha256_file
from mldeploy.bundle.manifest_file import read_manifest
from mldeploy.bundle.push import Pushed, live_version, next_version
from mldeploy.core.collection import plan_collection, push_id
from mldeploy.core.fold import refusal
from mldeploy.core.host import Action, Desired, Limits, Observed, PublishTable
from mldeploy.core.manifest import canonical, digest
from mldeploy.core.plan import plan
from mldeploy.core.records import Publish, Record, encode, format_time
from mldeploy.core.state import State
from mldeploy.core.types import ModelRef, parse_expiry
from mldeploy.errors import OutcomeUnknownError, StoreError
from mldeploy.store.blobs import blob_key
from mldeploy.store.collect import Collection
from mldeploy.store.log import Appended, Intent, Log, record_key
from tests.world.actors import Process, WatchedLog
from tests.world.rollout_mutants import FEW
from tests.world.world import Cast, Parts, Then, real_collect

# --- the log: facts about appending that each look harmless


class NaiveLog(WatchedLog):
    """One attempt for each number, and then what the variant says."""

    def write(self, intent: Intent, **given: Any) -> Appended | None:
        record_id = given["ids"]()
        self.refresh()
        for _ in range(20):
            actions = tuple(intent(self.state))
            problem = refusal(self.state, actions) if actions else None
            if problem is not None:
                raise problem
            if not actions:
                return None
            seq = self.state.head + 1
            data = encode(
                Record(seq=seq, id=record_id, prev=self.state.head_sha256, time=format_time(given["now"]),
                       actor=given["actor"], actions=actions)
            )  # fmt: skip
            try:
                won = self.process.store.create(record_key(seq), data)
            except OutcomeUnknownError as error:
                self.unanswered(error)
                continue
            if won or self.taken(seq, data):
                self.refresh()
                truth = self.world_monitor.truth  # which may not reach so far: "taken" may be said of nothing
                return Appended(seq, record_id, truth[seq] if seq < len(truth) else self.state)
        raise StoreError("it was not written", "run it again")

    def unanswered(self, error: OutcomeUnknownError) -> None:
        """The attempt may have been written. Sound: the same bytes at the same number again."""
        raise error

    def taken(self, seq: int, data: bytes) -> bool:
        """Whether what stands there is ours. Sound: read it."""
        self.refresh()
        found = self.process.store.get(record_key(seq))
        return found is not None and found.data == data


class AppendsElsewhere(NaiveLog):
    """After a timeout it appends at the next number."""

    def unanswered(self, error: OutcomeUnknownError) -> None:
        self.refresh()


class GivesUp(NaiveLog):
    """A timeout is a failure."""

    def unanswered(self, error: OutcomeUnknownError) -> None:
        raise StoreError(error.message, error.hint) from error


class TakenIsFailure(NaiveLog):
    """What is taken (412) was taken by another."""

    def taken(self, seq: int, data: bytes) -> bool:
        self.refresh()
        return False


class TakenIsMine(NaiveLog):
    """What is taken (412) is its own success, which some driver retried."""

    def taken(self, seq: int, data: bytes) -> bool:
        return True


class Forgetful(WatchedLog):
    """A store that cannot be read holds nothing."""

    def refresh(self, limit: int | None = None) -> int:
        try:
            return super().refresh(limit)
        except StoreError:
            self._state = State()
            self.world_looks()
            raise


# --- pushes


def _push(
    process: Process, folder: Path, log: Log, then: Then, *, upload_first: bool, exists: Callable[[str], bool]
) -> Pushed:
    """A push made by hand. `exists`: whether a blob need not be sent."""
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
        for sha256, path in brought.items():
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


_LOGS = Cast(writers=4, pushers=1, collectors=0, vandals=0, hosts=0, storm=600.0)
_PUSHES = Cast(writers=2, pushers=3, collectors=2, vandals=0, hosts=0, storm=1800.0)
_HOSTS = Cast(writers=2, pushers=2, collectors=0, vandals=0, hosts=2, storm=1200.0, requests=5.0)


@dataclass(frozen=True)
class Mutant:
    """A broken variant, the worlds in which to look, and what must be found."""

    parts: Parts
    finds: str
    cast: Cast = _LOGS
    seeds: int = 40


MUTANTS = {
    "append at the next number after a timeout": Mutant(Parts(log=AppendsElsewhere), "duplicate|ghost"),
    "a timeout is a failure": Mutant(Parts(log=GivesUp), "ghost"),
    "taken is a failure": Mutant(Parts(log=TakenIsFailure), "duplicate|ghost"),
    "taken is a success": Mutant(Parts(log=TakenIsMine), "lost: .* was acknowledged"),
    "a store that cannot be read is empty": Mutant(Parts(log=Forgetful), "went back"),
    "the record before the blobs": Mutant(Parts(push=record_first), "lost blob", _PUSHES),
    "reuse what the store shows": Mutant(Parts(push=dedupe_by_head), "lost blob", _PUSHES),
    "delete before the sweep": Mutant(Parts(collect=delete_first), "lost blob", _PUSHES),
    "delete what is young": Mutant(Parts(collect=delete_unlisted), "lost blob", _PUSHES),
    "stop before the fronts have let go": Mutant(Parts(plan=impatient), "stops worker", _HOSTS),
    "route what is loading": Mutant(Parts(plan=trusting), "which is not ready", _HOSTS),
    "route the new one before it is there": Mutant(Parts(plan=hasty), "takes away what serves", _HOSTS),
}
#: The same code without a broken rule, in the same worlds.
SOUND = [Mutant(Parts(), "", cast) for cast in (_LOGS, _PUSHES, _HOSTS, FEW)]
