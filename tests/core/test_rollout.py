"""What a rollout does next, and what it says while it waits."""

from __future__ import annotations

import msgspec

from mldeploy.core.evidence import Comparison, Tally
from mldeploy.core.policy import Settings
from mldeploy.core.records import Advance, Complete, Halt
from mldeploy.core.rollout import Decision, Watch, decide
from mldeploy.core.state import Serving
from tests.core.ramps import CANDIDATE, STABLE, STEPS, measure, serving, version

VERSIONS = {STABLE: version(STABLE), CANDIDATE: version(CANDIDATE)}
GUARD = ("error_rate < 5%",)


def watched(requests: int = 1_000, failures: int = 0, step: int = 0, **fields: object) -> Watch:
    candidate = Tally(requests=requests, failures=failures)
    measures = [
        measure(STABLE, 10 + step, "stable", Tally(requests=50_000)),
        measure(CANDIDATE, 10 + step, "candidate", candidate),
        # of the step before, and of another version: not evidence
        measure(CANDIDATE, 9, "candidate", Tally(requests=9_000, failures=9_000)),
        measure(7, 10 + step, "candidate", Tally(requests=9_000, failures=9_000)),
    ]
    given = {"now": 5_000.0, "since": 1_000.0, "begun": 1_000.0, "members": 20, "heard": 19, "failed": 0}
    given |= fields
    come_up = {"up": given["heard"] - given["failed"]}  # type: ignore[operator]
    return Watch(**come_up | {"measures": measures} | given)  # type: ignore[arg-type]


def decided(at: Serving, watch: Watch) -> Decision:
    found = decide(at, VERSIONS, Settings(), watch)
    assert found is not None
    return found


def ramp(step: int = 0, **fields: object) -> Serving:
    return serving(STEPS, step, **{"guards": GUARD, "hold": 600, **fields})


def test_a_step_that_is_over_goes_on_with_its_evidence() -> None:
    found = decided(ramp(), watched())
    assert isinstance(found.action, Advance)
    assert (found.action.rollout, found.action.step) == ("r", 0)
    evidence = found.action.evidence
    assert evidence is not None
    assert (evidence.hosts, evidence.members, evidence.start, evidence.end) == (19, 20, 1_000.0, 5_000.0)
    assert [m.tally.requests for m in evidence.measures] == [50_000, 1_000]
    assert [g.verdict for g in evidence.guards] == ["holds"]


def test_the_last_step_completes() -> None:
    found = decided(ramp(3), watched(step=3))
    assert isinstance(found.action, Complete)


def test_without_a_ramp_there_is_nothing() -> None:
    assert decide(Serving(stable=STABLE), VERSIONS, Settings(), watched()) is None


def test_what_is_missing_is_said() -> None:
    hold = decided(ramp(), watched(now=1_090.0))
    assert hold.action is None
    assert hold.waits == ("its hold ends in 8m30s",)
    heard = decided(ramp(), watched(heard=18))
    assert heard.waits == ("18 of 20 hosts have reported that they are at this step",)
    nobody = decided(ramp(), watched(members=0, heard=0))
    assert nobody.action is None
    few = decided(ramp(min_requests=2_000), watched())
    assert few.waits == ("1,000 of 2,000 requests of the candidate",)
    unsure = decided(ramp(guards=("error_rate < 0.1%",)), watched())
    assert unsure.waits[0].startswith("error_rate < 0.1%: about ")
    unknown = decided(ramp(), watched(since=None))
    assert "not known" in unknown.waits[0]


def test_a_candidate_that_does_not_come_up_waits_and_on_half_of_the_hosts_is_halted() -> None:
    few = decided(ramp(), watched(heard=20, failed=2))
    assert (few.action, few.waits) == (None, ("it has come up on 18 of 20 hosts, and fails on 2",))
    assert isinstance(decided(ramp(), watched(heard=20, failed=1)).action, Advance)
    slow = decided(ramp(), watched(heard=20, up=1))
    assert (slow.action, slow.waits) == (None, ("it has come up on 1 of 20 hosts",))
    late = decided(ramp(deadline=60), watched(heard=20, up=1)).action
    assert isinstance(late, Halt) and late.reason.endswith(" UTC: it has come up on 1 of 20 hosts")
    assert isinstance(decided(ramp(), watched(heard=20, up=19)).action, Advance)
    half = decided(ramp(), watched(0, heard=10, failed=10)).action
    assert isinstance(half, Halt)
    assert half.reason == "it does not come up on 10 of 20 hosts"


