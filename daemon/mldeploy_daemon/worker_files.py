"""What workers leave in run/: status files, sockets, logs, and the lines they say while they start.

Reading them never fails: what cannot be read is not there. Left out: what it means (`workers.py`).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mldeploy_daemon.system import RUNTIME, runs_in, start_ticks

RUN = Path("run")
#: Bytes of a worker's log that are kept when it has failed.
TAIL = 4096


class Status(msgspec.Struct):
    """What a worker says of itself, in its status file and while it starts."""

    id: str = ""
    pid: int = 0
    start_ticks: int = 0
    model: str = ""
    version: int = 0
    digest: str = ""
    replica: int = 0
    state: str = ""
    stage: str = ""
    reason: str = ""


class Progress(msgspec.Struct):
    """One line of a worker, or of its zygote, on the connection it was asked for on."""

    state: str = ""
    pid: int = 0
    stage: str = ""
    reason: str = ""
    error: str = ""


def read_status(path: Path) -> Status | None:
    """The status file, or None where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status)
    except (OSError, msgspec.MsgspecError):
        return None


def tail(path: Path) -> str:
    """The last words of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def statuses() -> list[Status]:
    """What is said in run/ by workers, dead ones included."""
    return [status for path in RUN.glob("w-*.json") if (status := read_status(path)) is not None]


def is_runtime(pid: int, ticks: int) -> bool:
    """Whether that very process lives and is a zygote or worker of this host.

    Status files may be written by what runs in a worker: nothing else is ever signalled on their word.
    """
    return pid > 0 and start_ticks(pid) == ticks and runs_in(pid, Path.cwd(), RUNTIME)


def remove_files(identifier: str) -> None:
    """Remove everything a worker left."""
    for suffix in ("json", "sock", "log"):
        (RUN / f"{identifier}.{suffix}").unlink(missing_ok=True)
