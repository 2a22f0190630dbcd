"""When a rollout goes on, when it is halted, and what it waits for.

A step is over when its hold is, enough of the hosts it is for have reported that they are at it and that the
candidate has come up there, it has had its minimum of requests, and every guard has been shown to hold. A
guard that is breached halts the rollout at once, whoever has or has not reported. What is neither waits, and
says for what; a rollout that is past its deadline is halted. Where the candidate fails to come up on half of
the hosts, it is halted. Paused, it waits, and has no deadline; what else halts it still does. A last step
below 100 %, or on some hosts alone, is where it stays, guarded, until another promote.

Rules: pure, and at most one action of a rollout at a time. The chance that a candidate just like stable is
ever halted is at most `FALSE_ALARM`, shared out among guards and steps; a pause and a resume begin the counts
of their step anew, and each of them adds the share of one step. That one a guard forbids goes on has a chance
of at most `FALSE_PASS` for each guard.
Left out: whether a guard holds (`core/judge.py`), and who does it (`core/controller.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from mldeploy.core.evidence import Evidence, GuardVerdict, Measure, tallied
from mldeploy.core.guards import Guard, parse_all
from mldeploy.core.judge import judge
from mldeploy.core.policy import Settings
from mldeploy.core.records import Advance, Complete, Halt
from mldeploy.core.state import Ramp, Serving, Version
from mldeploy.core.types import FULL_SHARE, format_duration
from mldeploy.core.verdicts import BREACHED, UNDECIDED, Doubt, Step

FALSE_ALARM = 0.005
FALSE_PASS = 0.005
#: The share of a rollout's hosts that must have reported before it goes on.
QUORUM = 0.95


class Watch(NamedTuple):
    """What is known of one rollout's present step. Times are the store's, in unix seconds."""

    now: float
    since: float | None  # when the record that set the step was written; None: not known yet
    begun: float | None  # when the promote, or the last resume, was written
    members: int  # hosts the rollout is for
    heard: int  # of these, whose fresh report is at the step or past it
    up: int  # of those, where the candidate has come up
    #: And where it does not, be it for good or after more than one attempt: by fresh reports alone.
    failed: int
    measures: Sequence[Measure]  # of the model, merged over every host heard of


class Decision(NamedTuple):
    """What one rollout does next: an action, or what it waits for."""

    action: Advance | Complete | Halt | None
    waits: tuple[str, ...]  # in words; empty where there is an action, or nothing more to do
    evidence: Evidence


def guards_of(ramp: Ramp, settings: Settings) -> tuple[Guard, ...]:
    """The guards that count: the rollout's own, or the policy's where it has none."""
    return parse_all(ramp.guards or settings.guards)


def deadline_of(ramp: Ramp, settings: Settings) -> int:
    """Seconds from the promote, or the last resume, by which the last step must be over."""
    return ramp.deadline or settings.deadline + ramp.hold * len(ramp.steps)


def decide(
    serving: Serving, versions: Mapping[int, Version], settings: Settings, watch: Watch
) -> Decision | None:
    """What the rollout of `serving` does next; None where none is under way."""
    ramp = serving.ramp
    if ramp is None:
        return None
    step = _step(serving, ramp, versions, watch)
    verdicts = _verdicts(ramp, settings, step)
    evidence = Evidence(
        hosts=watch.heard,
        members=watch.members,
        start=watch.since or 0.0,
        end=watch.now,
        measures=tuple(measure for measure in (step.stable, step.candidate) if measure is not None),
        guards=verdicts,
    )
    breached = [_told(verdict) for verdict in verdicts if verdict.verdict == BREACHED]
    if breached:
        halt = Halt(rollout=ramp.rollout, reason="; ".join(breached), evidence=evidence)
        return Decision(halt, (), evidence)
    # of all members: who is not heard of has not said that it fails there; and of none it is not half
    if watch.failed * 2 >= max(1, watch.members):
        reason = f"it does not come up on {watch.failed} of {watch.members} hosts"
        return Decision(Halt(rollout=ramp.rollout, reason=reason, evidence=evidence), (), evidence)
    if ramp.paused:
        return Decision(None, ("it is paused",), evidence)
    waits = _waits(ramp, step, verdicts, watch)
    if not waits and not ramp.last:
        return Decision(Advance(rollout=ramp.rollout, step=ramp.step, evidence=evidence), (), evidence)
    if not waits and not ramp.stays:
        return Decision(Complete(rollout=ramp.rollout, step=ramp.step, evidence=evidence), (), evidence)
    late = None if ramp.last and ramp.stays else _late(ramp, settings, watch, waits)
    if late is not None:
        return Decision(Halt(rollout=ramp.rollout, reason=late, evidence=evidence), (), evidence)
    return Decision(None, waits, evidence)


def _step(serving: Serving, ramp: Ramp, versions: Mapping[int, Version], watch: Watch) -> Step:
    shadow = ramp.share == 0
    role = "shadow" if shadow else "candidate"
    candidate, stable = versions[ramp.version], versions.get(serving.stable or 0)
    return Step(
        candidate=tallied(watch.measures, ramp.version, ramp.seq, role),
        stable=tallied(watch.measures, stable.version, ramp.seq, "stable") if stable else None,
        shadow=shadow,
        full=ramp.share == FULL_SHARE,
        metrics=candidate.metrics,
        stable_metrics=stable.metrics if stable else None,
    )


def _verdicts(ramp: Ramp, settings: Settings, step: Step) -> tuple[GuardVerdict, ...]:
    guards = guards_of(ramp, settings)
    counted = sum(guard.counted for guard in guards)
    doubt = Doubt(FALSE_ALARM / max(1, counted * len(ramp.steps)), FALSE_PASS)
    return tuple(judge(guard, step, doubt) for guard in guards)


def _waits(ramp: Ramp, step: Step, verdicts: Sequence[GuardVerdict], watch: Watch) -> tuple[str, ...]:
    found = []
    if watch.since is None or watch.begun is None:
        found.append("when the step began is not known yet")
    elif watch.now < watch.since + ramp.hold:
        left = timedelta(seconds=math.ceil(watch.since + ramp.hold - watch.now))
        found.append(f"its hold ends in {format_duration(left)}")
    enough = math.ceil(QUORUM * watch.members)
    if not watch.members:
        found.append("no host it is for has joined, or all of them are drained")
    elif watch.heard < enough:
        found.append(f"{watch.heard} of {watch.members} hosts have reported that they are at this step")
    elif watch.up < enough:
        fails = f", and fails on {watch.failed}" if watch.failed else ""
        found.append(f"it has come up on {watch.up} of {watch.members} hosts{fails}")
    had, what = requests_of(step)
    if had < ramp.min_requests:
        found.append(f"{had:,} of {ramp.min_requests:,} {what}")
    found.extend(f"{v.guard}: {v.why}" for v in verdicts if v.verdict == UNDECIDED)
    return tuple(found)


def requests_of(step: Step) -> tuple[int, str]:
    """How much the candidate has answered at its step, and of what."""
    if step.shadow:
        compared = step.candidate.comparison if step.candidate else None
        return compared.pairs if compared else 0, "compared answers"
    return step.candidate.tally.requests if step.candidate else 0, "requests of the candidate"


def _late(ramp: Ramp, settings: Settings, watch: Watch, waits: Sequence[str]) -> str | None:
    if watch.begun is None or watch.now < watch.begun + deadline_of(ramp, settings):
        return None
    day = datetime.fromtimestamp(watch.begun + deadline_of(ramp, settings), UTC)
    why = f": {'; '.join(waits)}" if waits else ""
    return f"not enough evidence by {day:%Y-%m-%d %H:%M} UTC{why}"


def _told(verdict: GuardVerdict) -> str:
    """A breach in words, with its numbers."""
    value, limit = _shown(verdict.guard, verdict.value), _shown(verdict.guard, verdict.limit)
    told = f"{verdict.guard}: {value}"
    if verdict.low is not None or verdict.high is not None:
        low, high = _shown(verdict.guard, verdict.low), _shown(verdict.guard, verdict.high)
        told += f" (at least {low}, at most {high})"
    if verdict.stable is not None:
        told += f", stable {_shown(verdict.guard, verdict.stable)}"
    return f"{told}, limit {limit}"


def _shown(guard: str, value: float | None) -> str:
    """A value of a guard in its unit."""
    if value is None:
        return "unknown"
    if guard.startswith(("error_rate", "refusal_rate", "agreement")):
        return f"{value * 100:.3g} %"
    if guard.startswith(("p50", "p90", "p95", "p99", "mean")):
        return f"{value * 1000:.3g} ms"
    if guard.startswith("memory"):
        return f"{value / (1 << 20):,.0f} MiB"
    return f"{value:.4g}"
