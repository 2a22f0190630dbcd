"""Numbers of system calls, and the seccomp filter built from them.

Rules: data and one pure function. The filter knows the two machines we serve on; on any other there is none,
and confinement is not reached. Source of the numbers: the kernel's syscall_64.tbl (x86-64) and
asm-generic/unistd.h (AArch64). Left out: installing it (`confine.py`).
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

#: What no model needs and what leads out of the confinement or at other processes.
_DENIED = """
    connect ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd
    kexec_load kexec_file_load bpf perf_event_open userfaultfd keyctl add_key request_key
    mount umount2 pivot_root chroot setns unshare open_tree move_mount fsopen fsconfig fsmount fspick
    mount_setattr init_module finit_module delete_module reboot swapon swapoff acct quotactl
    settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname syslog iopl ioperm
    open_by_handle_at fanotify_init io_uring_setup io_uring_enter io_uring_register
    mknod mknodat chown fchown lchown fchownat setxattr lsetxattr fsetxattr
""".split()  # noqa: SIM905 - one name a line says no more

# fmt: off
_COMMON = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "clone3": 435,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
}
_X86_64 = _COMMON | {
    "socket": 41, "connect": 42, "socketpair": 53, "clone": 56, "truncate": 76, "chown": 92,
    "fchown": 93, "lchown": 94, "ptrace": 101, "syslog": 103, "mknod": 133, "pivot_root": 155,
    "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166,
    "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172,
    "ioperm": 173, "init_module": 175, "delete_module": 176, "quotactl": 179, "setxattr": 188,
    "lsetxattr": 189, "fsetxattr": 190, "clock_settime": 227, "kexec_load": 246, "add_key": 248,
    "request_key": 249, "keyctl": 250, "mknodat": 259, "fchownat": 260, "unshare": 272,
    "perf_event_open": 298, "fanotify_init": 300, "open_by_handle_at": 304, "clock_adjtime": 305,
    "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313,
    "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
}
_AARCH64 = _COMMON | {
    "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "mknodat": 33, "umount2": 39, "mount": 40,
    "pivot_root": 41, "truncate": 45, "chroot": 51, "fchownat": 54, "fchown": 55, "quotactl": 60, "acct": 89,
    "unshare": 97, "kexec_load": 104, "init_module": 105, "delete_module": 106, "clock_settime": 112,
    "syslog": 116, "ptrace": 117, "reboot": 142, "sethostname": 161, "setdomainname": 162,
    "settimeofday": 170, "adjtimex": 171, "socket": 198, "socketpair": 199, "connect": 203,
    "add_key": 217, "request_key": 218, "keyctl": 219, "clone": 220, "swapon": 224, "swapoff": 225,
    "perf_event_open": 241, "fanotify_init": 262, "open_by_handle_at": 265, "clock_adjtime": 266,
    "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "finit_module": 273,
    "bpf": 280, "userfaultfd": 282, "kexec_file_load": 294,
}
# fmt: on


@dataclass(frozen=True, slots=True)
class Machine:
    """`audit` is the kernel's AUDIT_ARCH, `numbers` the calls by name."""

    audit: int
    numbers: dict[str, int]


MACHINES = {"x86_64": Machine(0xC000003E, _X86_64), "aarch64": Machine(0xC00000B7, _AARCH64)}

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_AF_UNIX, _SOCK_STREAM, _SOCK_SEQPACKET = 1, 1, 5
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW*: mount, cgroup, uts, ipc, user, pid, net
_X32 = 0x40000000


def _errno(code: int) -> int:
    return 0x00050000 | code


def build_filter(machine: Machine, *, deny_truncate: bool) -> bytes:
    """The BPF program. `deny_truncate` where the kernel's Landlock does not govern truncate(2)."""
    numbers = machine.numbers
    program = [
        _op(_LOAD, _ARCH),
        _op(_JUMP_EQUAL, machine.audit, yes=1),
        _op(_RETURN, _KILL),
        _op(_LOAD, _NUMBER),
        _op(_JUMP_AT_LEAST, _X32, no=1),
        _op(_RETURN, _errno(errno.ENOSYS)),
    ]
    program += _on(numbers["clone3"], [_op(_RETURN, _errno(errno.ENOSYS))])  # libc then uses clone
    program += _on(
        numbers["clone"],
        [
            _op(_LOAD, _ARGUMENTS),
            _op(_JUMP_ANY_BIT, _NEW_NAMESPACES, no=1),
            _op(_RETURN, _errno(errno.EPERM)),
            _op(_RETURN, _ALLOW),
        ],
    )
    for name in ("socket", "socketpair"):
        program += _on(numbers[name], _only_unix_streams())
    for name in _DENIED + (["truncate"] if deny_truncate else []):
        if name in numbers:
            program += _on(numbers[name], [_op(_RETURN, _errno(errno.EACCES))])
    program.append(_op(_RETURN, _ALLOW))
    return b"".join(program)


def _only_unix_streams() -> list[bytes]:
    # a datagram socket could be addressed without connect(2)
    return [
        _op(_LOAD, _ARGUMENTS),
        _op(_JUMP_EQUAL, _AF_UNIX, no=4),
        _op(_LOAD, _ARGUMENTS + 8),
        _op(_AND, 0xF),
        _op(_JUMP_EQUAL, _SOCK_STREAM, yes=2),
        _op(_JUMP_EQUAL, _SOCK_SEQPACKET, yes=1),
        _op(_RETURN, _errno(errno.EACCES)),
        _op(_RETURN, _ALLOW),
    ]


def _on(number: int, then: list[bytes]) -> list[bytes]:
    """`then`, which must return on every path, where the call is `number`."""
    return [_op(_JUMP_EQUAL, number, no=len(then)), *then]


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)
