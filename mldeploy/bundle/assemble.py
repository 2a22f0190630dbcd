"""The last steps of every way of packing: list the files, write the manifest, run the gates, take the place.

Rules: the digest depends on the packed files alone; what was measured, the model's own metrics and the time
stand in packed.json beside the manifest. A bundle with findings is not left behind. Left out: where the files
come from (`pack.py`, `sources/`).
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec

from mldeploy.bundle.files import MANIFEST, PACKED, disk_errors, normal_mode, sha256_file, walk
from mldeploy.bundle.manifest_file import write_manifest
from mldeploy.core.manifest import File, Manifest, Wheel, check, digest
from mldeploy.core.records import format_time
from mldeploy.core.types import check_name, parse_expiry
from mldeploy.errors import ManifestError, UsageError

WHEELS = "wheels"


class About(msgspec.Struct, frozen=True, kw_only=True):
    """packed.json: what travels in the `publish` record, outside the digest."""

    packed: str = ""  # RFC 3339
    metrics: dict[str, float] = {}
    measured: dict[str, float] = {}


def read_about(folder: Path) -> About:
    """What packed.json says; nothing where it is missing or cannot be read, for nothing depends on it."""
    try:
        return msgspec.json.decode((folder / PACKED).read_bytes(), type=About)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return About()


def write_about(folder: Path, about: About) -> None:
    """Write packed.json. Raises DiskError."""
    with disk_errors(folder):
        (folder / PACKED).write_bytes(msgspec.json.encode(about, order="sorted") + b"\n")


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

    `expires` is a date, a text such as 90d or 2027-06-30, or a timedelta; `owner` defaults to git's user.email.
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
    from datetime import timedelta

    from mldeploy.core.types import format_duration

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


def stamp(now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> str:
    """The time for packed.json."""
    return format_time(now())


def numbers(metrics: Any) -> dict[str, float]:
    """The model's own metrics as finite numbers. Raises UsageError."""
    import math

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


__all__ = [
    "About", "Identity", "digest", "expiry_text", "finish", "git_email", "identify", "numbers", "read_about", "stamp",
    "write_about",
]  # fmt: skip
