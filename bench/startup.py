"""How long commands take to start, as multiples of an interpreter that does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from mldeploy.store.objects import open_store

_ROUNDS = 11


def run() -> Iterator[str]:
    """Medians, the commands taking turns."""
    mldeploy = str(Path(sys.executable).parent / "mldeploy")
    with tempfile.TemporaryDirectory() as folder:
        store = ["--store", str(Path(folder) / "store")]
        open_store(store[1], create=True)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "mldeploy --help": [mldeploy, "--help"],
            "mldeploy status": [mldeploy, "status", *store],
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(_ROUNDS):
            for name, command in commands.items():
                taken[name].append(_time(command))
    bare = median(taken["python -c pass"])
    for name, times in taken.items():
        yield f"{name:<18} {median(times) * 1000:6.0f} ms   {median(times) / bare:5.1f} × bare Python"


def _time(command: list[str]) -> float:
    began = time.perf_counter()
    quiet = subprocess.DEVNULL
    subprocess.run(command, stdout=quiet, stderr=quiet, check=True, env=os.environ | {"NO_COLOR": "1"})
    return time.perf_counter() - began
