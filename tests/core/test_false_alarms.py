"""Whole ramps by chance: how often a good candidate is halted, and how often a bad one goes through.

What is claimed is claimed of 1,000 ramps (`full`); the quick tier plays fewer, with the same code.
"""

from __future__ import annotations

from collections import Counter

import pytest

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
    assert ends["completed"] < 10, ends
