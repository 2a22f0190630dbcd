"""Environments: requirements become a lock, a lock becomes wheels, wheels become a folder of packages.

Rules: uv resolves, pip downloads, uv installs; nothing is ever built from source, and a build asks no index.
An environment is `site/` (packages) and `environment.json`, written last: a folder without it is not one. It
is no venv, because it is renamed into place. Left out: interpreters (`interpreters.py`), which wheel is taken
(`wheels.py`), how tools fail (`tools.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mldeploy.bundle import tools
from mldeploy.bundle.files import disk_errors, sha256_file
from mldeploy.bundle.interpreters import available_interpreters, find_interpreter
from mldeploy.bundle.lock import read_pins
from mldeploy.bundle.targets import Target, default_platform, this_python
from mldeploy.bundle.wheels import cache_folder, collect, reduced
from mldeploy.core.manifest import RUNTIME_REQUIRES, Manifest, Wheel
from mldeploy.errors import BuildError

__all__ = [
    "available_interpreters", "build", "cache_folder", "collect_wheels", "environment_id", "find_interpreter",
    "reduced_lock", "resolve",
]  # fmt: skip

_SKIP_COMPILING = r"[\\/]tests?[\\/]"


def environment_id(manifest: Manifest, lock_sha256: str) -> str:
    """The name of the environment a bundle runs in: lock, Python and platform, and nothing else."""
    return _identifier(lock_sha256, manifest.python, manifest.platform)


def _identifier(lock_sha256: str, python: str, platform: str) -> str:
    fields = {"lock": lock_sha256, "platform": platform, "python": python}
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def resolve(
    requirements: Iterable[str],
    python: str,
    platform: str,
    index_url: str | None = None,
    *,
    pickled: bool = False,
) -> bytes:
    """A lock with every file's hash, for `requirements` and what the runtime itself needs.

    `pickled` adds cloudpickle, which what it pickled needs to be read. Raises BuildError for requirements
    that are not PEP 508, do not resolve or have no wheels, and for an index that does not answer.
    """
    target = Target(python, platform)
    wanted = [*_checked(requirements), *(name + versions for name, versions in RUNTIME_REQUIRES.items())]
    if pickled:
        wanted.append("cloudpickle>=3")
    argv = [
        tools.uv(), "pip", "compile", "-", "--generate-hashes", "--only-binary", ":all:", "--no-header",
        "--no-annotate", "--no-config", "--color", "never", "--python-version", target.python,
        "--python-platform", target.uv_platform, "--python", sys.executable,
    ]  # fmt: skip
    if index_url:
        argv += ["--default-index", index_url]
    text = ("\n".join(wanted) + "\n").encode()
    return tools.run("the requirements do not resolve", argv, env=tools.index_environment(), stdin=text)


def collect_wheels(
    lock: bytes,
    folder: Path,
    python: str | None = None,
    platform: str | None = None,
    *,
    index_url: str | None = None,
    cache: Path | None = None,
) -> tuple[Wheel, ...]:
    """Put the wheels of `lock` into `folder`, one for each distribution; returns them sorted by name.

    The target is this interpreter's unless said. Asks no index for what `cache` (by default in the user's
    cache folder) holds. Raises BuildError and DiskError.
    """
    target = Target(python or this_python(), platform or default_platform())
    return collect(read_pins(lock, target), target, folder, index_url=index_url, cache=cache)


def reduced_lock(
    lock: bytes, wheels: Iterable[Wheel], python: str | None = None, platform: str | None = None
) -> bytes:
    """`lock` with exactly one hash for each distribution, that of the wheel collected for the target."""
    target = Target(python or this_python(), platform or default_platform())
    return reduced(read_pins(lock, target), wheels)


def build(
    target: Path,
    *,
    lock: Path,
    wheels: Path,
    python: str,
    platform: str | None = None,
    cache: Path | None = None,
    compile_bytecode: bool = True,
) -> None:
    """Install the wheels of `lock` (in the folder `wheels`) into the new folder `target`, offline.

    `python` is the minor version. `cache` is a uv cache to share files with; without one, none is left
    behind. `compile_bytecode`: confined workers cannot write .pyc, so a host compiles here (seconds, once
    per lock) and its zygotes start twice as fast; tests of packages are left out. The caller renames
    `target` into place, and removes it after a failure. Raises BuildError and DiskError.
    """
    interpreter = find_interpreter(python)
    if interpreter is None:
        raise no_interpreter(python)
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    own_cache = target / ".uv-cache"
    _install(target / "site", lock, wheels, interpreter, cache or own_cache)
    with disk_errors(target):
        shutil.rmtree(own_cache, ignore_errors=True)
        # console scripts name the interpreter that installed them, and nobody runs them
        shutil.rmtree(target / "site" / "bin", ignore_errors=True)
        (target / "site" / ".lock").unlink(missing_ok=True)
        if compile_bytecode:
            _compile(target / "site", interpreter)
        digest = sha256_file(lock)
        identifier = _identifier(digest, python, platform or default_platform())
        about = {"id": identifier, "python": python, "lock_sha256": digest}
        _write_durably(target / "environment.json", json.dumps(about, sort_keys=True).encode() + b"\n")


def no_interpreter(python: str) -> BuildError:
    """The error of a machine that lacks an interpreter."""
    have = ", ".join(available_interpreters()) or "none"
    return BuildError(
        f"no interpreter of Python {python} on this machine (found: {have})",
        f"install python{python} (a package of your system, pyenv, or `uv python install {python}`)",
    )


def _install(site: Path, lock: Path, wheels: Path, interpreter: Path, cache: Path) -> None:
    argv = [
        tools.uv(), "pip", "install", "--target", str(site), "--python", str(interpreter), "--offline",
        "--no-index", "--require-hashes", "--no-deps", "--only-binary", ":all:", "--find-links", str(wheels),
        "--requirement", str(lock), "--link-mode", "hardlink", "--no-config", "--cache-dir", str(cache),
        "--color", "never", "--quiet",
    ]  # fmt: skip
    tools.run("the environment does not build", argv, env=tools.offline_environment())


def _compile(site: Path, interpreter: Path) -> None:
    # unchecked: the folder never changes, and a copy of it may carry other times
    argv = [
        str(interpreter), "-I", "-S", "-m", "compileall", "-q", "-q", "-j", str(min(4, os.cpu_count() or 1)),
        "--invalidation-mode", "unchecked-hash", "-x", _SKIP_COMPILING, str(site),
    ]  # fmt: skip
    # some packages ship files that are no Python of this version (templates): nobody imports them either
    with contextlib.suppress(BuildError):
        tools.run("compiling bytecode", argv, env=tools.offline_environment())


def _checked(requirements: Iterable[str]) -> list[str]:
    seen = []
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise BuildError(
                f"requirements: {text!r} is not a requirement: {str(error).splitlines()[0]}",
                "write for example scikit-learn>=1.5",
            ) from error
        if requirement.url:
            raise BuildError(
                f"requirements: {canonicalize_name(requirement.name)} names a URL",
                "name a version on a package index; local modules belong to code",
            )
        seen.append(str(requirement))
    return seen


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
