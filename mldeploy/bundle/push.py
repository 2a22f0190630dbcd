"""Publishes a bundle: blobs first, then one record that names them.

Rules: what is live already, as the folded state says, is not written again: neither blobs nor, for a bundle
that is published, a record. Until the record stands nothing of a push is visible, so a push that was cut off
is simply run again, and sends what its journal (`journal.py`) does not say is there. Left out: the gates
(`validate.py`), which run before, and sending (`upload.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import msgspec

from mldeploy.bundle.about import About, read_about
from mldeploy.bundle.artifact import GATE as ARTIFACT
from mldeploy.bundle.files import MANIFEST, WHEELS, disk_errors
from mldeploy.bundle.journal import Journal, journal, remove_stale
from mldeploy.bundle.manifest_file import read_manifest
from mldeploy.bundle.scratch import scratch_folder
from mldeploy.bundle.upload import Piece, upload
from mldeploy.bundle.validate import GATES, refuse_altered
from mldeploy.bundle.validate import validate as run_gates
from mldeploy.core.collection import push_id
from mldeploy.core.manifest import Manifest, canonical, check, digest
from mldeploy.core.records import Action, Publish
from mldeploy.core.state import State
from mldeploy.core.types import ModelRef, parse_expiry
from mldeploy.errors import (
    Finding,
    RaceLostError,
    UsageError,
    ValidationError,
)
from mldeploy.progress import Reporter, Silent
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import Log
from mldeploy.store.objects import ObjectStore, store_id

#: Times a push begins anew because a collection took a blob it meant to reuse.
ATTEMPTS = 5

#: More actions for the same record, given the version being published, as a promote of it.
Then = Callable[[ModelRef], Sequence[Action]]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did. `new` is false, and nothing was uploaded, where the bundle was published already.

    `seq` is the record that was written, None where none was. `gates_skipped`: gates that did not run, and
    why.
    """

    ref: ModelRef
    digest: str
    new: bool
    seq: int | None
    uploaded_bytes: int = 0
    reused_bytes: int = 0
    uploaded_blobs: int = 0
    reused_blobs: int = 0
    gates_skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Bundle:
    manifest: Manifest
    digest: str
    about: About
    pieces: dict[str, Piece] = field(default_factory=dict)  # by sha256
    skipped: dict[str, str] = field(default_factory=dict)


class _SweptError(Exception):
    """A blob that was to be reused is gone, or the push is older than the last collection."""


def push(
    store: ObjectStore,
    folder: Path,
    *,
    log: Log,
    actor: str,
    now: datetime,
    progress: Reporter | None = None,
    then: Then | None = None,
    validate: bool = True,
    confine: str = "best-effort",
    ids: Callable[[], str] = new_ulid,
    journals: Path | None = None,
    pool: Callable[[int], Executor] = ThreadPoolExecutor,
) -> Pushed:
    """Publish the bundle in `folder` as the next version of its model, or find the version it has.

    A bundle that is not published yet passes the gates first (`validate`), but for those it passed when
    it was packed, as packed.json says; of one that is published the files must still be those of its
    manifest. `then` adds actions to the same record, for example a promote of the version; it is not
    asked for a bundle that is published already. An expiry given as a duration counts from `now`.
    `journals`: a folder of this machine where it is noted what was sent, so that a push that was cut
    sends what is missing when it is run again (None: it sends everything again). `pool` makes what sends,
    given how many blobs at a time. Raises ManifestError (it cannot be read), ValidationError, UsageError
    (expired, where `validate` is off), IntegrityError (a file changed meanwhile), NotAllowedError,
    StoreError, DiskError, RaceLostError and OutcomeUnknownError.
    """
    reporter = progress or Silent()
    with scratch_folder() as scratch:
        bundle = _read(folder, scratch)
        log.refresh()
        live = live_version(log.state, bundle.manifest.name, bundle.digest)
        if live is not None:
            if validate:
                refuse_altered(folder, bundle.manifest, reporter)
            return Pushed(live, bundle.digest, False, None)
        if validate:
            _pass_gates(folder, bundle, now, confine, reporter)
        expires = _expiry(bundle.manifest, now)
        identity = store_id(store) if journals else ""
        if journals and identity:
            remove_stale(journals, store, identity, now)
        with journal(journals, identity, bundle.digest, reporter.warn) as kept:
            for _ in range(ATTEMPTS):
                this = _push_id(store, log.state, kept, ids)
                attempt = _Attempt(store, bundle, expires, this, then, reporter, kept, pool)
                # a collection took a blob this push meant to reuse: everything again, under a new id
                with contextlib.suppress(_SweptError):
                    done = attempt.publish(log, actor, now)
                    if kept:
                        kept.close(remove=True)
                    return done
    raise RaceLostError(f"{ATTEMPTS} collections of garbage came between", "run it again")


