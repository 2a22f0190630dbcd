"""The protocol of pushes and collections: every interleaving of small worlds is well, and without any one of
its rules there is a way to lose a blob or a publish (`pytest -rP` shows each of them).
"""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest

from tests.protocol.explore import Explored, explore
from tests.protocol.judgement import Rules
from tests.protocol.world import Config

CUT_OFF = Config(pushes=(1,), crashes=(1,), again=1)
TWO_COLLECTORS = Config(pushes=(1,), collectors=(1, 1))
#: Each with how many states it has at least: a check that sees little proves little.
WORLDS = {
    "a push and a collection": (Config(pushes=(1,)), 400),
    "a collector whose clock is ahead": (Config(pushes=(1,), ahead=1), 800),
    "a push that is cut off, and a PUT that arrives twice": (CUT_OFF, 20_000),
    "two collectors and an operator": (TWO_COLLECTORS, 10_000),
    "a collector that runs again": (Config(pushes=(1,), collectors=(2,)), 4_000),
    "two pushes that bring or reuse the same blob": (Config(), 50_000),
    "two pushes of the same bundle": (Config(pushes=(1, 1), operations=0), 10_000),
}
#: Those that take up to half a minute each.
LARGE = {
    "a push cut off twice": Config(pushes=(1,), crashes=(2,), operations=2),
    "two collectors, retired and restored": dataclasses.replace(TWO_COLLECTORS, operations=2),
    "two pushes of the same bundle": Config(pushes=(1, 1)),
    "two pushes, retired and restored": Config(operations=2),
    "two pushes, one of them cut off": Config(crashes=(1,), operations=0),
    "a push cut off between two collectors": Config(pushes=(1,), crashes=(1,), collectors=(1, 1)),
}
#: For each rule a world in which it is missed.
MISSED = {
    "reuse_needs_live": Config(pushes=(1,)),
    "old_pushes_are_void": Config(pushes=(1,)),
    "keys_carry_the_push": Config(pushes=(1,)),
    "state_decides_what_exists": Config(pushes=(1,)),
    "sweep_before_deletes": Config(pushes=(1,)),
    "sweep_only_older": CUT_OFF,
    "delete_only_older": Config(pushes=(1,)),
    "needed_stays": Config(pushes=(1,)),
    "restore_needs_live": Config(pushes=(1,)),
    "horizon_never_goes_back": TWO_COLLECTORS,
    "same_number_until_known": Config(pushes=(1,)),
    "unknown_is_not_failed": Config(pushes=(1,)),
    "taken_is_read": Config(pushes=(1,)),
    "intent_is_asked_again": Config(pushes=(1,)),
    "reached_state_decides_deletes": Config(pushes=(1,)),
    "push_begins_after_horizon": Config(pushes=(1,), ahead=1),
    "resume_only_above_horizon": Config(pushes=(1,)),
    "journal_counts_for_its_own_id": Config(pushes=(1,)),
    "create_is_exclusive": Config(pushes=(1,)),
}
LOST = "a version that is not retired lacks a blob at its live key"
NOT_LIVE = "a version that is not retired needs a blob that is not live"
UNACKNOWLEDGED = "a publish that was acknowledged is lost"
STUCK = "a push began again and again, and never got through"
WRONG = {
    "reuse_needs_live": NOT_LIVE,
    "needed_stays": NOT_LIVE,
    "restore_needs_live": NOT_LIVE,
    "same_number_until_known": UNACKNOWLEDGED,
    "taken_is_read": UNACKNOWLEDGED,
    "intent_is_asked_again": UNACKNOWLEDGED,
    "create_is_exclusive": UNACKNOWLEDGED,
    "push_begins_after_horizon": STUCK,
    "resume_only_above_horizon": STUCK,
}


@cache
def explored(config: Config) -> Explored:
    """Each world once."""
    return explore(config)


@pytest.mark.parametrize("name", WORLDS)
def test_every_state_that_can_be_reached_is_well(name: str) -> None:
    config, least = WORLDS[name]
    found = explored(config)
    assert not found.wrong, str(found)
    assert found.states >= least
    assert found.depth >= 15


@pytest.mark.full
@pytest.mark.parametrize("name", LARGE)
def test_every_state_of_larger_worlds_is_well(name: str) -> None:
    found = explore(LARGE[name])
    assert not found.wrong, str(found)
    assert found.states > 50_000


@pytest.mark.parametrize("rule", MISSED)
def test_without_any_one_rule_something_is_lost(rule: str) -> None:
    config = MISSED[rule]
    with_it = explored(config)
    assert not with_it.wrong, str(with_it)
    found = explore(dataclasses.replace(config, rules=Rules().without(rule)))
    print(f"without {rule}: {found}")
    assert found.wrong == WRONG.get(rule, LOST)
    assert 2 < len(found.trace) == found.depth


def test_no_rule_is_left_out() -> None:
    assert list(MISSED) == [field.name for field in dataclasses.fields(Rules)]


def test_a_counterexample_reads_as_a_story() -> None:
    found = explore(dataclasses.replace(Config(pushes=(1,)), rules=Rules().without("keys_carry_the_push")))
    assert found.trace[-2:] == ("a collector finds its record 3, and asks to delete v", "delete v arrives")
    assert "push A asks to create record 4" in found.trace
    assert str(found).splitlines()[0].endswith(LOST)
