"""A host that still serves a version whose files were collected is not disturbed, and takes them when they
are pushed again.
"""

from __future__ import annotations

import os
import signal

from mldeploy.demo.load import Load
from mldeploy.store.objects import open_store
from tests.e2e.conftest import World
from tests.support.bundles import Maker, publish
from tests.support.daemons import until


def test_a_host_that_still_serves_what_was_collected_goes_on(world: World, maker: Maker) -> None:
    store = open_store(world.client.store, create=True)
    folder = maker.bundle(answer=1.0)
    publish(store, folder)
    publish(store, maker.bundle("other", answer=1.0))
    world.daemon.start()
    for model in ("answer", "other"):
        world.client.wait(model, timeout=60)
    loads = [world.load(model, connections=4) for model in ("answer", "other")]
    for load in loads:
        load.start()
    try:
        _collected_unheard(world, loads)
        until(lambda: _routed(world) is None, "the host has heard of it")
        publish(store, folder)
        world.client.wait("answer", timeout=60)
        assert world.client.predict("answer").version == "2"
        assert world.client.status().hosts[0].errors == ()
    finally:
        tally = loads[1].stop()
        loads[0].stop()
    assert tally.failures == []
    assert set(tally.answers) == {"1"}


def _collected_unheard(world: World, loads: list[Load]) -> None:
    """Retire, collect, and see both models answer as before: the host's agent does not hear of it."""
    agents = world.children("mldeploy_daemon.agent")
    assert len(agents) == 1
    os.kill(agents[0], signal.SIGSTOP)
    try:
        world.client.retire("answer@1", force=True)
        done = world.client.collect(grace="0")
        assert done.no_longer_restorable == ("answer@1",)
        state = world.client.state
        gone = [blob for blob in state.models["answer"].versions[1].blobs if blob not in state.blobs]
        assert len(gone) == done.blobs >= 2  # its model file and its manifest; the wheels are needed
        left = {entry.key.partition(".")[0][-64:] for entry in open_store(world.client.store).list("blobs/")}
        assert left == set(state.blobs)
        seen = [load.tally.total for load in loads]
        until(
            lambda: all(load.tally.total >= before + 100 for load, before in zip(loads, seen, strict=True)),
            "both models answer",
        )
        tallies = [loads[0].stop(), loads[1].tally]
        assert [tally.failures for tally in tallies] == [[], []]
    finally:
        os.kill(agents[0], signal.SIGCONT)


def _routed(world: World) -> int | None:
    """The version of `answer` that the host says it serves."""
    host = world.client.status().hosts[0].host
    return world.client.why(host, "answer").models[0].routed_stable
