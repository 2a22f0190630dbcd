"""The mirror's pauses, with a kernel that says what the test wants: fronts are told, and it is counted."""

from __future__ import annotations

import pytest

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


class World:
    """A mirror with one shadow, whose worker is not there, and a clock."""

    def __init__(self, root) -> None:
        self.psi, self.waited, self.now = root / "cpu", 0.0, 1_000.0
        self.mirror = Mirror(pressure=Pressure(self.psi, root / "none"))
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
            self.waited += pressure * LOOK
            self.now += LOOK
            self.psi.write_text(f"some avg10=0.00 total={round(self.waited * 1e6)}\n")
            if latency:
                self.mirror.heard(Pulse({"m@1": (10, 10 * latency)}))
            self.mirror.look(self.now)

    @property
    def counted(self):
        (measure,) = self.mirror.measures()
        return measure.comparison


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


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
