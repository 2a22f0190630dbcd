"""A LaunchReport from the state, the records of a rollout and the manifests of the two bundles. Pure.

Rules: what is not there is left out, never guessed: a report of a record that could not be read, a bundle
that was collected, or a window without evidence says less. Left out: which records those are (the state's
trails, `mldeploy.core.past`) and reading them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

import msgspec

from mldeploy.core.evidence import Evidence
from mldeploy.core.manifest import Manifest
from mldeploy.core.state import Notice, Ramp, Serving, Shadowing, State, Version
from mldeploy.reporting.difference import difference
from mldeploy.reporting.steps import Story, Subject, Told, step_report, story
from mldeploy.reporting.values import Difference, LaunchReport, StepReport, VersionFacts
from mldeploy.reporting.words import rfc3339, share


def of_notice(
    state: State, notice: Notice, told: Sequence[Told], manifests: Mapping[int, Manifest]
) -> LaunchReport:
    """What a notice tells. `told`: the records of `trail_of(state, notice)`, ascending, those that are there;
    `manifests` by version: the notice's and `beside_of` it."""
    subject = Subject(notice.environment, notice.model, notice.version, notice.rollout)
    found = story(subject, told)
    outcome = notice.kind
    ended = next((each for each in told if each.record.seq == notice.seq), None)
    report = _report(state, subject, found, notice.previous, manifests)
    return msgspec.structs.replace(
        report,
        title=title(subject, outcome, notice.previous, report.on),
        kind="retirement" if outcome == "retired" else report.kind,
        outcome=outcome,
        reason=notice.reason or report.reason,
        ended_by=notice.actor,
        ended_at=rfc3339(ended.at) if ended else notice.time,
        record=notice.seq,
        notice=notice.id,
    )


def of_expiry(state: State, notice: Notice, today: date, manifests: Mapping[int, Manifest]) -> LaunchReport:
    """The warning that a version expires, or is past its expiry and still used."""
    subject = Subject(notice.environment, notice.model, notice.version, "")
    version = _version(state, notice.model, notice.version)
    report = _report(state, subject, Story(), None, manifests)
    return msgspec.structs.replace(
        report,
        title=expiry_title(subject, version.expires if version else "", today),
        kind="expiry",
        outcome="expires",
        reason=notice.reason,
        record=notice.seq,
        notice=notice.id,
    )


def of_past(
    state: State, subject: Subject, told: Sequence[Told], manifests: Mapping[int, Manifest]
) -> LaunchReport:
    """A rollout or shadow that is over, from the records of its trail."""
    found = story(subject, told)
    beside = _beside(found)
    report = _report(state, subject, found, beside, manifests)
    outcome = found.outcome or "launched"
    return msgspec.structs.replace(report, title=title(subject, outcome, beside, report.on), outcome=outcome)


def of_present(
    state: State,
    subject: Subject,
    told: Sequence[Told],
    manifests: Mapping[int, Manifest],
    live: Evidence,
    waits: Sequence[str] = (),
) -> LaunchReport:
    """A rollout or shadow under way: its records, what the hosts measure now, and what it waits for."""
    found = story(subject, told)
    now = state.environments.get(subject.environment, {}).get(subject.model, Serving())
    running = under_way(now, subject)
    step = _running_step(subject, running, told, live) if running is not None else None
    report = _report(state, subject, found, now.stable, manifests)
    paused = isinstance(running, Ramp) and running.paused
    seconds = live.end - found.begun.at if found.begun and live.end else None
    return msgspec.structs.replace(
        report,
        title=_title_now(subject, running, now.stable, report.on),
        outcome="paused" if paused else "under way",
        steps=(*report.steps, step) if step is not None else report.steps,
        seconds=max(seconds, 0.0) if seconds is not None else None,
        waits=tuple(waits),
    )


def under_way(now: Serving, subject: Subject) -> Ramp | Shadowing | None:
    """The ramp or shadow of that id, if it is under way."""
    if now.ramp is not None and now.ramp.rollout == subject.rollout:
        return now.ramp
    return next((shadow for shadow in now.shadows if shadow.shadow == subject.rollout), None)


def trail_of(state: State, notice: Notice) -> tuple[int, ...]:
    """The numbers of the records to read for a notice, ascending."""
    if not notice.seq:
        return ()
    models = state.environments.get(notice.environment, {})
    for past in models.get(notice.model, Serving()).past:
        if notice.rollout and past.ended.rollout == notice.rollout:
            return past.ended.trail
    return (notice.seq,)


def _running_step(
    subject: Subject, running: Ramp | Shadowing, told: Sequence[Told], live: Evidence
) -> StepReport:
    begun = next((each.at for each in told if each.record.seq == running.seq), live.start)
    step, part = (running.step, running.share) if isinstance(running, Ramp) else (0, 0)
    paused = isinstance(running, Ramp) and running.paused
    report = step_report(
        subject, (step, part, running.seq), (begun, None), "paused" if paused else "under way", live,
        copied=running.fraction,
    )  # fmt: skip
    return msgspec.structs.replace(report, seconds=max(live.end - begun, 0.0) if live.end else None)


