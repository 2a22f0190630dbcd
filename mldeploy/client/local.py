"""Daemons on this machine, for `serve` and `deploy`: start one, find the one that runs, stop it.

Rules: a state folder belongs to one daemon, which holds its lock while it lives; where it listens stands in
run/listen. A daemon is started in a session of its own, so that a Ctrl-C for us is not one for it.
Left out: what it serves.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mldeploy.config import state_folder
from mldeploy.errors import DaemonError, DiskError

#: Seconds within which a daemon must listen.
START = 60.0
#: Seconds a daemon has to stop before it is killed; it bounds its own steps below that.
STOP = 70.0


@dataclass(slots=True)
class Daemon:
    """A daemon of ours. `process` is None for one that ran before."""

    state: Path
    address: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.address}"

    def check(self) -> None:
        """Raise DaemonError if it ended, with its last words."""
        if self.process is not None and self.process.poll() is not None:
            raise _ended(self.state, self.process.returncode)

    def stop(self) -> None:
        """Ask it to stop, and wait until it and all it started are gone."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def folder_for(store: str, environment: str) -> Path:
    """The state folder of the local daemon for a store and an environment."""
    digest = hashlib.sha256(f"{store}\n{environment}".encode()).hexdigest()
    return state_folder() / digest[:16]


def running(state: Path) -> Daemon | None:
    """The daemon that lives in `state`, if one does and listens."""
    if not _locked(state / "lock"):
        return None
    try:
        return Daemon(state, (state / "run" / "listen").read_text("utf-8").strip())
    except OSError:
        return None


def start(store: str, state: Path, *, listen: str, environment: str, quick: bool = False) -> Daemon:
    """Start one and wait until it listens. Raises DaemonError with its own words, DiskError.

    It outlives this process; its output goes to STATE/daemon.log. `quick` makes it look and report often.
    """
    command = [sys.executable, "-m", "mldeploy_daemon.keeper", "--store", store, "--state", str(state)]
    command += ["--listen", listen, "--environment", environment]
    if quick:
        command += ["--poll", "0.2", "--report", "2"]
    try:
        state.mkdir(parents=True, exist_ok=True)
        (state / "run" / "listen").unlink(missing_ok=True)  # of one that was killed
        log = (state / "daemon.log").open("wb")
    except OSError as error:
        raise DiskError(
            f"{state} cannot be written: {error.strerror}", "name another with XDG_STATE_HOME"
        ) from error
    with log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
            env=_environ(),
        )  # fmt: skip
    try:
        return Daemon(state, _listening(state, process), process)
    except BaseException:
        process.terminate()
        process.wait()
        raise


def _environ() -> dict[str, str]:
    """Ours, without what would turn the daemon into part of someone else's service."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID")
    }


def _listening(state: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            address = (state / "run" / "listen").read_text("utf-8").strip()
            if address:
                return address
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise _ended(state, process.wait(0.02))
    raise DaemonError(
        f"mldeployd did not listen within {START:g} s", f"its last words are in {state}/daemon.log"
    )


def _ended(state: Path, code: int) -> DaemonError:
    try:
        lines = (state / "daemon.log").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    said = {
        key: line.removeprefix(f"{key}: ")
        for line in lines
        for key in ("error", "hint")
        if line.startswith(f"{key}: ")
    }
    last = said.get("error") or next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return DaemonError(
        f"mldeployd ended with code {code}: {last}", said.get("hint") or f"see {state}/daemon.log"
    )


def _locked(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
