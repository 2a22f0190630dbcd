"""What a bundle is made for: a minor version of CPython on a platform, and which wheels fit there.

Rules: the list of wheel tags is a function of the target alone, never of the machine that packs, so that the
same lock leads to the same wheels anywhere. Linux means glibc 2.28 or newer. Left out: how wheels are found
(`wheels.py`) and interpreters (`interpreters.py`).
"""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass

from packaging.tags import Tag, compatible_tags, cpython_tags

from mldeploy.errors import UsageError

#: Names of processors in wheel tags, by how the manifest's platform ends.
MACHINES = {"linux-x86_64": "x86_64", "linux-aarch64": "aarch64"}
_NEWEST_GLIBC, _OLDEST_GLIBC = 28, {"x86_64": 5, "aarch64": 17}
_OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_SAME_MACHINE = {"arm64": "aarch64", "amd64": "x86_64"}


@dataclass(frozen=True, slots=True)
class Target:
    """A minor version of Python ("3.11") and a platform ("linux-x86_64")."""

    python: str
    platform: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"3\.[1-9][0-9]?", self.python) or int(self.python[2:]) < 11:
            raise UsageError(
                f"{self.python!r} is not a Python that can serve",
                "name a minor version from 3.11 on, as 3.11",
            )
        if self.platform not in MACHINES:
            raise UsageError(
                f"{self.platform!r} is not a platform that can serve", f"use one of: {', '.join(MACHINES)}"
            )

    def __str__(self) -> str:
        return f"Python {self.python} on {self.platform}"

    @property
    def machine(self) -> str:
        """x86_64 or aarch64."""
        return MACHINES[self.platform]

    @property
    def uv_platform(self) -> str:
        """What `uv pip compile --python-platform` calls it."""
        return f"{self.machine}-manylinux_2_{_NEWEST_GLIBC}"

    @property
    def abi(self) -> str:
        """cp311 and so on."""
        return f"cp{self.python.replace('.', '')}"

    def platforms(self) -> list[str]:
        """The platform tags of wheels that run there, best first."""
        tags = []
        for minor in range(_NEWEST_GLIBC, _OLDEST_GLIBC[self.machine] - 1, -1):
            tags.append(f"manylinux_2_{minor}_{self.machine}")
            if minor in _OLD_NAMES:
                tags.append(f"{_OLD_NAMES[minor]}_{self.machine}")
        return [*tags, f"linux_{self.machine}"]

    def tags(self) -> dict[Tag, int]:
        """Every tag of a wheel that runs there, with its rank: 0 is best."""
        version = (3, int(self.python[2:]))
        ordered = [
            *cpython_tags(version, [self.abi], self.platforms()),
            *compatible_tags(version, self.abi, self.platforms()),
        ]
        return {tag: rank for rank, tag in reversed(list(enumerate(ordered)))}

    def markers(self) -> dict[str, str]:
        """The environment that a requirement's marker is judged in."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
            "extra": "",
        }


def this_python() -> str:
    """The minor version of the running interpreter."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def this_platform() -> str:
    """This machine's platform, as "linux-x86_64"; "darwin-arm64" and the like cannot serve."""
    machine = platform.machine().lower()
    return f"{platform.system().lower()}-{_SAME_MACHINE.get(machine, machine)}"


def default_platform() -> str:
    """What to pack for unless told: this machine's platform, or Linux on the same processor."""
    here = this_platform()
    if here in MACHINES:
        return here
    return (
        f"linux-{here.rpartition('-')[2]}"
        if f"linux-{here.rpartition('-')[2]}" in MACHINES
        else "linux-x86_64"
    )
