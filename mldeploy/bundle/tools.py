"""Runs uv and pip, and turns how they fail into errors that say what is wrong and how to mend it.

Rules: the tool's own essential line stands in the message, without credentials of an index; a full disk is a
DiskError, because it says nothing against the bundle, everything else a BuildError. Left out: what the tools
are asked to do (`environment.py`, `wheels.py`).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from mldeploy.errors import BuildError, DiskError, MldeployError

#: Seconds after which a tool is given up. pip and uv have their own time limits for each connection.
DEADLINE = 1800
_MARKS = re.compile(r"^[\s×│╰├─▶|]*(?:(?:error|ERROR|cause|Caused by):\s*)?")
_CREDENTIALS = re.compile(r"://[^/\s@]+@")
_NETWORK = re.compile(
    r"error sending request|failed to (?:fetch|download)|dns error|tcp connect error|operation timed out|"
    r"failed to establish a new connection|NewConnectionError|ConnectTimeout|ReadTimeout|Connection refused|"
    r"connection broken|Request failed after|Max retries exceeded|HTTP status (?:server|client) error|"
    r"Temporary failure in name",
    re.IGNORECASE,
)
_PLACE = re.compile(r"[`'\"\s](/[^`'\":\s]+)")
_NO_WHEEL = re.compile(r"([\w.\-]+)(?:==([\w.!+]+))?\)? (?:has|have) no (?:usable )?wheels")
_INDEX_NAMES = {  # what uv calls it -> what pip calls it
    "UV_DEFAULT_INDEX": "PIP_INDEX_URL",
    "UV_INDEX_URL": "PIP_INDEX_URL",
    "UV_EXTRA_INDEX_URL": "PIP_EXTRA_INDEX_URL",
}
#: The first use of sysconfig, which finding uv is, lets a second thread see its variables half filled
#: (CPython 3.11); a host builds several environments at the same time.
_FINDING = threading.Lock()


def uv() -> str:
    """The uv that was installed with mldeploy."""
    from uv import find_uv_bin

    try:
        with _FINDING:
            return find_uv_bin()
    except FileNotFoundError as error:
        raise BuildError("uv is not installed beside mldeploy", "install it: pip install uv") from error


def index_environment() -> dict[str, str]:
    """This process's environment, where uv and pip look at the same index if only one was told of it."""
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    for ours, theirs in _INDEX_NAMES.items():
        if env.get(ours) and not env.get(theirs):
            env[theirs] = env[ours]
    if not (env.get("UV_DEFAULT_INDEX") or env.get("UV_INDEX_URL")):
        url = env.get("PIP_INDEX_URL") or _configured_index()
        if url:
            env["UV_DEFAULT_INDEX"] = url
    if env.get("PIP_EXTRA_INDEX_URL") and not (env.get("UV_EXTRA_INDEX_URL") or env.get("UV_INDEX")):
        env["UV_EXTRA_INDEX_URL"] = env["PIP_EXTRA_INDEX_URL"]
        env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # as pip, which asks them all
    return env


def _configured_index() -> str:
    """The index that pip's configuration files name, or nothing: uv does not read them."""
    argv = [*pip(), "config", "get", "global.index-url"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if not done.returncode else ""


def offline_environment() -> dict[str, str]:
    """This process's environment without anything that would change what uv does."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("UV_", "PIP_", "PYTHON"))}
    return {**kept, "UV_PYTHON_DOWNLOADS": "never"}


def run(
    what: str, argv: Sequence[str], *, env: Mapping[str, str], stdin: bytes = b"", place: Path | None = None
) -> bytes:
    """What the tool printed on stdout. Raises BuildError and DiskError; `what` begins the message.

    `place` is where it writes, for a full disk of which the tool does not say the name.
    """
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, env=dict(env), timeout=DEADLINE, check=False
        )
    except OSError as error:
        raise BuildError(
            f"{what}: {argv[0]} cannot be started: {error.strerror}", "install mldeploy again"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(
            f"{what}: no end after {DEADLINE} s", "see whether the package index answers"
        ) from error
    if done.returncode:
        raise explained(what, done.stderr.decode("utf-8", "replace"), done.returncode, place)
    return done.stdout


def explained(what: str, stderr: str, code: int, place: Path | None = None) -> MldeployError:
    """The error that a tool's standard error stands for."""
    text = _CREDENTIALS.sub("://***@", stderr)
    line = essential(text) or f"ended with exit code {code}"
    if "No space left on device" in text or "os error 28" in text or "Disk quota exceeded" in text:
        named = _PLACE.search(line)
        found = named[1] if named else place
        where = f" of {found}" if found else ""
        return DiskError(f"{what}: no space left on the disk{where}", "free some space and run it again")
    wheel = _NO_WHEEL.search(line)
    if wheel:
        name = "==".join(part for part in wheel.groups() if part)
        return BuildError(
            f"{what}: {name} has no wheel for the target",
            f"choose a version of {wheel[1]} that ships a wheel, or another python or platform",
        )
    if "DO NOT MATCH THE HASHES" in text:
        return BuildError(
            f"{what}: {_mismatched(text)} is not the file that was locked",
            "lock the requirements again, and find out why the index changed",
        )
    if _NETWORK.search(text):
        return BuildError(
            f"{what}: the package index cannot be reached: {line}",
            "check the network, or name another index with PIP_INDEX_URL (index_url=… in Python)",
        )
    if "No matching distribution found for" in text:
        name = text.partition("No matching distribution found for ")[2].split()[0]
        return BuildError(
            f"{what}: {name} has no wheel for the target on the index",
            f"choose a version of {name.partition('=')[0]} that ships a wheel, or another python or platform",
        )
    if "was not found in the provided package locations" in line:
        name = line.partition(" was not found")[0].split()[-1]
        return BuildError(f"{what}: the wheel of {name} is missing", "pack the bundle again")
    return BuildError(f"{what}: {line}", "mend the requirements and run it again")


def essential(stderr: str) -> str:
    """The line of a tool's standard error that says why it gave up."""
    lines = [line.rstrip() for line in stderr.splitlines() if line.strip()]
    start = next((at for at, line in enumerate(lines) if re.match(r"\s*(×|error:|ERROR:)", line)), None)
    if start is None:
        return _MARKS.sub("", lines[-1]) if lines else ""
    said: list[str] = []
    for line in lines[start:]:
        if line.startswith(("hint:", "Hint:", "warning:", "WARNING:")):
            break
        text = _MARKS.sub("", line)
        if re.match(r"\s*(│|\||\s{4,})", line) and said:
            said[-1] += " " + text  # uv wraps what does not fit a line
        elif text:
            said.append(text)
    if len(said) > 1 and said[0].startswith("No solution found"):
        return said[1]
    return ": ".join(said[:2])


def _mismatched(text: str) -> str:
    after = text.partition("DO NOT MATCH THE HASHES")[2].splitlines()
    return next((line.split()[0] for line in after if line.startswith("    ")), "a distribution")


def pip() -> list[str]:
    """The command line that starts the pip installed with mldeploy."""
    return [sys.executable, "-m", "pip", "--no-input", "--no-color", "--disable-pip-version-check"]
