"""The mirror's pauses, with a kernel that says what the test wants: fronts are told, and it is counted."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import msgspec
import pytest

from mldeploy.core.pausing import ENOUGH, LONGEST, RELAPSE
from mldeploy_daemon.copies import PAUSE, RESUME, Copy, Pulse
from mldeploy_daemon.mirror.mirror import LOOK, Mirror
from mldeploy_daemon.mirror.pressure import Pressure
from mldeploy_daemon.mirror.sampling import KEPT
from mldeploy_daemon.table import ModelRoutes, ShadowRoute, Table, VersionRoutes


class Front:
    def __init__(self) -> None:
        self.heard: list[int] = []

    def tell(self, status: int) -> None:
        self.heard.append(status)


class Kernel(Pressure):
    """Says what it is told to."""

    share = 0.0

    def since_last(self, now: float) -> float:
        return self.share


class World:
    """A mirror with one shadow, whose worker is not there, and a clock."""

    def __init__(self) -> None:
        self.kernel, self.now = Kernel(), 1_000.0
        self.mirror = Mirror(pressure=self.kernel)
        self.front = Front()
        self.mirror.peers.add(self.front)
        routes = ModelRoutes(
            stable=1,
            versions={"1": VersionRoutes(), "2": VersionRoutes()},
            shadows=(ShadowRoute(id="s", version=2, scope=7),),
        )
        self.mirror.swap(Table(generation=1, models={"m": routes}), self.now)
        self.look(0.0)

    def look(self, pressure: float, seconds: float = LOOK, latency: float = 0.0) -> None:
        for _ in range(round(seconds / LOOK)):
            self.kernel.share = pressure
            self.now += LOOK
            if latency:
                self.mirror.heard(Pulse({"m@1": (ENOUGH, ENOUGH * latency)}))
            self.mirror.look(self.now)

    @property
    def counted(self):
        (measure,) = self.mirror.measures()
        return measure.comparison


@pytest.fixture
def world():
    return World()


def test_a_busy_processor_pauses_and_a_calm_one_resumes(world):
    world.look(0.2, 5.0)
    assert world.front.heard == []
    world.look(0.5)
    assert world.front.heard == [PAUSE]
    world.look(0.2, 10.0)
    assert world.front.heard == [PAUSE]
    world.look(0.05, 3.0)
    assert world.front.heard == [PAUSE, RESUME]
    found = world.counted
    assert found.pauses == 1
    assert 12_000 <= found.paused_ms <= 13_000


def test_slow_primaries_pause(world):
    world.look(0.0, 10.0, latency=0.010)
    world.look(0.0, LOOK, latency=0.020)
    assert world.front.heard == [PAUSE]
    assert world.mirror.pausing.why == "latency"
    world.look(0.0, 5.0, latency=0.010)
    assert world.front.heard == [PAUSE, RESUME]


class Traffic:
    """Requests that come by chance, each with a latency by chance, as a front tells of them."""

    def __init__(self, world: World, rate: float, latency: Callable[[random.Random], float]) -> None:
        self.world, self.rate, self.latency = world, rate, latency
        self.dice = random.Random(7)
        self.next = world.now

    def go(self, seconds: float, slower: Callable[[], float] = lambda: 1.0) -> float:
        """So many seconds of it, on a host that is hardly busy; the share of them that was paused."""
        paused = 0
        for _ in range(round(seconds / LOOK)):
            answers = []
            while self.next <= self.world.now + LOOK:
                answers.append(self.latency(self.dice) * slower())
                self.next += self.dice.expovariate(self.rate)
            if answers:
                self.world.mirror.heard(Pulse({"m@1": (len(answers), sum(answers))}))
            self.world.look(0.02)
            paused += self.world.mirror.pausing.paused
        return paused * LOOK / seconds


def scattered(sigma: float) -> Callable[[random.Random], float]:
    return lambda dice: dice.lognormvariate(math.log(0.003), sigma)


def mixed(dice: random.Random) -> float:
    """One request in twenty has a hundred rows."""
    return 0.012 if dice.random() < 0.05 else 0.003


@pytest.mark.parametrize("rate", [1.0, 4.0, 20.0, 100.0])
@pytest.mark.parametrize("latency", [scattered(0.2), scattered(0.5), scattered(1.0), mixed])
def test_latencies_that_scatter_are_no_trouble(world, rate, latency):
    assert Traffic(world, rate, latency).go(1_800.0) < 0.05


@pytest.mark.parametrize("rate", [100.0, 400.0])
def test_copies_that_slow_primaries_pause_at_once_and_for_longer_and_longer(world, rate):
    traffic = Traffic(world, rate, scattered(0.5))
    assert traffic.go(120.0) == 0.0

    def slowed() -> float:
        return 1.0 if world.mirror.pausing.paused else 2.0

    traffic.go(3.0, slowed)
    pausing = world.mirror.pausing
    assert (pausing.paused, pausing.why) == (True, "latency")
    assert traffic.go(600.0, slowed) > 0.9
    traffic.go(LONGEST + RELAPSE)
    assert traffic.go(600.0) == 0.0


@pytest.mark.parametrize("rate", [4.0, 20.0, 400.0])
def test_what_stays_slow_without_copies_ends_the_pauses_at_any_rate(world, rate):
    traffic = Traffic(world, rate, scattered(0.1))
    traffic.go(30 * ENOUGH / rate)
    assert traffic.go(1_800.0, lambda: 1.7) > 0.01
    assert traffic.go(600.0, lambda: 1.7) == 0.0


def test_answers_of_before_and_after_a_turn_are_not_one_latency(world):
    world.look(0.0, 10.0, latency=0.010)
    world.mirror.heard(Pulse({"m@1": (ENOUGH - 1, 10.0)}))
    world.look(0.9)
    world.look(0.0, 5.0)
    world.mirror.heard(Pulse({"m@1": (ENOUGH - 1, ENOUGH * 0.010)}))
    world.look(0.0)
    assert world.front.heard == [PAUSE, RESUME]


def test_answers_of_a_version_that_is_gone_are_forgotten(world):
    world.look(0.0, 10.0, latency=0.010)
    table = world.mirror.table
    world.mirror.heard(Pulse({"m@1": (ENOUGH - 1, 10.0)}))
    world.mirror.swap(Table(generation=2), world.now)
    world.mirror.swap(table, world.now)
    world.mirror.heard(Pulse({"m@1": (1, 0.010)}))
    world.look(0.0)
    assert world.front.heard == []


def test_a_shadow_that_begins_in_a_pause_counts_it_once(world):
    mirror, table = world.mirror, world.mirror.table
    mirror.swap(Table(generation=2), world.now)
    assert world.counted.pauses == 0
    world.look(0.0)
    mirror.swap(table, world.now)
    world.look(0.9, 1.0)
    assert world.counted.pauses == 1
    mirror.swap(Table(generation=3), world.now)
    mirror.swap(table, world.now)  # it was there when the pause began
    assert world.counted.pauses == 1
    late = ShadowRoute(id="t", version=2, scope=8)
    routes = msgspec.structs.replace(table.models["m"], shadows=(late,))
    mirror.swap(Table(generation=4, models={"m": routes}), world.now)
    world.look(0.9, 1.0)
    found = {each.scope: each.comparison for each in mirror.measures()}
    assert (found[8].pauses, found[8].paused_ms) == (1, 1_000)
    world.look(0.0, 5.0)
    world.look(0.9)
    mirror.swap(table, world.now)  # and this one was not
    found = {each.scope: each.comparison for each in mirror.measures()}
    assert (found[7].pauses, found[8].pauses) == (2, 2)


def test_a_front_that_comes_in_a_pause_is_told(world):
    world.look(0.9)
    assert world.mirror.word == PAUSE
    assert world.mirror.stats()["paused"] is True


def test_without_shadows_nothing_pauses(world):
    world.mirror.swap(Table(generation=2), world.now)
    world.look(0.9, 5.0)
    assert world.front.heard == []


def test_a_copy_that_makes_no_sense_is_nobodys_end(world):
    world.mirror.take(Copy("m", 1, 3, shadows=("s",), open=("s", "nobody"), sampled=True), b"\xff{[", b"")
    assert world.counted.dropped >= 1  # its shadow has no worker


def test_copies_that_were_on_their_way_do_not_make_a_pause_longer(world):
    lane = world.mirror.lanes["s"]
    lane.workers = (object(),)  # a worker there is, so that copies are queued
    world.look(0.5)
    for _ in range(200):
        world.mirror.take(Copy("m", 1, 3, shadows=("s",)), b"{}", b"{}")
    assert world.counted.dropped == 200
    world.look(0.0, 3.0)
    assert world.front.heard == [PAUSE, RESUME]


def test_a_shadow_that_comes_back_goes_on_with_its_counts(world):
    mirror, table = world.mirror, world.mirror.table
    mirror.take(Copy("m", 1, 3, open=("s",)), b"{}", b"{}")
    assert world.counted.offered == 1
    mirror.swap(Table(generation=2), world.now)  # the lease is lost …
    mirror.swap(table, world.now + 60.0)  # … and found again
    mirror.swap(table, world.now + 2 * KEPT)
    assert world.counted.offered == 1
    mirror.swap(Table(generation=3), world.now + 2 * KEPT)
    assert world.counted.offered == 1
    mirror.swap(Table(generation=4), world.now + 4 * KEPT)
    assert mirror.measures() == ()
