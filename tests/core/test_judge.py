"""Verdicts: what each guard takes for a breach, for holding, and for too little."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from mldeploy.core import sequential
from mldeploy.core.evidence import (
    LAST_BUCKET,
    Column,
    Comparison,
    Drift,
    GuardVerdict,
    Latency,
    Measure,
    Tally,
    plausible,
)
from mldeploy.core.guards import parse
from mldeploy.core.judge import judge
from mldeploy.core.sequential import Rate
from mldeploy.core.verdicts import Doubt, Step
from tests.core.ramps import measure

DOUBT = Doubt(0.001, 0.005)


def step(candidate: Measure | None = None, stable: Measure | None = None, **fields: Any) -> Step:
    given: dict[str, Any] = {"shadow": False, "full": False, "metrics": {}, "stable_metrics": {}}
    return Step(candidate=candidate, stable=stable, **given | fields)


def verdict(guard: str, at: Step) -> GuardVerdict:
    return judge(parse(guard), at, DOUBT)


def counted(requests: int, failures: int = 0, **fields: Any) -> Measure:
    return measure(2, 10, "candidate", Tally(requests=requests, failures=failures, **fields))


def timed(seconds: float, count: int, slow: int = 0) -> Measure:
    """Latencies around `seconds`, and `slow` of three times as much."""
    latency = Latency()
    chance = random.Random(1)
    for _ in range(count - slow):
        latency.observe(seconds * chance.uniform(0.8, 1.0))
    latency.observe(seconds * 3, slow)
    return counted(count, latency=latency)


def compared(pairs: int, within: int, failed: int = 0, **fields: Any) -> Measure:
    comparison = Comparison(pairs=pairs, within=within, failed=failed, **fields)
    return measure(2, 10, "shadow", Tally(), comparison=comparison)


@pytest.mark.parametrize(
    ("guard", "candidate", "stable", "expected"),
    [
        ("error_rate < 1%", counted(5_000, 10), None, "holds"),
        ("error_rate < 1%", counted(5_000, 50), None, "undecided"),
        ("error_rate < 1%", counted(5_000, 120), None, "breached"),
        ("error_rate < 1%", counted(20, 1), None, "undecided"),
        ("error_rate < 1%", None, None, "undecided"),
        ("error_rate < 1.5x", counted(2_000, 0), counted(100_000, 0), "holds"),
        ("error_rate < 1.5x", counted(20_000, 200), counted(100_000, 1_000), "holds"),
        ("error_rate < 1.5x", counted(2_000, 20), counted(2_000, 20), "undecided"),
        ("error_rate < 1.5x", counted(2_000, 300), counted(2_000, 100), "breached"),
        # four times as many, and less than half a percent of the requests: not taken for a difference
        ("error_rate < 1.5x", counted(100_000, 80), counted(100_000, 20), "holds"),
        ("error_rate < 1.5x", counted(2_000, 2_000), counted(0), "undecided"),
        ("p99 < 80ms", timed(0.040, 3_000), None, "holds"),
        ("p99 < 80ms", timed(0.040, 3_000, slow=120), None, "breached"),
        ("p99 < 80ms", timed(0.040, 30), None, "undecided"),
        ("p99 < 1.2x", timed(0.040, 5_000), timed(0.040, 50_000), "holds"),
        ("p99 < 1.2x", timed(0.080, 5_000), timed(0.040, 50_000), "breached"),
        ("p99 < 1.2x", timed(0.040, 5_000, slow=200), timed(0.040, 50_000), "breached"),
        ("p50 < 1.2x", timed(0.080, 300), timed(0.040, 3_000), "breached"),
        # twice as long, and by less than a millisecond
        ("p50 < 1.2x", timed(0.0004, 5_000), timed(0.0002, 5_000), "holds"),
        ("mean < 80ms", timed(0.040, 500), None, "holds"),
        ("mean < 80ms", timed(0.120, 500), None, "breached"),
        ("mean < 80ms", timed(0.040, 20), None, "undecided"),
        ("mean < 1.2x", timed(0.080, 2_000), timed(0.040, 2_000), "breached"),
        ("mean < 1.2x", timed(0.040, 2_000), timed(0.040, 2_000), "holds"),
        ("crashes < 1", counted(10), None, "holds"),
        ("crashes < 1", counted(10, crashes=1), None, "breached"),
        ("memory < 1.5x", counted(10, memory=100 << 20), counted(10, memory=90 << 20), "holds"),
        ("memory < 1.5x", counted(10, memory=900 << 20), counted(10, memory=90 << 20), "breached"),
        ("memory < 1.5x", counted(10, memory=30 << 20), counted(10, memory=3 << 20), "holds"),
        ("memory < 1GiB", counted(10, memory=2 << 30), None, "breached"),
        ("memory < 1GiB", counted(10), None, "undecided"),
    ],
)  # fmt: skip
def test_what_the_counts_support(
    guard: str, candidate: Measure | None, stable: Measure | None, expected: str
) -> None:
    found = verdict(guard, step(candidate, stable))
    assert found.verdict == expected, found
    assert bool(found.why) == (expected == "undecided")
    if found.low is not None and found.high is not None and found.value is not None:
        assert found.low <= found.value <= found.high


def test_an_undecided_guard_says_about_how_much_is_missing() -> None:
    found = verdict("error_rate < 1%", step(counted(400)))
    assert found.verdict == "undecided"
    more = int(found.why.split()[1].replace(",", ""))
    assert verdict("error_rate < 1%", step(counted(400 + 3 * more))).verdict == "holds"


@pytest.mark.parametrize(
    ("pairs", "within", "expected"),
    [(3_000, 2_950, "holds"), (3_000, 2_400, "breached"), (50, 50, "undecided"), (0, 0, "undecided")],
)
def test_agreement_at_a_shadow_step(pairs: int, within: int, expected: str) -> None:
    found = verdict("agreement > 95%", step(compared(pairs, within), shadow=True))
    assert found.verdict == expected
    if expected == "undecided":
        assert "compared answers" in found.why


def test_at_a_shadow_step_errors_of_copies_count_and_latency_does_not() -> None:
    stable = counted(50_000, 100)
    bad = step(compared(1_000, 900, failed=100), stable, shadow=True)
    assert verdict("error_rate < 1.5x", bad).verdict == "breached"
    assert verdict("p99 < 1.2x", bad).verdict == "rests"
    assert verdict("agreement > 95%", step(counted(100), stable)).verdict == "rests"


def test_without_a_stable_version_or_its_traffic_comparisons_rest() -> None:
    candidate = counted(1_000, 500)
    for at in (step(candidate, stable_metrics=None, full=True), step(candidate, full=True)):
        assert verdict("error_rate < 1.5x", at).verdict == "rests"
        assert verdict("error_rate < 1%", at).verdict == "breached"


def test_below_100_percent_a_stable_version_that_is_gone_leaves_comparisons_undecided() -> None:
    at = step(counted(1_000, 500), stable_metrics=None, metrics={"auc": 0.5})
    for guard in ("error_rate < 1.5x", "p99 < 1.5x", "memory < 2x", "metric(auc) > 0.9x"):
        found = verdict(guard, at)
        assert (found.verdict, found.why[:31]) == ("undecided", "the stable version was retired:")
    assert verdict("error_rate < 1%", at).verdict == "breached"


def test_drift_against_the_baseline() -> None:
    def found(live: tuple[int, ...], name: str = "age") -> GuardVerdict:
        drift = Drift(columns={name: Column(baseline=(1_000, 2_000, 3_000), live=live)})
        return verdict("drift(age) < 0.2", step(measure(2, 10, "candidate", Tally(), drift=drift)))

    assert found((1_000, 2_000, 3_000)).verdict == "holds"
    assert found((5_000, 500, 500)).verdict == "breached"
    assert found((5, 10, 15)).verdict == "undecided"
    assert "no column age; it has sum" in found((1, 2, 3), "sum").why
    assert "sampled" in verdict("drift(age) < 0.2", step(counted(10))).why


def test_a_small_baseline_is_noisy_itself() -> None:
    """100 rows of 10 even bins: an index of 0.1 is what chance makes of the same distribution."""

    def found(live: tuple[int, ...], rows: int = 100) -> GuardVerdict:
        column = Column(baseline=(rows // 10,) * 10, live=live)
        return verdict(
            "drift(age) < 0.1",
            step(measure(2, 10, "candidate", Tally(), drift=Drift(columns={"age": column}))),
        )

    # every other bin by 45 % more and less: an index of 0.22
    uneven = (7_250, 2_750) * 5
    assert found((5_000,) * 10).verdict == "holds"
    small, large = found(uneven), found(uneven, 10_000)
    assert (small.verdict, large.verdict) == ("undecided", "breached")
    assert small.why == "a baseline of 100 rows is too small to tell this from chance: pack it with more"
    assert small.value == pytest.approx(large.value, abs=0.03)
    assert (small.low or 0.0) < 0.1 < (large.low or 0.0)
    # so much is no chance, of 100 rows either
    assert found((30_000, 20_000, 1, 1, 1, 1, 1, 1, 1, 1)).verdict == "breached"


def test_values_of_few_baseline_rows_count_with_all_others() -> None:
    """31 of many values, seen once each, and never again so often: that they are named is chance."""
    column = Column(baseline=(1,) * 31 + (69,), live=(20,) * 31 + (19_380,))
    found = verdict(
        "drift(id) < 0.1", step(measure(2, 10, "candidate", Tally(), drift=Drift(columns={"id": column})))
    )
    assert found.verdict == "undecided" and found.low == 0.0 and (found.value or 0.0) > 0.5
    empty = Drift(columns={"id": Column(baseline=(0, 0), live=(500, 500))})
    assert (
        "no values of id"
        in verdict("drift(id) < 0.1", step(measure(2, 10, "candidate", Tally(), drift=empty))).why
    )


def test_the_bundles_own_metric() -> None:
    at = step(metrics={"auc": 0.91}, stable_metrics={"auc": 0.92})
    assert verdict("metric(auc) > 0.9", at).verdict == "holds"
    assert verdict("metric(auc) > 0.92", at).verdict == "breached"
    assert verdict("metric(auc) > 0.98x", at).verdict == "holds"
    assert verdict("metric(auc) > 1.01x", at).verdict == "breached"
    assert "without the metric f1; it has auc" in verdict("metric(f1) > 0.9", at).why
    assert verdict("metric(auc) > 0.9x", step(metrics={"auc": 1.0})).verdict == "rests"


# --- the numbers below the verdicts


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0.001, 0.999))
def test_counts_never_speak_for_both_sides(total: int, share: float, limit: float) -> None:
    rate = Rate(total, int(total * share))
    enough = sequential.needed(0.05)
    assert not (sequential.above(rate, limit) >= enough and sequential.below(rate, limit) >= enough)
    low, high = sequential.rate_bounds(rate, 0.01)
    assert low <= rate.value <= high


_whole = st.sampled_from([0, 1, 10, 99, 10**4, 2**53]) | st.integers(0, 2**53)


@st.composite
def _told(draw: st.DrawFn, role: str) -> Measure:
    """What a host may tell, parts that are more than their whole among it."""

    def part(whole: int) -> int:
        return draw(st.sampled_from([0, whole // 2, whole]) | st.integers(0, 2 * whole + 50))

    requests, pairs = draw(_whole), draw(_whole)
    tally = Tally(
        requests=requests, failures=part(requests), refusals=draw(st.sampled_from([0, 1, requests])),
        latency=Latency(draw(st.dictionaries(st.integers(0, LAST_BUCKET), _whole, max_size=3))),
        crashes=draw(_whole), memory=draw(_whole),
    )  # fmt: skip
    within, classed = part(pairs), part(pairs)
    comparison = Comparison(
        pairs=pairs, failed=draw(st.sampled_from([0, 1, pairs])), within=within, agreed=within,
        classed=classed, same_class=part(classed),
    )  # fmt: skip
    bins = st.lists(_whole, max_size=3).map(tuple)
    drift = Drift(columns={"age": Column(baseline=draw(bins), live=draw(bins))})
    return measure(2, 10, role, tally, comparison=comparison, drift=drift)


@given(_told("candidate"), _told("stable"), st.integers(0, 12), st.booleans())
@example(counted(10, 50), counted(10), 0, False)
@example(counted(2**53, 2**53), counted(2**53), 0, False)
@example(compared(10, 20), counted(10), 0, True)
@settings(max_examples=50, suppress_health_check=[HealthCheck.filter_too_much])
def test_nothing_that_hosts_may_tell_is_too_much_for_a_judge(
    candidate: Measure, stable: Measure, doublings: int, shadow: bool
) -> None:
    assume(plausible([candidate, stable]))
    for _ in range(doublings):  # so many hosts say the same
        candidate, stable = candidate.merge(candidate), stable.merge(stable)
    for guard in (
        "error_rate < 1.5x", "error_rate < 60%", "refusal_rate < 1%", "p50 < 10ms", "p99 < 1.5x",
        "mean < 1.2x", "agreement > 95%", "agreement > 30%", "drift(age) < 0.2", "crashes < 1",
        "memory < 1.5x",
    ):  # fmt: skip
        found = verdict(guard, step(candidate, stable, shadow=shadow))
        assert found.verdict in ("breached", "holds", "undecided", "rests")
        assert guard[:5] not in ("error", "agree") or found.value is None or 0 <= found.value <= 1


def test_looking_after_every_request_raises_no_more_alarms_than_promised() -> None:
    chance = random.Random(3)
    alarms = 0
    for _ in range(400):
        hits = 0
        for total in range(1, 600):
            hits += chance.random() < 0.05
            if sequential.above(Rate(total, hits), 0.05) >= sequential.needed(0.05):
                alarms += 1
                break
    assert alarms <= 0.05 * 400


def test_looking_at_two_versions_again_and_again_raises_no_more_either() -> None:
    chance = random.Random(4)
    alarms = 0
    for _ in range(100):
        ours = theirs = 0
        for total in range(10, 1_500, 10):
            ours += sum(chance.random() < 0.06 for _ in range(10))
            theirs += sum(chance.random() < 0.04 for _ in range(10))
            one, other = Rate(total, ours), Rate(total, theirs)
            if sequential.more_than_times(one, other, 1.5) >= sequential.needed(0.05):
                alarms += 1
                break
    assert alarms <= 0.05 * 100


def test_a_mean_is_not_bounded_by_a_handful() -> None:
    assert sequential.mean_margin(99, 1.0, 0.01) == float("inf")
    assert sequential.mean_margin(10_000, 1.0, 0.01) < sequential.mean_margin(1_000, 1.0, 0.01) < 0.2
