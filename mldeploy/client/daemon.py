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
from collections.abc import Sequence
from pathlib import Path

from mldeploy.config import state_folder
from mldeploy.core.types import PRODUCTION
from mldeploy.errors import DaemonError, DiskError, MldeployError, UsageError

#: Seconds within which a daemon must listen.
START = 60.0
#: Seconds a daemon has to stop before it is killed; it bounds its own steps below that.
STOP = 70.0
#: Its exit code for options that make no sense.
_WRONGLY_CALLED = 2


class LocalDaemon:
    """A daemon of ours. Nothing is started before `start`.

    It outlives this process unless stopped; its output goes to STATE/daemon.log. `quick` makes it look at the
    log and report often, for one host on one machine. `holds` are descriptors that it keeps open: what holds
    the scratch folder it lives in.
    """

    def __init__(
        self,
        *,
        store: str,
        state: Path,
        listen: str = "127.0.0.1:0",
        environment: str = PRODUCTION,
        quick: bool = True,
        holds: Sequence[int] = (),
    ) -> None:
        self.state = Path(state)
        self._command = [
            # -P: a file of the user's in the working folder must not stand in for a module
            sys.executable, "-P", "-m", "mldeploy_daemon.keeper", "--store", store,
            "--state", str(self.state), "--listen", listen, "--environment", environment,
        ]  # fmt: skip
        if quick:
            self._command += ["--poll", "0.2", "--report", "2"]
        self._holds = holds
        self._process: subprocess.Popen[bytes] | None = None
        self._listens = ""

    @property
    def address(self) -> str:
        """The URL where it answers, once started."""
        return f"http://{self._listens}"

    @property
    def pid(self) -> int:
        """The process id of the keeper, 0 before it is started."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start it and wait until it listens. Raises DaemonError and UsageError with its own words, and
        DiskError.
        """
        there = running(self.state)
        if there:
            raise DaemonError(
                f"a daemon runs in {self.state} already, at {there}",
                "stop it first, or choose another state folder",
            )
        try:
            self.state.mkdir(parents=True, exist_ok=True)
            if listens(self.state) and not _locked(self.state / "lock"):
                (self.state / "run" / "listen").unlink(missing_ok=True)  # of one that was killed
            log = (self.state / "daemon.log").open("ab")
        except OSError as error:
            raise DiskError(
                f"{self.state} cannot be written: {error.strerror}", "choose another place for its state"
            ) from error
        with log:
            said = log.tell()
            process = self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=_environ(), pass_fds=self._holds,
            )  # fmt: skip
        try:
            self._listens = self._wait_until_it_listens(process, said)
        except BaseException:
            self.stop()
            raise

    def check(self) -> None:
        """Raise DaemonError, with its last words, if it ended."""
        if self._process is not None and self._process.poll() is not None:
            raise self._ended(self._process.returncode, 0)

    def stop(self) -> None:
        """Ask it to stop, and wait until it and all it started are gone. Does nothing where it has ended."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_until_it_listens(self, process: subprocess.Popen[bytes], said: int) -> str:
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise self._ended(process.wait(0.02), said)
            address = listens(self.state)
            if address:
                return address
        raise DaemonError(
            f"mldeployd did not listen within {START:g} s", f"its last words are in {self.state}/daemon.log"
        )

    def _ended(self, code: int, said: int) -> MldeployError:
        """What to raise of it: in its own words where it was called wrongly, which is our caller's doing."""
        log = self.state / "daemon.log"
        try:
            lines = log.read_bytes()[said:].decode("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        told = {
            key: line.removeprefix(f"{key}: ")
            for line in lines for key in ("error", "hint") if line.startswith(f"{key}: ")
        }  # fmt: skip
        last = told.get("error") or next(
            (line for line in reversed(lines) if line.strip()), "it said nothing"
        )
        if code == _WRONGLY_CALLED and "error" in told:
            return UsageError(told["error"], told.get("hint", ""))
        return DaemonError(f"mldeployd ended with code {code}: {last}", told.get("hint") or f"see {log}")


def folder_for(store: str, environment: str) -> Path:
    """The state folder of the local daemon for a store and an environment."""
    digest = hashlib.sha256(f"{store}\n{environment}".encode()).hexdigest()
    return state_folder() / digest[:16]


def running(state: Path) -> str:
    """The URL of the daemon that lives in `state`; empty if none does."""
    address = listens(state)
    # the lock is tried only where one has listened: a daemon that is just starting must not find it taken
    return f"http://{address}" if address and _locked(state / "lock") else ""


def listens(state: Path) -> str:
    """HOST:PORT as run/listen says; empty where it says nothing."""
    with contextlib.suppress(OSError):
        return (state / "run" / "listen").read_text("utf-8").strip()
    return ""


def _environ() -> dict[str, str]:
    """Ours, without what would turn the daemon into part of someone else's service."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID")
    }


def _locked(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
