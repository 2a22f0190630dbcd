"""What each action does, and what it is refused for."""

from __future__ import annotations

from typing import Any

import pytest

from mldeploy.core import records
from mldeploy.core.fold import fold_many, refusal
from mldeploy.core.records import Action
from mldeploy.core.state import Serving, State
from mldeploy.errors import NotAllowedError, NotFoundError
from tests.core.strategies import chain, sha, ulid


def publish(bundle: int, at: int | None = None, model: str = "churn", **changes: Any) -> records.Publish:
    fields: dict[str, Any] = {
        "model": model,
        "digest": sha(f"bundle {bundle}"),
        "push": ulid(bundle if at is None else at),
        "brought": {sha(f"bundle {bundle}"): 5, sha(f"blob {bundle}"): 7},
        "owner": "o",
        "expires": "2030-01-01",
        "python": "3.11",
        "platform": "linux-x86_64",
    }
    return records.Publish(**fields | changes)


def promote(version: int, rollout: int = 1, **changes: Any) -> records.Promote:
    return records.Promote(model="churn", version=version, rollout=ulid(rollout), **changes)


def retire(version: int, *, force: bool = False) -> records.Retire:
    return records.Retire(model="churn", version=version, force=force)


def after(*said: Action, state: State | None = None) -> State:
    """The state after one record for each; none of them may be void."""
    state = state or State()
    found = chain([[action] for action in said], state.head + 1, state.head_sha256)
    before = state.voids
    state = fold_many(state, enumerate(found, state.head + 1))
    assert state.voids == before
    return state


def refused(state: State, *said: Action) -> str:
    problem = refusal(state, said)
    assert isinstance(problem, NotAllowedError | NotFoundError), problem
    assert problem.hint
    return problem.message


def serving(state: State, environment: str = "production") -> Serving:
    return state.environments[environment]["churn"]


TWO = after(publish(1), publish(2), promote(1, 1), promote(2, 2))
RAMP = after(promote(3, 3, steps=(100, 1_000, 10_000), hold=60), state=after(publish(3), state=TWO))


# --- publish, retire, restore


def test_publish_numbers_the_versions_and_brings_blobs() -> None:
    state = after(publish(1), publish(2, brought={sha("bundle 2"): 5}, reused=(sha("blob 1"),)))
    assert list(state.models["churn"].versions) == [1, 2]
    second = state.models["churn"].versions[2]
    assert (second.seq, second.size, second.actor) == (2, 12, "test")
    assert set(second.blobs) == {sha("bundle 2"), sha("blob 1")}
    assert state.blobs[sha("blob 1")].push == ulid(1)


def test_a_live_digest_is_published_once_and_a_retired_one_again() -> None:
    state = after(publish(1))
    assert "already churn@1" in refused(state, publish(1, at=9))
    assert after(publish(1, at=9, model="other"), state=state).models["other"].versions[1].digest
    state = after(retire(1), publish(1, at=9), state=state)
    assert list(state.models["churn"].versions) == [1, 2]
    assert "live as churn@2" in refused(state, records.Restore(model="churn", version=1))


def test_two_pushes_that_bring_the_same_blob_leave_the_first_key() -> None:
    both = {sha("shared"): 3}
    state = after(
        publish(1, brought={sha("bundle 1"): 5, **both}), publish(2, brought={sha("bundle 2"): 5, **both})
    )
    assert state.blobs[sha("shared")].push == ulid(1)
    assert "wrong size" in refused(state, publish(3, brought={sha("bundle 3"): 5, sha("shared"): 4}))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "Bad"},
        {"digest": "x"},
        {"digest": sha("not among the blobs")},
        {"push": "../../etc"},
        {"push": ulid(1).upper() + "A"},
        {"expires": "90d"},
        {"expires": "2030-02-30"},
        {"brought": {sha("bundle 9"): -1}},
        {"reused": (sha("never brought"),)},
        {"reused": (sha("bundle 9"),)},
    ],
)
def test_a_publish_that_makes_no_sense(changes: dict[str, Any]) -> None:
    refused(State(), publish(9, **changes))


def test_retire_is_refused_in_traffic_and_with_force_takes_the_routes() -> None:
    assert "stable in production" in refused(TWO, retire(2))
    state = after(retire(2, force=True), state=TWO)
    assert (serving(state).stable, serving(state).previous) == (None, 1)
    assert "already retired" in refused(state, retire(2, force=True))
    assert "taking traffic" in refused(RAMP, retire(3))
    state = after(retire(3, force=True), state=RAMP)
    assert serving(state).ramp is None
    assert serving(state).ended.outcome == "halted"  # type: ignore[union-attr]
    assert serving(state).stable == 2


