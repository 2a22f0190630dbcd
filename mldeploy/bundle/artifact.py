"""Gate 1: everything that serving needs is in the folder, and is what the manifest says.

Rules: reads and hashes, runs nothing; every finding names the file, the key and the cure; links and devices
are never followed. Left out: whether the environment builds and the model answers (`validate.py`).
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from mldeploy.bundle.files import MANIFEST, PACKED, WHEELS, kind_of, normal_mode, sha256_file, walk
from mldeploy.bundle.lock import Pin, parse, runtime_problems
from mldeploy.bundle.targets import Target
from mldeploy.bundle.wheels import fits, wheel_name
from mldeploy.core.baseline import BASELINE, parse_baseline, problems
from mldeploy.core.manifest import Manifest, Wheel, check
from mldeploy.core.types import parse_expiry
from mldeploy.errors import Finding, ManifestError, UsageError

GATE = "artifact"
_AGAIN = "pack the bundle again, or take a whole copy of it"


def examine(
    folder: Path, manifest: Manifest, now: datetime, advance: Callable[[int], None] = lambda _: None
) -> tuple[Finding, ...]:
    """Every finding of gate 1, the manifest being readable. `advance` is told the bytes hashed."""
    found = [_finding(MANIFEST, *problem) for problem in check(manifest)]
    if found:
        return tuple(found)  # what follows rests on a manifest that makes sense
    found.extend(_expiry(manifest, now))
    found.extend(_files(folder, manifest, advance))
    if not manifest.samples:
        hint = "pack it with sample_input, or add samples/0.request.json to the source folder"
        found.append(_finding(MANIFEST, "samples", "there is no sample to replay before it serves", hint))
    if not any(finding.file == BASELINE for finding in found):
        found.extend(_baseline(folder, manifest))
    if not any(finding.file == manifest.lock for finding in found):
        found.extend(_lock(folder, manifest))
    return tuple(found)


def altered(
    folder: Path, manifest: Manifest, advance: Callable[[int], None] = lambda _: None
) -> tuple[Finding, ...]:
    """Where the files in `folder` are not those of the manifest. `advance` is told the bytes hashed."""
    return tuple(_files(folder, manifest, advance))


def _finding(file: str, key: str, message: str, hint: str) -> Finding:
    return Finding(GATE, file, key, message, hint)


def _expiry(manifest: Manifest, now: datetime) -> Iterator[Finding]:
    if parse_expiry(manifest.expires, now) <= now.date():
        hint = "pack it with an expiry ahead, for example 90d"
        yield _finding(MANIFEST, "expires", f"{manifest.expires} is not ahead", hint)


def _files(folder: Path, manifest: Manifest, advance: Callable[[int], None]) -> Iterator[Finding]:
    listed = {file.path: (file.sha256, file.size, file.mode) for file in manifest.files}
    listed.update({f"{WHEELS}/{wheel.name}": (wheel.sha256, wheel.size, -1) for wheel in manifest.wheels})
    seen = set()
    for path, status in walk(folder):
        seen.add(path)
        if not stat.S_ISREG(status.st_mode):
            hint = "a bundle holds regular files only: put a copy of the file there"
            yield _finding(path, "", f"is a {kind_of(status.st_mode)}", hint)
        elif path in listed:
            yield from _content(folder / path, path, status.st_size, status.st_mode, listed[path], advance)
        elif path not in (MANIFEST, PACKED):
            yield _finding(
                path, "files", "is not listed in the manifest", "remove it, or pack the bundle again"
            )
    for path in sorted(set(listed) - seen):
        yield _finding(path, "files", "is listed in the manifest and is not there", _AGAIN)


def _content(
    file: Path, path: str, size: int, mode: int, listed: tuple[str, int, int], advance: Callable[[int], None]
) -> Iterator[Finding]:
    sha256, expected, wanted_mode = listed
    if size != expected:
        yield _finding(path, "size", f"has {size:,} bytes instead of {expected:,}", _AGAIN)
        return
    if sha256_file(file) != sha256:
        yield _finding(path, "sha256", "holds other bytes than its digest says", _AGAIN)
    elif wanted_mode not in (-1, normal_mode(mode)):
        hint = f"chmod {wanted_mode:o} it, or pack the bundle again"
        yield _finding(path, "mode", f"has mode {stat.S_IMODE(mode):o} instead of {wanted_mode:o}", hint)
    advance(size)


def _baseline(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    """What live data is held against, where the bundle has it."""
    if all(file.path != BASELINE for file in manifest.files):
        return
    try:
        baseline = parse_baseline((folder / BASELINE).read_bytes())
    except ManifestError as error:
        yield _finding(BASELINE, "", error.message, error.hint)
        return
    for key, message in problems(baseline, manifest.signature):
        yield _finding(BASELINE, key, message, "pack the bundle again")


def _lock(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    try:
        target = Target(manifest.python, manifest.platform)
    except UsageError as error:
        yield _finding(MANIFEST, "platform", error.message, error.hint)
        return
    pins, problems = parse((folder / manifest.lock).read_bytes(), target)
    for problem in (*problems, *runtime_problems(pins)):
        yield _finding(manifest.lock, problem.key, problem.message, problem.hint)
    if problems:
        return
    wheels = {wheel_name(wheel.name): wheel for wheel in manifest.wheels}
    for pin in pins:
        yield from _wheel(pin, wheels.pop(pin.name, None), target)
    for wheel in wheels.values():
        yield _finding(f"{WHEELS}/{wheel.name}", "wheels", f"is not in {manifest.lock}", _AGAIN)


def _wheel(pin: Pin, wheel: Wheel | None, target: Target) -> Iterator[Finding]:
    if wheel is None:
        yield _finding(MANIFEST, "wheels", f"the wheel of {pin} is missing", _AGAIN)
        return
    path = f"{WHEELS}/{wheel.name}"
    if wheel.sha256 not in pin.hashes:
        yield _finding(path, "sha256", f"is not the file that is locked for {pin}", _AGAIN)
    if fits(wheel.name, target) is None:
        hint = f"choose a version of {pin.name} that ships a wheel for it, or another target"
        yield _finding(path, "wheels", f"does not run on {target}", hint)