def _report(
    state: State, subject: Subject, found: Story, beside: int | None, manifests: Mapping[int, Manifest]
) -> LaunchReport:
    beside = beside if beside is not None else _beside(found)
    promote, shadow = found.promote, found.shadow
    seconds = found.ended.at - found.begun.at if found.begun and found.ended else None
    return LaunchReport(
        title="",
        kind="shadow" if shadow is not None else "rollout",
        model=subject.model,
        version=subject.version,
        beside=beside,
        environment=subject.environment,
        outcome="",
        reason=found.reason,
        promoted_by=found.begun.record.actor if found.begun else "",
        promoted_at=rfc3339(found.begun.at) if found.begun else "",
        ended_by=found.ended.record.actor if found.ended else "",
        ended_at=rfc3339(found.ended.at) if found.ended else None,
        seconds=max(seconds, 0.0) if seconds is not None else None,
        steps=tuple(found.steps),
        planned=promote.steps if promote else (),
        hold=promote.hold if promote else 0,
        min_requests=promote.min_requests if promote else 0,
        on=promote.on if promote else (),
        where=shadow.where if shadow else "",
        candidate=_facts(state, subject.model, subject.version),
        stable=_facts(state, subject.model, beside) if beside is not None else None,
        difference=_difference(manifests, subject.version, beside),
        record=found.ended.record.seq if found.ended else 0,
        rollout=subject.rollout,
    )


def _beside(found: Story) -> int | None:
    """Stable's number, as it was measured last."""
    return next((step.stable.version for step in reversed(found.steps) if step.stable is not None), None)


def _difference(manifests: Mapping[int, Manifest], version: int, beside: int | None) -> Difference | None:
    if beside is None or version not in manifests or beside not in manifests:
        return None
    return difference(manifests[beside], manifests[version])


def _version(state: State, model: str, number: int) -> Version | None:
    return state.models[model].versions.get(number) if model in state.models else None


def _facts(state: State, model: str, number: int) -> VersionFacts | None:
    version = _version(state, model, number)
    if version is None:
        return None
    return VersionFacts(
        version=version.version,
        digest=version.digest,
        owner=version.owner,
        expires=version.expires,
        published=version.published,
        actor=version.actor,
        size=version.size,
        python=version.python,
        retired=version.retired,
        metrics=version.metrics,
        measured=version.measured,
    )


def title(subject: Subject, outcome: str, beside: int | None, on: Sequence[str] = ()) -> str:
    """One line for a subject of a mail: names are valid ones, so there is nothing to escape."""
    ref, where = f"{subject.model}@{subject.version}", f" in {subject.environment}"
    where = where + _on(on) if subject.environment else ""
    if outcome == "launched":
        instead = f", in place of {subject.model}@{beside}" if beside is not None else ""
        return f"{ref} is stable{where}{instead}"
    if outcome in ("halted", "rolled back"):
        back = f"; {subject.model}@{beside} serves" if beside is not None else ""
        return f"{ref} was {outcome}{where}{back}"
    if outcome == "retired":  # everywhere, whoever is told
        return f"{ref} was retired"
    if outcome == "ended":
        return f"the shadow {ref} ended{where}"
    return f"{ref} was {outcome}{where}"


def expiry_title(subject: Subject, expires: str, today: date) -> str:
    """`churn@7 expires in 7 days, on 2027-05-31`"""
    ref = f"{subject.model}@{subject.version}"
    try:
        days = (date.fromisoformat(expires) - today).days
    except ValueError:
        return f"{ref} expires"
    if days < 0:
        return f"{ref} expired {_days(-days)} ago, on {expires}, and is still used"
    return f"{ref} expires {'today' if days == 0 else f'in {_days(days)}'}, on {expires}"


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"


def _on(on: Sequence[str]) -> str:
    """The hosts that a rollout is for, where it is not for all."""
    return f" on {', '.join(on)}" if on else ""


def _title_now(
    subject: Subject, running: Ramp | Shadowing | None, stable: int | None, on: Sequence[str]
) -> str:
    ref, where = f"{subject.model}@{subject.version}", f"in {subject.environment}{_on(on)}"
    beside = f" of {subject.model}@{stable}" if stable is not None else ""
    if isinstance(running, Ramp):
        if running.share:
            held = "holds" if running.paused else "takes"
            return f"{ref} {held} {share(running.share)} {where}"
        return f"{ref} shadows{beside} {where}" if not running.paused else f"{ref} is paused {where}"
    return f"{ref} is a shadow{beside} {where}"
