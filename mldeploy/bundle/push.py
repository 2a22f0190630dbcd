"""Publishes a bundle: blobs first, then one record that names them.

Rules: what is live already, as the folded state says, is not written again: neither blobs nor, for a bundle that
is published, a record. Until the record stands nothing of a push is visible, so a push that was cut off is
simply run again. A file is hashed before it goes up. Left out: the gates (`validate.py`), which run before.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from mldeploy.bundle.assemble import WHEELS, About, read_about
from mldeploy.bundle.files import disk_errors, sha256_file
from mldeploy.bundle.manifest_file import read_manifest
from mldeploy.core.manifest import Manifest, canonical, check, digest
from mldeploy.core.records import Action, Publish
from mldeploy.core.state import State
from mldeploy.core.types import ModelRef, parse_expiry
from mldeploy.errors import IntegrityError, ManifestError, OutcomeUnknownError, RaceLostError, UsageError
from mldeploy.store.blobs import upload_blob
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import Log
from mldeploy.store.objects import ObjectStore

#: Uploads at the same time.
THREADS = 4
#: Times a push begins anew because a collection took a blob it meant to reuse.
ATTEMPTS = 5

#: Called with the number of bytes just uploaded, from one thread at a time.
Progress = Callable[[int], None]
#: More actions for the same record, given the state and the version being published (or published already).
Then = Callable[[State, ModelRef], Sequence[Action]]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did. `new` is false, and nothing was uploaded, where the bundle was published already.

    `seq` is the record that was written, None where none was.
    """

    ref: ModelRef
    digest: str
    new: bool
    seq: int | None
    uploaded_bytes: int = 0
    reused_bytes: int = 0
    uploaded_blobs: int = 0
    reused_blobs: int = 0


@dataclass(frozen=True, slots=True)
class _Piece:
    """One blob of the bundle."""

    path: Path
    size: int


@dataclass(slots=True)
class _Bundle:
    manifest: Manifest
    digest: str
    about: About
    pieces: dict[str, _Piece] = field(default_factory=dict)  # by sha256


class _SweptError(Exception):
    """A blob that was to be reused is gone, or the push is older than the last collection."""


def push(
    store: ObjectStore,
    folder: Path,
    *,
    log: Log,
    actor: str,
    now: datetime,
    progress: Progress | None = None,
    then: Then | None = None,
    measured: Mapping[str, float] | None = None,
    ids: Callable[[], str] = new_ulid,
) -> Pushed:
    """Publish the bundle in `folder` as the next version of its model, or find the version it has.

    `then` adds actions to the same record, for example a promote of the version; for a bundle that is
    published already its actions make a record of their own, and none makes none. `measured` (from gate 3)
    replaces what packed.json says. An expiry given as a duration counts from `now`. Raises ManifestError,
    UsageError (expired), IntegrityError (a file is not what the manifest says), NotAllowedError, StoreError,
    DiskError, RaceLostError and OutcomeUnknownError.
    """
    with tempfile.TemporaryDirectory(prefix="mldeploy-") as scratch:
        bundle = _read(folder, Path(scratch), measured)
        expires = _expiry(bundle.manifest, now)
        for _ in range(ATTEMPTS):
            attempt = _Attempt(store, bundle, expires, ids(), then, progress or (lambda _: None))
            # a collection took a blob this push meant to reuse: everything again, under a new id
            with contextlib.suppress(_SweptError):
                return attempt.publish(log, actor, now)
    raise RaceLostError(f"{ATTEMPTS} collections of garbage came between", "run it again")


def live_version(state: State, name: str, bundle_digest: str) -> ModelRef | None:
    """The version of the model that has this digest and is not retired."""
    model = state.models.get(name)
    for version in model.versions.values() if model else ():
        if version.digest == bundle_digest and not version.retired:
            return ModelRef(name, version.version)
    return None


