"""A store out of reach, one that shows nothing, one that has lost everything: nothing is retired."""

from __future__ import annotations

import pytest

from tests.world.__main__ import story
from tests.world.faults import Weather
from tests.world.hosts import Host
from tests.world.world import CALM, Cast, Plot, World
from tests.world.writers import Collector

CAST = Cast(writers=1, pushers=2, collectors=1, vandals=0, hosts=2, storm=600.0, asking=0)


def play(seed: int, plot: Plot, weather: Weather | None = None) -> World:
    world = World(seed, cast=CAST, weather=weather or Weather(), plot=plot)
    outcome = world.run()
    assert not outcome.error, f"\n{story(outcome)}"
    return world


def hosts(world: World) -> list[Host]:
    return [actor for actor in world.actors if isinstance(actor, Host)]


def settle(world: World) -> dict[str, dict[str, int]]:
    """Something is served everywhere, and nobody but hosts goes on. What each host serves."""
    world.begin()
    world.go_on(world.cast.storm)
    for actor in world.actors:
        if not isinstance(actor, Host):
            actor.end()
    world.go_on(1200)
    serving = {host.name: host.serving() for host in hosts(world)}
    assert any(serving.values()), "a world in which nothing is served shows nothing"
    return serving


def restart(world: World) -> None:
    """Every agent is killed, and one machine loses power."""
    for host in hosts(world):
        host.restarts = (5.0, 60.0)
        host.crash()
    hosts(world)[0].machine.power_cut()


def test_cut_off_for_hours_hosts_serve_what_they_last_knew() -> None:
    def plot(world: World) -> None:
        serving, head = settle(world), world.monitor.head
        for actor in world.actors:
            actor.cut_off_until = world.scheduler.now + 3 * 3600
        restart(world)
        world.go_on(2.5 * 3600)
        assert {host.name: host.serving() for host in hosts(world)} == serving
        assert world.monitor.head == head
        world.becalm()
        world.go_on(CALM)
        for host in hosts(world):
            host.check()

    play(1, plot)


def test_a_store_that_has_lost_everything_retires_nothing() -> None:
    def plot(world: World) -> None:
        serving = settle(world)
        world.becalm()  # nobody writes, not even a host that leaves and comes back
        world.bucket.objects.clear()
        restart(world)
        world.go_on(3600)
        assert {host.name: host.serving() for host in hosts(world)} == serving
        assert not [key for key in world.bucket.objects if key.startswith("log/")]

    play(1, plot)


@pytest.mark.parametrize("how", ["empty", "lagging", "partial"])
def test_listings_that_are_wrong_lose_nothing(how: str) -> None:
    """Every invariant of the blobs is watched while collectors go by listings that are always wrong."""

    def plot(world: World) -> None:
        world.begin()
        world.go_on(1800)
        assert any(isinstance(actor, Collector) for actor in world.actors)
        for _ in range(20):
            if world.counts["sweeps"]:  # not in every half hour
                break
            world.go_on(600)
        world.becalm()
        world.go_on(CALM)
        world.judge()

    world = play(1, plot, Weather({how: 100.0}))
    assert world.weather.counts[f"list {how}"]
    assert world.monitor.counts["action sweep"]
