"""How the agent ends: as a process, and what it does before."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from mldeploy.store.memory import MemoryStore
from mldeploy_daemon import report
from mldeploy_daemon.agent import Agent
from mldeploy_daemon.config import Config
from mldeploy_daemon.report import Reporter
from mldeploy_daemon.workers import Workers
from tests.daemon.test_report import seen

#: An agent with a thread that waits for a store which does not answer, and that ends in the given way.
DOWNLOADING = """
import threading
from concurrent.futures import ThreadPoolExecutor
from mldeploy.errors import DiskError, UsageError
from mldeploy_daemon import agent

async def run(self):
    ThreadPoolExecutor(1).submit(threading.Event().wait)
    {end}

agent.Agent.run = run
agent.main()
"""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("return 0", 0, ""),
        ("raise RuntimeError('a surprise')", 1, "a surprise"),
        ("raise SystemExit(0)", 1, "SystemExit"),
        ("raise DiskError('bundles: Input/output error', 'check the disk')", 1, "hint: check the disk"),
        ("raise UsageError('the store makes no sense', 'give another')", os.EX_CONFIG, "hint: give another"),
    ],
)
def test_however_it_ends_it_waits_for_no_thread(end: str, code: int, said: str) -> None:
    config = msgspec.json.encode(Config(store="memory://none", state=".")).decode()
    ended = subprocess.run(
        [sys.executable, "-c", DOWNLOADING.format(end=end)],
        env={**os.environ, "MLDEPLOYD": config},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == code
    assert said in ended.stderr


def test_what_it_has_counted_is_on_the_disk_before_the_store_is_asked_which_may_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    answered = threading.Event()

    async def leave() -> None:
        done.append("leave")

    def write_report(*_: object) -> None:
        done.append("report")
        answered.wait()

    monkeypatch.setattr(report, "write_report", write_report)
    monkeypatch.setattr(report, "PART_DEADLINE", 0.5)
    made: Any = Agent.__new__(Agent)
    made.follower = SimpleNamespace(refused=None, leave=leave)
    made.uses = SimpleNamespace(write=lambda: done.append("uses"))
    made.measures = SimpleNamespace(write=lambda: done.append("measures"))
    made.fronts = made.ledger = SimpleNamespace(close=lambda: None)
    store, workers = MemoryStore("memory://slow"), Workers(lambda: None)
    config = Config(store="", state="")
    made.reporter = Reporter(config, "h", workers, seen, lambda: store, lambda _: None)

    async def finish() -> int:
        async with asyncio.timeout(60):
            code: int = await made._finish()
            return code

    try:
        assert asyncio.run(finish()) == 0
    finally:
        answered.set()
    assert done[:3] == ["uses", "measures", "leave"]
