"""What zygotes and workers write: status files, sockets, logs, and the lines they say while they start.

All of it lies in run/workers/, the only part of run/ that they may write; what is a worker's, its temporary
files too, lies in a folder of its own there, the only one that this worker may write. So model code can touch
neither the routing table nor another worker's socket, nor what another's libraries load from a cache. Reading
never fails: what cannot be read is not there, and no link is followed, for what the model may not read it
could otherwise have the agent read and report. Left out: what it means (`workers.py`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
from hashlib import sha256
from pathlib import Path

import msgspec

from mldeploy.runtime.reading import NOT_JSON
from mldeploy_daemon.system import RUNTIME, STATUS, read_theirs, runs_in, start_ticks

logger = logging.getLogger(__name__)
RUN = Path("run/workers")
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
    idle: bool = False
    confinement: str = "off"
    state: str = ""
    stage: str = ""
    reason: str = ""


class Progress(msgspec.Struct):
    """One line of a worker, or of its zygote, on the connection it was asked for on."""

    state: str = ""
    pid: int = 0
    start_ticks: int = 0
    stage: str = ""
    reason: str = ""
    error: str = ""


def name_worker(model: str, version: int, digest: str, replica: int, *, idle: bool) -> str:
    """The beginning of a worker's id. It vouches for all of these: a worker can write everything below the
    folder of that name, and not the name.
    """
    said = "\n".join((model, digest, "idle" if idle else ""))
    return f"w-{sha256(said.encode()).hexdigest()[:16]}-{version}-{replica}-"


def socket_of(identifier: str) -> str:
    """Where a worker takes requests, relative to the state folder."""
    return f"{RUN}/{identifier}/socket"


def status_of(identifier: str) -> str:
    """Its status file, relative to the state folder."""
    return f"{RUN}/{identifier}/status.json"


def log_of(identifier: str) -> str:
    """What it prints, relative to the state folder."""
    return f"{RUN}/{identifier}/log"


def scratch_of(name: str) -> str:
    """Where its libraries put temporary files and caches, relative to the state folder; or a zygote's."""
    return f"{RUN}/{name}/tmp"


def make_folder(identifier: str) -> None:
    """The folder of a worker, for it and its zygote to write in; or of a zygote. Raises OSError."""
    (RUN / identifier).mkdir(mode=0o700, parents=True)


def identifiers() -> list[str]:
    """The workers that have a folder, dead ones included."""
    return [path.name for path in RUN.glob("w-*")]


def read_status(identifier: str) -> Status | None:
    """What the worker says of itself, or None where nothing can be read."""
    try:
        return msgspec.json.decode(read_theirs(status_of(identifier), STATUS), type=Status)
    except (OSError, *NOT_JSON):
        return None


def tail(identifier: str) -> str:
    """The last words of a worker's log."""
    try:
        return read_theirs(log_of(identifier), TAIL).decode("utf-8", "replace")
    except OSError:
        return ""


def credible(identifier: str) -> Status | None:
    """What a living worker says of itself, if it was started as that and the process is its own.

    Status files may be written by what runs in a worker: it may say that it is another, or name another's
    process, and be taken for it, or that one be stopped in its place.
    """
    said = read_status(identifier)
    if said is None or said.id != identifier:
        return None
    name = name_worker(said.model, said.version, said.digest, said.replica, idle=said.idle)
    return said if identifier.startswith(name) and _has_open(said.pid, identifier) else None


def statuses() -> list[Status]:
    """What is said by workers that live."""
    return [status for each in identifiers() if (status := credible(each)) is not None]


def fits(confinement: str, confine: str) -> bool:
    """Whether what a zygote or worker reached when it started is what `--confine` asks for now."""
    if confine == "require":
        return "landlock" in confinement and "seccomp" in confinement
    return confine == "off" or confinement != "off"


def end_unconfined(confine: str) -> None:
    """End the workers that live on from a time when `--confine` asked for less."""
    for said in statuses():
        pidfd = None if fits(said.confinement, confine) else follow(said.pid, said.start_ticks)
        if pidfd is not None:
            logger.warning(
                "%s was confined by %s, and is ended: --confine %s", said.id, said.confinement, confine
            )
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            remove_files(said.id)  # or it might be adopted while it dies


def is_runtime(pid: int, ticks: int) -> bool:
    """Whether that very process lives and is a zygote or worker of this host.

    Status files may be written by what runs in a worker: nothing else is ever signalled on their word.
    """
    return pid > 0 and start_ticks(pid) == ticks and runs_in(pid, Path.cwd(), RUNTIME)


def follow(pid: int, ticks: int) -> int | None:
    """A pidfd of that zygote or worker, if it lives."""
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError):
        return None
    if is_runtime(pid, ticks):  # looked at after: what the pidfd is of keeps its pid as long as it lives
        return pidfd
    os.close(pidfd)
    return None


def _has_open(pid: int, identifier: str) -> bool:
    """Whether the process has something open in the worker's folder (its log, always), as no other can."""
    folder = Path.cwd() / RUN / identifier
    with contextlib.suppress(OSError):  # it has just ended, or is somebody else's
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                if folder in descriptor.readlink().parents:
                    return True
    return False


def remove_files(identifier: str) -> None:
    """Remove everything a worker left in its folder, or a zygote."""
    shutil.rmtree(RUN / identifier, ignore_errors=True)
