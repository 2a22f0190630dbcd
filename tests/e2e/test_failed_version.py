"""A version whose samples fail on the host never answers; the old one goes on; everyone is told why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mldeploy.store.objects import open_store
from tests.e2e.conftest import World
from tests.support.bundles import Maker, publish

MLDEPLOY = str(Path(sys.executable).parent / "mldeploy")


def _mldeploy(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MLDEPLOY, *arguments, "--store", world.client.store],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_samples_that_fail_on_the_host_keep_a_version_out(world: World, maker: Maker) -> None:
    store = open_store(world.client.store, create=True)
    publish(store, maker.bundle(answer=1.0))
    world.daemon.start()
    world.client.wait("answer", timeout=60)
    load = world.load(connections=8)
    load.start()
    try:
        # published without the gates, as from a laptop that could not run them
        publish(store, maker.bundle(answer=2.0, wrong_sample=True))
        waited = _mldeploy(world, "wait", "answer", "--timeout", "60s")
        assert waited.returncode == 6, waited.stderr
        assert "answer@2" in waited.stderr
        assert "sample" in waited.stderr

        status = _mldeploy(world, "status", "--json")
        model = json.loads(status.stdout)["models"][0]
        assert model["stable"] == 2
        assert model["state"] == "failing"
        assert "sample" in model["reason"]
        assert {(one["version"], one["state"]) for one in model["serving"]} >= {(1, "ready"), (2, "failed")}
        why = _mldeploy(world, "why", json.loads(status.stdout)["hosts"][0]["host"], "answer")
        assert "sample" in why.stdout

        # backing out is one command, and then everything is well again
        assert _mldeploy(world, "rollback", "answer", "--wait", "--timeout", "60s").returncode == 0
        seen = load.tally.total
        while load.tally.total < seen + 100:
            assert not load.tally.failures
    finally:
        tally = load.stop()
    assert tally.failures == []
    assert tally.disagreements == []
    assert set(tally.answers) == {"1"}


def test_a_version_that_is_asked_for_by_number_is_not_served_before_it_passed(
    world: World, maker: Maker
) -> None:
    store = open_store(world.client.store, create=True)
    publish(store, maker.bundle(answer=1.0))
    publish(store, maker.bundle(answer=2.0, wrong_sample=True))
    world.daemon.start()
    waited = _mldeploy(world, "wait", "answer", "--timeout", "60s")
    assert waited.returncode == 6, waited.stderr
    predicted = _mldeploy(world, "predict", "answer", "--version", "2", "--url", world.daemon.address)
    assert predicted.returncode == 1
    assert "sample" in predicted.stderr
    assert "error: " in predicted.stderr


def test_nobody_there_is_a_timeout_and_not_a_success(world: World, maker: Maker) -> None:
    store = open_store(world.client.store, create=True)
    publish(store, maker.bundle(answer=1.0))
    waited = _mldeploy(world, "wait", "answer", "--timeout", "1s")
    assert waited.returncode == 7
    assert "hint: " in waited.stderr
