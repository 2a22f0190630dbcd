"""The keeper's children: agent, fronts and mirror; started, watched and started again.

Standard library only.

A child that dies is started again at once, and later and later if it keeps dying young. Exit code 78 of the
agent means that no restart can help: the configuration is wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mldeploy_daemon.system import die_with_parent

#: A child that lived longer than this many seconds is started again at once.
GREW_UP = 10.0
LONGEST_DELAY = 5.0
#: Not for our children: they are between systemd and the keeper.
_PRIVATE = ("NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC")


@dataclass
class Child:
    """One child process, alive or due to be started at `due` (monotonic seconds)."""

    name: str
    module: str
    document: dict[str, Any]
    pass_fds: tuple[int, ...]
    parting: signal.Signals  # what it gets when the keeper dies
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    young_deaths: int = 0
    due: float = field(default=0.0)

    def start(self) -> None:
        parent, parting = os.getpid(), self.parting
        environ = {key: value for key, value in os.environ.items() if key not in _PRIVATE}
        environ["MLDEPLOYD"] = json.dumps(self.document)
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", self.module],
            env=environ,
            stdin=subprocess.DEVNULL,
            pass_fds=self.pass_fds,
            start_new_session=True,  # a Ctrl-C in the terminal is for the keeper alone
            preexec_fn=lambda: die_with_parent(parent, parting),
        )


class Children:
    """All of them. `refused` is true once one has said that no restart can help."""

    def __init__(
        self, document: dict[str, Any], listener: socket.socket, ready_fd: int, lock_fd: int
    ) -> None:
        self.document, self.listener = document, listener
        self.ready_fd, self.lock_fd = ready_fd, lock_fd
        self.children: list[Child] = []
        self.fronts = 0
        self.refused = False
        self.stopping = False

    def start(self, fronts: int) -> None:
        """Start the agent, that many fronts, and the mirror."""
        self.fronts = fronts
        fd = self.listener.fileno()
        agent = Child(
            "agent",
            "mldeploy_daemon.agent",
            self.document,
            (self.ready_fd, self.lock_fd),
            signal.SIGKILL,  # it may be killed at any moment, and must not act without a keeper
        )
        self.children = [agent]
        for number in range(fronts):
            document = {**self.document, "front": number, "listen_fd": fd, "ready_fd": -1}
            self.children.append(
                Child(
                    f"front {number}",
                    "mldeploy_daemon.front",
                    document,
                    (fd, self.lock_fd),
                    signal.SIGTERM,  # what is in flight may finish
                )
            )
        mirror = {**self.document, "ready_fd": -1}
        # nobody waits for what it does, and it must not act without a keeper
        self.children.append(
            Child("mirror", "mldeploy_daemon.mirror", mirror, (self.lock_fd,), signal.SIGKILL)
        )
        for child in self.children:
            child.start()

    def ended(self, pid: int, code: int, log: Callable[[str], None]) -> None:
        """A process was reaped; if it is one of ours, it is due again."""
        for child in self.children:
            if child.process is None or child.process.pid != pid:
                continue
            child.process.returncode = code  # reaped by us, not by subprocess
            child.process = None
            now = time.monotonic()
            child.young_deaths = child.young_deaths + 1 if now - child.started < GREW_UP else 0
            delay = min(LONGEST_DELAY, 0.1 * 2**child.young_deaths) if child.young_deaths > 1 else 0.0
            child.due = now + delay
            if not self.stopping:
                how = f"signal {-code}" if code < 0 else f"code {code}"
                log(f"{child.name} ended with {how}, starting it again in {delay:.1f} s")
            if code == os.EX_CONFIG:  # "do not start me again"
                self.refused = True

    def restart_due(self) -> None:
        """Start what is due."""
        for child in self.children:
            if child.process is None and child.due <= time.monotonic():
                try:
                    child.start()
                except (OSError, subprocess.SubprocessError):  # out of processes or memory: try later
                    child.young_deaths += 1
                    child.due = time.monotonic() + LONGEST_DELAY

    def next_due(self) -> float:
        """Seconds until a child is to be started; a long time if none is."""
        waiting = [child.due for child in self.children if child.process is None]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else 3600.0

    def alive(self, name: str = "") -> bool:
        """Whether the child of that name (any, if empty) runs."""
        return any(child.process is not None for child in self.children if name in ("", child.name))

    def signal(self, number: signal.Signals, name: str = "") -> None:
        """Send a signal to the child of that name, or to all."""
        for child in self.children:
            if child.process is not None and name in ("", child.name):
                # by pid: Popen.send_signal would reap, which is the keeper's alone
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.process.pid, number)

    def drain_fronts(self) -> None:
        """Tell every front to say "not ready" from now on."""
        for number in range(self.fronts):
            try:
                with socket.socket(socket.AF_UNIX) as control:
                    control.settimeout(1.0)
                    control.connect(f"run/front-{number}.sock")
                    control.sendall(b'{"op":"drain"}\n')
                    control.recv(4096)
            except OSError:
                continue  # it is not there: nothing to drain
