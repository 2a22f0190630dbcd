"""Whether a guard holds: what the evidence of one step supports, and what it lacks, in words.

A verdict is one of four. **breached**: the evidence shows that the candidate is on the wrong side of the
limit. **holds**: it shows that it is on the right side. **undecided**: neither, yet. **rests**: the guard
has nothing to be judged by at this step (answers are compared at a shadow step alone; latency is not judged
there, because copies run behind the primaries; at 100 % no stable version takes traffic to compare with).

Rules: sound however often one looks (`core/sequential.py`), with the chance of each kind of mistake as
`Doubt` says. What holds has been shown: a candidate that just was not caught does not go on. A multiple of a
tiny value is not taken for a difference: a limit in times of stable's value is never less than `_FLOOR`
says.
Left out: what follows from the verdicts (`core/rollout.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from mldeploy.core import sequential
from mldeploy.core.evidence import LAST_BUCKET, Column, GuardVerdict, Latency, Measure, Tally, bucket, edge
from mldeploy.core.guards import QUANTILES, Guard
from mldeploy.core.sequential import Rate

BREACHED, HOLDS, UNDECIDED, RESTS = "breached", "holds", "undecided", "rests"

#: Less than this is not taken for a difference, where a guard compares with stable.
_FLOOR = {"error_rate": 0.005, "refusal_rate": 0.005, "memory": float(32 << 20)}
_LATENCY_FLOOR = 0.001  # seconds on top of stable's value
#: Evidence (a logarithm) beyond any that is needed.
_PLENTY = 100.0


class Doubt(NamedTuple):
    """The chance that a verdict on one guard at one step is wrong."""

    breach: float
    hold: float


class Step(NamedTuple):
    """What a guard is judged by at one step of a rollout."""

    candidate: Measure | None
    stable: Measure | None  # of the same scope; None: nothing counted, or nothing is stable
    shadow: bool  # the candidate answers copies
    full: bool  # the candidate takes everything
    metrics: Mapping[str, float]  # the bundle's own, of the candidate
    stable_metrics: Mapping[str, float] | None  # None: nothing is stable


def judge(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
    """The verdict on one guard."""
    why = _rests(guard, step)
    if why:
        return GuardVerdict(guard=guard.text, verdict=RESTS, why=why)
    return _JUDGES[guard.measure](guard, step, doubt)


def _rests(guard: Guard, step: Step) -> str:
    if guard.measure == "agreement" and not step.shadow:
        return "answers are compared at the shadow step"
    if step.shadow and (guard.measure in (*QUANTILES, "mean", "refusal_rate")):
        return "not judged at a shadow step"
    if guard.times and guard.measure != "metric":
        if step.stable_metrics is None:
            return "no version is stable to compare with"
        if step.full:
            return "stable takes no traffic to compare with"
    return ""


# --- rates


def _rate(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
    candidate, stable = _counted(guard, step.candidate, step), _counted(guard, step.stable, None)
    low, high = sequential.rate_bounds(candidate, doubt.hold)
    floor = _FLOOR[guard.measure]
    if guard.times:
        # over the limit is what is over both of its parts; under it, what is under either
        worse = min(
            sequential.more_than_times(candidate, stable, guard.limit),
            sequential.above(candidate, floor, floor),
        )
        better = sequential.either(
            sequential.less_than_times(candidate, stable, guard.limit),
            sequential.below(candidate, floor, floor),
        )
        limit = max(floor, guard.limit * stable.value)
    else:
        worse = sequential.above(candidate, guard.limit, guard.limit)
        better = sequential.below(candidate, guard.limit, guard.limit)
        limit = guard.limit
    verdict = _verdict(worse, better, doubt)
    return GuardVerdict(
        guard=guard.text,
        verdict=verdict,
        value=candidate.value if candidate.total else None,
        low=low,
        high=high,
        stable=stable.value if guard.times and stable.total else None,
        limit=limit,
        why=_lacking(verdict, candidate.total, max(worse, better), doubt),
    )


def _counted(guard: Guard, measure: Measure | None, step: Step | None) -> Rate:
    if measure is None:
        return Rate(0, 0)
    if step is not None and step.shadow:
        compared = measure.comparison
        return Rate(compared.pairs, compared.failed) if compared else Rate(0, 0)
    tally = measure.tally
    return Rate(tally.requests, tally.failures if guard.measure == "error_rate" else tally.refusals)


def _agreement(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
    compared = step.candidate.comparison if step.candidate else None
    agreed, pairs = compared.agreement if compared else (0, 0)
    apart, limit = Rate(pairs, pairs - agreed), 1 - guard.limit
    low, high = sequential.rate_bounds(apart, doubt.hold, limit)
    worse, better = sequential.above(apart, limit, limit), sequential.below(apart, limit, limit)
    verdict = _verdict(worse, better, doubt)
    return GuardVerdict(
        guard=guard.text,
        verdict=verdict,
        value=1 - apart.value if pairs else None,
        low=1 - high,
        high=1 - low,
        limit=guard.limit,
        why=_lacking(verdict, pairs, max(worse, better), doubt, "compared answers"),
    )


# --- latencies


def _quantile(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
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
    verdict = _verdict(worse, better, doubt)
    low, high = _quantile_bounds(candidate, 1 - share, doubt)
    return GuardVerdict(
        guard=guard.text,
        verdict=verdict,
        value=candidate.latency.quantile(share) if candidate.total else None,
        low=low,
        high=high,
        stable=stable.latency.quantile(share) if guard.times and stable.total else None,
        limit=limit,
        why=_lacking(verdict, candidate.total, max(worse, better), doubt),
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


def _mean(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
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


# --- what is not a rate


def _drift(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
    drift = step.candidate.drift if step.candidate else None
    column = drift.columns.get(guard.of) if drift else None
    if drift and drift.columns and column is None:
        known = ", ".join(sorted(drift.columns)[:5])
        return _unknown(guard, f"the bundle's baseline has no column {guard.of}; it has {known}")
    if column is None or not column.total:
        return _unknown(guard, "no live values have been sampled")
    value, bias, variance = _stability(column)
    verdict = UNDECIDED
    if value - bias - sequential.mean_margin(column.total, variance, doubt.breach) > guard.limit:
        verdict = BREACHED
    margin = sequential.mean_margin(column.total, variance, doubt.hold)
    if verdict == UNDECIDED and value + margin < guard.limit:
        verdict = HOLDS
    known_margin = math.isfinite(margin)
    return GuardVerdict(
        guard=guard.text,
        verdict=verdict,
        value=value,
        low=max(0.0, value - bias - margin) if known_margin else None,
        high=value + margin if known_margin else None,
        limit=guard.limit,
        why="more live values are needed" if verdict == UNDECIDED else "",
    )


def _stability(column: Column) -> tuple[float, float, float]:
    """The PSI, how much of it chance alone makes, and its variance times the number of live values.

    By the delta method: the derivative by a bin's share p against its baseline q is ln(p / q) + 1 - q / p,
    and half the second derivative times the share's variance is what is expected where nothing has changed.
    """
    shares, count = column.shares(), column.total
    slopes = [(now, math.log(now / before) + 1 - before / now) for before, now in shares]
    mean = sum(now * slope for now, slope in slopes)
    variance = sum(now * (slope - mean) ** 2 for now, slope in slopes)
    curved = sum((1 / now + before / now**2) * now * (1 - now) for before, now in shares)
    return column.psi(), curved / (2 * count), variance


def _crashes(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
    value = _tally(step.candidate).crashes
    verdict = BREACHED if value >= guard.limit else HOLDS
    return GuardVerdict(guard=guard.text, verdict=verdict, value=value, limit=guard.limit)


def _memory(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
    value, stable = _tally(step.candidate).memory, _tally(step.stable).memory
    if not value or (guard.times and not stable):
        return _unknown(
            guard, f"no worker of the {'candidate' if not value else 'stable version'} was weighed"
        )
    limit = max(guard.limit * stable, stable + _FLOOR["memory"]) if guard.times else guard.limit
    return GuardVerdict(
        guard=guard.text,
        verdict=BREACHED if value >= limit else HOLDS,
        value=value,
        stable=stable if guard.times else None,
        limit=limit,
    )


def _metric(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
    value = step.metrics.get(guard.of)
    if value is None:
        known = ", ".join(sorted(step.metrics)[:5]) or "none"
        return _unknown(guard, f"the bundle was published without the metric {guard.of}; it has {known}")
    limit, stable = guard.limit, None
    if guard.times:
        stable = (step.stable_metrics or {}).get(guard.of)
        if stable is None:
            return GuardVerdict(
                guard=guard.text, verdict=RESTS, value=value, why=f"stable was published without {guard.of}"
            )
        limit *= stable
    holds = value < limit if guard.order == "<" else value > limit
    return GuardVerdict(
        guard=guard.text, verdict=HOLDS if holds else BREACHED, value=value, stable=stable, limit=limit
    )


def _tally(measure: Measure | None) -> Tally:
    return measure.tally if measure else Tally()


def _unknown(guard: Guard, why: str) -> GuardVerdict:
    return GuardVerdict(guard=guard.text, verdict=UNDECIDED, limit=None, why=why)


def _verdict(worse: float, better: float, doubt: Doubt) -> str:
    if worse >= sequential.needed(doubt.breach):
        return BREACHED
    return HOLDS if better >= sequential.needed(doubt.hold) else UNDECIDED


def _lacking(verdict: str, count: int, evidence: float, doubt: Doubt, what: str = "requests") -> str:
    """About how many more requests an undecided guard needs, if things go on as they do."""
    if verdict != UNDECIDED:
        return ""
    # a prior costs a few nats before evidence grows, in proportion to the number of requests
    needed = sequential.needed(doubt.hold)
    if count < 50 or evidence <= 0:
        return f"more {what} are needed"
    more = math.ceil(count * (needed / evidence - 1))
    return f"about {max(more, 1):,} more {what} are needed"


_JUDGES: dict[str, Callable[[Guard, Step, Doubt], GuardVerdict]] = {
    "error_rate": _rate,
    "refusal_rate": _rate,
    **dict.fromkeys(QUANTILES, _quantile),
    "mean": _mean,
    "agreement": _agreement,
    "drift": _drift,
    "crashes": _crashes,
    "memory": _memory,
    "metric": _metric,
}
