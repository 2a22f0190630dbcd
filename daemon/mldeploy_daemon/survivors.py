"""Workers and zygotes below a state folder, for the keeper to end. Standard library only.

They are found through their status files (a former run's are nobody's children any more) and, since the
keeper is their subreaper, among its own children.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

from mldeploy_daemon.system import RUNTIME, STATUS, children, read_theirs, runs_in, start_ticks


class Survivors:
    """What is left to end once agent and fronts have gone."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"

    def left(self) -> set[int]:
        """The pids that are still alive."""
        found = {pid for pid in children() if start_ticks(pid) is not None}
        written = self.run / "workers"
        for path in (*written.glob("w-*/status.json"), *written.glob("zygote-*.json")):
            try:
                status = json.loads(read_theirs(path, STATUS))
                pid, ticks = status["pid"], status["start_ticks"]
            except (OSError, ValueError, RecursionError, KeyError, TypeError):
                continue
            alive = isinstance(pid, int) and ticks is not None and start_ticks(pid) == ticks
            # a status file may be written by what runs in a worker: believe the kernel, not the file
            if alive and runs_in(pid, self.folder.resolve(), RUNTIME):
                found.add(pid)
        return found

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to each."""
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def clean(self) -> None:
        """Remove what the ended ones left in run/: sockets, status files, logs."""
        shutil.rmtree(self.run / "workers", ignore_errors=True)
        for path in self.run.glob("*.sock"):
            with contextlib.suppress(OSError):
                path.unlink()