def _push_id(store: ObjectStore, state: State, kept: Journal | None, ids: Callable[[], str]) -> str:
    """The id of the push that was cut, where it may be gone on with, or a new one."""
    taken = kept.push_to_take_up(state, store) if kept else ""
    if taken:
        return taken
    fresh = push_id(ids(), state.horizon)
    if kept:
        kept.begin(fresh, state, store)
    return fresh


def live_version(state: State, name: str, bundle_digest: str) -> ModelRef | None:
    """The version of the model that has this digest and is not retired."""
    model = state.models.get(name)
    for version in model.versions.values() if model else ():
        if version.digest == bundle_digest and not version.retired:
            return ModelRef(name, version.version)
    return None


def _pass_gates(folder: Path, bundle: _Bundle, now: datetime, confine: str, reporter: Reporter) -> None:
    """Raises ValidationError. What was measured goes into the record."""
    about = bundle.about
    gates = [gate for gate in GATES if gate == ARTIFACT or about.validated != bundle.digest]
    report = run_gates(folder, now=now, gates=gates, confine=confine, progress=reporter)
    report.raise_findings()
    bundle.skipped = report.gates_skipped
    if report.measured:
        bundle.about = msgspec.structs.replace(about, measured=report.measured)


class _Attempt:
    """One push id: which blobs it brings, which it reuses, and the record."""

    def __init__(
        self,
        store: ObjectStore,
        bundle: _Bundle,
        expires: str,
        push_id: str,
        then: Then | None,
        reporter: Reporter,
        journal: Journal | None,
        pool: Callable[[int], Executor],
    ) -> None:
        self.store, self.bundle, self.expires, self.id = store, bundle, expires, push_id
        self.then, self.reporter, self.journal, self.pool = then, reporter, journal, pool
        self.published: ModelRef | None = None

    def publish(self, log: Log, actor: str, now: datetime) -> Pushed:
        bundle = self.bundle
        log.refresh()
        brought = {sha: piece for sha, piece in bundle.pieces.items() if sha not in log.state.blobs}
        upload(self.store, brought, self.id, self.reporter, journal=self.journal, pool=self.pool)
        self.reporter.step("writing the record")
        appended = log.append(lambda state: self._intent(state, brought), actor=actor, now=now)
        assert self.published is not None
        if appended is None:  # someone else published the same bundle meanwhile
            return Pushed(self.published, bundle.digest, False, None)
        reused = {sha: piece for sha, piece in bundle.pieces.items() if sha not in brought}
        return Pushed(
            self.published, bundle.digest, True, appended.seq, uploaded_bytes=_size(brought),
            reused_bytes=_size(reused), uploaded_blobs=len(brought), reused_blobs=len(reused),
            gates_skipped=bundle.skipped,
        )  # fmt: skip

    def _intent(self, state: State, brought: Mapping[str, Piece]) -> Sequence[Action]:
        """What to write in this state. Asked again after every lost race."""
        manifest = self.bundle.manifest
        live = live_version(state, manifest.name, self.bundle.digest)
        self.published = live or next_version(state, manifest.name)
        if live is not None:
            return ()
        reused = sorted(set(self.bundle.pieces) - set(brought))
        if self.id < state.horizon or any(sha not in state.blobs for sha in reused):
            raise _SweptError
        about = self.bundle.about
        record = Publish(
            model=manifest.name,
            digest=self.bundle.digest,
            push=self.id,
            brought={sha: brought[sha].size for sha in sorted(brought)},
            reused=tuple(reused),
            owner=manifest.owner,
            expires=self.expires,
            python=manifest.python,
            platform=manifest.platform,
            packed=about.packed,
            metrics=about.metrics,
            measured=about.measured,
        )
        return (record, *(self.then(self.published) if self.then else ()))


def next_version(state: State, name: str) -> ModelRef:
    """The version that the next publish of the model is assigned."""
    model = state.models.get(name)
    return ModelRef(name, max(model.versions, default=0) + 1 if model else 1)


def _read(folder: Path, scratch: Path) -> _Bundle:
    manifest = read_manifest(folder)
    problems = check(manifest)
    if problems:
        raise ValidationError(tuple(Finding(ARTIFACT, MANIFEST, *problem) for problem in problems))
    bundle = _Bundle(manifest, digest(manifest), read_about(folder))
    text = canonical(manifest)
    with disk_errors(scratch):
        (scratch / "manifest").write_bytes(text)
    for file in manifest.files:
        bundle.pieces[file.sha256] = Piece(folder / file.path, file.size)
    for wheel in manifest.wheels:
        bundle.pieces[wheel.sha256] = Piece(folder / WHEELS / wheel.name, wheel.size)
    bundle.pieces[bundle.digest] = Piece(scratch / "manifest", len(text))
    return bundle


def _expiry(manifest: Manifest, now: datetime) -> str:
    expires = parse_expiry(manifest.expires, now)
    if expires <= now.date():
        raise UsageError(
            f"{manifest.name} expires {manifest.expires}, which is not ahead",
            "pack it again with an expiry ahead",
        )
    return expires.isoformat()


def _size(pieces: Mapping[str, Piece]) -> int:
    return sum(piece.size for piece in pieces.values())