def test_force_cuts_off_what_was_retired_without_it() -> None:
    notify = records.Policy(settings={"notify": {"ops": "json://ops.example.com"}})
    state = after(notify, retire(1), state=TWO)
    assert not state.models["churn"].versions[1].cut
    assert "already retired" in refused(state, retire(1))
    when, told = state.models["churn"].versions[1].retired, state.notices
    state = after(retire(1, force=True), state=state)
    assert (state.models["churn"].versions[1].cut, state.models["churn"].versions[1].retired) == (True, when)
    assert state.notices == told, "people were told when it was retired"
    assert "already retired" in refused(state, retire(1, force=True))
    state = after(records.Restore(model="churn", version=1), retire(1), state=state)
    assert not state.models["churn"].versions[1].cut


def test_retiring_the_previous_version_leaves_nothing_to_roll_back_to() -> None:
    state = after(retire(1), state=TWO)
    assert serving(state).previous is None
    assert "no previous version" in refused(state, records.Rollback(model="churn"))
    assert "is retired" in refused(state, promote(1, 9))
    state = after(records.Restore(model="churn", version=1), promote(1, 9), state=state)
    assert serving(state).stable == 1


def test_restore_needs_the_blobs() -> None:
    state = after(retire(1), records.Sweep(horizon=ulid(5), blobs=(sha("blob 1"),)), state=TWO)
    assert "collected" in refused(state, records.Restore(model="churn", version=1))
    assert "not retired" in refused(state, records.Restore(model="churn", version=2))


def test_extend() -> None:
    extend = records.Extend(model="churn", version=1, expires="2031-01-01")
    state = after(extend, state=TWO)
    assert state.models["churn"].versions[1].expires == "2031-01-01"
    assert "already" in refused(state, extend)
    refused(state, records.Extend(model="churn", version=1, expires="90d"))


def test_sweep_takes_what_nothing_needs_and_bars_older_pushes() -> None:
    state = after(publish(1), publish(2), retire(1))
    assert "needed" in refused(state, records.Sweep(horizon=ulid(5), blobs=(sha("blob 2"),)))
    assert "younger" in refused(state, records.Sweep(horizon=ulid(1), blobs=(sha("blob 1"),)))
    assert "not live" in refused(state, records.Sweep(horizon=ulid(5), blobs=(sha("else"),)))
    refused(state, records.Sweep(horizon="later"))
    sweep = records.Sweep(horizon=ulid(5), blobs=(sha("blob 1"),))
    state = after(sweep, state=state)
    assert sha("blob 1") not in state.blobs
    refused(state, sweep)
    assert "gone further" in refused(state, records.Sweep(horizon=ulid(4)))
    assert "before the last collection" in refused(state, publish(3, at=4))
    assert "no longer in the store" in refused(state, publish(6, reused=(sha("blob 1"),)))
    again = publish(6, brought={sha("bundle 6"): 1, sha("blob 1"): 7})
    assert after(again, state=state).blobs[sha("blob 1")].push == ulid(6)


def test_a_sweep_sees_what_the_same_batch_published_and_retired() -> None:
    sweep = records.Sweep(horizon=ulid(5), blobs=(sha("blob 1"),))
    more = records.Sweep(horizon=ulid(6), blobs=(sha("blob 2"),))
    state = after(publish(1), retire(1), publish(2), sweep, retire(2), more)
    assert set(state.blobs) == {sha("bundle 1"), sha("bundle 2")}


# --- promote and rollouts


def test_promote_at_once() -> None:
    assert (serving(TWO).stable, serving(TWO).previous, serving(TWO).ramp) == (2, 1, None)
    assert "already stable" in refused(TWO, promote(2, 9))
    assert "already stable" in refused(TWO, promote(2, 9, steps=(100,)))
    assert "no model" in refused(TWO, records.Promote(model="fraud", version=1, rollout=ulid(9)))
    assert "newest version is churn@2" in str(refusal(TWO, [promote(7, 9)]).hint)  # type: ignore[union-attr]
    for steps in ((), (0,), (100, 100), (10_001,), (200, 100)):
        refused(TWO, promote(1, 9, steps=steps))
    refused(TWO, promote(1, 9, hold=-1))
    refused(TWO, promote(1, 9, environment="No Such"))
    refused(TWO, records.Promote(model="churn", version=1, rollout=""))


