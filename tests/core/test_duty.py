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


def test_the_winner_is_first_and_all_others_follow_by_hash() -> None:
    order = duty.senders(notice(), HOSTS)
    assert order[0] == "h7" and sorted(order) == sorted(HOSTS)
    assert order == duty.senders(notice(), list(reversed(HOSTS)))
    by_hand = duty.senders(notice(actor="alice@laptop"), HOSTS)
    assert sorted(by_hand) == sorted(HOSTS)
    assert duty.senders(notice(actor="host:gone"), ["h1"]) == ["h1"]
    assert duty.senders(notice(), []) == []


def test_turns_double_up_to_an_hour() -> None:
    assert [duty.begins(turn, 40) for turn in range(7)] == [0, 120, 360, 840, 1_800, 3_720, 7_320]
    assert [duty.begins(turn + 1, 40) - duty.begins(turn, 40) for turn in (5, 6, 50)] == [3_600] * 3
    # of a large fleet the hosts after the first 16 have shorter ones
    assert [duty.begins(turn + 1, 1_000) - duty.begins(turn, 1_000) for turn in (15, 16, 500)] == [
        3_600, 450, 450,
    ]  # fmt: skip


@pytest.mark.parametrize("hosts", [1, 17, 128, 129, 700, 2_000])
def test_every_host_has_had_a_turn_when_it_is_given_up(hosts: int) -> None:
    assert duty.begins(hosts, hosts) <= duty.GIVE_UP - duty.LONGEST


@given(st.floats(-1e4, 1e7), st.integers(1, 20_000))
def test_every_moment_is_in_one_turn(age: float, hosts: int) -> None:
    turn = duty.turn_at(age, hosts)
    assert duty.begins(turn, hosts) <= max(age, 0.0) < duty.begins(turn + 1, hosts)


@given(
    st.floats(0, 30 * 86_400.0), st.integers(1, 200), st.none() | st.floats(0, 30 * 86_400.0),
    st.integers(0, 199),
)  # fmt: skip
def test_at_any_moment_at_most_one_host_is_due(age: float, count: int, tried: float | None, who: int) -> None:
    order = duty.senders(notice(), [f"h{number}" for number in range(count)])
    found = [host for host in order if duty.due(order, host, age, None) is not None]
    assert len(found) == 1
    host = order[who % len(order)]
    now = duty.turn_at(age, count)
    turn = duty.due(order, host, age, tried)
    if turn is not None:
        assert turn == now
        assert duty.due(order, host, age, age) is None  # once in a turn
    # whoever waits as long as it is told is due then, in a turn of its own that it has not had
    wait = duty.wait(order, host, age)
    assert 0 < wait < math.inf
    later = duty.due(order, host, age + wait + 1e-3, age)
    assert later is not None and later > now


@pytest.mark.parametrize("dead", [1, 3, 15, 30])
def test_a_dead_host_is_replaced_and_a_lonely_one_tries_again(dead: int) -> None:
    order = duty.senders(notice(), HOSTS)
    alive = order[dead]
    assert duty.wait(order, alive, -1.0) == pytest.approx(duty.begins(dead, 40) + 1.0)
    assert duty.due(order, alive, duty.begins(dead, 40) + 1, None) == dead
    assert duty.due(["h1"], "h1", 121.0, 1.0) == 1
    assert duty.wait(order, "nobody", 5.0) == math.inf
    assert duty.due([], "h1", 5.0, None) is None


def test_who_was_before_is_asked_what_it_reached() -> None:
    order = ["a", "b", "c"]
    assert duty.before(order, 0) == []
    assert duty.before(order, 2) == ["a", "b"]
    assert duty.before(order, 50) == ["a", "b", "c"]
    # of many the first ones, and the last, which say what those in between have reached
    asked = duty.before(HOSTS, 39)
    assert asked == [*HOSTS[:16], *reversed(HOSTS[23:39])]
    assert set(duty.before(HOSTS, 42)) == {*HOSTS[:16], *HOSTS[26:]}


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
