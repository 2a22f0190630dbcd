"""What a report says, composed from records that a real fold accepted."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import pytest

from mldeploy.core import records
from mldeploy.core.evidence import Column, Comparison, Drift, Evidence, Latency, Measure, Tally, merge
from mldeploy.core.state import Notice
from mldeploy.reporting import compose, mail, page, text
from mldeploy.reporting.difference import difference
from mldeploy.reporting.steps import Subject
from mldeploy.reporting.values import Change, LaunchReport
from tests.core.strategies import ulid
from tests.reporting import scene
from tests.reporting.scene import APART, ROLLOUT, START, Scene

SUBJECT = Subject("production", "churn", 8, ROLLOUT)


def notice_of(told: Scene, kind: str, version: int = 8) -> Notice:
    (found,) = (n for n in told.state.notices.values() if (n.kind, n.version) == (kind, version))
    return found


def told_of(told: Scene, kind: str, version: int = 8) -> LaunchReport:
    notice = notice_of(told, kind, version)
    trail = compose.trail_of(told.state, notice)
    manifests = {number: scene.manifest(number) for number in (7, 8)}
    return compose.of_notice(told.state, notice, told.records(trail), manifests)


def test_a_launch_tells_every_step_with_its_window_and_numbers() -> None:
    told = scene.launched()
    report = told_of(told, "launched")
    begun = told.state.head - 5
    assert report.title == "churn@8 is stable in production, in place of churn@7"
    assert (report.outcome, report.version, report.beside, report.rollout) == ("launched", 8, 7, ROLLOUT)
    assert report.promoted_by == "alice@laptop" and report.ended_by == "host:h1"
    assert report.seconds == 5 * APART
    assert [step.share for step in report.steps] == list(scene.STEPS)
    assert [step.scope for step in report.steps] == list(range(begun, begun + 5))
    assert [step.outcome for step in report.steps] == ["advanced"] * 4 + ["completed"]
    assert all(step.seconds == APART and (step.hosts, step.members) == (3, 3) for step in report.steps)
    shadow, first = report.steps[0], report.steps[1]
    assert shadow.copied == 2_000 and shadow.agreement is not None
    assert shadow.agreement.share == 1_985 / 2_000 and shadow.agreement.rank == 0.94
    assert first.agreement is None
    # the figures are those of the evidence, not others that look alike
    said = scene.evidence(begun + 1, 100)
    mine, theirs = said.measures[1].tally, said.measures[0].tally
    assert first.candidate is not None and first.stable is not None
    assert first.candidate.requests == mine.requests == 400
    assert first.candidate.p99 == mine.latency.quantile(0.99)
    assert first.stable.p50 == theirs.latency.quantile(0.5)
    assert first.stable.error_rate == 9 / 20_000
    assert first.guards == said.guards
    assert first.drift[0].name == "income" and first.drift[0].psi == pytest.approx(
        said.measures[1].drift.columns["income"].psi()  # type: ignore[union-attr]
    )


def test_it_sets_both_bundles_side_by_side() -> None:
    report = told_of(scene.launched(), "launched")
    assert report.candidate is not None and report.stable is not None
    assert report.candidate.metrics == {"auc": 0.921, "log_loss": 0.31}
    assert report.stable.metrics == {"auc": 0.907}
    assert report.difference is not None
    assert report.difference.files == (
        Change(what="code/extra.py", before="", after="10 B"),
        Change(what="model/model.pkl", before="6.7 MiB", after="7.6 MiB"),
    )
    assert report.difference.requirements == (Change(what="scikit-learn", before="1.7.0", after="1.8.0"),)
    assert (report.difference.same_files, report.difference.same_requirements) == (1, 1)


def test_a_setting_that_one_bundle_leaves_out_is_told_with_its_default() -> None:
    before = scene.manifest(8)
    after = msgspec.structs.replace(before, python="3.12", description="better")
    assert difference(before, after).settings == (
        Change(what="description", before="", after="better"),
        Change(what="python", before="3.11", after="3.12"),
    )


def test_a_halt_tells_the_step_it_failed_at_and_why() -> None:
    told = scene.pushed()
    scope = scene.begun(told, (100, 1_000, 10_000))
    scope = told.say(records.Advance(rollout=ROLLOUT, step=0, evidence=scene.evidence(scope, 100)))
    told.say(
        records.Halt(
            rollout=ROLLOUT, reason="error_rate < 1.5x: 2 %",
            evidence=scene.evidence(scope, 1_000, failing=True),
        )
    )  # fmt: skip
    report = told_of(told, "halted")
    assert report.title == "churn@8 was halted in production; churn@7 serves"
    assert report.reason == "error_rate < 1.5x: 2 %"
    assert [step.outcome for step in report.steps] == ["advanced", "halted"]
    assert report.steps[1].guards[0].verdict == "breached"
    assert report.planned == (100, 1_000, 10_000)


def test_a_pause_is_a_window_of_its_own_and_a_rollback_ends_the_story() -> None:
    told = scene.pushed()
    scene.begun(told, (100, 10_000))
    told.say(records.Pause(rollout=ROLLOUT, reason="lunch"), actor="bob@laptop")
    told.say(records.Resume(rollout=ROLLOUT), actor="bob@laptop")
    told.say(records.Rollback(model="churn", reason="a hunch"), actor="bob@laptop")
    report = told_of(told, "rolled back")
    assert [step.outcome for step in report.steps] == ["held", "paused", "rolled back"]
    assert report.steps[0].reason == "lunch" and report.steps[0].candidate is None
    assert report.ended_by == "bob@laptop" and report.reason == "a hunch"


def test_what_one_record_did_is_told_too() -> None:
    told = scene.pushed()
    report = told_of(told, "launched", 7)
    assert report.title == "churn@7 is stable in production"
    assert report.steps == () and report.promoted_by == "ci@build"
    told.say(records.Retire(model="churn", version=3, reason="too old"), actor="carol@laptop")
    report = told_of(told, "retired", 3)
    assert report.title == "churn@3 was retired" and report.kind == "retirement"
    assert report.reason == "too old" and report.ended_by == "carol@laptop"


def test_records_and_bundles_that_are_gone_leave_a_report_that_says_less() -> None:
    told = scene.launched()
    notice = notice_of(told, "launched")
    trail = compose.trail_of(told.state, notice)
    report = compose.of_notice(told.state, notice, told.records(trail[3:]), {})
    assert report.difference is None and report.promoted_by == ""
    assert report.outcome == "launched" and report.ended_by == "host:h1"
    assert compose.of_notice(told.state, notice, [], {}).title == report.title


def test_one_under_way_shows_what_is_measured_now() -> None:
    told = scene.pushed()
    scope = scene.begun(told, (100, 10_000))
    measures = merge((*scene.evidence(scope, 100).measures, *scene.evidence(scope, 100).measures))
    live = Evidence(hosts=2, members=3, end=START + APART * scope + 60, measures=measures)
    ramp = told.state.environments["production"]["churn"].ramp
    assert ramp is not None
    report = compose.of_present(
        told.state, SUBJECT, told.records(ramp.trail), {}, live, ["its hold ends in 4m"]
    )
    assert report.title == "churn@8 takes 1% in production"
    assert report.outcome == "under way" and report.ended_at is None and report.seconds == 60
    (step,) = report.steps
    assert step.outcome == "under way" and step.end is None and step.seconds == 60
    assert step.candidate is not None and step.candidate.requests == 800
    assert report.waits == ("its hold ends in 4m",)


def test_a_shadow_from_beginning_to_end() -> None:
    told = scene.pushed()
    scope = told.say(
        records.Shadow(
            model="churn", version=8, shadow=ulid(70), fraction=2_000, where="header.country in [NL]"
        ),
        actor="alice@laptop",
    )
    told.say(records.Unshadow(shadow=ulid(70), reason="seen", evidence=scene.evidence(scope, 0)))
    past = told.state.environments["production"]["churn"].past[-1]
    subject = Subject("production", "churn", 8, past.ended.rollout)
    report = compose.of_past(told.state, subject, told.records(past.ended.trail), {})
    assert report.kind == "shadow" and report.outcome == "ended" and report.beside == 7
    assert report.where == "header.country in [NL]"
    (step,) = report.steps
    assert step.copied == 2_000 and step.agreement is not None and step.agreement.pairs == 2_000
    assert step.candidate is not None and step.candidate.p50 is not None


@pytest.mark.parametrize(
    ("said", "outcome", "reason"),
    [
        (records.Retire(model="churn", version=8, reason="wrong"), "retired", "wrong"),
        (records.Retire(model="churn", version=7, force=True), "ended", "churn@7 was retired"),
        (records.Promote(model="churn", version=8, rollout=ulid(71)), "ended", "it takes traffic now"),
        (
            records.Promote(model="churn", version=8, rollout=ulid(71), steps=(100,)),
            "ended",
            "it takes traffic now",
        ),
        (records.Rollback(model="churn", to=8), "ended", "it takes traffic now"),
    ],
    ids=["retired", "stable retired", "launched", "ramp", "gone back to"],
)
def test_a_shadow_that_something_else_has_ended(said: records.Action, outcome: str, reason: str) -> None:
    told = scene.pushed()
    first = told.say(records.Shadow(model="churn", version=8, shadow=ulid(70), fraction=2_000))
    trail = (first, told.say(said))
    subject = Subject("production", "churn", 8, ulid(70))
    report = compose.of_past(told.state, subject, told.records(trail), {})
    assert (report.kind, report.outcome, report.reason) == ("shadow", outcome, reason)
    assert [step.outcome for step in report.steps] == [outcome]


@pytest.mark.parametrize(
    ("today", "said"),
    [
        ("2027-05-01", "churn@7 expires in 30 days, on 2027-05-31"),
        ("2027-05-30", "churn@7 expires in 1 day, on 2027-05-31"),
        ("2027-05-31", "churn@7 expires today, on 2027-05-31"),
        ("2027-06-03", "churn@7 expired 3 days ago, on 2027-05-31, and is still used"),
    ],
)
def test_the_warning_of_an_expiry(today: str, said: str) -> None:
    told = scene.pushed()
    notice = Notice(
        id=f"expiry.churn.7.{today}",
        kind="expiring",
        environment="production",
        model="churn",
        version=7,
        seq=0,
    )
    report = compose.of_expiry(told.state, notice, datetime.date.fromisoformat(today), {})
    assert report.title == said
    assert report.candidate is not None and report.candidate.owner == scene.OWNER


@pytest.mark.parametrize(
    "measure",
    [
        {"tally": Tally(requests=5, latency=Latency({10**9: 1}))},
        {"tally": Tally(requests=5, latency=Latency({-5: 1}))},
        {"tally": Tally(requests=5, latency=Latency({5: 0}))},
        {"tally": Tally(requests=-1, failures=10**400)},
        {"tally": Tally(), "comparison": Comparison(pairs=-3, concordant=-1)},
        {"tally": Tally(), "drift": Drift(columns={"x": Column(baseline=(1, -1), live=(-1, 5))})},
    ],
    ids=range(6),
)
def test_evidence_that_nobody_could_have_counted_stops_no_report(measure: dict[str, Any]) -> None:
    told = scene.pushed()
    scope = scene.begun(told)
    found = Measure(model="churn", version=8, scope=scope, role="candidate", **measure)
    said = records.Halt(rollout=ROLLOUT, reason="no", evidence=Evidence(measures=(found,)))
    told.say(said)
    report = told_of(told, "halted")
    for render in (text.render, text.brief, mail.render, page.render):
        assert "churn@8" in render(report)
