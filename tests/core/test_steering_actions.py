"""Shadows, policies and notices in the fold: what each does, and what it is refused for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mldeploy.core import records
from mldeploy.core.fold import fold
from mldeploy.core.policy import Settings, settings
from mldeploy.core.records import Setting
from mldeploy.core.state import Notice, State
from tests.core.strategies import chain, ulid
from tests.core.test_actions import RAMP, TWO, after, promote, publish, refused, retire, serving

THREE = after(publish(3), state=TWO)
NOTIFIED = after(
    records.Policy(settings={"notify": {"ops": "json://ops.example.com"}}),
    state=THREE,
)


def shadow(version: int, number: int = 50, **changes: Any) -> records.Shadow:
    return records.Shadow(model="churn", version=version, shadow=ulid(number), **changes)


def test_a_shadow_takes_nothing_and_ends_by_its_id() -> None:
    state = after(shadow(3, fraction=2_000, where="input.amount > 1000", lasts=60), state=THREE)
    begun = serving(state).shadows[0]
    assert (begun.version, begun.fraction, begun.seq) == (3, 2_000, state.head)
    assert serving(state).stable == serving(THREE).stable
    assert "already" in refused(state, shadow(3, 51))
    assert "in use" in refused(state, shadow(1))
    assert "no rollout" in refused(state, records.Halt(rollout=ulid(50), reason=""))
    assert serving(after(records.Unshadow(shadow=ulid(50)), state=state)).shadows == ()
    assert "no shadow" in refused(state, records.Unshadow(shadow=ulid(51)))


@pytest.mark.parametrize("version", [2, 3])
def test_what_takes_traffic_is_no_shadow(version: int) -> None:
    assert "takes traffic" in refused(RAMP, shadow(version))


@pytest.mark.parametrize("said", [promote(3, 9), promote(3, 9, steps=(100, 500)), retire(3)])
def test_what_comes_to_take_traffic_or_is_retired_is_no_shadow_any_more(said: records.Action) -> None:
    state = after(shadow(3), shadow(1, 51), said, state=THREE)
    assert [each.version for each in serving(state).shadows] == [1]
    assert "no shadow" in refused(state, records.Unshadow(shadow=ulid(50)))


@pytest.mark.parametrize(
    "changes",
    [{"fraction": 0}, {"fraction": 10_001}, {"lasts": -1}, {"keep": 10**7}, {"where": "header.x in ["}],
)
def test_a_shadow_that_makes_no_sense(changes: dict[str, Any]) -> None:
    refused(THREE, shadow(3, **changes))


def test_no_more_than_eight_shadows() -> None:
    state = after(*(publish(number) for number in range(4, 12)), state=THREE)
    state = after(*(shadow(number, 50 + number) for number in range(3, 11)), state=state)
    assert "8 shadows" in refused(state, shadow(11))


def test_a_shadow_step_comes_first_and_is_not_alone() -> None:
    state = after(promote(3, 9, steps=(0, 100, 10_000), fraction=500), state=THREE)
    ramp = serving(state).ramp
    assert ramp is not None
    assert (ramp.share, ramp.fraction, ramp.begun) == (0, 500, state.head)
    refused(THREE, promote(3, 9, steps=(0,)))
    refused(THREE, promote(3, 9, steps=(100, 0)))


def test_a_deadline_counts_anew_from_the_last_resume() -> None:
    state = after(records.Advance(rollout=ulid(3), step=0), records.Pause(rollout=ulid(3)), state=RAMP)
    ramp = serving(state).ramp
    assert ramp is not None and ramp.begun == RAMP.head
    state = after(records.Resume(rollout=ulid(3)), state=state)
    ramp = serving(state).ramp
    assert ramp is not None and ramp.begun == ramp.seq == state.head


def test_what_is_said_nearer_counts() -> None:
    state = after(
        records.Policy(settings={"hold": 60, "idle": 3_600}),
        records.Policy(environment="staging", settings={"hold": 5, "guards": ("p99 < 80ms",)}),
    )
    assert settings(State(), "production") == Settings()
    assert settings(state, "production").hold == 60
    assert (settings(state, "staging").hold, settings(state, "staging").idle) == (5, 3_600)
    assert settings(state, "staging").guards == ("p99 < 80ms",)
    taken = after(records.Policy(environment="staging", settings={"hold": None}), state=state)
    assert settings(taken, "staging").hold == 60
    assert "already" in refused(state, records.Policy(settings={"hold": 60}))
    assert "already" in refused(state, records.Policy(settings={"warn": None}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hold", -1),
        ("hold", (1,)),
        ("holds", 60),
        ("steps", (500, 100)),
        ("steps", ("1%",)),
        ("min_requests", {"a": "b"}),
        ("guards", (1,)),
        ("warn", (0,)),
        ("notify", {"ops": "nobody"}),
        ("notify", {"ops": "json://ops\n"}),
        ("notify", {"ops": "json://ops\x85"}),
        ("shadow_fraction", 0),
        ("deadline", 0),
    ],
)
def test_a_setting_that_makes_no_sense(name: str, value: Setting) -> None:
    assert name in refused(THREE, records.Policy(settings={name: value}))


@pytest.mark.parametrize("character", ["é", "\U0001fae8", "\u0378", "\u200b"])
def test_a_url_is_one_whichever_characters_python_knows(character: str) -> None:
    said = {"notify": {"ops": f"json://ops/{character}"}}
    assert settings(after(records.Policy(settings=said)), "").notify == said["notify"]


def notice(state: State) -> Notice:
    (found,) = state.notices.values()
    return found


def test_a_launch_opens_a_notice_that_notified_closes_once() -> None:
    state = after(promote(3, 9), state=NOTIFIED)
    found = notice(state)
    assert (found.id, found.previous) == (f"launched.churn.3.{state.head}", 2)
    closed = after(records.Notified(notice=found.id), state=state)
    assert closed.notices == {}
    assert "is pending" in refused(closed, records.Notified(notice=found.id))


def test_a_completed_ramp_a_halt_a_rollback_and_a_retirement_open_one() -> None:
    ramp = after(promote(3, 9, steps=(100, 10_000)), state=NOTIFIED)
    assert ramp.notices == {}
    advance = records.Advance(rollout=ulid(9), step=0)
    done = after(advance, records.Complete(rollout=ulid(9), step=1), state=ramp)
    assert (notice(done).kind, notice(done).rollout) == ("launched", ulid(9))
    halted = after(records.Halt(rollout=ulid(9), reason="errors"), state=ramp)
    assert (notice(halted).kind, notice(halted).version, notice(halted).reason) == ("halted", 3, "errors")
    back = after(records.Rollback(model="churn", reason="by hand"), state=ramp)
    assert (notice(back).kind, notice(back).version) == ("rolled back", 3)
    gone = after(retire(3), state=NOTIFIED)
    assert (notice(gone).kind, notice(gone).environment) == ("retired", "")


def test_a_rollback_where_nothing_is_stable_is_a_launch() -> None:
    gone = after(msgspec.structs.replace(retire(2), force=True), state=NOTIFIED)
    silent = msgspec.structs.replace(gone, notices={})
    back = after(records.Rollback(model="churn"), state=silent)
    assert back.environments["production"]["churn"].stable == 1
    assert (notice(back).kind, notice(back).version, notice(back).previous) == ("launched", 1, None)


def test_one_record_that_does_the_same_in_two_environments_opens_a_notice_for_each() -> None:
    def together(state: State, *said: records.Action) -> State:
        return fold(state, state.head + 1, chain([said], state.head + 1, state.head_sha256)[0])

    both = together(NOTIFIED, promote(3, 8), promote(3, 9, environment="staging"))
    name = f"launched.churn.3.{both.head}"
    assert {each.id: each.environment for each in both.notices.values()} == {
        name: "production", f"{name}.staging": "staging",
    }  # fmt: skip
    assert all(each.id == key for key, each in both.notices.items())
    told = after(records.Notified(notice=name), state=both)
    assert notice(told).environment == "staging"
    back = records.Rollback(model="churn", to=1)
    done = together(told, back, msgspec.structs.replace(back, environment="staging"))
    assert [each.environment for each in done.notices.values()] == ["staging", "production", "staging"]


def test_a_retirement_is_told_to_an_environments_people_where_the_store_has_none() -> None:
    ours, theirs = {"notify": {"us": "json://us"}}, {"notify": {"them": "json://them"}}
    alone = after(
        records.Policy(environment="staging", settings=ours),
        records.Policy(environment="production", settings=theirs),
        records.Policy(environment="elsewhere", settings=ours),
        state=THREE,
    )
    assert notice(after(retire(3), state=alone)).environment == "production"
    both = after(promote(2, 9, environment="staging"), state=alone)
    both = msgspec.structs.replace(both, notices={})
    assert notice(after(retire(3), state=both)).environment == "production"
    store = after(records.Policy(settings=ours), state=both)
    assert notice(after(retire(3), state=store)).environment == ""
    elsewhere = after(records.Policy(environment="elsewhere", settings=ours), state=THREE)
    assert after(retire(3), state=elsewhere).notices == {}


def test_with_nobody_to_notify_nothing_is_opened() -> None:
    assert after(promote(3, 9), state=THREE).notices == {}
    nobody = after(records.Policy(environment="production", settings={"notify": {}}), state=NOTIFIED)
    assert after(promote(3, 9), state=nobody).notices == {}


def test_warnings_of_an_expiry_are_closed_up_to_a_day() -> None:
    state = after(records.Notified(notice="expiry.churn.2.2029-12-02"), state=THREE)
    assert state.models["churn"].versions[2].warned == "2029-12-02"
    for day in ("2029-12-02", "2029-11-30", "2029-13-01"):
        refused(state, records.Notified(notice=f"expiry.churn.2.{day}"))
    refused(state, records.Notified(notice="expiry.churn.9.2029-12-03"))
    refused(after(retire(3), state=state), records.Notified(notice="expiry.churn.3.2029-12-03"))
