"""Whole ramps by chance: how often a good candidate is halted, and how often a bad one goes through.

What is claimed is claimed of 1,000 ramps (`full`); the quick tier plays fewer, with the same code. All are
drawn from fixed seeds: the same in every run, so none of it fails by accident.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from mldeploy.bundle.monitoring import _bins
from mldeploy.core.evidence import Column, Drift, Measure
from mldeploy.core.guards import parse
from mldeploy.core.judge import judge
from mldeploy.core.rollout import FALSE_ALARM, FALSE_PASS
from mldeploy.core.verdicts import Doubt, Step
from tests.core.ramps import Behaviour, play

GOOD = [
    pytest.param(Behaviour(errors=0.0), id="no errors"),
    pytest.param(Behaviour(errors=0.01), id="1 % errors"),
    pytest.param(Behaviour(errors=0.05, sigma=1.0), id="5 % errors, heavy tail"),
]
BAD = [
    pytest.param(Behaviour(errors=0.01), Behaviour(errors=0.02), id="1 % to 2 % errors"),
    pytest.param(Behaviour(errors=0.05), Behaviour(errors=0.10), id="5 % to 10 % errors"),
    pytest.param(Behaviour(errors=0.0), Behaviour(errors=0.02), id="0 to 2 % errors"),
    pytest.param(Behaviour(), Behaviour(median=0.020), id="latency doubled"),
    pytest.param(Behaviour(sigma=0.8), Behaviour(sigma=1.1), id="p99 doubled, median the same"),
]


def _ends(stable: Behaviour, candidate: Behaviour, ramps: int, first: int = 0) -> Counter[str]:
    return Counter(play(stable, candidate, seed) for seed in range(first, first + ramps))


@pytest.mark.parametrize("stable", GOOD)
def test_a_candidate_like_stable_goes_through(stable: Behaviour) -> None:
    ends = _ends(stable, stable, 8)
    assert ends["halted"] == 0
    assert ends["completed"] >= 7


@pytest.mark.parametrize(("stable", "candidate"), BAD)
def test_a_bad_candidate_does_not(stable: Behaviour, candidate: Behaviour) -> None:
    ends = _ends(stable, candidate, 15)
    assert ends["completed"] == 0
    assert ends["halted"] >= 12


@pytest.mark.full
@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("stable", GOOD)
def test_fewer_than_one_false_alarm_in_a_hundred_of_a_thousand_ramps(stable: Behaviour) -> None:
    ends = _ends(stable, stable, 1_000, 10_000)
    assert ends["halted"] < 10, ends
    assert ends["completed"] > 950, ends


@pytest.mark.full
@pytest.mark.timeout(3_000)
@pytest.mark.parametrize(("stable", "candidate"), BAD)
def test_more_than_99_of_100_bad_candidates_are_caught(stable: Behaviour, candidate: Behaviour) -> None:
    ends = _ends(stable, candidate, 1_000, 20_000)
    # caught is halted: one that is late has had its share of the traffic for a day
    assert ends["halted"] > 990, ends


# --- drift against a small baseline

Draw = Callable[[np.random.Generator, int], "np.ndarray"]


def numbers(shift: float = 0.0) -> Draw:
    return lambda rng, rows: rng.normal(size=rows) + shift


def values(count: int, skew: float, often: Sequence[float] = ()) -> Draw:
    """`count` values, the k-th as frequent as 1 / k^skew; the first ones `often` times as much."""
    weights = 1 / np.arange(1, count + 1) ** skew
    weights[: len(often)] *= often
    return lambda rng, rows: rng.choice(count, size=rows, p=weights / weights.sum())


#: What the baseline is of; each distribution has cost healthy candidates their rollout.
SAME = [
    pytest.param(numbers(), id="numbers"),
    pytest.param(values(31, 0.0), id="31 values"),
    pytest.param(values(100, 1.0), id="100 skewed values"),
    pytest.param(values(1_000, 0.0), id="values seen once"),
]
OTHER = [
    pytest.param(numbers(), numbers(1.5), id="numbers moved by 1.5 σ"),
    pytest.param(values(5, 0.0), values(5, 0.0, [15]), id="one value of five takes most"),
]


def drifts(before: Draw, now: Draw, limit: float, rows: int, runs: int, seed: int = 1) -> Counter[str]:
    """Verdicts on a baseline of `rows` and 20,000 live values, as they are packed and counted."""
    rng = np.random.default_rng(seed)
    guard, doubt = parse(f"drift(c) < {limit}"), Doubt(FALSE_ALARM / 8, FALSE_PASS)
    found: Counter[str] = Counter()
    for _ in range(runs):
        packed, live = _bins(before(rng, rows)), now(rng, 20_000)
        assert packed is not None
        if packed["kind"] == "number":
            counts = np.bincount(
                np.searchsorted(packed["edges"], live, side="right"), minlength=len(packed["counts"])
            )
        else:
            seen = Counter(live.tolist())
            known = [seen[value] for value in packed["values"]]
            counts = np.array([*known, len(live) - sum(known)])
        column = Column(baseline=packed["counts"], live=tuple(counts.tolist()))
        drift = Drift(columns={"c": column})
        candidate = Measure(model="m", version=2, scope=1, role="candidate", drift=drift)
        found[judge(guard, Step(candidate, None, False, False, {}, {}), doubt).verdict] += 1
    return found


@pytest.mark.parametrize("limit", [0.1, 0.2])
@pytest.mark.parametrize("same", SAME)
def test_the_noise_of_a_small_baseline_halts_nobody(same: Draw, limit: float) -> None:
    assert drifts(same, same, limit, 100, 30)["breached"] == 0


@pytest.mark.parametrize(("before", "now"), OTHER)
def test_a_great_change_is_seen_with_a_small_baseline_too(before: Draw, now: Draw) -> None:
    assert drifts(before, now, 0.2, 100, 10)["breached"] == 10


def test_a_baseline_of_a_thousand_rows_is_enough_for_ten_bins() -> None:
    assert drifts(numbers(), numbers(), 0.1, 1_000, 30)["holds"] == 30
    assert drifts(numbers(), numbers(1.0), 0.1, 1_000, 10)["breached"] == 10


@pytest.mark.full
@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("rows", [100, 150, 300, 1_000])
@pytest.mark.parametrize("same", SAME)
def test_fewer_than_one_in_a_thousand_small_baselines_halts_a_healthy_candidate(
    same: Draw, rows: int
) -> None:
    assert drifts(same, same, 0.1, rows, 2_000)["breached"] <= 2
