"""Whether a guard holds: what the evidence of one step supports, and what it lacks, in words.

A verdict is one of four. **breached**: the evidence shows that the candidate is on the wrong side of the
limit. **holds**: it shows that it is on the right side. **undecided**: neither, yet. **rests**: the guard
has nothing to be judged by at this step (answers are compared at a shadow step alone; latency is not judged
there, because copies run behind the primaries; at 100 % no stable version takes traffic to compare with).
Below 100 % a comparison of what is measured never rests: there was a stable version when the rollout began,
and where it was retired since, the candidate must not go on unjudged. A comparison of the bundles' own
metrics needs no traffic: it is judged at 100 % as well, and rests at every step where stable was published
without that metric.

Rules: sound however often one looks (`core/sequential.py`), with the chance of each kind of mistake as
`Doubt` says. What holds has been shown: a candidate that just was not caught does not go on. A multiple of a
tiny value is not taken for a difference: a limit in times of stable's value is never less than `_FLOOR` says.
Left out: latencies (`core/judge_latency.py`), drift (`core/judge_drift.py`), and what follows from the
verdicts (`core/rollout.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from mldeploy.core import sequential
from mldeploy.core.evidence import GuardVerdict, Measure, Tally
from mldeploy.core.guards import QUANTILES, Guard
from mldeploy.core.judge_drift import drift
from mldeploy.core.judge_latency import mean, quantile
from mldeploy.core.sequential import Rate
from mldeploy.core.verdicts import (
    BREACHED,
    HOLDS,
    RESTS,
    Doubt,
    Step,
    lacking,
    unknown,
    verdict_of,
)

#: Less than this is not taken for a difference, where a guard compares with stable.
_FLOOR = {"error_rate": 0.005, "refusal_rate": 0.005, "memory": float(32 << 20)}


def judge(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
    """The verdict on one guard."""
    why = _rests(guard, step)
    if why:
        return GuardVerdict(guard=guard.text, verdict=RESTS, why=why)
    if guard.times and step.stable_metrics is None and not step.full:
        return unknown(guard, "the stable version was retired: there is none to compare with")
    return _JUDGES[guard.measure](guard, step, doubt)


def _rests(guard: Guard, step: Step) -> str:
    if guard.measure == "agreement" and not step.shadow:
        return "answers are compared at the shadow step"
    if step.shadow and (guard.measure in (*QUANTILES, "mean", "refusal_rate")):
        return "not judged at a shadow step"
    if guard.times and guard.measure != "metric" and step.full:
        if step.stable_metrics is None:
            return "no version is stable to compare with"
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
    verdict = verdict_of(worse, better, doubt)
    return GuardVerdict(
        guard=guard.text,
        verdict=verdict,
        value=candidate.value if candidate.total else None,
        low=low,
        high=high,
        stable=stable.value if guard.times and stable.total else None,
        limit=limit,
        why=lacking(verdict, candidate.total, max(worse, better), doubt),
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
    verdict = verdict_of(worse, better, doubt)
    return GuardVerdict(
        guard=guard.text,
        verdict=verdict,
        value=1 - apart.value if pairs else None,
        low=1 - high,
        high=1 - low,
        limit=guard.limit,
        why=lacking(verdict, pairs, max(worse, better), doubt, "compared answers"),
    )


# --- what is not a rate


def _crashes(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
    value = _tally(step.candidate).crashes
    verdict = BREACHED if value >= guard.limit else HOLDS
    return GuardVerdict(guard=guard.text, verdict=verdict, value=value, limit=guard.limit)


def _memory(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
    value, stable = _tally(step.candidate).memory, _tally(step.stable).memory
    if not value or (guard.times and not stable):
        return unknown(
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
        return unknown(guard, f"the bundle was published without the metric {guard.of}; it has {known}")
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


_JUDGES: dict[str, Callable[[Guard, Step, Doubt], GuardVerdict]] = {
    "error_rate": _rate,
    "refusal_rate": _rate,
    **dict.fromkeys(QUANTILES, quantile),
    "mean": mean,
    "agreement": _agreement,
    "drift": drift,
    "crashes": _crashes,
    "memory": _memory,
    "metric": _metric,
}