def test_the_first_version_is_stable_whatever_the_steps() -> None:
    state = after(publish(1), promote(1, steps=(100, 10_000)))
    assert (serving(state).stable, serving(state).ramp) == (1, None)


def test_on_labels_it_is_a_ramp_in_any_case() -> None:
    state = after(publish(1), promote(1, on=("zone=a",)))
    ramp = serving(state).ramp
    assert serving(state).stable is None
    assert ramp is not None
    assert (ramp.on, ramp.share) == (("zone=a",), 10_000)
    # some hosts are not all of them: that is for another promote to say
    refusal = refused(state, records.Complete(rollout=ulid(1), step=0))
    assert "holds at 100 % on zone=a" in refusal
    everywhere = serving(after(promote(1, 2), state=state))
    assert (everywhere.stable, everywhere.ramp) == (1, None)
    assert everywhere.ended is not None
    assert everywhere.ended.outcome == "completed"
    # with nothing stable nobody could answer the rest, on those hosts either
    steps = serving(after(publish(1), promote(1, on=("zone=a",), steps=(0, 100, 10_000)))).ramp
    assert steps is not None
    assert steps.steps == (10_000,)


@pytest.mark.parametrize("on", [("zone",), ("=a",), ("zone=",), ("zone=a", "zone=b"), ("zone=a", "zone=a")])
def test_a_rollout_on_what_is_no_label_is_void(on: tuple[str, ...]) -> None:
    assert "label" in refused(TWO, promote(1, 9, on=on))
    after(promote(1, 9, on=("zone=a", "gpu=1")), state=TWO)


def test_a_ramp_advances_step_by_step_and_completes() -> None:
    def advance(step: int) -> records.Advance:
        return records.Advance(rollout=ulid(3), step=step)

    def complete(step: int) -> records.Complete:
        return records.Complete(rollout=ulid(3), step=step)

    ramp = serving(RAMP).ramp
    assert ramp is not None
    assert (ramp.share, ramp.hold, ramp.actor, ramp.salt) == (100, 60, "test", ulid(3))
    assert "step 0, not 1" in refused(RAMP, advance(1))
    assert "last step" in refused(RAMP, complete(0))
    state = after(advance(0), advance(1), state=RAMP)
    assert serving(state).ramp.share == 10_000  # type: ignore[union-attr]
    assert "step 2" in refused(state, advance(0))
    assert "at its last step" in refused(state, advance(2))
    state = after(complete(2), state=state)
    assert (serving(state).stable, serving(state).previous, serving(state).ramp) == (3, 2, None)
    assert serving(state).ended.outcome == "completed"  # type: ignore[union-attr]
    assert "under way" in refused(state, complete(2))
    assert "used before" in refused(state, promote(1, 3))


def test_a_ramp_below_100_percent_holds() -> None:
    state = after(promote(1, 9, steps=(2_500,)), state=TWO)
    assert "holds at 25 %" in refused(state, records.Complete(rollout=ulid(9), step=0))
    again = after(promote(1, 10, steps=(5_000,)), state=state)
    ramp = serving(again).ramp
    assert ramp is not None
    assert (ramp.rollout, ramp.share) == (ulid(10), 5_000)
    assert ramp.salt == ulid(9)  # who was with it stays with it
    done = after(promote(1, 11), state=again)
    assert (serving(done).stable, serving(done).ended.outcome) == (1, "completed")  # type: ignore[union-attr]


def test_another_promote_supersedes_a_ramp() -> None:
    state = after(promote(1, 9, steps=(500,)), state=RAMP)
    assert serving(state).ended.outcome == "superseded"  # type: ignore[union-attr]
    assert serving(state).ramp.version == 1  # type: ignore[union-attr]
    assert serving(state).ramp.salt == ulid(9)  # type: ignore[union-attr]
    # stable asked for again: that ends the ramp
    state = after(promote(2, 9), state=RAMP)
    assert (serving(state).stable, serving(state).previous, serving(state).ramp) == (2, 1, None)


def test_pause_and_resume() -> None:
    pause, resume = records.Pause(rollout=ulid(3)), records.Resume(rollout=ulid(3))
    assert "not paused" in refused(RAMP, resume)
    state = after(pause, state=RAMP)
    assert "already paused" in refused(state, pause)
    assert "is paused" in refused(state, records.Advance(rollout=ulid(3), step=0))
    state = after(resume, state=state)
    assert serving(state).ramp.seq == state.head  # type: ignore[union-attr]


