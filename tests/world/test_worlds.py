"""Worlds, and whether enough happens in them.

A world that is broken prints its last events and how to replay it. How worlds work: README.md in this
folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mldeploy.core.rollout import FALSE_ALARM
from tests.world.__main__ import outcomes, story
from tests.world.faults import HAPPENINGS, KINDS, Weather
from tests.world.world import Cast, Outcome, World

#: The same in every run, so that a change is judged by what it changes.
FIXED = range(1, 7)
#: Besides, where everything goes wrong that can.
BUSY = Cast(writers=4, pushers=3, collectors=2, vandals=1, hosts=2, storm=1800.0)
ROOT = Path(__file__).parents[2]

ACTIONS = [
    "publish", "promote", "advance", "complete", "halt", "pause", "resume", "rollback", "retire", "restore",
    "extend", "freeze", "unfreeze", "join", "leave", "forget", "sweep", "shadow", "policy",
]  # fmt: skip
OUTCOMES = [
    "acknowledged", "not written: StoreError", "not written: NotAllowedError", "not written: NotFoundError",
    "not written: nothing to do", "pushes published", "pushes failed", "pushes of what was there", "sweeps",
    "orphans removed", "collections failed", "fetches that failed", "requests", "workers that died",
    "workers that failed to load", "host PublishTable", "host StartWorker", "host StopWorker",
    "host FetchBundle", "host RemoveBundle", "host BuildEnvironment", "host StartZygote", "host RemoveBlob",
]  # fmt: skip
#: Too seldom for a few worlds. Nobody is named there who is to be told: that is for fleets.
SELDOM = [
    "unknown", "void", "not written: RaceLostError", "not written: _SweptError", "blobs swept",
    "hosts that lost power", "models cut off by a retire", "host StopZygote", "host KillWorker",
    "action unshadow", "pushes gone on with", "checkpoints written",
]  # fmt: skip


def lived(seed: int, **more: object) -> Outcome:
    outcome = World(seed, **more).run()  # type: ignore[arg-type]
    assert not outcome.error, f"\n{story(outcome)}"
    return outcome


@pytest.fixture(scope="module")
def fixed() -> Outcome:
    total = Outcome(0)
    for seed in FIXED:
        total.add(lived(seed))
    for seed in range(1, 3):
        total.add(lived(seed, cast=BUSY, weather=Weather.all_of_it()))
    return total


def test_every_kind_of_fault_happens(fixed: Outcome) -> None:
    happened = {name.rpartition(" ")[2] for name, count in fixed.faults.items() if count}
    assert happened == {kind for kinds in KINDS.values() for kind in kinds} | set(HAPPENINGS)


@pytest.mark.parametrize("what", OUTCOMES)
def test_every_outcome_happens(what: str, fixed: Outcome) -> None:
    assert fixed.counts[what]


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_is_taken(action: str, fixed: Outcome) -> None:
    assert fixed.counts[f"action {action}"]


def test_worlds_of_this_moment() -> None:
    """Others in every run: whatever they find is printed with its seed."""
    first = time.time_ns() // 1_000_000
    for seed in range(first, first + 4):
        lived(seed)


def test_the_same_seed_gives_the_same_world_under_any_hash_seed() -> None:
    told = []
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.world", "--seed", "7", "--trace"],
            cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        told.append(done.stdout)
    assert told[0] == told[1]
    assert told[0].count("\n") > 1000


def test_a_crowd() -> None:
    """More hosts than any other world has; `full` has hundreds."""
    outcome = lived(1, cast=crowd(12))
    assert outcome.counts["action join"] >= 12


@pytest.mark.full
def test_hundreds_of_hosts() -> None:
    outcome = lived(time.time_ns() // 1_000_000, cast=crowd(300))
    assert outcome.counts["action join"] >= 300


@pytest.mark.full
@pytest.mark.timeout(3 * 3600)
def test_a_thousand_worlds_of_this_moment() -> None:
    total = Outcome(0)
    for outcome in outcomes(time.time_ns() // 1_000_000, 1000, jobs=os.cpu_count() or 1):
        assert not outcome.error, f"\n{story(outcome)}"
        total.add(outcome)
    wanted = [*OUTCOMES, *SELDOM, *(f"action {action}" for action in ACTIONS)]
    assert [what for what in wanted if not total.counts[what]] == []
    faults = [f"{verb} {kind}" for verb, kinds in KINDS.items() for kind in kinds]
    assert [fault for fault in faults if not total.faults[fault]] == []


# --- rollouts, retirement and notices among many hosts

#: What must have happened in a few worlds of fleets; what is too seldom for that is asked of a thousand.
FLEETS = [
    "advance by a host", "halted by not coming up: broken", "retired by hosts", "closed by hosts", "messages",
    "notices of launched", "notices of halted", "notices of expiries", "steered: halt",
]  # fmt: skip
FLEETS_SELDOM = [
    "complete by a host", "completed: good", "halted by late: good", "halted by a guard: slow",
    "halted by a guard: crashing", "halted by a guard: other", "retired by hosts, and routed",
    "notices of retired", "messages that came again", "hosts that died right after a message has arrived",
    "hosts that died right before a message leaves", "targets that were down", "action restore",
    "steered: unshadow", "steered: complete", "steered: forget", "halted by a guard: erring",
    "hosts that died right after it has won",
]  # fmt: skip


def test_fleets_steer_retire_and_tell() -> None:
    total = Outcome(0)
    for seed in range(1, 5):
        total.add(lived(seed, cast=Cast.fleet(8)))
    assert [what for what in FLEETS if not total.counts[what]] == []


@pytest.mark.full
@pytest.mark.timeout(3 * 3600)
def test_a_thousand_fleets_of_fifty_hosts() -> None:
    total = Outcome(0)
    for outcome in outcomes(time.time_ns() // 1_000_000, 1000, hosts=50, jobs=os.cpu_count() or 1):
        assert not outcome.error, f"\n{story(outcome, 50)}"
        total.add(outcome)
    assert [what for what in (*FLEETS, *FLEETS_SELDOM) if not total.counts[what]] == []
    assert total.counts["false alarms"] <= most_alarms(total.counts["chances of a false alarm"])


def most_alarms(chances: int) -> int:
    """False alarms among candidates just like stable that are no sign of anything.

    Each has a chance of at most `FALSE_ALARM`, whatever came of the others, so their number is at most
    binomial: sound code has more than this, and fails, once in 10,000 times at the most.
    """
    most, exactly = 0, (1 - FALSE_ALARM) ** chances
    more = 1 - exactly
    while more >= 1e-4:
        exactly *= (chances - most) / (most + 1) * FALSE_ALARM / (1 - FALSE_ALARM)
        most += 1
        more -= exactly
    return most


def test_more_false_alarms_are_seen() -> None:
    """One in a hundred, twice what is promised, is too many among a few thousand; and none is always well."""
    assert most_alarms(0) == 0
    assert 5_000 * FALSE_ALARM < most_alarms(5_000) < 5_000 / 100


def crowd(hosts: int) -> Cast:
    return Cast(
        writers=2, pushers=2, collectors=1, vandals=0, hosts=hosts, storm=600.0, poll=60.0, requests=600.0
    )
