"""How rollouts, shadows and expiries are shown by `status`: their cells, lines and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mldeploy.cli.output import Cell, share_words
from mldeploy.cli.session import Session

if TYPE_CHECKING:
    from mldeploy.client.types import Candidate, Expiring, ModelStatus, ShadowStatus, Waited
    from mldeploy.core.evidence import GuardVerdict

#: Days before an expiry from which it is shown in colour.
SOON, NEAR = 7, 30
_VERDICTS = {"holds": "green", "breached": "red", "undecided": "yellow", "rests": "dim"}


def candidate_cell(candidate: Candidate | None) -> Cell:
    """`8 at 10%, step 2 of 4`."""
    if candidate is None:
        return ""
    return f"{candidate.version} {step_words(candidate)}"


def step_words(candidate: Candidate) -> str:
    """`at 10%, step 2 of 4`, or `as shadow, step 1 of 5`."""
    share = f"at {share_words(candidate.share)}" if candidate.share else "as shadow"
    share += f" on {', '.join(candidate.on)}" if candidate.on else ""
    steps = f", step {candidate.step + 1} of {len(candidate.steps)}" if len(candidate.steps) > 1 else ""
    return f"{share}{steps}{', paused' if candidate.paused else ''}"


def shadow_words(shadow: ShadowStatus) -> str:
    """`9 on 20%`."""
    return f"{shadow.version} on {share_words(shadow.fraction)}"


def expiry_cell(expires: str, days: int) -> Cell:
    """The day, and how far it is: red when past or within a week, yellow within a month."""
    if days < 0:
        return f"{expires} ({-days} d ago)", "bold red"
    text = f"{expires} (in {days} d)"
    return (text, "red") if days <= SOON else (text, "yellow") if days <= NEAR else text


def note_rollout(session: Session, model: ModelStatus) -> None:
    """What a rollout waits for, or does next, in a line."""
    candidate = model.candidate
    if candidate is None:
        return
    what = f"{model.model}@{candidate.version} in {model.environment}, {step_words(candidate)}"
    if candidate.waits:
        session.output.note(f"{what}, waits: {'; '.join(candidate.waits)}")
    elif candidate.next:
        session.output.note(f"{what}: the hosts are about to {candidate.next} it")


def show_rollout(session: Session, model: ModelStatus) -> None:
    """The steps, guards and shadows of one model in one environment."""
    candidate, output = model.candidate, session.output
    if candidate is not None:
        output.table(
            ("STEP", "SHARE", "STANDING", "REQUESTS"),
            [_step(candidate, index) for index in range(len(candidate.steps))],
        )
    if candidate is not None and candidate.guards:
        output.table(GUARD_COLUMNS, [guard_row(verdict) for verdict in candidate.guards])
    if model.shadows:
        output.table(
            ("SHADOW", "FRACTION", "WHERE", "SINCE (UTC)", "COMPARED", "AGREEMENT", "DROPPED"),
            [_shadow(model.model, shadow) for shadow in model.shadows],
        )


def _step(candidate: Candidate, index: int) -> list[Cell]:
    share = candidate.steps[index]
    shown = share_words(share) if share else "shadow"
    if index < candidate.step:
        return [f"step {index + 1}", shown, ("over", "dim"), ""]
    if index > candidate.step:
        return [f"step {index + 1}", shown, ("ahead", "dim"), ""]
    standing = ("paused", "yellow") if candidate.paused else ("here", "bold green")
    return [f"step {index + 1}", shown, standing, f"{candidate.requests:,} of {candidate.min_requests:,}"]


def note_steps(session: Session, waited: Waited) -> None:
    """What the steps of a rollout rested on, a line for each."""
    from mldeploy.reporting.words import verdict

    for each in waited.steps:
        share = f"at {share_words(each.share)}" if each.share else "as shadow"
        counted = f"{each.requests:,} {'requests' if each.share else 'compared answers'}"
        guards = "".join(f"; {guard.guard} {guard.verdict} ({verdict(guard)})" for guard in each.guards)
        heard = f"{each.hosts} of {each.members} hosts heard"
        session.output.note(f"step {each.step + 1} {share}: {counted}, {heard}{guards}")


GUARD_COLUMNS = ("GUARD", "VERDICT", "CANDIDATE", "STABLE", "LIMIT", "WHY")


def guard_row(verdict: GuardVerdict) -> list[Cell]:
    """One guard, with its numbers in its unit."""
    from mldeploy.client.underway import guard_numbers

    shown = (verdict.verdict, _VERDICTS.get(verdict.verdict, ""))
    return [verdict.guard, shown, *guard_numbers(verdict), verdict.why]


def _shadow(model: str, shadow: ShadowStatus) -> list[Cell]:
    agreed = "" if shadow.agreement is None else f"{shadow.agreement * 100:.4g}%"
    return [
        (f"{model}@{shadow.version}", "bold"),
        share_words(shadow.fraction),
        shadow.where,
        shadow.since[:16].replace("T", " "),
        f"{shadow.pairs:,}",
        agreed,
        f"{shadow.dropped:,}",
    ]


def show_expiring(session: Session, found: Expiring) -> None:
    """The versions that expire soon."""
    output = session.output
    if output.json:
        output.document("mldeploy.expiring/1", found)
        return
    if not found.versions:
        output.note(f"nothing expires within {found.within} day{'s' if found.within != 1 else ''}")
        return
    output.table(
        ("VERSION", "EXPIRES", "OWNER", "ROLES"),
        [
            [
                (f"{each.model}@{each.version}", "bold"),
                expiry_cell(each.expires, each.days),
                each.owner,
                ", ".join(each.roles),
            ]
            for each in found.versions
        ],
    )
    output.note("`mldeploy extend MODEL@VERSION 90d` moves an expiry")
