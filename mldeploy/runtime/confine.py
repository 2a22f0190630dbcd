"""Confinement of this process and its children: Landlock for files and signals, seccomp for system calls.

Rules: called with one thread and before anything of an environment or a bundle is imported. A confined
process reads what it was given and the system, writes what it was given, opens no socket but Unix streams it
listens on, reaches no process outside, and cannot undo it. `require` fails closed: either both parts hold or
ConfinementError. `best-effort` takes what the kernel gives. What was reached is said in a short string.
Standard library only: the environment's packages are not importable yet.
Left out: limits of memory and CPU (the daemon's cgroups), and grants of network (a later format).
"""

from __future__ import annotations

import ctypes
import os
import platform
import stat
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfinementError
from .syscalls import MACHINES, build_filter

LEVELS = ("require", "best-effort", "off")

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK, _REFER, _TRUNCATE, _IOCTL_DEV = 1 << 6, 1 << 11, 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _READ_FILE | _READ_DIR
_NET = 0b11  # bind and connect TCP
_SCOPED = 0b11  # abstract Unix sockets, signals

#: What any interpreter and its libraries read, as far as it exists; programs under these may be run.
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin")
_SYSTEM_FILES = (
    "/etc/localtime", "/etc/timezone", "/etc/ld.so.cache", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group",
    "/etc/os-release", "/proc", "/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
)  # fmt: skip
_SYSTEM_WRITE = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/shm")


@dataclass(frozen=True, slots=True)
class Confinement:
    """What was reached. `level` goes into status files: `landlock-7+seccomp`, `seccomp`, `none`, `off`."""

    level: str = "off"
    landlock: int = 0  # the kernel's ABI, 0 for none
    write: tuple[str, ...] = ()
    base: tuple[str, ...] = ()  # read by every worker: the environment and the runtime itself


def confine(
    want: str, *, base: Iterable[str] = (), read: Iterable[str] = (), write: Iterable[str] = ()
) -> Confinement:
    """Confine this process for good. `base` and `read` may be read, `write` read and written.

    Raises ConfinementError where `want` is `require` and a part of it cannot be had, or where `want` is
    none of LEVELS.
    """
    if want not in LEVELS:
        raise ConfinementError(f"confine: {want!r} is none of {', '.join(LEVELS)}")
    if want == "off":
        return Confinement()
    base = (*base, str(Path(__file__).absolute().parent))
    write = tuple(write)
    reached, failures, abi = [], [], 0
    try:
        _no_new_privileges()
        abi = _landlock((*base, *read), write)
        reached.append(f"landlock-{abi}")
    except OSError as error:
        failures.append(f"Landlock: {error.strerror}")
    try:
        _no_new_privileges()
        _seccomp(deny_truncate=abi < 3)
        reached.append("seccomp")
    except OSError as error:
        failures.append(f"seccomp: {error.strerror}")
    if want == "require" and failures:
        raise ConfinementError(f"this kernel does not give the confinement required ({'; '.join(failures)})")
    return Confinement("+".join(reached) or "none", abi, write, base)


def narrow(confinement: Confinement, read: Iterable[str], write: Iterable[str]) -> None:
    """Take from this process what the zygote could do: what is left is the system and the environment, and
    `read` and `write`, which is also read.

    Nothing happens without Landlock. Raises OSError where the kernel refuses a further layer.
    """
    if confinement.landlock:
        _landlock((*confinement.base, *read), write)


def _landlock(read: Iterable[str], write: Iterable[str]) -> int:
    """Allow these paths and the system's; everything else is denied. Returns the ABI. Raises OSError."""
    abi = _syscall(_CREATE_RULESET, None, 0, 1)
    handled = (1 << 13) - 1
    handled |= (_REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0) | (_IOCTL_DEV if abi >= 5 else 0)
    fields = [handled] + ([_NET] if abi >= 4 else []) + ([_SCOPED] if abi >= 6 else [])
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        programs = {*_SYSTEM, *(os.path.realpath(path) for path in (sys.base_prefix, sys.base_exec_prefix))}
        programs.add(str(Path(sys.executable).resolve().parent.parent))
        for path in programs:
            _allow(ruleset, path, _READ | _EXECUTE)
        for path in (*_SYSTEM_FILES, *read):
            _allow(ruleset, path, _READ)
        for path in (*_SYSTEM_WRITE, *write):
            _allow(ruleset, path, handled & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV))
        _syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return abi


def _allow(ruleset: int, path: str, rights: int) -> None:
    """One rule; a path that does not exist needs none."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, fd)
        _syscall(_ADD_RULE, ruleset, 1, rule, 0)
    finally:
        os.close(fd)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _seccomp(*, deny_truncate: bool) -> None:
    machine = MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(0, f"no filter for {platform.machine()}")
    code = build_filter(machine, deny_truncate=deny_truncate)
    program = _Program(len(code) // 8, code)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def _no_new_privileges() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0)


def _prctl(option: int, first: int, second: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [ctypes.c_ulong(value) for value in (first, second, 0, 0)]
    if libc.prctl(option, *arguments) < 0:
        raise _last_error()


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    given = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *given))
    if result < 0:
        raise _last_error()
    return result


def _last_error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