def test_halt_and_rollback_end_a_ramp_at_any_step() -> None:
    for action, outcome in (
        (records.Halt(rollout=ulid(3), reason="slow"), "halted"),
        (records.Rollback(model="churn", reason="slow"), "rolled back"),
    ):
        state = after(records.Advance(rollout=ulid(3), step=0), action, state=RAMP)
        assert (serving(state).stable, serving(state).previous, serving(state).ramp) == (2, 1, None)
        ended = serving(state).ended
        assert ended is not None
        assert (ended.outcome, ended.reason, ended.version, ended.seq) == (outcome, "slow", 3, state.head)


def test_rollback_without_a_ramp() -> None:
    rollback = records.Rollback(model="churn")
    state = after(rollback, state=TWO)
    assert (serving(state).stable, serving(state).previous) == (1, 2)
    assert "already stable" in refused(state, records.Rollback(model="churn", to=1))
    assert "no churn@9" in refused(state, records.Rollback(model="churn", to=9))
    assert "no previous" in refused(after(publish(1)), rollback)
    assert "no model" in refused(State(), rollback)
    state = after(records.Rollback(model="churn", to=1), state=RAMP)
    assert (serving(state).stable, serving(state).ramp) == (1, None)
    assert "being rolled back" in refused(RAMP, records.Rollback(model="churn", to=3))


def test_rollback_after_stable_was_retired_by_force() -> None:
    state = after(retire(2, force=True), records.Rollback(model="churn"), state=TWO)
    assert (serving(state).stable, serving(state).previous) == (1, None)


def test_environments_are_apart() -> None:
    state = after(promote(1, 9, environment="staging"), state=TWO)
    assert (serving(state).stable, serving(state, "staging").stable) == (2, 1)
    assert "stable in staging" in refused(state, retire(1))


# --- freeze, hosts, records of several actions


def test_freeze_refuses_promotes_and_not_rollbacks() -> None:
    freeze = records.Freeze(model="churn", reason="audit")
    state = after(freeze, state=TWO)
    assert "frozen in production: audit" in refused(state, promote(1, 9))
    assert "already frozen" in refused(state, freeze)
    assert serving(state).seq == serving(TWO).seq  # it says nothing of the traffic
    assert serving(after(records.Rollback(model="churn"), state=state)).stable == 1
    state = after(records.Unfreeze(model="churn"), promote(1, 9), state=state)
    assert "not frozen" in refused(state, records.Unfreeze(model="churn"))
    assert "no model" in refused(state, records.Freeze(model="fraud"))


def test_freeze_of_an_environment() -> None:
    state = after(records.Freeze(), state=TWO)
    assert "production is frozen" in refused(state, promote(1, 9))
    assert refusal(state, [promote(1, 9)]).hint == "run `mldeploy unfreeze --all` first"  # type: ignore[union-attr]
    assert refusal(state, [promote(1, 9, environment="staging")]) is None
    assert "not frozen" in refused(state, records.Unfreeze(model="churn"))
    state = after(records.Unfreeze(), state=state)
    assert "not frozen" in refused(state, records.Unfreeze())


def test_hosts() -> None:
    join = records.Join(host="h1", hostname="web-1", labels={"zone": "a"})
    state = after(join)
    assert "already a member" in refused(state, join)
    state = after(records.Join(host="h1", hostname="web-2"), state=state)
    assert state.hosts["h1"].hostname == "web-2"
    state = after(records.Forget(host="h1"), join, records.Leave(host="h1"), state=state)
    assert state.hosts == {}
    refused(state, records.Leave(host="h1"))
    refused(state, records.Join(host="../h1"))


def test_a_record_is_all_or_nothing() -> None:
    state = after(publish(1))
    bad = (publish(2), promote(2), records.Join(host="h1"), promote(9, 9))
    assert "no churn@9" in refused(state, *bad)
    good = chain([list(bad[:3])], state.head + 1, state.head_sha256)
    state = fold_many(state, [(state.head + 1, good[0])])
    assert (serving(state).stable, set(state.hosts)) == (2, {"h1"})
    void = chain([[promote(1, 5), promote(9, 9)]], state.head + 1, state.head_sha256)
    again = fold_many(state, [(state.head + 1, void[0])])
    assert (again.environments, again.voids, again.head) == (state.environments, 1, 3)
