"""A model with a 1 GiB array: packed without holding it twice, loaded by mapping, shared by its replicas."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mldeploy.client import Client
from tests.e2e.conftest import World

GIB = 1 << 30
MIB = 1 << 20

PACK = """
import resource, sys
import numpy as np
import mldeploy

class Lookup:
    def __init__(self, table):
        self.table = table

    def predict(self, x):
        return self.table[x.astype(int).ravel()]

table = np.zeros(1 << 27)  # 1 GiB of FP64
table[:] = 1.0             # every page is real
table[7] = 42.0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
mldeploy.pack(
    Lookup(table), name="lookup", owner="tests@example.com", expires="30d",
    sample_input=np.array([[7.0], [8.0]]), requirements=["numpy"], replicas=2, out=sys.argv[1],
)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
"""


@pytest.mark.full  # packed, pushed, fetched: gigabytes on the disk
def test_one_gibibyte_is_held_once(world: World) -> None:
    packed = world.folder / "bundle"
    done = subprocess.run(
        [sys.executable, "-c", PACK, str(packed)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 256 * MIB
    client: Client = world.client
    client.push(packed, promote=True, now=True)
    world.daemon.start()
    client.wait("lookup", timeout=240)
    rows = client.predict("lookup", [[7.0], [3.0]], url=world.daemon.address).response
    assert rows["outputs"][0]["data"] == [42.0, 1.0]

    memory = [_touched(pid) for pid in _two_replicas(world)]
    # each maps the whole array, and together they hold far less than even one copy of their own would be
    assert all(mapped >= GIB for mapped, _ in memory)
    assert sum(private for _, private in memory) < 256 * MIB


def _two_replicas(world: World) -> list[int]:
    """The pids of both replicas: the host serves from the first that is ready."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = (world.state / "run/workers").glob("w-*/status.json")
        statuses = [json.loads(path.read_bytes()) for path in found]
        pids = [status["pid"] for status in statuses if status["state"] == "ready"]
        if len(pids) == 2:
            return pids
        threading.Event().wait(0.05)
    raise AssertionError("the second replica did not come up")


def _touched(pid: int) -> tuple[int, int]:
    """(bytes of the largest mapping of a bundle's buffers, private bytes) of a process."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    private = sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Private_"))
    mapped = [0]
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if "/buffers/" in line or "/blobs/" in line or "/bundles/" in line:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            mapped.append(end - start)
    return max(mapped), private
