"""The agent as a process of its own: how it ends."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest

from mldeploy_daemon.config import Config

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
