"""Faults at every step that writes: counts the steps of a process and strikes at the n-th.

A step is anything that changes the disk below the folders in FAULT_UNDER: opening a file for writing,
mkdir, rename, replace, link, symlink, remove, rmdir, truncate, chmod (all seen through `sys.addaudithook`,
the strike comes just BEFORE the call), os.write (the strike comes after HALF the bytes: a torn write) and
os.fsync (before it). Writes through buffered file objects are seen at their `open` alone. The counting is
done per process, so a program of several processes is struck in whichever reaches n first; FAULT_ARGV
narrows that to processes whose command line holds a text.

It is armed through the environment; `armed(...)` makes it, with a `sitecustomize` on PYTHONPATH:

    env = armed(tmp_path, under=[store, state], at=0)      # at=0: strikes nowhere, only counts
    subprocess.run([sys.executable, "-c", CODE], env=env)
    for n in range(1, len(steps(tmp_path)) + 1):
        env = armed(tmp_path / str(n), under=[...], at=n)  # a scratch folder per run
        process = subprocess.run([...], env=env)            # ends with -9 at its n-th step
        assert fired(tmp_path / str(n))
        subprocess.run([...], env=env)                      # runs through: a fault strikes once

A process started with `-I` ignores PYTHONPATH and is never struck (the runtime's zygotes and workers).
For a struck child of a long-lived program (an agent under its keeper), give `argv="mldeploy_daemon.agent"`;
the restarted child runs through, because the marker file says that the fault has struck. Errors can also be
had in the test's own process, with `striking(...)`.

`action` is "kill" (SIGKILL to itself) or the name of an errno ("ENOSPC", "EIO", "EROFS", "EACCES"): then the
step fails with that OSError instead (for os.write after half the bytes; a call that the program wraps in
C is struck at its audit event). Standard library only, so that it loads in any interpreter.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.truncate", "os.chmod",
}  # fmt: skip


def armed(
    scratch: Path, *, under: Iterable[Path], at: int, action: str = "kill", argv: str = ""
) -> dict[str, str]:
    """The environment of a process to be struck at its `at`-th step (0: only count).

    `scratch` holds the sitecustomize, the log of steps and the marker; it must not be inside `under`.
    """
    site = scratch / "site"
    site.mkdir(parents=True, exist_ok=True)
    (site / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        f"path = {str(Path(__file__).resolve())!r}\n"
        "spec = importlib.util.spec_from_file_location('mldeploy_faults', path)\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "module.arm()\n"
    )
    env = dict(os.environ)
    env.update(
        PYTHONPATH=os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")])),
        PYTHONDONTWRITEBYTECODE="1",
        FAULT_UNDER=os.pathsep.join(str(path.resolve()) for path in under),
        FAULT_AT=str(at),
        FAULT_ACTION=action,
        FAULT_ARGV=argv,
        FAULT_MARKER=str(scratch / "fired"),
        FAULT_STEPS=str(scratch / "steps"),
    )
    return env


def steps(scratch: Path) -> list[str]:
    """The steps counted so far, each as "<pid> <event> <path>"."""
    log = scratch / "steps"
    return log.read_text().splitlines() if log.exists() else []


def fired(scratch: Path) -> bool:
    """Whether the fault has struck."""
    return (scratch / "fired").exists()


@contextlib.contextmanager
def striking(under: Path, *, at: int, action: str) -> Iterator[Struck]:
    """Strike in this very process, for as long as the `with` lasts: `action` names an errno."""
    struck = Struck()

    def mark(number: int, line: str) -> bool:
        if number == at:
            struck.step = line
        return number == at

    faults = _Faults((str(under.resolve()),), action, mark)
    restore = _install(faults)
    try:
        yield struck
    finally:
        faults.over = True  # an audit hook cannot be taken out again
        restore()


class Struck:
    """The step that `striking` struck at, as "<event> <path>"; empty if there were fewer steps."""

    def __init__(self) -> None:
        self.step = ""


def arm() -> None:
    """Install the hook in this process, as its environment says; nothing if it says nothing."""
    under = os.environ.get("FAULT_UNDER")
    if not under or not _meant():
        return
    at = int(os.environ["FAULT_AT"])
    log, marker = os.environ["FAULT_STEPS"], os.environ["FAULT_MARKER"]

    def mark(number: int, line: str) -> bool:
        _append(log, f"{os.getpid()} {line}\n")
        return number == at and _first(marker)

    _install(_Faults(tuple(under.split(os.pathsep)), os.environ.get("FAULT_ACTION", "kill"), mark))


def _install(faults: _Faults) -> Callable[[], None]:
    sys.addaudithook(faults.audit)
    real_write, real_fsync = os.write, os.fsync

    def write(fd: int, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        faults.step("os.write", _path_of(fd), before=lambda: real_write(fd, view[: len(view) // 2]))
        return real_write(fd, data)

    def fsync(fd: int) -> None:
        faults.step("os.fsync", _path_of(fd))
        real_fsync(fd)

    def restore() -> None:
        os.write, os.fsync = real_write, real_fsync

    os.write, os.fsync = write, fsync  # type: ignore[assignment]
    return restore


class _Faults:
    def __init__(self, under: tuple[str, ...], action: str, mark: Callable[[int, str], bool]) -> None:
        self.under, self.action, self.mark = under, action, mark
        self.count = 0
        self.over = False
        self.lock = threading.Lock()
        self.own = threading.local()  # what this module itself does is no step

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        if self.over:
            return
        if event == "open":
            path, _, flags = args
            # a file object around a descriptor that is open already changes nothing
            if isinstance(flags, int) and flags & _WRITING and not isinstance(path, int):
                self.step("open", path)
        elif event in _CHANGES:
            paths = [arg for arg in args if isinstance(arg, str | bytes | os.PathLike)]
            if event == "os.mkdir":
                paths = paths[:1]
            for path in paths[::-1] or args[:1]:  # the target first
                if self.concerns(path):
                    self.step(event, path)
                    return

    def concerns(self, path: object) -> bool:
        if isinstance(path, int):
            path = _path_of(path)
        try:
            text = os.path.abspath(os.fsdecode(path))  # type: ignore[arg-type]  # noqa: PTH100 - links stay
        except (TypeError, ValueError, OSError):
            return False
        return any(text == root or text.startswith(root + os.sep) for root in self.under)

    def step(self, event: str, path: object, before: Callable[[], object] | None = None) -> None:
        if self.over or getattr(self.own, "busy", False) or not self.concerns(path):
            return
        self.own.busy = True
        try:
            with self.lock:
                self.count += 1
                number = self.count
            if self.mark(number, f"{event} {os.fsdecode(path)}"):  # type: ignore[arg-type]
                if before is not None:
                    before()
                self.strike(path)
        finally:
            self.own.busy = False

    def strike(self, path: object) -> None:
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self.action)
        raise OSError(number, os.strerror(number), os.fsdecode(path))  # type: ignore[arg-type]


def _meant() -> bool:
    wanted = os.environ.get("FAULT_ARGV", "")
    if not wanted:
        return True
    return wanted in Path("/proc/self/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def _path_of(fd: int) -> str:
    try:
        path = str(Path(f"/proc/self/fd/{fd}").readlink())
        return path if path.startswith("/") else ""  # "pipe:[123]" is no file
    except OSError:
        return ""


_real_write = os.write


def _append(path: str, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _real_write(fd, line.encode())
    os.close(fd)


def _first(path: str) -> bool:
    """True for the one process that strikes."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        return False
    return True
