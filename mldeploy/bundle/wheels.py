"""Collects the wheels of a lock for a target, through a cache on this machine that is addressed by content.

Rules: which wheel of a release is taken is a function of lock and target (`Target.tags`, best first), so the
same lock gives the same bundle anywhere; a second call with the same lock and target asks no index. Every
wheel is hashed again when it is taken out of the cache. Left out: resolving (`environment.py`).
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from mldeploy.bundle import tools
from mldeploy.bundle.files import disk_errors, sha256_file
from mldeploy.bundle.lock import Pin, render
from mldeploy.bundle.scratch import scratch_folder
from mldeploy.bundle.targets import Target
from mldeploy.config import cache_folder as cache_folder
from mldeploy.core.manifest import Wheel
from mldeploy.errors import BuildError


def collect(
    pins: Sequence[Pin],
    target: Target,
    folder: Path,
    *,
    index_url: str | None = None,
    cache: Path | None = None,
) -> tuple[Wheel, ...]:
    """Put one wheel of every pin into `folder`; returns them sorted by name.

    Raises BuildError (no wheel for the target, index out of reach, altered file) and DiskError.
    """
    cache = cache or cache_folder()
    with disk_errors(cache):
        folder.mkdir(parents=True, exist_ok=True)
        missing = [pin for pin in pins if _cached(cache, pin, target) is None]
        if missing:
            _download(missing, target, cache, index_url)
        wheels = [_take(cache, pin, target, folder) for pin in pins]
    return tuple(sorted(wheels, key=lambda wheel: wheel.name))


def reduced(pins: Iterable[Pin], wheels: Iterable[Wheel]) -> bytes:
    """The lock with one hash per distribution: that of the wheel collected for it."""
    digests = {wheel_name(wheel.name): wheel.sha256 for wheel in wheels}
    return render(Pin(pin.name, pin.version, (digests[pin.name],)) for pin in pins)


def wheel_name(file_name: str) -> str:
    """The normalised name of the distribution in a wheel's file name. Raises InvalidWheelFilename."""
    return str(parse_wheel_filename(file_name)[0])


def fits(file_name: str, target: Target) -> int | None:
    """The rank of a wheel for `target`, 0 being best; None where it does not run there or is no wheel."""
    try:
        tags = parse_wheel_filename(file_name)[3]
    except InvalidWheelFilename:
        return None
    known = target.tags()
    return min((known[tag] for tag in tags if tag in known), default=None)


def _choice(cache: Path, pin: Pin, target: Target) -> Path:
    # several hashes of a pin may be in the cache, of other targets; so the choice itself is remembered
    key = hashlib.sha256(f"{target}\n".encode() + render([pin])).hexdigest()
    return cache / "choices" / key


def _cached(cache: Path, pin: Pin, target: Target) -> Path | None:
    """The wheel this pin means for this target, if it is in the cache and whole."""
    try:
        digest, _, name = _choice(cache, pin, target).read_text("utf-8").strip().partition(" ")
    except (OSError, UnicodeDecodeError):
        return _only(cache, pin, target)
    path = cache / "wheels" / digest / name
    return path if digest in pin.hashes and fits(name, target) is not None and _whole(path, digest) else None


def _only(cache: Path, pin: Pin, target: Target) -> Path | None:
    """A pin of one hash, as in the lock of a bundle, needs no choice."""
    if len(pin.hashes) != 1:
        return None
    found = [
        path
        for path in (cache / "wheels" / pin.hashes[0]).glob("*.whl")
        if fits(path.name, target) is not None
    ]
    return found[0] if found and _whole(found[0], pin.hashes[0]) else None


def _whole(path: Path, digest: str) -> bool:
    try:
        return sha256_file(path) == digest
    except OSError:
        return False


def _download(pins: Sequence[Pin], target: Target, cache: Path, index_url: str | None) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    with scratch_folder(cache) as scratch:
        lock, into = scratch / "requirements.lock", scratch / "wheels"
        lock.write_bytes(render(pins))
        argv = [
            *tools.pip(), "download", "--quiet", "--require-hashes", "--no-deps", "--only-binary", ":all:",
            "--requirement", str(lock), "--dest", str(into), *_pip_target(target),
        ]  # fmt: skip
        if index_url:
            argv += ["--index-url", index_url]
        tools.run("collecting wheels", argv, env=tools.index_environment(), place=cache)
        files = {wheel_name(path.name): path for path in sorted(into.glob("*.whl"))}
        for pin in pins:
            _keep(cache, pin, target, files.get(canonicalize_name(pin.name)))


def _pip_target(target: Target) -> list[str]:
    flags = ["--python-version", target.python, "--implementation", "cp"]
    for abi in (target.abi, "abi3", "none"):
        flags += ["--abi", abi]
    for name in target.platforms():
        flags += ["--platform", name]
    return flags


def _keep(cache: Path, pin: Pin, target: Target, path: Path | None) -> None:
    if path is None or fits(path.name, target) is None:
        raise BuildError(
            f"collecting wheels: {pin} has no wheel for {target}",
            f"choose a version of {pin.name} that ships a wheel, or another python or platform",
        )
    digest = sha256_file(path)
    if digest not in pin.hashes:
        raise BuildError(
            f"collecting wheels: {path.name} is not the file that was locked", "lock the requirements again"
        )
    home = cache / "wheels" / digest
    home.mkdir(parents=True, exist_ok=True)
    path.replace(home / path.name)
    _write_whole(_choice(cache, pin, target), f"{digest} {path.name}\n")


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _take(cache: Path, pin: Pin, target: Target, folder: Path) -> Wheel:
    path = _cached(cache, pin, target)
    if path is None:
        raise BuildError(
            f"collecting wheels: the cache lost the wheel of {pin}", f"run it again, or remove {cache}"
        )
    copy = folder / path.name
    copy.unlink(missing_ok=True)
    # a bundle's files are read only by us; still it is copied: an edit of one must not reach the other
    shutil.copyfile(path, copy)
    return Wheel(name=path.name, sha256=sha256_file(copy), size=copy.stat().st_size)
