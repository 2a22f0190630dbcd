"""`pack`, `validate`, `inspect` and `push`: bundles on their way into the store.

Rules: a model folder is packed into a temporary folder first; a promote asked for with a push stands in the
same record, or in one of its own where the bundle was published before. Left out: how a bundle is made,
judged and uploaded (`mldeploy.bundle`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldeploy.client import intents
from mldeploy.client.connection import Connection
from mldeploy.client.looking import version_status
from mldeploy.client.traffic import Wish, read_manifest, warnings_for
from mldeploy.client.types import Inspected, Packed, Pushed, Validated
from mldeploy.core.manifest import Manifest, Rollout, digest
from mldeploy.core.records import Action
from mldeploy.core.state import State
from mldeploy.core.types import ModelRef
from mldeploy.errors import NotFoundError, UsageError
from mldeploy.progress import Reporter, Silent
from mldeploy.store.ids import new_ulid

if TYPE_CHECKING:
    from mldeploy.bundle import pack as packing
    from mldeploy.bundle import push as pushing


@dataclass(frozen=True, slots=True)
class How:
    """How to push."""

    promote: bool = False
    to: int | float | str | None = None
    steps: Sequence[int | float | str] | None = None
    now: bool = False
    dry_run: bool = False
    reporter: Reporter = field(default_factory=Silent)


def pack(
    source: Path,
    name: str | None,
    owner: str | None,
    expires: str | None,
    out: str | Path | None,
    reporter: Reporter,
) -> Packed:
    """See Client.pack."""
    made = _pack(source, name, owner, expires, Path(out) if out else None, reporter)
    report = made.report
    return Packed(
        folder=str(made.folder),
        name=made.manifest.name,
        digest=made.digest,
        size=_size(made.manifest),
        gates_run=report.gates_run if report else (),
        gates_skipped=report.gates_skipped if report else {},
        measured=report.measured if report else {},
    )


def _pack(
    source: Path,
    name: str | None,
    owner: str | None,
    expires: str | None,
    out: Path | None,
    reporter: Reporter,
) -> packing.Packed:
    from mldeploy.bundle.pack import pack_folder

    if not source.is_dir():
        raise UsageError(f"{source} is not a folder", "`mldeploy init DIR` makes one to start from")
    place = out or source.resolve().with_name(f"{name or source.resolve().name}.bundle")
    return pack_folder(source, name=name, owner=owner, expires=expires, out=place, progress=reporter)


@contextmanager
def _as_bundle(
    source: Path,
    reporter: Reporter,
    name: str | None = None,
    owner: str | None = None,
    expires: str | None = None,
) -> Iterator[tuple[Path, packing.Packed | None]]:
    """The bundle's folder: `source` itself, or what it was packed into, which goes afterwards."""
    from mldeploy.bundle.files import is_bundle

    source = source.expanduser()
    if is_bundle(source):
        if name or owner or expires:
            raise UsageError(
                f"{source} is a bundle, whose name, owner and expiry are fixed", "pack it again with others"
            )
        yield source, None
        return
    if not source.exists():
        raise NotFoundError(f"there is no {source}", "name a bundle's folder, or a model folder")
    with tempfile.TemporaryDirectory(prefix="mldeploy-") as scratch:
        made = _pack(source, name, owner, expires, Path(scratch) / "bundle", reporter)
        yield made.folder, made


def validate(source: Path, gates: Sequence[str] | None, now: datetime, reporter: Reporter) -> Validated:
    """See Client.validate."""
    from mldeploy.bundle.validate import GATES
    from mldeploy.bundle.validate import validate as run

    with _as_bundle(source, reporter) as (folder, made):
        report = made.report if made is not None and gates is None else None
        report = report or run(folder, now=now, gates=tuple(gates or GATES), progress=reporter)
    return Validated(
        source=str(source),
        digest=report.digest,
        ok=report.ok,
        gates_run=report.gates_run,
        gates_skipped=report.gates_skipped,
        measured=report.measured,
        findings=tuple(_finding(finding) for finding in report.findings),
    )


def _finding(finding: Any) -> dict[str, str]:
    return {name: getattr(finding, name) for name in ("gate", "file", "key", "message", "hint")}


def inspect(at: Connection, source: str) -> Inspected:
    """See Client.inspect."""
    from mldeploy.bundle.manifest_file import read_manifest as read_file

    folder = Path(source).expanduser()
    if folder.exists() or "@" not in source:
        manifest = read_file(folder)
        return Inspected(source=source, digest=digest(manifest), size=_size(manifest), manifest=manifest)
    ref, state = ModelRef.parse(source), at.refresh()
    version = intents.find_version(state, ref)
    found = read_manifest(at, state, version)
    if found is None:
        raise NotFoundError(f"the files of {ref} were collected", "push the bundle again to have them back")
    shown = version_status(state, ref.name, version, at.now().date())
    return Inspected(source=source, digest=version.digest, size=version.size, manifest=found, published=shown)


