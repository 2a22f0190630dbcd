"""What the state keeps of rollouts and shadows that are over, so that their records can be found."""

from __future__ import annotations

import pytest

from mldeploy.core import past, records
from mldeploy.core.state import Past, State
from tests.core.strategies import ulid
from tests.core.test_actions import RAMP, TWO, after, promote, publish, retire, serving

THREE = after(publish(3), state=TWO)


def last(state: State) -> Past:
    return serving(state).past[-1]


def test_a_rollouts_trail_names_every_record_of_it() -> None:
    begun = RAMP.head
    rollout = serving(RAMP).ramp
    assert rollout is not None and rollout.trail == (begun,)
    state = after(
        records.Advance(rollout=rollout.rollout, step=0),
        records.Pause(rollout=rollout.rollout),
        records.Freeze(model="churn"),  # no word about the rollout
        records.Resume(rollout=rollout.rollout),
        records.Halt(rollout=rollout.rollout, reason="errors"),
        state=RAMP,
    )
    assert last(state).ended.trail == (begun, begun + 1, begun + 2, begun + 4, begun + 5)
    assert last(state).ended == serving(state).ended
    assert last(state).ended.outcome == "halted"


def test_a_shadow_does_not_take_the_place_of_a_halted_rollout_of_its_version() -> None:
    halted = after(records.Halt(rollout=ulid(3), reason="errors"), state=RAMP)
    version = serving(RAMP).ramp.version  # type: ignore[union-attr]
    shadow = records.Shadow(model="churn", version=version, shadow=ulid(50))
    state = after(shadow, records.Unshadow(shadow=ulid(50)), state=halted)
    kinds = [each.kind for each in serving(state).past if each.ended.version == version]
    assert kinds == ["rollout", "shadow"]


def test_what_needed_one_record_is_remembered_too() -> None:
    assert [(each.ended.version, each.ended.outcome) for each in serving(TWO).past][-1] == (2, "completed")
    assert last(TWO).ended.trail == (last(TWO).ended.seq,)
    back = after(records.Rollback(model="churn", reason="worse"), state=TWO)
    assert (last(back).ended.version, last(back).ended.outcome, last(back).ended.reason) == (
        2, "rolled back", "worse",
    )  # fmt: skip


def test_a_shadow_and_a_rollout_ended_by_its_retirement() -> None:
    shadow = records.Shadow(model="churn", version=3, shadow=ulid(50))
    state = after(shadow, records.Unshadow(shadow=ulid(50), reason="seen enough"), state=THREE)
    assert last(state).kind == "shadow"
    assert last(state).ended.trail == (state.head - 1, state.head)
    assert last(state).ended.reason == "seen enough"
    ramp = serving(RAMP).ramp
    assert ramp is not None
    gone = after(retire(ramp.version, force=True), state=RAMP)
    assert last(gone).ended.outcome == "halted" and last(gone).ended.trail == (*ramp.trail, gone.head)


@pytest.mark.parametrize(
    "said",
    [
        retire(3), retire(2, force=True), promote(3, 9, steps=(100, 10_000)),
        records.Rollback(model="churn", to=3),
    ],
)  # fmt: skip
def test_a_shadow_that_ends_with_something_else_is_remembered(said: records.Action) -> None:
    shadow = records.Shadow(model="churn", version=3, shadow=ulid(50))
    state = after(shadow, said, state=THREE)
    (over,) = [each for each in serving(state).past if each.ended.version == 3]
    assert (over.kind, over.ended.rollout, over.ended.outcome) == ("shadow", ulid(50), "ended")
    assert over.ended.reason and over.ended.trail == (state.head - 1, state.head)


def test_it_stays_small() -> None:
    state = TWO
    for number in range(3, 3 + past.KEPT + 5):
        state = after(publish(number), promote(number, number), state=state)
    kept = serving(state).past
    assert len(kept) == past.KEPT
    assert len({each.ended.version for each in kept}) == past.KEPT
    trail: tuple[int, ...] = ()
    for seq in range(1, past.LONGEST + 50):
        trail = past.longer(past.longer(trail, seq), seq)
    assert len(trail) == past.LONGEST and trail[0] == 1 and trail[-1] == past.LONGEST + 49
