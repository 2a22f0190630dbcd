"""The rows that every rendering shows: names and figures as text, cleaned and not yet escaped."""

from __future__ import annotations

from collections.abc import Callable

from mldeploy.reporting import words
from mldeploy.reporting.values import Agreement, Figures, LaunchReport, StepReport
from mldeploy.reporting.words import clean

Row = tuple[str, str, str]


def facts(report: LaunchReport) -> list[tuple[str, str]]:
    """Who, when, how long, why: (name, value), the empty ones left out."""
    candidate = report.candidate
    planned = " → ".join(words.share(step) for step in report.planned)
    hold = f", {words.duration(report.hold)} each" if report.hold and len(report.planned) > 1 else ""
    digest = clean(candidate.digest, 200)[:12] if candidate else ""
    if report.stable is not None and candidate is not None:
        digest += f" (was {clean(report.stable.digest, 200)[:12]})"
    # who ended it says nothing where the same hand did it all in one record
    ended = report.ended_at and report.ended_at != report.promoted_at
    found = {
        "reason": clean(report.reason),
        "environment": report.environment,
        "on": clean(", ".join(report.on)),
        "promoted": _by(report.promoted_by, report.promoted_at),
        "ended": _by(report.ended_by, report.ended_at) if ended else "",
        "took": words.duration(report.seconds) if report.seconds is not None and ended else "",
        "so far": words.duration(report.seconds) if report.seconds and not report.ended_at else "",
        "steps": f"{planned}{hold}" if planned and report.planned != (10_000,) else "",
        "copies where": clean(report.where),
        "owner": clean(candidate.owner) if candidate else "",
        "expires": candidate.expires if candidate else "",
        "published": _by(candidate.actor, candidate.published) if candidate else "",
        "digest": digest,
        "waits for": "; ".join(clean(wait) for wait in report.waits),
        "record": str(report.record) if report.record else "",
    }
    return [(name, value) for name, value in found.items() if value]


def metric_rows(report: LaunchReport) -> list[Row]:
    """The models' own metrics: (name, candidate, stable)."""
    one, other = report.candidate, report.stable
    if one is None:
        return []
    mine, theirs = one.metrics, other.metrics if other else {}
    return [
        (clean(name, 60), words.number(mine.get(name)), words.number(theirs.get(name)))
        for name in sorted({*mine, *theirs})
    ]


def step_title(report: LaunchReport, step: StepReport) -> str:
    """`Step 2: 10% of the traffic, 07:10:03 to 07:20:04 UTC (10m), 3 of 3 hosts: advanced`"""
    if report.kind == "shadow":
        what = f"Shadow of {words.share(step.copied)} of the traffic"
    elif step.share == 0:
        copied = f" of {words.share(step.copied)} of the traffic" if step.copied else ""
        what = f"Step {step.number}: shadow{copied}"
    else:
        what = f"Step {step.number}: {words.share(step.share)} of the traffic"
    until = f"to {words.clock(step.end)} UTC" if step.end else "UTC, still going on"
    took = f" ({words.duration(step.seconds)})" if step.seconds is not None else ""
    hosts = f", {step.hosts} of {step.members} hosts" if step.hosts is not None else ""
    ended = f" by {clean(step.actor, 80)}" if step.outcome in ("paused", "held") and step.actor else ""
    outcome = {"held": "held back", "paused": "paused until here"}.get(step.outcome, step.outcome)
    why = f": {clean(step.reason)}" if step.reason else ""
    return f"{what}, {words.clock(step.start)} {until}{took}{hosts}: {outcome}{ended}{why}"


def compared_rows(step: StepReport) -> list[Row]:
    """(name, candidate, stable) of one window; empty without evidence."""
    one, other = step.candidate, step.stable
    if one is None and other is None:
        return []
    names: dict[str, Callable[[Figures], str]] = {
        "requests": lambda f: words.count(f.requests) if f.role != "shadow" else words.NONE,
        "errors": _errors,
        "refused (4xx)": lambda f: words.count(f.refusals),
        "p50": lambda f: words.latency(f.p50),
        "p95": lambda f: words.latency(f.p95),
        "p99": lambda f: words.latency(f.p99),
        "crashes": lambda f: words.count(f.crashes),
        "memory of a worker": lambda f: words.size(f.memory) if f.memory else words.NONE,
    }

    def cell(found: Figures | None, name: str) -> str:
        return names[name](found) if found is not None else words.NONE

    return [(name, cell(one, name), cell(other, name)) for name in names]


def agreement_rows(found: Agreement | None) -> list[Row]:
    """(name, figure, of what) of a shadow's answers; empty where none were compared."""
    if found is None:
        return []
    of = f"of {found.pairs:,} pairs"
    rows = [
        ("agreement", words.rate(found.share), f"by {found.by}, {of}"),
        ("the same answer", words.count(found.exact), of),
        ("within tolerance", words.count(found.within), of),
    ]
    if found.classed:
        rows.append(("the same class", words.count(found.same_class), f"of {found.classed:,} with a class"))
    if found.rank is not None:
        rows.append(("rank correlation", f"{found.rank:.3f}", "Kendall's tau"))
    rows.append(("answered with an error", words.count(found.failed), "where the answer was none"))
    rows.append(("not copied", words.count(found.dropped), f"of {found.offered:,} chosen"))
    if found.pauses:
        rows.append(("paused by load", words.duration(found.paused), words.times(found.pauses)))
    return rows


def guard_rows(step: StepReport) -> list[Row]:
    """(verdict, guard, the numbers)."""
    return [(clean(g.verdict, 40), clean(g.guard, 120), words.verdict(g)) for g in step.guards]


def _by(who: str, at: str | None) -> str:
    if not who and not at:
        return ""
    by = f"by {clean(who, 120)}" if who else ""
    return f"{words.when(at)} {by}".strip() if at else by


def summary_rows(report: LaunchReport) -> list[tuple[str, ...]]:
    """One row for each step that measured something, under SUMMARY; empty for fewer than two."""
    found: list[tuple[str, ...]] = [
        (
            "shadow" if not step.share else words.share(step.share),
            words.duration(step.seconds),
            words.count(_asked(step)),
            _pair(step, "error_rate", words.rate),
            _pair(step, "p99", words.latency),
            words.rate(step.agreement.share) if step.agreement else words.NONE,
            step.outcome,
        )
        for step in report.steps
        if step.candidate is not None
    ]
    return found if len(found) > 1 else []


#: The heading of `summary_rows`.
SUMMARY = ("step", "took", "requests", "errors", "p99", "agreement", "")


def _asked(step: StepReport) -> int | None:
    """What the figures of a step rest on: requests, or at a shadow step pairs of answers."""
    if step.share == 0:
        return step.agreement.pairs if step.agreement is not None else None
    return step.candidate.requests if step.candidate is not None else None


def _pair(step: StepReport, name: str, told: Callable[[float | None], str]) -> str:
    """The candidate's figure beside stable's: `31.2 ms / 25.8 ms`."""
    one, other = step.candidate, step.stable
    mine = told(getattr(one, name)) if one is not None else words.NONE
    return f"{mine} / {told(getattr(other, name))}" if other is not None else mine


def _errors(found: Figures) -> str:
    return (
        f"{words.rate(found.error_rate)} ({found.failures:,})" if found.error_rate is not None else words.NONE
    )
