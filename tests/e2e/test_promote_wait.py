"""`mldeploy promote --wait` as a pipeline runs it, beside a real daemon that steers, under load: what it says
while it follows, what it ends with, and its one document."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mldeploy.store.objects import open_store
from tests.e2e.conftest import World
from tests.support.bundles import Maker, publish
from tests.support.daemons import Daemon, Load

MLDEPLOY = str(Path(sys.executable).parent / "mldeploy")
#: Held for twice as long as the longest pause between two looks of the wait: each step is seen.
STEPS = ("--steps", "30,100", "--hold", "4s", "--min-requests", "100", "--timeout", "150s")
GUARDS = ("--guard", "error_rate < 10%", "--guard", "crashes < 1")

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]


@pytest.fixture
def daemon(world: World, maker: Maker) -> Daemon:
    """A daemon, not started yet, whose model answers 1; it looks and reports often."""
    publish(open_store(world.client.store, create=True), maker.bundle(answer=1.0))
    return Daemon(world.folder / "store", world.state, poll=0.2, report=0.5)


def promote(world: World, ref: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MLDEPLOY, "promote", ref, *STEPS, *words, "--wait", "--store", world.client.store],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def push(world: World, maker: Maker, answer: float, **more: Any) -> str:
    return str(publish(open_store(world.client.store), maker.bundle(answer=answer, **more), share=None))


def test_a_good_candidate_is_followed_to_stable_with_its_guards_numbers(
    world: World, maker: Maker, daemon: Daemon
) -> None:
    with daemon:
        daemon.wait_ready()
        with Load(daemon) as load:
            ran = promote(world, push(world, maker, 2.0), *GUARDS)
            assert ran.returncode == 0, ran.stderr
            daemon.wait_answer(2.0)
            third = promote(world, push(world, maker, 3.0), *GUARDS, "--json")
            assert third.returncode == 0, third.stdout
            daemon.wait_answer(3.0)
        assert load.failed == []
    # while it goes on
    said = ran.stderr.splitlines()
    assert ran.stdout == ""
    assert said[0].startswith("answer@2 takes traffic in production (record ")
    for number, share in ((1, 30), (2, 100)):
        lines = [line for line in said if line.startswith(f"answer@2 at {share}%, step {number} of 2: ")]
        assert any("error_rate < 10% " in line and "limit 10.00%" in line for line in lines), said
    # and when it is over: each step with what it rested on
    first, second, last = said[-3:]
    assert first.startswith("step 1 at 30%: ")
    assert second.startswith("step 2 at 100%: ")
    for step in (first, second):
        assert ", 1 of 1 hosts heard; error_rate < 10% holds (0% (0% to " in step, step
        assert ", limit 10.00%); crashes < 1 holds (0, limit 1)" in step, step
    assert last == "1 of 1 live hosts arrived"
    # one document, and nothing else
    assert third.stderr == ""
    document = json.loads(third.stdout)
    assert (document["schema"], document["version"], document["already"]) == ("mldeploy.promote/1", 3, False)
    waited = document["waited"]
    assert (waited["version"], waited["seq"]) == (3, document["seq"])
    assert [host["arrived"] for host in waited["hosts"]] == [True]
    assert [(step["step"], step["share"]) for step in waited["steps"]] == [(0, 3_000), (1, 10_000)]
    for step in waited["steps"]:
        assert step["requests"] >= 100
        assert (step["hosts"], step["members"]) == (1, 1)
        assert [(guard["guard"], guard["verdict"]) for guard in step["guards"]] == [
            ("error_rate < 10%", "holds"), ("crashes < 1", "holds"),
        ]  # fmt: skip
        assert step["guards"][0]["value"] == 0.0


def test_a_bad_candidate_ends_it_with_code_6_and_the_numbers(
    world: World, maker: Maker, daemon: Daemon
) -> None:
    guard = ("--guard", "error_rate < 5%")
    with daemon:
        daemon.wait_ready()
        # of its answers to x = 5 every third is an error
        with Load(daemon, x=5.0):
            ran = promote(world, push(world, maker, 2.0, bad={"errors": 3}), *guard)
            told = promote(world, push(world, maker, 3.0, bad={"errors": 3}), *guard, "--json")
            again = subprocess.run(
                [MLDEPLOY, "wait", "answer", "--timeout", "60s", "--store", world.client.store],
                capture_output=True, text=True, timeout=100, check=False,
            )  # fmt: skip
        assert daemon.ask() == (200, (1.0, 1))
    assert ran.returncode == 6, ran.stderr
    error, hint = ran.stderr.splitlines()[-2:]
    numbers = "was halted: error_rate < 5%: "
    assert error.startswith(f"error: the rollout of answer@2 in production {numbers}")
    assert error.endswith(", limit 5 %")
    assert hint.startswith("hint: traffic is with answer@1; `mldeploy report answer@2` says more")
    assert told.returncode == 6, told.stdout
    assert told.stderr == ""
    document = json.loads(told.stdout)
    assert (document["schema"], document["code"], document["halted"]) == ("mldeploy.error/1", 6, True)
    assert f"the rollout of answer@3 in production {numbers}" in document["error"]
    assert again.returncode == 0, "what is, is so: nothing is waited for any more"
