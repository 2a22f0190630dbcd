"""Finds Python interpreters of a minor version on this machine; never downloads one.

Looks at the interpreter that runs this, then `python3.N` on PATH, in /usr/bin and /usr/local/bin, pyenv's
versions and those uv manages. Rules: a candidate counts only if it starts and says it is CPython of that
version (a pyenv shim may start nothing); of a venv the interpreter behind it is taken.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_SAY = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2], sys._base_executable)"
#: Minor versions the runtime can be served by.
MINORS = tuple(f"3.{minor}" for minor in range(11, 20))


def find_interpreter(minor: str) -> Path | None:
    """A CPython of that minor version ("3.11"), or None."""
    seen: set[Path] = set()
    for candidate in _candidates(minor):
        if candidate not in seen and candidate.is_file():
            seen.add(candidate)
            found = _asked(candidate, minor)
            if found:
                return found
    return None


def available_interpreters() -> list[str]:
    """The minor versions found on this machine, in order: ["3.11", "3.13"]."""
    return [minor for minor in MINORS if find_interpreter(minor)]


def _candidates(minor: str) -> Iterator[Path]:
    name = f"python{minor}"
    if minor == f"{sys.version_info.major}.{sys.version_info.minor}":
        yield Path(getattr(sys, "_base_executable", None) or sys.executable)
    for folder in [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin", "/usr/local/bin"]:
        if folder:
            yield Path(folder) / name
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv") / "versions"
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    managed = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
    yield from sorted(pyenv.glob(f"{minor}.*/bin/{name}"), reverse=True)
    yield from sorted(managed.glob(f"cpython-{minor}*/bin/{name}"), reverse=True)


def _asked(candidate: Path, minor: str) -> Path | None:
    try:
        answer = subprocess.run(
            [candidate, "-I", "-S", "-c", _SAY],
            capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    name, _, rest = answer.stdout.strip().partition(" ")
    version, _, base = rest.partition(" ")
    if answer.returncode != 0 or name != "cpython" or version != minor:
        return None
    return Path(base) if base and Path(base).is_file() else candidate
