"""Evidence: merging in any order and grouping, quantiles against the sorted numbers, drift."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mldeploy.core import evidence
from mldeploy.core.evidence import GROWTH, LAST_BUCKET, Column, Comparison, Drift, Latency, Measure, Tally

_count = st.integers(0, 10**12)
_latency = st.dictionaries(st.integers(0, LAST_BUCKET), st.integers(1, 10**9), max_size=5).map(Latency)
_tally = st.builds(Tally, requests=_count, failures=_count, latency=_latency, memory=_count)
_comparison = st.none() | st.builds(Comparison, pairs=_count, within=_count, latency=_latency, pauses=_count)
_bins = st.lists(st.integers(0, 10**6), max_size=4).map(tuple)
_column = st.builds(Column, baseline=_bins, live=_bins)
_drift = st.none() | st.builds(
    Drift, columns=st.dictionaries(st.sampled_from(["age", "sum"]), _column, max_size=2)
)
_measure = st.builds(
    Measure,
    model=st.sampled_from(["churn", "fraud"]),
    version=st.integers(1, 2),
    scope=st.integers(1, 2),
    role=st.sampled_from(["stable", "candidate"]),
    tally=_tally,
    comparison=_comparison,
    drift=_drift,
)


@given(st.lists(_measure, max_size=6), st.randoms())
def test_merging_in_any_order_and_grouping_gives_the_same(
    measures: list[Measure], chance: random.Random
) -> None:
    whole = evidence.merge(measures)
    shuffled = list(measures)
    chance.shuffle(shuffled)
    cut = chance.randint(0, len(shuffled))
    parts = [*evidence.merge(shuffled[cut:]), *evidence.merge(shuffled[:cut])]
    assert evidence.merge(parts) == whole
    assert msgspec.json.decode(msgspec.json.encode(whole), type=tuple[Measure, ...]) == whole


def test_only_like_is_merged_with_like() -> None:
    one = Measure(model="churn", version=1, scope=1, role="stable")
    with pytest.raises(ValueError, match="is not"):
        one.merge(msgspec.structs.replace(one, role="candidate"))


@given(st.floats(1e-7, 1e4))
def test_a_latency_lies_between_the_edges_of_its_bucket(seconds: float) -> None:
    index = evidence.bucket(seconds)
    assert 0 <= index <= LAST_BUCKET
    if 0 < index < LAST_BUCKET:
        assert evidence.edge(index - 1) * (1 - 1e-8) < seconds <= evidence.edge(index) * (1 + 1e-8)


def test_memory_is_constant_whatever_is_counted() -> None:
    latency = Latency()
    for number in range(200_000):
        latency.observe(number**2 / 1e6)
    assert latency.total == 200_000
    assert len(latency.counts) <= LAST_BUCKET + 1


@given(st.lists(st.floats(1e-4, 100.0), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_quantile_is_that_of_the_numbers_to_a_bucket(numbers: list[float], share: float) -> None:
    latency = Latency()
    for number in numbers:
        latency.observe(number)
    exact = sorted(numbers)[math.ceil(share * len(numbers)) - 1]
    assert exact * (1 - 1e-8) <= latency.quantile(share) <= exact * GROWTH * (1 + 1e-8)


def test_mean_and_variance_to_a_bucket() -> None:
    latency = Latency()
    chance = random.Random(1)
    numbers = [chance.lognormvariate(-4, 0.5) for _ in range(5_000)]
    for number in numbers:
        latency.observe(number)
    mean, variance = latency.moments()
    exact = sum(numbers) / len(numbers)
    assert abs(mean / exact - 1) < 0.01
    assert abs(variance / (sum((n - exact) ** 2 for n in numbers) / len(numbers)) - 1) < 0.05


def test_drift_is_nothing_for_the_same_shares_and_grows_with_the_difference() -> None:
    same = Column(baseline=(100, 300, 600), live=(1_000, 3_000, 6_000))
    moved = Column(baseline=(100, 300, 600), live=(3_000, 3_000, 4_000))
    assert same.psi() < 0.001
    # (0.3 - 0.1) ln 3 + (0.4 - 0.6) ln (2/3) = 0.3008
    assert moved.psi() == pytest.approx(0.3008, abs=0.01)
    assert Column(baseline=(1, 2)).psi() == 0.0
    assert math.isfinite(Column(baseline=(10, 0), live=(0, 10)).psi())


@pytest.mark.parametrize(
    "compared",
    [
        Comparison(pairs=10, within=20), Comparison(pairs=10, failed=6, within=5), Comparison(agreed=1),
        Comparison(pairs=10, failed=6, classed=5), Comparison(pairs=10, classed=4, same_class=5),
    ],
)  # fmt: skip
def test_a_part_is_not_more_than_the_whole(compared: Comparison) -> None:
    measure = Measure(model="churn", version=1, scope=1, role="shadow", comparison=compared)
    assert not evidence.plausible([measure])
    right = Comparison(pairs=10, failed=4, agreed=5, within=6, classed=6, same_class=6)
    assert evidence.plausible([msgspec.structs.replace(measure, comparison=right)])


def test_agreement_is_by_class_where_there_is_one_and_an_error_disagrees() -> None:
    scores = Comparison(pairs=100, failed=10, within=80)
    assert scores.agreement == (80, 100)
    labels = Comparison(pairs=100, failed=10, within=20, classed=90, same_class=85)
    assert labels.agreement == (85, 100)
