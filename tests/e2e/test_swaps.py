"""Swaps under constant load: no request fails, and no answer is at odds with the version it names."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mldeploy.client import Client
from mldeploy.demo.load import Load
from tests.e2e.conftest import World
from tests.support.bundles import Maker

SWAPS = 50


@pytest.fixture
def serving(world: World, maker: Maker) -> World:
    """Versions 1 and 2 of `answer` pushed, version 1 served."""
    for version in (1, 2):
        world.client.push(maker.bundle(answer=float(version)))
    world.client.promote("answer@1")
    world.daemon.start()
    world.client.wait("answer", timeout=60)
    return world


def swap(client: Client, times: int) -> None:
    """Promote 2, 1, 2 …, each as soon as the host has converged on the last."""
    for turn in range(times):
        client.promote(f"answer@{2 - turn % 2}")
        client.wait("answer", timeout=60)


@contextmanager
def struck(strike: object, seed: int) -> Iterator[list[int]]:
    """Call `strike` at random moments until the block ends; yields the list of what it returned."""
    over, rng, struck_at = threading.Event(), random.Random(seed), []

    def run() -> None:
        while not over.wait(rng.uniform(0.05, 1.5)):
            struck_at.extend(strike())  # type: ignore[operator]

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield struck_at
    finally:
        over.set()
        thread.join()


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


def test_swaps_with_the_agent_killed_lose_nothing(serving: World) -> None:
    def kill_agent() -> list[int]:
        killed = serving.children("mldeploy_daemon.agent")
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        return killed

    load = serving.load()
    load.start()
    try:
        with struck(kill_agent, seed=20261) as killed:
            swap(serving.client, SWAPS // 2)
        serving.client.wait("answer", timeout=60)
    finally:
        tally = load.stop()
    assert len(killed) >= 5
    assert tally.failures == []
    assert tally.disagreements == []
    assert set(tally.answers) == {"1", "2"}


def test_a_killed_front_loses_its_own_requests_alone(serving: World) -> None:
    load = serving.load()

    def kill_front() -> list[int]:
        fronts = serving.children("mldeploy_daemon.front")
        if len(fronts) < 2:  # the last one killed is not back yet: another blow would meet an empty house
            return []
        held = _connections(fronts[0])
        os.kill(fronts[0], signal.SIGKILL)
        return [held]

    load.start()
    try:
        with struck(kill_front, seed=20262) as held:
            swap(serving.client, SWAPS // 5)
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
            target = os.readlink(entry)
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
