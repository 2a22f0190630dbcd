"""Reads and writes requirements.lock: every distribution pinned with == and hashed with sha256.

A lock as `uv pip compile` or pip-tools writes it lists the hashes of every file of a release; the lock in a
bundle is reduced to one line and one hash per distribution, that of the wheel the bundle brings, in a fixed
order. Rules: no options, no URLs, no editable installs: a bundle installs offline from its own wheels. Left
out: where wheels come from (`wheels.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mldeploy.bundle.targets import Target
from mldeploy.core.manifest import RUNTIME_REQUIRES
from mldeploy.errors import BuildError

LOCK = "requirements.lock"
_HASH = re.compile(r"\s--hash[=\s](?P<algorithm>\w+):(?P<digest>\S+)")
_COMMENT = re.compile(r"(^|\s)#.*$")
_RELOCK = "write it with `uv pip compile --generate-hashes requirements.in -o requirements.lock`"


@dataclass(frozen=True, slots=True)
class Pin:
    """One distribution of a lock: its normalised name, version, and the sha256 of its files."""

    name: str
    version: str
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a lock: the line or distribution it stands at, and how to mend it."""

    key: str
    message: str
    hint: str


def parse(data: bytes, target: Target) -> tuple[tuple[Pin, ...], tuple[Problem, ...]]:
    """The pins that hold for `target`, sorted by name, and everything wrong with the lock."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return (), (Problem("", "is not UTF-8 text", _RELOCK),)
    pins: dict[str, Pin] = {}
    problems: list[Problem] = []
    for number, line in _lines(text):
        found = _read_line(f"line {number}", line, target)
        if isinstance(found, Problem):
            problems.append(found)
        elif found is not None and found.name in pins:
            problems.append(
                Problem(found.name, f"is locked twice, again on line {number}", "keep one of the lines")
            )
        elif found is not None:
            pins[found.name] = found
    return tuple(pins[name] for name in sorted(pins)), tuple(problems)


def read_pins(data: bytes, target: Target, where: str = LOCK) -> tuple[Pin, ...]:
    """The pins for `target`, or BuildError with the first problem; the runtime's own needs included."""
    pins, problems = parse(data, target)
    problems = (*problems, *runtime_problems(pins))
    if problems:
        raise BuildError(f"{where}: {problems[0].key}: {problems[0].message}", problems[0].hint)
    return pins


def runtime_problems(pins: Iterable[Pin]) -> Iterator[Problem]:
    """What the runtime needs and the lock lacks, or holds in a version it does not know."""
    by_name = {pin.name: pin for pin in pins}
    for name, wanted in RUNTIME_REQUIRES.items():
        pin = by_name.get(name)
        hint = f'add "{name}{wanted}" to the requirements and lock them again'
        if pin is None:
            yield Problem(name, f"is not locked, and the runtime needs {name}{wanted}", hint)
        elif not SpecifierSet(wanted).contains(pin.version, prereleases=True):
            yield Problem(name, f"{pin.version} is outside what the runtime knows ({wanted})", hint)


def render(pins: Iterable[Pin]) -> bytes:
    """The bytes of a lock: sorted, one distribution after the other, nothing that varies."""
    lines = []
    for pin in sorted(pins, key=lambda pin: pin.name):
        hashes = [f"    --hash=sha256:{digest}" for digest in sorted(pin.hashes)]
        lines.append(" \\\n".join([str(pin), *hashes]) + "\n")
    return "".join(lines).encode()


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Logical lines with the number of their first physical one; comments and empty lines dropped."""
    joined, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub("", raw).rstrip()
        start = start if joined else number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        if (joined + line).strip():
            yield start, (joined + line).strip()
        joined = ""
    if joined.strip():
        yield start, joined.strip()


def _read_line(where: str, line: str, target: Target) -> Pin | Problem | None:
    if line.startswith("-"):
        option = line.split()[0].split("=")[0]
        return Problem(where, f"the option {option} has no place in a lock", "keep pinned, hashed lines only")
    text = _HASH.sub("", " " + line).strip()
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        return Problem(where, f"{text!r} is not a requirement: {str(error).splitlines()[0]}", _RELOCK)
    if requirement.marker is not None and not requirement.marker.evaluate(target.markers()):
        return None
    name = canonicalize_name(requirement.name)
    hashes = [(match["algorithm"], match["digest"].lower()) for match in _HASH.finditer(" " + line)]
    if requirement.url:
        return Problem(
            name, "is locked to a URL", "lock a released version: a bundle brings wheels by name and hash"
        )
    version = _pinned(requirement.specifier)
    if version is None:
        return Problem(name, "is not pinned with ==", _RELOCK)
    digests = tuple(sorted({digest for algorithm, digest in hashes if algorithm == "sha256"}))
    if not digests or any(not re.fullmatch(r"[0-9a-f]{64}", digest) for digest in digests):
        return Problem(name, "has no sha256 hash" if not digests else "has a hash that is no sha256", _RELOCK)
    return Pin(name, version, digests)


def _pinned(specifier: SpecifierSet) -> str | None:
    parts = list(specifier)
    if len(parts) != 1 or parts[0].operator not in ("==", "===") or parts[0].version.endswith(".*"):
        return None
    try:
        return str(Version(parts[0].version))
    except InvalidVersion:
        return None
