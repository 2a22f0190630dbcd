"""Small things asked of Linux and systemd by the keeper and the agent. Standard library only.

Left out: deciding anything with them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import stat
from pathlib import Path

#: In the command line of every zygote and worker: what starts them.
RUNTIME = "boot.py"
#: Bytes of a status file at most.
STATUS = 1 << 16
#: Open files that are asked for where the system allows them: as many as mldeployd.service has.
OPEN_FILES = 65536
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def become_subreaper() -> None:
    """From now on orphans among our descendants become our children. Raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def allow_open_files() -> None:
    """As many descriptors for this process and its children as the hard limit allows, at most OPEN_FILES.

    A shell's soft limit is 1,024, and a front needs one for each client. It is not lowered, and stays where
    the kernel says no.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def die_with_parent(parent: int, number: signal.Signals) -> None:
    """Get signal `number` when the parent ends. To be called first thing in the child."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def give_way(pid: int) -> None:
    """Let every other process go before this one, as far as the kernel lets us; it must lead a session.

    Nice values count within a session alone where the kernel groups by session (sched(7), autogroup): so the
    group is made nice too. There is no way back without privileges.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 19)
    with contextlib.suppress(OSError):  # no autogroups, or one was changed within the last tenth of a second
        Path(f"/proc/{pid}/autogroup").write_text("19")


def read_theirs(path: str | os.PathLike[str], most: int) -> bytes:
    """The last bytes, so many at the most, of a file that a worker or zygote may have replaced by anything: a
    link, a pipe that nobody writes to. Raises OSError for what is no file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no file", str(path))
        return os.pread(fd, most, max(0, status.st_size - most))
    finally:
        os.close(fd)


def sync_filesystem(folder: Path) -> None:
    """Flush the whole file system that `folder` is on: cheaper than thousands of fsyncs. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(fd)


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if there is none, or only a zombie.

    With the pid it names a process for ever: pids are used again.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def children() -> list[int]:
    """The pids of this process's children, zombies included."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        try:
            found += [int(pid) for pid in (task / "children").read_text().split()]
        except OSError:
            continue  # the thread has just ended
    return found


def memory_limit() -> int:
    """Bytes of memory this machine has, or the cgroups this process is in may take; 0 where nobody says."""
    limits = []
    try:
        total = Path("/proc/meminfo").read_text().partition("MemTotal:")[2].split()[0]
        limits.append(int(total) * 1024)
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError, IndexError):
        groups = []
    own = next((line.removeprefix("0::/") for line in groups if line.startswith("0::/")), "")
    root = Path("/sys/fs/cgroup")
    for folder in ((root / own), *(root / own).parents):
        if folder == root or root in folder.parents:
            try:
                limits.append(int((folder / "memory.max").read_text()))
            except (OSError, ValueError):
                continue  # "max", or the root's, which has none
    return min(limits, default=0)


def boot_id() -> str:
    """Names this boot of the machine; "" where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def lock(path: Path) -> int | None:
    """An exclusive lock on `path`: an open descriptor, or None while someone has it. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def activated(environ: dict[str, str]) -> socket.socket | None:
    """The listening socket that systemd passed, if it passed one to this process."""
    if environ.get("LISTEN_PID") != str(os.getpid()) or environ.get("LISTEN_FDS", "0") in ("", "0"):
        return None
    os.set_inheritable(3, False)
    return socket.socket(fileno=3)


def notify(address: str | None, text: str) -> None:
    """Tell systemd; nothing where it does not listen (`address`: NOTIFY_SOCKET)."""
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(text.encode(), address)
    except OSError:
        return  # systemd notices by its own timeouts; nothing here depends on it


def runs_in(pid: int, folder: Path, marker: str) -> bool:
    """Whether the process works in `folder` and has `marker` in its command line."""
    try:
        inside = Path(f"/proc/{pid}/cwd").readlink() == folder
        return inside and marker.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False  # it has just ended, or is somebody else's


def processes_in(folder: Path, marker: str) -> list[int]:
    """The pids of the processes for which `runs_in` holds."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in pids if runs_in(pid, folder, marker)]
