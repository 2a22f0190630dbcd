"""Verdicts on latencies: quantiles and the mean, against a limit or against stable.

Rules: quantiles are known to a bucket (5 %), and so are comparisons of them. A difference of less than a
millisecond is none. Left out: guards on anything else (`core/judge.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from mldeploy.core import sequential
from mldeploy.core.evidence import LAST_BUCKET, GuardVerdict, Latency, Measure, bucket, edge
from mldeploy.core.guards import QUANTILES, Guard
from mldeploy.core.sequential import Rate
from mldeploy.core.verdicts import BREACHED, HOLDS, UNDECIDED, Doubt, Step, lacking, verdict_of

_LATENCY_FLOOR = 0.001  # seconds on top of stable's value
#: Evidence (a logarithm) beyond any that is needed.
_PLENTY = 100.0


def quantile(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
    """p50, p90, p95 and p99: the share of latencies above a threshold is a rate."""
    share = QUANTILES[guard.measure]
    candidate, stable = _Tail(step.candidate), _Tail(step.stable)
    if guard.times:
        worse, better = _against_stable(guard, candidate, stable, 1 - share)
        value = stable.latency.quantile(share)
        limit = max(guard.limit * value, value + _LATENCY_FLOOR) if stable.total else None
    else:
        limit = guard.limit
        # a bucket that reaches over the limit counts neither as above it nor as below
        at = bucket(limit)
        worse = sequential.above(candidate.above(at), 1 - share, 1 - share)
        better = sequential.below(candidate.above(at - 1), 1 - share, 1 - share)
    verdict = verdict_of(worse, better, doubt)
    low, high = _quantile_bounds(candidate, 1 - share, doubt)
    return GuardVerdict(
        guard=guard.text,
        verdict=verdict,
        value=candidate.latency.quantile(share) if candidate.total else None,
        low=low,
        high=high,
        stable=stable.latency.quantile(share) if guard.times and stable.total else None,
        limit=limit,
        why=lacking(verdict, candidate.total, max(worse, better), doubt),
    )


class _Tail:
    """How many latencies lie above each bucket."""

    def __init__(self, measure: Measure | None) -> None:
        self.latency = measure.tally.latency if measure else Latency()
        self.total = self.latency.total
        self.least = min(self.latency.counts, default=0)
        self.most = max(self.latency.counts, default=-1)
        left = self.total
        self._above = []
        for index in range(self.most + 1):
            left -= self.latency.counts.get(index, 0)
            self._above.append(left)

    def above(self, index: int) -> Rate:
        """How many are longer than `edge(index)`."""
        if index < 0:
            return Rate(self.total, self.total)
        return Rate(self.total, self._above[index] if index < len(self._above) else 0)


def _against_stable(guard: Guard, candidate: _Tail, stable: _Tail, tail: float) -> tuple[float, float]:
    """The evidence that the candidate's quantile is above, and below, the limit that stable's sets.

    Stable's true quantile is not known, so the evidence is what is left wherever it lies: for each bucket it
    may lie in, candidate and stable together speak against that. Quantiles are those of the buckets' upper
    edges, so the comparison is good to a bucket (5 %).
    """

    def over(at: int) -> Rate:
        return candidate.above(_down(max(guard.limit * edge(at), edge(at) + _LATENCY_FLOOR)))

    # beyond both ends nothing changes any more
    places = range(
        min(stable.least, candidate.least), min(max(candidate.most, stable.most, 0) + 1, LAST_BUCKET) + 1
    )
    worse = _least(
        reversed(places),
        lambda at: sequential.below(stable.above(at - 1), tail, tail),
        lambda at: sequential.above(over(at), tail, tail),
    )
    better = _least(
        places,
        lambda at: sequential.above(stable.above(at), tail, tail),
        lambda at: sequential.below(over(at), tail, tail),
    )
    return worse, better


def _least(places: Iterable[int], first: Callable[[int], float], second: Callable[[int], float]) -> float:
    """The least sum of both over these places, along which `first` falls and `second` rises.

    Where one alone is plenty, the other, which is never far below zero, need not be asked.
    """
    least = math.inf
    for at in places:
        one = first(at)
        if one > _PLENTY:
            continue
        other = second(at)
        least = min(least, one + other)
        if other > _PLENTY:
            break
    return least if least < math.inf else _PLENTY


def _down(seconds: float) -> int:
    """The last bucket whose upper edge is at most `seconds`."""
    index = bucket(seconds)
    return index if edge(index) <= seconds * (1 + 1e-9) else index - 1


def _quantile_bounds(tail: _Tail, rate: float, doubt: Doubt) -> tuple[float | None, float | None]:
    enough = sequential.needed(doubt.hold)
    low = high = None
    for index in range(tail.least, tail.most + 1):
        over = tail.above(index)
        if sequential.above(over, rate, rate) >= enough:
            low = edge(index)
        elif high is None and sequential.below(over, rate, rate) >= enough:
            high = edge(index)
    return low, high


def mean(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
    """The mean: by asymptotic bounds, for latencies have none of their own."""
    candidate, stable = _Mean(step.candidate), _Mean(step.stable)
    limit, slope = guard.limit, max(guard.limit, 1.0)
    if guard.times:
        limit = max(guard.limit * stable.value, stable.value + _LATENCY_FLOOR)

    def margin(chance: float) -> float:
        # both means are off at the most so far at once, but for twice half the chance
        ours = candidate.margin(chance / 2 if guard.times else chance)
        return ours + slope * stable.margin(chance / 2) if guard.times else ours

    verdict = UNDECIDED
    if candidate.count and (stable.count or not guard.times):
        if candidate.value - margin(doubt.breach) > limit:
            verdict = BREACHED
        elif candidate.value + margin(doubt.hold) < limit:
            verdict = HOLDS
    own = candidate.margin(doubt.hold)
    return GuardVerdict(
        guard=guard.text,
        verdict=verdict,
        value=candidate.value if candidate.count else None,
        low=max(0.0, candidate.value - own) if math.isfinite(own) else None,
        high=candidate.value + own if math.isfinite(own) else None,
        stable=stable.value if guard.times and stable.count else None,
        limit=limit if stable.count or not guard.times else None,
        why="more requests are needed" if verdict == UNDECIDED else "",
    )


class _Mean:
    def __init__(self, measure: Measure | None) -> None:
        latency = measure.tally.latency if measure else Latency()
        self.count = latency.total
        self.value, self.variance = latency.moments()

    def margin(self, chance: float) -> float:
        return sequential.mean_margin(self.count, self.variance, chance)
