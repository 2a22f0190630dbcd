"""`pack`, `validate` and `inspect`: bundles before they are published.

Rules: a model folder is packed into a temporary folder where a bundle is needed, and that folder goes
afterwards. Left out: how a bundle is made and judged (`mldeploy.bundle`), and pushing (`publishing.py`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mldeploy.bundle.scratch import scratch_folder
from mldeploy.client import intents
from mldeploy.client.connection import Connection
from mldeploy.client.looking import version_status
from mldeploy.client.types import Inspected, Packed, Validated
from mldeploy.core.manifest import Manifest, digest
from mldeploy.core.types import ModelRef, check_name
from mldeploy.errors import NotFoundError, UsageError, ValidationError
from mldeploy.progress import Reporter

if TYPE_CHECKING:
    from mldeploy.bundle import pack as packing


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
        size=bundle_bytes(made.manifest),
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

    if not source.exists():
        raise NotFoundError(f"there is no {source}", "name a model folder; `mldeploy init DIR` makes one")
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder", "`mldeploy init DIR` makes one to start from")
    place = out or _beside(source.resolve(), name)
    return pack_folder(source, name=name, owner=owner, expires=expires, out=place, progress=reporter)


def _beside(source: Path, name: str | None) -> Path:
    called = check_name(name) if name else source.name
    if not called:
        raise UsageError(f"{source} has no folder beside it", "say where the bundle goes with --out (out=…)")
    return source.parent / f"{called}.bundle"


@contextmanager
def as_bundle(
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
    with scratch_folder() as scratch:
        made = _pack(source, name, owner, expires, scratch / "bundle", reporter)
        yield made.folder, made


def validate(source: Path, gates: Sequence[str] | None, now: datetime, reporter: Reporter) -> Validated:
    """See Client.validate."""
    from mldeploy.bundle.validate import GATES, ValidationReport
    from mldeploy.bundle.validate import validate as run

    try:
        with as_bundle(source, reporter) as (folder, made):
            report = made.report if made is not None and gates is None else None
            report = report or run(folder, now=now, gates=tuple(gates or GATES), progress=reporter)
    except ValidationError as error:  # what packing a model folder found: there is no bundle, hence no digest
        ran = GATES[: GATES.index(error.findings[0].gate) + 1]
        report = ValidationReport(error.findings, gates_run=ran)
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
    from mldeploy.bundle.about import read_about
    from mldeploy.bundle.manifest_file import read_manifest
    from mldeploy.bundle.published import fetch_manifest

    folder = Path(source).expanduser()
    if not folder.exists() and "@" not in source:
        raise NotFoundError(f"there is no {source}", "name a bundle's folder, or MODEL@VERSION of the store")
    if folder.exists():
        manifest, about = read_manifest(folder), read_about(folder)
        return Inspected(
            source=source, digest=digest(manifest), size=bundle_bytes(manifest), manifest=manifest,
            metrics=about.metrics, measured=about.measured,
        )  # fmt: skip
    ref, state = ModelRef.parse(source), at.refresh()
    version = intents.find_version(state, ref)
    found = fetch_manifest(at.store, state, ref.name, ref.version)
    shown = version_status(state, ref.name, version, at.now().date())
    return Inspected(
        source=source, digest=version.digest, size=version.size, manifest=found, published=shown,
        metrics=version.metrics, measured=version.measured,
    )  # fmt: skip


def bundle_blobs(manifest: Manifest) -> dict[str, int]:
    """The digests and sizes of its files and wheels; the manifest is a blob besides."""
    return {file.sha256: file.size for file in manifest.files} | {w.sha256: w.size for w in manifest.wheels}


def bundle_bytes(manifest: Manifest, without: Container[str] = ()) -> int:
    """The bytes of its files and wheels, each counted once, `without` those of these digests."""
    return sum(size for sha256, size in bundle_blobs(manifest).items() if sha256 not in without)
