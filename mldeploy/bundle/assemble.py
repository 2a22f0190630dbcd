"""The last steps of every way of packing: list the files, write the manifest, run the gates, take the place.

Rules: the digest depends on the packed files alone; what was measured, the model's own metrics and the time
stand in packed.json beside the manifest. A bundle with findings is not left behind. Left out: where the files
come from (`pack.py`, `sources/`).
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from mldeploy.bundle.about import About, write_about
from mldeploy.bundle.files import MANIFEST, PACKED, WHEELS, disk_errors, normal_mode, sha256_file, walk
from mldeploy.bundle.manifest_file import write_manifest
from mldeploy.bundle.validate import ValidationReport, validate
from mldeploy.core.manifest import File, Manifest, Wheel, check, digest
from mldeploy.core.records import format_time
from mldeploy.core.types import check_name, format_duration, parse_expiry
from mldeploy.errors import ManifestError, UsageError
from mldeploy.progress import Reporter


def finish(folder: Path, manifest: Manifest, wheels: Iterable[Wheel], known: Iterable[File] = ()) -> Manifest:
    """Complete `manifest` with the files in `folder` and write it there; `known` files are not hashed again.

    Raises ManifestError naming the first key that makes no sense.
    """
    hashed = {file.path: file for file in known}
    files = []
    with disk_errors(folder):
        for path, status in walk(folder):
            if path in (MANIFEST, PACKED) or path.startswith(f"{WHEELS}/"):
                continue
            mode = normal_mode(status.st_mode)
            sha256 = hashed[path].sha256 if path in hashed else sha256_file(folder / path)
            files.append(File(path=path, sha256=sha256, size=status.st_size, mode=mode))
    whole = msgspec.structs.replace(
        manifest, files=tuple(files), wheels=tuple(sorted(wheels, key=lambda wheel: wheel.name))
    )
    problems = check(whole)
    if problems:
        key, message, hint = problems[0]
        raise ManifestError(f"{key}: {message}", hint)
    write_manifest(folder, whole)
    return whole


@dataclass(frozen=True, slots=True)
class Identity:
    """Name, owner and expiry, checked."""

    name: str
    owner: str
    expires: str


def identify(name: object, owner: object, expires: object, now: datetime | None = None) -> Identity:
    """Check what every bundle must say. Raises UsageError with what is missing or wrong.

    `expires` is a date, a text such as 90d or 2027-06-30, or a timedelta; `owner` defaults to git's
    user.email.
    """
    if not name or not isinstance(name, str):
        raise UsageError("the model has no name", "name it: name='churn' (--name churn)")
    check_name(name)
    text = expiry_text(expires)
    now = now or datetime.now(UTC)
    if parse_expiry(text, now) <= now.date():
        raise UsageError(
            f"expires: {text} is not ahead", "give a date in the future, or a duration such as 90d"
        )
    mail = str(owner) if owner else git_email()
    if not mail:
        raise UsageError(
            "the owner is missing, and git knows no user.email",
            "say who gets the warnings: owner='team@example.com'",
        )
    return Identity(name, mail, text)


def expiry_text(expires: object) -> str:
    """An expiry as a manifest holds it. Raises UsageError where there is none, or it is no such thing."""
    if expires is None or expires == "":
        raise UsageError(
            "the expiry is missing: every bundle expires",
            "say for how long: expires='90d' (--expires 90d), or a date",
        )
    if isinstance(expires, timedelta):
        return format_duration(expires)
    if isinstance(expires, datetime):
        return expires.date().isoformat()
    return expires.isoformat() if isinstance(expires, date) else str(expires).strip()


def git_email() -> str:
    """git's user.email here, or nothing."""
    try:
        done = subprocess.run(
            ["git", "config", "user.email"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def numbers(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """The model's own metrics as finite numbers. Raises UsageError."""
    found = {}
    for key, value in (metrics or {}).items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UsageError(f"the metric {key!r} is {value!r}", "give finite numbers, or leave it out")
        found[str(key)] = number
    return found


@dataclass(frozen=True, slots=True)
class Packed:
    """A bundle that was made. `report` is None where it was not validated."""

    folder: Path
    manifest: Manifest
    digest: str
    report: ValidationReport | None


@dataclass(frozen=True, slots=True)
class Last:
    """What the last steps need: see `complete`."""

    manifest: Manifest  # without files and wheels
    wheels: tuple[Wheel, ...]
    metrics: dict[str, float]
    validate: bool = True
    confine: str = "best-effort"
    environment: Path | None = None  # one just built from the same lock
    known: tuple[File, ...] = ()  # files hashed already


def complete(staging: Path, out: Path, last: Last, progress: Reporter) -> Packed:
    """Write the manifest into `staging`, run the gates; what is returned says `out`, where it will stand.

    Raises ManifestError, ValidationError with every finding, DiskError.
    """
    manifest = finish(staging, last.manifest, last.wheels, last.known)
    report = None
    now = datetime.now(UTC)
    if last.validate:
        report = validate(
            staging, now=now, confine=last.confine, progress=progress, environment=last.environment
        )  # fmt: skip
        report.raise_findings()
    about = About(
        packed=format_time(now), metrics=last.metrics, measured=report.measured if report else {},
        validated=report.digest if report and not report.gates_skipped else "",
    )  # fmt: skip
    write_about(staging, about)
    return Packed(out, manifest, digest(manifest), report)
