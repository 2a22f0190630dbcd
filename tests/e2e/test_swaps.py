"""Swaps under constant load: no request fails, and no answer is at odds with the version it names."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mldeploy.client import Client
from mldeploy.demo.load import Load
from mldeploy.store.objects import open_store
from tests.e2e.conftest import World
from tests.support.bundles import Maker, publish

SWAPS = 50


@pytest.fixture
def serving(world: World, maker: Maker) -> World:
    """Versions 1 and 2 of `answer` pushed, version 1 served."""
    store = open_store(world.client.store, create=True)
    for version in (1, 2):
        publish(store, maker.bundle(answer=float(version)), share=None)
    world.client.promote("answer@1")
    world.daemon.start()
    world.client.wait("answer", timeout=60)
    return world


def swap(client: Client, times: int, strike: Callable[[int], None] = lambda turn: None) -> None:
    """Promote 2, 1, 2 …, each as soon as the host has converged on the last; `strike` in between."""
    for turn in range(times):
        client.promote(f"answer@{2 - turn % 2}")
        strike(turn)
        client.wait("answer", timeout=60)


def test_fifty_swaps_lose_nothing(serving: World) -> None:
    load = serving.load()
    load.start()
    try:
        swap(serving.client, SWAPS)
    finally:
        tally = load.stop()
    assert tally.failures == []
    assert tally.disagreements == []
    assert set(tally.answers) == {"1", "2"}


@pytest.mark.parametrize(("swaps", "kills"), [(16, 5), pytest.param(SWAPS, 10, marks=pytest.mark.full)])
def test_swaps_with_the_agent_killed_lose_nothing(serving: World, swaps: int, kills: int) -> None:
    rng = random.Random(20261)
    doomed = set(rng.sample(range(swaps), kills))
    killed = []

    def kill_agent(turn: int) -> None:
        if turn not in doomed:
            return
        threading.Event().wait(rng.uniform(0, 0.4))  # anywhere in the swap; no condition to wait for
        for pid in serving.children("mldeploy_daemon.agent"):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    load = serving.load()
    load.start()
    try:
        swap(serving.client, swaps, kill_agent)
    finally:
        tally = load.stop()
    assert len(killed) >= kills // 2  # a blow may meet an agent that is not back yet
    assert tally.failures == []
    assert tally.disagreements == []
    assert set(tally.answers) == {"1", "2"}


def test_a_killed_front_loses_its_own_requests_alone(serving: World) -> None:
    held: list[int] = []

    def kill_front(turn: int) -> None:
        fronts = serving.children("mldeploy_daemon.front")
        if turn % 3 == 0 and len(fronts) == 2:  # else the last one killed is not back yet
            held.append(_connections(fronts[0]))
            os.kill(fronts[0], signal.SIGKILL)

    load = serving.load()
    load.start()
    try:
        swap(serving.client, 15, kill_front)
    finally:
        tally = load.stop()
    assert held
    assert all("in flight" in failure for failure in tally.failures), tally.failures
    assert len(tally.failures) <= sum(held)
    assert tally.disagreements == []


def _connections(pid: int) -> int:
    """Open TCP connections of a process."""
    table = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    established = {line.split()[9] for line in table if line.split()[3] == "01"}
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        count += target.startswith("socket:[") and target[8:-1] in established
    return count


def test_a_split_keeps_its_share_and_everyone_on_their_side(serving: World) -> None:
    serving.client.promote("answer@2", to="25%")
    serving.client.wait("answer", timeout=60)
    load: Load = serving.load()
    load.start()
    deadline = threading.Event()
    while load.tally.total < 4000 and not deadline.wait(0.02):
        pass
    tally = load.stop()
    assert tally.failures == []
    share = tally.answers["2"] / tally.total
    # three standard errors of a share of a quarter
    assert abs(share - 0.25) < 3 * (0.25 * 0.75 / tally.total) ** 0.5