class _Attempt:
    """One push id: which blobs it brings, which it reuses, and the record."""

    def __init__(
        self, store: ObjectStore, bundle: _Bundle, expires: str, push_id: str, then: Then | None,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.store, self.bundle, self.expires, self.id = store, bundle, expires, push_id
        self.then, self.progress = then, progress
        self.lock = threading.Lock()
        self.published: ModelRef | None = None
        self.new = False

    def publish(self, log: Log, actor: str, now: datetime) -> Pushed:
        log.refresh()
        name = self.bundle.manifest.name
        brought = {}
        if live_version(log.state, name, self.bundle.digest) is None:
            brought = {sha: piece for sha, piece in self.bundle.pieces.items() if sha not in log.state.blobs}
            self._upload(brought)
        appended = log.append(lambda state: self._intent(state, brought), actor=actor, now=now)
        assert self.published is not None
        seq = appended.seq if appended else None
        if not self.new:
            return Pushed(self.published, self.bundle.digest, False, seq)
        reused = {sha: piece for sha, piece in self.bundle.pieces.items() if sha not in brought}
        return Pushed(
            self.published, self.bundle.digest, True, seq, _size(brought), _size(reused), len(brought), len(reused)
        )  # fmt: skip

    def _intent(self, state: State, brought: Mapping[str, _Piece]) -> Sequence[Action]:
        """What to write in this state. Asked again after every lost race."""
        manifest = self.bundle.manifest
        live = live_version(state, manifest.name, self.bundle.digest)
        self.new, self.published = live is None, live or next_version(state, manifest.name)
        more = tuple(self.then(state, self.published)) if self.then else ()
        if live is not None:
            return more
        reused = sorted(set(self.bundle.pieces) - set(brought))
        if self.id < state.horizon or any(sha not in state.blobs for sha in reused):
            raise _SweptError
        about = self.bundle.about
        record = Publish(
            model=manifest.name, digest=self.bundle.digest, push=self.id, owner=manifest.owner, expires=self.expires,
            brought={sha: brought[sha].size for sha in sorted(brought)}, reused=tuple(reused),
            python=manifest.python, platform=manifest.platform, packed=about.packed, metrics=about.metrics,
            measured=about.measured,
        )  # fmt: skip
        return (record, *more)

    def _upload(self, brought: Mapping[str, _Piece]) -> None:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="push") as pool:
            futures = [pool.submit(self._upload_one, sha, piece) for sha, piece in brought.items()]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _upload_one(self, sha256: str, piece: _Piece) -> None:
        with disk_errors(piece.path):
            if piece.path.stat().st_size != piece.size or sha256_file(piece.path) != sha256:
                raise IntegrityError(
                    f"{piece.path} is not what the manifest says",
                    "pack the bundle again, or take a whole copy of it",
                )
        try:
            upload_blob(self.store, sha256, self.id, piece.path, self._advance)
        except OutcomeUnknownError:
            # the same bytes under the same key: writing them twice is no harm
            upload_blob(self.store, sha256, self.id, piece.path)

    def _advance(self, amount: int) -> None:
        with self.lock:
            self.progress(amount)


def next_version(state: State, name: str) -> ModelRef:
    """The version that the next publish of the model is assigned."""
    model = state.models.get(name)
    return ModelRef(name, max(model.versions, default=0) + 1 if model else 1)


def _read(folder: Path, scratch: Path, measured: Mapping[str, float] | None) -> _Bundle:
    manifest = read_manifest(folder)
    problems = check(manifest)
    if problems:
        key, message, hint = problems[0]
        raise ManifestError(f"{folder}: {key}: {message}", hint)
    about = read_about(folder)
    if measured is not None:
        about = About(packed=about.packed, metrics=about.metrics, measured=dict(measured))
    bundle = _Bundle(manifest, digest(manifest), about)
    text = canonical(manifest)
    with disk_errors(scratch):
        (scratch / "manifest").write_bytes(text)
    for file in manifest.files:
        bundle.pieces[file.sha256] = _Piece(folder / file.path, file.size)
    for wheel in manifest.wheels:
        bundle.pieces[wheel.sha256] = _Piece(folder / WHEELS / wheel.name, wheel.size)
    bundle.pieces[bundle.digest] = _Piece(scratch / "manifest", len(text))
    return bundle


def _expiry(manifest: Manifest, now: datetime) -> str:
    expires = parse_expiry(manifest.expires, now)
    if expires <= now.date():
        raise UsageError(
            f"{manifest.name} expires {manifest.expires}, which is not ahead",
            "pack it again with an expiry ahead",
        )
    return expires.isoformat()


def _size(pieces: Mapping[str, _Piece]) -> int:
    return sum(piece.size for piece in pieces.values())
