"""The duty of notices: one host at a time, the next ones soon, nobody left waiting for a dead one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mldeploy.core import checkpoint, duty, records
from mldeploy.core.state import Notice, State
from tests.core.test_actions import after, promote, publish, retire

HOSTS = [f"h{number}" for number in range(40)]


def notice(actor: str = "host:h7", seq: int = 9, time: str = "2026-11-24T07:00:00Z") -> Notice:
    return Notice(
        id="launched.churn.8.9", kind="launched", environment="production", model="churn", version=8,
        seq=seq, actor=actor, time=time,
    )  # fmt: skip


def test_the_winner_is_first_and_the_others_follow_by_hash() -> None:
    order = duty.senders(notice(), HOSTS)
    assert order[0] == "h7" and len(order) == len(set(order)) == duty.SENDERS
    assert order == duty.senders(notice(), list(reversed(HOSTS)))
    by_hand = duty.senders(notice(actor="alice@laptop"), HOSTS)
    assert by_hand[0] in HOSTS and len(by_hand) == duty.SENDERS
    assert duty.senders(notice(actor="host:gone"), ["h1"]) == ["h1"]
    assert duty.senders(notice(), []) == []


def test_turns_double_up_to_an_hour() -> None:
    assert [duty.begins(turn) for turn in range(7)] == [0, 120, 360, 840, 1_800, 3_720, 7_320]
    assert [duty.begins(turn + 1) - duty.begins(turn) for turn in (5, 6, 50)] == [3_600] * 3


@given(st.floats(-1e4, 1e7))
def test_every_moment_is_in_one_turn(age: float) -> None:
    turn = duty.turn_at(age)
    assert duty.begins(turn) <= max(age, 0.0) < duty.begins(turn + 1)


@given(st.floats(0, 30 * 86_400.0), st.integers(1, 20), st.none() | st.integers(0, 200), st.integers(0, 19))
def test_at_any_moment_at_most_one_host_is_due(age: float, count: int, tried: int | None, who: int) -> None:
    order = duty.senders(notice(), HOSTS[:count])
    found = [host for host in order if duty.due(order, host, age, None) is not None]
    assert len(found) == 1
    host = order[who % len(order)]
    turn = duty.due(order, host, age, tried)
    if turn is not None:
        assert turn == duty.turn_at(age)
        assert duty.due(order, host, age, turn) is None  # once in a turn
    # whoever waits as long as it is told is due then, in a turn of its own that it has not had
    wait = duty.wait(order, host, age)
    assert 0 < wait < math.inf
    later = duty.due(order, host, age + wait + 1e-3, duty.turn_at(age))
    assert later is not None and later > duty.turn_at(age)


@pytest.mark.parametrize("dead", [1, 3, 15])
def test_a_dead_host_is_replaced_and_a_lonely_one_tries_again(dead: int) -> None:
    order = duty.senders(notice(), HOSTS)
    alive = order[dead]
    assert duty.wait(order, alive, -1.0) == pytest.approx(duty.begins(dead) + 1.0)
    assert duty.due(order, alive, duty.begins(dead) + 1, None) == dead
    assert duty.due(["h1"], "h1", 121.0, 0) == 1
    assert duty.wait(order, "nobody", 5.0) == math.inf
    assert duty.due([], "h1", 5.0, None) is None


def test_who_was_before_is_asked_what_it_reached() -> None:
    order = ["a", "b", "c"]
    assert duty.before(order, 0) == []
    assert duty.before(order, 2) == ["a", "b"]
    assert duty.before(order, 50) == ["a", "b", "c"]


def test_a_warning_came_to_be_with_its_day() -> None:
    assert duty.since(notice()) is None
    assert duty.since(notice(seq=0, time="2027-05-01")) == 1_809_129_600.0


# --- whose notice it is

#: Unix seconds of 2029-12-20, when the warning of what `publish` makes has been due for some days.
DUE = 1_892_419_200.0
TOLD = records.Policy(settings={"notify": {"ops": "json://ops.example.com"}})


def promoted(environment: str, rollout: int) -> records.Promote:
    return promote(1, rollout, environment=environment)


def seen(state: State, environment: str, now: float = DUE) -> list[tuple[str, str]]:
    return [(each.kind, each.environment) for each in duty.pending_for(state, environment, now)]


def test_a_warning_is_of_one_environment_whoever_read_the_state_from_where() -> None:
    state = after(
        publish(1), promoted("staging", 1), promoted("production", 2), TOLD,
        records.Join(host="p1"), records.Join(host="s1", environment="staging"),
    )  # fmt: skip
    read = checkpoint.decode(checkpoint.encode(state))
    assert list(read.environments) != list(state.environments)  # equal, and in another order
    for each in (state, read):
        assert seen(each, "production") == [("expiring", "production")] and seen(each, "staging") == []
    # the other one's hosts are the only ones left
    for left in (state, read):
        alone = after(records.Leave(host="p1"), state=left)
        assert seen(alone, "staging") == [("expiring", "staging")]
    # an environment with days of its own: one warning of a version, the newest
    sooner = after(records.Policy(environment="staging", settings={"warn": (20,)}), state=state)
    assert seen(sooner, "production") == [] and seen(sooner, "staging") == [("expiring", "staging")]
    (warned,) = duty.pending_for(sooner, "staging", DUE)
    closed = after(records.Notified(notice=warned.id), state=sooner)
    assert seen(closed, "production") == seen(closed, "staging") == []


def test_what_nobody_is_left_to_tell_in_its_environment_the_others_tell() -> None:
    state = after(TOLD, records.Join(host="p1"), records.Join(host="p2"), records.Drain(host="p2"))
    state = after(publish(1), publish(2), promoted("staging", 1), retire(2), state=state)
    launch, retired = state.notices.values()
    assert (launch.environment, retired.environment) == ("staging", "")
    assert seen(state, "production", 0.0) == [("launched", "staging"), ("retired", "")]
    assert duty.tellers(state, launch) == duty.tellers(state, retired) == ["p1"]
    state = after(records.Join(host="s1", environment="staging"), state=state)
    assert seen(state, "production", 0.0) == [("retired", "")]
    assert seen(state, "staging", 0.0) == [("launched", "staging"), ("retired", "")]
    assert duty.tellers(state, launch) == ["s1"] and set(duty.tellers(state, retired)) == {"p1", "s1"}
