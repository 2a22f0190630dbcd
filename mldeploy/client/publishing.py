"""`push`: the gates, the upload and the record, with a promote in the same record where one is asked for.

Rules: a promote that is sure to be refused is refused before anything is uploaded. A dry run writes nothing,
neither blobs nor records. Left out: how a bundle is judged and uploaded (`mldeploy.bundle.push`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mldeploy.client import intents
from mldeploy.client.bundles import as_bundle, bundle_blobs
from mldeploy.client.connection import Connection
from mldeploy.client.environments import warn_of_new
from mldeploy.client.terms import Terms, Wish, refuse_unmeasured, terms
from mldeploy.client.traffic import ended_by, warnings_for
from mldeploy.client.types import Pushed
from mldeploy.config import state_folder
from mldeploy.core.baseline import BASELINE, column_names
from mldeploy.core.manifest import Manifest, canonical, digest
from mldeploy.core.policy import settings
from mldeploy.core.records import Action
from mldeploy.core.state import State
from mldeploy.core.types import ModelRef
from mldeploy.errors import NotFoundError
from mldeploy.progress import Reporter, Silent
from mldeploy.store.ids import new_ulid

if TYPE_CHECKING:
    from mldeploy.bundle.pack import Packed


@dataclass(frozen=True, slots=True)
class How:
    """How to push."""

    promote: bool = False
    wish: Wish = field(default_factory=Wish)
    dry_run: bool = False
    reporter: Reporter = field(default_factory=Silent)


def push(
    at: Connection, source: Path, name: str | None, owner: str | None, expires: str | None, how: How
) -> Pushed:
    """See Client.push."""
    how.wish.check()
    with as_bundle(source, how.reporter, name, owner, expires) as (folder, made):
        return push_folder(at, folder, made, how)


def push_folder(at: Connection, folder: Path, made: Packed | None, how: How) -> Pushed:
    """Push a bundle's folder; `made` is what `pack` said of it, None where it was packed before."""
    from mldeploy.bundle.manifest_file import read_manifest

    manifest = made.manifest if made is not None else read_manifest(folder)
    state = _state(at, how)
    found = None
    if how.promote:
        # better refused before the upload than after it
        found = terms(how.wish, lambda: manifest.rollout, settings(state, at.environment))
        intents.refuse_frozen(state, at.environment, manifest.name)
        _refuse_unmeasured(folder, manifest, state, found)
    if how.dry_run:
        _judge(at, folder, made, manifest, state, how)
        return _would_push(at, state, manifest, found, how)
    return _publish(at, folder, found, how, state)


def _refuse_unmeasured(folder: Path, manifest: Manifest, state: State, found: Terms) -> None:
    """Raise UsageError for a guard on what the bundle has not."""
    from mldeploy.bundle.about import read_about
    from mldeploy.bundle.push import live_version

    def columns() -> Sequence[str]:
        baseline = folder / BASELINE
        return column_names(baseline.read_bytes()) if baseline.is_file() else ()

    live = live_version(state, manifest.name, digest(manifest))
    # of a bundle that is published the log's metrics count, and not those of packed.json
    metrics = intents.find_version(state, live).metrics if live else read_about(folder).metrics
    refuse_unmeasured(found, metrics, columns)


def _state(at: Connection, how: How) -> State:
    if not how.dry_run:
        at.create_store(how.reporter)
        return at.refresh()
    try:
        return at.refresh()
    except NotFoundError:  # no store yet: a push would make it
        return State()


def _judge(
    at: Connection, folder: Path, made: Packed | None, manifest: Manifest, state: State, how: How
) -> None:
    """Run the gates that a push would run. Raises ValidationError."""
    from mldeploy.bundle.push import live_version
    from mldeploy.bundle.validate import refuse_altered, validate

    if made is not None:
        return
    if live_version(state, manifest.name, digest(manifest)) is not None:
        refuse_altered(folder, manifest, how.reporter)
    else:
        validate(folder, now=at.now(), progress=how.reporter).raise_findings()


def _publish(at: Connection, folder: Path, found: Terms | None, how: How, before: State) -> Pushed:
    """Publish it; `found` are the terms of its promote, None without one."""
    from mldeploy.bundle.push import push as publish

    def then(ref: ModelRef) -> Sequence[Action]:
        # published by the same record: there is no version yet to judge, and the fold judges the rest
        return (_intent(at, ref, found).action(),) if found is not None else ()

    done = publish(
        at.store, folder, log=at.log, actor=at.actor, now=at.now(), progress=how.reporter,
        then=then if found is not None else None, journals=state_folder() / "pushes",
    )  # fmt: skip
    seq = done.seq
    at.leave_checkpoint()
    if found is not None and not done.new:
        # published before: the promote stands in a record of its own, if one is needed
        seq = at.change(_intent(at, done.ref, found), dry_run=False).seq
    state = at.log.state
    version = intents.find_version(state, done.ref)
    skipped = tuple(f"gate {gate} did not run here: {why}" for gate, why in done.gates_skipped.items())
    return Pushed(
        store=at.settings.store, model=done.ref.name, version=done.ref.version,
        environment=at.environment if how.promote else None, seq=seq, already=seq is None,
        digest=done.digest, new=done.new, promoted=how.promote, uploaded_bytes=done.uploaded_bytes,
        reused_bytes=done.reused_bytes, uploaded_blobs=done.uploaded_blobs, reused_blobs=done.reused_blobs,
        warnings=skipped + (warnings_for(at, before, done.ref, version, found) if found is not None else ()),
    )  # fmt: skip


def _intent(at: Connection, ref: ModelRef, found: Terms) -> intents.PromoteTo:
    return intents.PromoteTo(ref, at.environment, found, new_ulid(), at.now().date())


def _would_push(at: Connection, state: State, manifest: Manifest, found: Terms | None, how: How) -> Pushed:
    from mldeploy.bundle.push import live_version, next_version
    from mldeploy.client.describe import describe, in_full

    bundle = digest(manifest)
    live = live_version(state, manifest.name, bundle)
    ref = live or next_version(state, manifest.name)
    warnings: tuple[str, ...] = ()
    said = [] if live else [f"publish {ref} ({bundle[:12]})"]
    if found is not None:
        intent = _intent(at, ref, found)
        warnings = warn_of_new(state, (at.environment,))
        warnings += ended_by(intents.serving(state, at.environment, ref.name), ref)
        actions = intent(state) if live else (intent.action(),)
        said += [describe(action) + in_full(action, state) for action in actions]
    # of a bundle that is published nothing is sent, and nothing is reused either
    blobs = {} if live else bundle_blobs(manifest) | {bundle: len(canonical(manifest))}
    reused = [size for sha256, size in blobs.items() if sha256 in state.blobs]
    return Pushed(
        store=at.settings.store, model=ref.name, version=ref.version, already=not said, dry_run=True,
        environment=at.environment if how.promote else None, actions=tuple(said), digest=bundle,
        new=live is None, promoted=how.promote, uploaded_bytes=sum(blobs.values()) - sum(reused),
        reused_bytes=sum(reused), uploaded_blobs=len(blobs) - len(reused), reused_blobs=len(reused),
        warnings=warnings,
    )  # fmt: skip
