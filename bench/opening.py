"""Opens a long log in a process of its own, and prints what that took: `python -m bench.opening FOLDER HOW`.

FOLDER holds a log made by `make`: its records in one file, read one by one as from a store that answers at
once, so that what is measured is ours: reading, folding, memory. HOW is "scan", "write" (a checkpoint, after
a scan), "checkpoint" (start from that) or "nothing" (what the interpreter and its modules take).
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from array import array
from pathlib import Path

from mldeploy.store.log import Log, record_key
from mldeploy.store.memory import MemoryStore
from mldeploy.store.objects import Fetched
from tests.support.big_log import long_log

MODELS = 10_000


def make(folder: Path, count: int) -> None:
    """Write a log of `count` records over MODELS models."""
    ends = array("Q", [0])
    with (folder / "records").open("wb") as file:
        for _, data in long_log(count, MODELS):
            file.write(data)
            ends.append(ends[-1] + len(data))
    (folder / "ends").write_bytes(ends.tobytes())


class FileLog(MemoryStore):
    """A store whose records lie in `make`'s file; everything else in memory, and on the disk for the next."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._ends = array("Q", (folder / "ends").read_bytes())
        self._fd = os.open(folder / "records", os.O_RDONLY)
        for path in folder.glob("checkpoints/*"):
            self._objects[f"checkpoints/{path.name}"] = Fetched(path.read_bytes(), 0.0)
        for path in folder.glob("hints/*"):
            self._objects[f"hints/{path.name}"] = Fetched(path.read_bytes(), 0.0)

    def get(self, key: str) -> Fetched | None:
        """From the file, or from memory."""
        if not key.startswith("log/"):
            return super().get(key)
        seq = int(key[4:24])
        if seq >= len(self._ends):
            return None
        start = self._ends[seq - 1]
        return Fetched(os.pread(self._fd, self._ends[seq] - start, start), 0.0)

    def keep(self) -> None:
        """Write what is in memory to the folder."""
        for key, found in self._objects.items():
            path = self._folder / key
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(found.data)


def main(folder: Path, how: str) -> dict[str, float]:
    """Seconds by the clock and of the processor, the peak of memory in MiB, the bytes of a checkpoint."""
    store = FileLog(folder)
    log = Log(store)
    began, worked = time.perf_counter(), time.process_time()
    told = {}
    if how == "checkpoint":
        log.refresh()
    elif how != "nothing":
        log.refresh(limit=1 << 40)  # with a limit no checkpoint is used
    if how == "write":
        began, worked = time.perf_counter(), time.process_time()
        assert log.checkpoint()
        store.keep()
        told["bytes"] = sum(entry.size for entry in store.list("checkpoints/"))
    told["seconds"] = time.perf_counter() - began
    told["worked"] = time.process_time() - worked
    assert how == "nothing" or store.get(record_key(log.state.head + 1)) is None
    told["head"] = log.state.head
    told["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return told


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))
