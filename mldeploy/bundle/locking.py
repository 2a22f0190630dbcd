"""From requirements, or a lock that was committed, to the lock and the wheels inside a bundle."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mldeploy.bundle import environment
from mldeploy.bundle.files import WHEELS, disk_errors
from mldeploy.bundle.lock import LOCK
from mldeploy.bundle.targets import Target
from mldeploy.core.manifest import Wheel
from mldeploy.errors import BuildError, UsageError
from mldeploy.progress import Reporter


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an environment shall hold: `requirements`, or the bytes of a `lock`, which then alone counts."""

    target: Target
    requirements: Sequence[str] = ()
    lock: bytes | None = None
    pickled: bool = False
    index_url: str | None = None


def provide(staging: Path, wanted: Wanted, progress: Reporter) -> tuple[Wheel, ...]:
    """Write requirements.lock and wheels/ into the bundle being made. Raises BuildError and DiskError."""
    target, lock = wanted.target, wanted.lock
    if lock is None:
        progress.step("resolving requirements")
        lock = environment.resolve(
            wanted.requirements, target.python, target.platform, wanted.index_url, pickled=wanted.pickled
        )
    progress.step("collecting wheels")
    wheels = environment.collect_wheels(
        lock, staging / WHEELS, target.python, target.platform, index_url=wanted.index_url
    )
    with disk_errors(staging):
        (staging / LOCK).write_bytes(environment.reduced_lock(lock, wheels, target.python, target.platform))
    return wheels


def read_requirements(path: Path) -> list[str]:
    """The lines of a requirements.txt. Raises UsageError for what is no list of requirements."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}", "name a file with one requirement a line"
        ) from error
    found = [line.partition(" #")[0].strip() for line in lines if not line.lstrip().startswith("#")]
    for line in found:
        if line.startswith("-"):
            raise BuildError(f"{path}: the option {line.split()[0]} is not taken", "list requirements only")
    return [line for line in found if line]


def provided_modules(folder: Path, wheels: Iterable[Wheel]) -> set[str]:
    """The top-level modules that the wheels in `folder` install."""
    found = set()
    for wheel in wheels:
        with zipfile.ZipFile(folder / wheel.name) as archive:
            tops = {name.partition("/")[0] for name in archive.namelist()}
        found |= {top.partition(".")[0] for top in tops if not top.endswith((".dist-info", ".data", ".libs"))}
    return found


__all__ = ["Wanted", "provide", "provided_modules", "read_requirements"]
