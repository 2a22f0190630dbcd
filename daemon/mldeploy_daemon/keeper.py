"""`mldeployd`: the process that owns the listening socket and keeps the agent and the fronts running.

Standard library only, so that nothing it imports can break it and an upgrade has little to replace. It reads
options, locks the state folder, listens (or takes systemd's socket), starts the children, starts again what
dies, reaps orphans (it is their subreaper), and on SIGTERM or SIGINT stops everything in order: fronts say
"not ready" and drain, the agent leaves, workers and zygotes finish. A second signal ends them at once.
If it is killed, the kernel ends agent and fronts; they hold the lock until they are gone, so the next keeper
never runs beside them; workers that live on are adopted by its agent.
Left out: what is served (agent), and every request (fronts).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mldeploy_daemon import options as options_module
from mldeploy_daemon.children import Children
from mldeploy_daemon.options import Refused
from mldeploy_daemon.place import Place
from mldeploy_daemon.signals import Signals
from mldeploy_daemon.survivors import Survivors
from mldeploy_daemon.system import allow_open_files, become_subreaper, notify

#: Seconds a front has for what is in flight after SIGTERM, beyond which it is killed.
FRONT_STOP = 35.0
#: Seconds the agent has to append its `leave`.
AGENT_STOP = 5.0
#: Seconds workers and zygotes have to finish.
WORKER_STOP = 15.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until it is told to stop. Returns the exit code."""
    try:
        options = options_module.read(argv)
        return Keeper(options).run()
    except Refused as refused:
        print(f"error: {refused.message}\nhint: {refused.hint}", file=sys.stderr)
        return refused.code


def log(text: str) -> None:
    """One line for the operator."""
    with contextlib.suppress(OSError):  # nobody reads any more
        print(f"mldeployd: {text}", file=sys.stderr, flush=True)


class Keeper:
    """One run of the daemon. Nothing is opened before `run`."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.environ = dict(os.environ)
        self.notify_address = os.environ.get("NOTIFY_SOCKET")
        self.announced = False

    def run(self) -> int:
        """Everything, from the lock to the last worker. Raises Refused where it cannot start."""
        with Signals() as signals:
            self.signals = signals
            self.place = Place(Path(self.options["state"]))
            self.place.take()
            try:
                return self._serve()
            finally:
                self.place.release()

    def _serve(self) -> int:
        listener = self.place.listen(self.options["listen"], self.environ)
        become_subreaper()
        allow_open_files()
        ready, told = os.pipe()
        os.set_blocking(ready, False)
        self.children = Children(self._document(told), listener, told, self.place.lock_fd)
        self.survivors = Survivors(self.place.folder)
        self.signals.watch(ready, self._agent_speaks)
        try:
            self.children.start(self.options["fronts"])
            log(f"listening on {self.place.address}, state in {self.place.folder}")
            return self._loop()
        except BaseException:
            self._stop(at_once=True)
            raise
        finally:
            listener.close()

    def _document(self, ready_fd: int) -> dict[str, Any]:
        return {
            **self.options,
            "listen": self.place.address,
            "listen_fd": -1,
            "ready_fd": ready_fd,
            "boot": secrets.token_hex(8),
        }

    def _loop(self) -> int:
        while not self.signals.stop:
            self._reap()
            if self.children.refused:
                log("a process cannot work with this configuration; its words are above")
                self._stop(at_once=False)
                return 1
            self.children.restart_due()
            notify(self.notify_address, "WATCHDOG=1")
            self.signals.wait(min(self.children.next_due(), 5.0))
        log("stopping")
        self._stop(at_once=False)
        return 130 if self.signals.stop > 1 else 0

    def _agent_speaks(self, data: bytes) -> None:
        if b"ready" in data and not self.announced:
            self.announced = True
            notify(self.notify_address, f"READY=1\nSTATUS=serving {self.options['environment']}")
            log(f"ready: serving {self.options['environment']} on http://{self.place.address}")

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.children.ended(pid, os.waitstatus_to_exitcode(status), log)

    def _stop(self, *, at_once: bool) -> None:
        """Stop everything that runs below this state folder, in order."""
        notify(self.notify_address, "STOPPING=1")
        self.children.stopping = True
        if not at_once and not self.signals.hurry and self.options["drain"]:
            self.children.drain_fronts()
            self._until(lambda: self.signals.hurry, self.options["drain"])
        quick = 0.0 if at_once else None
        self.children.signal(signal.SIGTERM)
        self._until(lambda: not self.children.alive("agent"), AGENT_STOP if quick is None else quick)
        self.children.signal(signal.SIGKILL, "agent")
        self._until(lambda: not self.children.alive(), FRONT_STOP if quick is None else quick)
        self.children.signal(signal.SIGKILL)
        self._until(lambda: not self.children.alive(), AGENT_STOP, patient=True)
        self.survivors.signal(signal.SIGTERM)
        self._until(lambda: not self.survivors.left(), WORKER_STOP if quick is None else quick)
        self._until(self._killed, AGENT_STOP, patient=True)
        self.survivors.clean()

    def _killed(self) -> bool:
        # again and again: a zygote that dies hands us its workers only then
        self.survivors.signal(signal.SIGKILL)
        return not self.survivors.left()

    def _until(self, done: Any, seconds: float, *, patient: bool = False) -> None:
        """Reap until `done`, for at most `seconds`; a second signal cuts it short unless `patient`."""
        deadline = time.monotonic() + seconds
        while True:
            self._reap()
            left = deadline - time.monotonic()
            if done() or left <= 0 or (self.signals.hurry and not patient):
                return
            self.signals.wait(min(left, 0.05))


if __name__ == "__main__":
    sys.exit(main())