def test_a_breach_halts_at_once_whoever_has_reported() -> None:
    bad = watched(200, 50, heard=1, now=1_001.0)
    found = decided(ramp(), bad)
    assert isinstance(found.action, Halt)
    assert found.action.reason.startswith("error_rate < 5%: 25 % (at least ")
    assert found.action.reason.endswith("limit 5 %")
    assert isinstance(decided(ramp(paused=True), bad).action, Halt)


def test_paused_it_waits() -> None:
    assert decided(ramp(paused=True), watched()) == decided(ramp(paused=True), watched())
    assert decided(ramp(paused=True), watched()).waits == ("it is paused",)
    late = watched(now=10**9)
    assert decided(ramp(paused=True), late).action is None
    assert isinstance(decided(ramp(paused=True), watched(failed=10)).action, Halt)


def test_a_ramp_past_its_deadline_is_halted_and_says_for_what_it_waited() -> None:
    waits = watched(50, now=1_000.0 + 7_200)
    found = decided(ramp(deadline=7_200), waits)
    assert isinstance(found.action, Halt)
    assert found.action.reason.startswith("not enough evidence by 1970-01-01 02:16 UTC: 50 of 200 requests")
    assert decided(ramp(deadline=7_201), waits).action is None
    # the policy's deadline is beside the holds
    day = watched(50, now=1_000.0 + 86_400 + 4 * 600 - 1)
    assert decided(ramp(), day).action is None
    assert isinstance(decided(ramp(), day._replace(now=day.now + 1)).action, Halt)


def test_a_step_that_is_over_at_the_deadline_still_goes_on() -> None:
    assert isinstance(decided(ramp(deadline=60, hold=0), watched()).action, Advance)


def test_a_last_step_below_100_percent_stays_and_is_guarded() -> None:
    steps = (100, 2_500)
    stays = serving(steps, 1, guards=GUARD)
    found = decided(stays, watched(step=1, now=10**9))
    assert (found.action, found.waits) == (None, ())
    assert decided(stays, watched(0, step=1, now=10**9)).action is None
    assert isinstance(decided(stays, watched(200, 50, step=1)).action, Halt)


def test_a_shadow_step_is_judged_by_its_copies() -> None:
    steps = (0, 100, 10_000)
    at = serving(steps, 0, guards=("agreement > 95%",))

    def shadowed(pairs: int, within: int) -> Decision:
        comparison = Comparison(pairs=pairs, within=within)
        shadow = measure(CANDIDATE, 10, "shadow", Tally(), comparison=comparison)
        return decided(at, watched()._replace(measures=[shadow]))

    assert isinstance(shadowed(1_000, 1_000).action, Advance)
    assert isinstance(shadowed(1_000, 700).action, Halt)
    assert "150 of 200 compared answers" in shadowed(150, 150).waits
    on_traffic = decided(serving(steps, 1, guards=("agreement > 95%",)), watched(step=1))
    assert isinstance(on_traffic.action, Advance)


def test_the_policys_guards_count_where_the_rollout_has_none() -> None:
    crashed = [measure(CANDIDATE, 10, "candidate", Tally(requests=1_000, crashes=1))]
    assert isinstance(decided(ramp(guards=()), watched()._replace(measures=crashed)).action, Halt)
    assert isinstance(decided(ramp(guards=("none",)), watched()._replace(measures=crashed)).action, Advance)


def test_a_record_with_its_evidence_is_read_back_the_same() -> None:
    action = decided(ramp(), watched()).action
    assert msgspec.json.decode(msgspec.json.encode(action), type=Advance) == action
