"""What a process says of itself and sets for itself: identity, memory, threads, randomness, log, status.

Rules: Linux's /proc is the source; nothing here decides anything. A status file is replaced by rename, so a
reader sees the old one or the new one. Standard library and msgspec; numpy only where it is already imported.
"""

from __future__ import annotations

import ctypes
import io
import os
import random
import stat
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from .reading import NOT_JSON

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: A log longer than this is cut to its last LOG_TAIL bytes.
LOG_LIMIT = 16 << 20
LOG_TAIL = 1 << 20
#: Bytes of a status file at most.
_STATUS = 1 << 16

_LIBRARIES = ("openblas", "mkl_rt", "libblis", "libgomp", "libomp", "libiomp")
#: C functions that take a number of threads as an int.
_SETTERS = (
    "scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads64_",
    "openblas_set_num_threads", "MKL_Set_Num_Threads", "bli_thread_set_num_threads", "omp_set_num_threads",
)  # fmt: skip
_PR_SET_TIMERSLACK = 29


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes. `private` is what ending the process gives back: dirty pages of its own, and its swap."""

    private: int
    pss: int
    rss: int


def start_ticks(pid: int | str = "self") -> int:
    """When a process started, in clock ticks since boot: with the pid it names one process for ever.

    Raises FileNotFoundError or ProcessLookupError where there is none.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        # the command's name, in parentheses, may hold spaces and parentheses itself
        return int(file.read().rpartition(b")")[2].split()[19])


def memory(pid: int | str = "self") -> Memory:
    """Memory of a process, by smaps_rollup. Clean pages of a mapped file are the cache's, not private."""
    fields: dict[str, int] = {}
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if rest.endswith("kB\n"):
                fields[name] = int(rest.split()[0]) * 1024
    private = fields.get("Private_Dirty", 0) + fields.get("Private_Hugetlb", 0) + fields.get("SwapPss", 0)
    return Memory(private, fields.get("Pss", 0), fields.get("Rss", 0))


def thread_count() -> int:
    """Threads of this process, those of libraries included."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def set_threads(count: int) -> list[str]:
    """Tell every BLAS and OpenMP library already loaded to use `count` threads; the names of those told.

    The environment variables are read when a library starts and ignored afterwards. Call it again after
    anything that may have loaded another library.
    """
    told = []
    for path in sorted(_loaded_libraries()):
        try:
            # NOLOAD: only a handle on what is there already
            library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        except OSError:
            continue
        for name in _SETTERS:
            setter = getattr(library, name, None)
            if setter is not None:
                setter(ctypes.c_int(count))
                told.append(f"{Path(path).name}:{name}")
    return told


def _loaded_libraries() -> set[str]:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        paths = {line.rstrip("\n").split(maxsplit=5)[-1] for line in file if ".so" in line}
    return {path for path in paths if any(name in Path(path).name for name in _LIBRARIES)}


def reseed() -> None:
    """New random streams from the system's entropy: a fork begins with its parent's."""
    random.seed()
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def wake_precisely() -> None:
    """Let this process sleep for microseconds; the kernel rounds to 50 unless asked."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1000), 0, 0, 0)


def give_way() -> None:
    """Run only where no process of normal priority wants the processor. There is no way back.

    SCHED_IDLE where the kernel has it and lets us, nice 19 besides. In a session of its own, so that the
    agent can make nice what the kernel may have grouped by session (sched(7), autogroup).
    """
    with suppress(OSError):
        os.setsid()
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, 0, 19)


def redirect_output(path: str) -> None:
    """Send stdout and stderr to the end of `path`, and take nothing from stdin. Raises OSError."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)  # the log stays open, whatever the model does with 1 and 2: the agent knows a worker by it
    sys.stdout, sys.stderr = _lenient(sys.stdout), _lenient(sys.stderr)


class _Log(io.FileIO):
    """A log. What a full disk does not take is lost: no request fails because the model printed."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _lenient(stream: TextIO) -> TextIO:
    """The same for whoever prints from now on, except that printing never fails."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.reconfigure(line_buffering=True)  # or a crash takes the last words with it
    log = io.BufferedWriter(_Log(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(log, stream.encoding, "backslashreplace", line_buffering=True)


def log_exception() -> None:
    """The exception at hand, into the log if it can be: a model may have put anything in stderr's place."""
    with suppress(Exception):
        traceback.print_exc()


def read_status(path: str) -> dict[str, Any]:
    """What a status file says; {} for what is none. The model may have put anything in its place, a link or a
    pipe too.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = os.read(fd, _STATUS) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)
        said = msgspec.json.decode(data)
    except (OSError, *NOT_JSON):
        return {}
    return said if isinstance(said, dict) else {}


def bound_log(path: str, limit: int = LOG_LIMIT, tail: int = LOG_TAIL) -> None:
    """Cut a log that grew beyond `limit` bytes to its last `tail`: a chatty model must not fill the disk."""
    try:
        with open(path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= limit:
                return
            file.seek(size - tail)
            kept = file.read()
            # in place: what is open for appending on it goes on at the new end
            os.ftruncate(file.fileno(), 0)
            file.seek(0)
            file.write(b"... cut ...\n" + kept)
    except OSError as error:
        print(f"mldeploy: log {path}: {error.strerror}", file=sys.stderr)


def write_status(path: str, status: object) -> None:
    """Replace the JSON file at `path`. Raises OSError; not flushed: it means nothing after a power cut."""
    staged = f"{path}.{os.getpid()}.tmp"
    try:
        with open(staged, "wb") as file:
            file.write(msgspec.json.encode(status))
        os.replace(staged, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(staged)
        raise