def _size(manifest: Manifest) -> int:
    return sum(item.size for item in (*manifest.files, *manifest.wheels))


def push(
    at: Connection, source: Path, name: str | None, owner: str | None, expires: str | None, how: How
) -> Pushed:
    """See Client.push."""
    with _as_bundle(source, how.reporter, name, owner, expires) as (folder, made):
        return _push(at, folder, made, how)


def push_folder(at: Connection, made: packing.Packed, how: How) -> Pushed:
    """Push what `pack` just made."""
    return _push(at, made.folder, made, how)


def _push(at: Connection, folder: Path, made: packing.Packed | None, how: How) -> Pushed:
    from mldeploy.bundle.manifest_file import read_manifest as read_file

    wish = Wish(how.to, how.steps, how.now).rollout()
    manifest = made.manifest if made is not None else read_file(folder)
    rollout = wish or manifest.rollout
    if how.dry_run:
        return _would_push(at, folder, made, manifest, rollout, how)
    at.create_store()
    at.refresh()
    if how.promote:
        # better refused before the upload than after it
        intents.refuse_frozen(at.log.state, at.environment, manifest.name)
    done = _publish(at, folder, made, rollout, how)
    state = at.refresh()
    ref = done.ref
    seq, promoted = done.seq, how.promote
    if how.promote and not done.new:
        written = at.change(_promote(at, ref, rollout), dry_run=False)
        seq = written.seq
    return Pushed(
        store=at.settings.store,
        model=ref.name,
        version=ref.version,
        environment=at.environment if how.promote else None,
        seq=seq,
        already=not done.new and seq is None,
        digest=done.digest,
        new=done.new,
        promoted=promoted,
        uploaded_bytes=done.uploaded_bytes,
        reused_bytes=done.reused_bytes,
        uploaded_blobs=done.uploaded_blobs,
        reused_blobs=done.reused_blobs,
        warnings=_warnings(at, state, ref, rollout, how),
    )


def _publish(
    at: Connection, folder: Path, made: packing.Packed | None, rollout: Rollout, how: How
) -> pushing.Pushed:
    from mldeploy.bundle.push import push as publish

    def then(ref: ModelRef) -> Sequence[Action]:
        return (_promote(at, ref, rollout).action(),)

    return publish(
        at.store,
        folder,
        log=at.log,
        actor=at.actor,
        now=at.now(),
        progress=how.reporter,
        then=then if how.promote else None,
    )


def _promote(at: Connection, ref: ModelRef, rollout: Rollout) -> intents.PromoteTo:
    return intents.PromoteTo(ref, at.environment, rollout.steps, rollout.hold, new_ulid(), at.now().date())


def _warnings(at: Connection, state: State, ref: ModelRef, rollout: Rollout, how: How) -> tuple[str, ...]:
    if not how.promote:
        return ()
    return warnings_for(at, state, ref, intents.find_version(state, ref), rollout)


def _would_push(
    at: Connection, folder: Path, made: packing.Packed | None, manifest: Manifest, rollout: Rollout, how: How
) -> Pushed:
    from mldeploy.bundle.validate import validate as run

    if made is None:
        run(folder, now=at.now(), progress=how.reporter).raise_findings()
    state = _state_if_any(at)
    known, bundle = state.models.get(manifest.name), digest(manifest)
    published = (
        next((v for v in known.versions.values() if v.digest == bundle and not v.retired), None)
        if known
        else None
    )
    version = published.version if published else max(known.versions, default=0) + 1 if known else 1
    said = [] if published else [f"publish {manifest.name}@{version} ({bundle[:12]})"]
    if how.promote:
        intents.refuse_frozen(state, at.environment, manifest.name)
        said.append(f"promote {manifest.name}@{version} in {at.environment}")
    blobs = {item.sha256: item.size for item in (*manifest.files, *manifest.wheels)}
    reused = {sha256: size for sha256, size in blobs.items() if sha256 in state.blobs}
    return Pushed(
        store=at.settings.store,
        model=manifest.name,
        version=version,
        already=published is not None and not how.promote,
        environment=at.environment if how.promote else None,
        dry_run=True,
        actions=tuple(said),
        digest=bundle,
        new=published is None,
        promoted=how.promote,
        uploaded_bytes=sum(blobs.values()) - sum(reused.values()),
        reused_bytes=sum(reused.values()),
        uploaded_blobs=len(blobs) - len(reused),
        reused_blobs=len(reused),
    )


def _state_if_any(at: Connection) -> State:
    try:
        return at.refresh()
    except NotFoundError:  # no store yet: a push would make it
        return State()
