"""The log: appending to a folder, folding what was appended, and opening long logs of 10,000 models."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from bench import opening
from mldeploy.core.fold import fold_many
from mldeploy.core.records import Extend, Join, Publish
from mldeploy.core.state import State
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import Log, record_key
from mldeploy.store.objects import open_store

_RECORDS = 1_000
_FOLDS = 20
_LONG = (100_000, 1_000_000)


def run() -> Iterator[str]:
    """Records a second, and what it takes to open a long log with a checkpoint and without."""
    yield from _short()
    for count in _LONG:
        yield from _open(count)


def _open(count: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        opening.make(Path(folder), count)
        size = (Path(folder) / "records").stat().st_size
        taken = {how: _opened(folder, how) for how in ("nothing", "scan", "write", "checkpoint")}
    floor = taken["nothing"]["peak"]
    scan, write, start = taken["scan"], taken["write"], taken["checkpoint"]
    yield f"{count:,} records of {opening.MODELS:,} models, {size / 1e6:.0f} MB (seconds of the processor):"
    yield f"  scan             {scan['worked']:6.2f} s  {scan['peak'] - floor:6.0f} MiB"
    yield f"  from checkpoint  {start['worked']:6.2f} s  {start['peak'] - floor:6.0f} MiB"
    yield f"  write checkpoint {write['worked']:6.2f} s  {write['bytes'] / 1e6:6.1f} MB"
    yield f"  the checkpoint opens {scan['worked'] / start['worked']:.1f} × faster"


def _opened(folder: str, how: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.opening", folder, how], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _short() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"{folder}/store", create=True)
        log = Log(store)
        digest = "ab" * 32
        log.append(
            lambda _: [
                Publish(
                    model="m", digest=digest, push=new_ulid(), brought={digest: 1}, owner="o",
                    expires="2030-01-01", python="3.11", platform="linux-x86_64",
                )
            ],
            actor="bench", now=datetime.now(UTC),
        )  # fmt: skip
        began = time.perf_counter()
        for number in range(_RECORDS):
            action = (
                Extend(model="m", version=1, expires=f"2030-01-{2 + number % 27:02}")
                if number % 2
                else Join(host=f"h{number}")
            )
            log.append(lambda _, action=action: [action], actor="bench", now=datetime.now(UTC))
        append = _RECORDS / (time.perf_counter() - began)
        found = [
            (seq, fetched.data)
            for seq in range(1, log.state.head + 1)
            if (fetched := store.get(record_key(seq))) is not None
        ]
        began = time.perf_counter()
        for _ in range(_FOLDS):
            fold_many(State(), found)
        fold = _FOLDS * len(found) / (time.perf_counter() - began)
    yield f"append {append:8.0f} records/s (each fsynced, one writer)"
    yield f"fold   {fold:8.0f} records/s, {fold / append:.0f} × append"
