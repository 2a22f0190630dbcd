"""Rollouts and shadows under way, judged as the hosts judge them: step, numbers, and what each waits for.

Reads the hosts' reports that were read anyway, and the store time of the records that began the steps, each
of them once. Left out: what a guard makes of the numbers (`core/judge.py`), and who acts.
"""

from __future__ import annotations

from datetime import timedelta

from mldeploy.client import fleet
from mldeploy.client.connection import Connection
from mldeploy.client.types import Candidate, ShadowStatus
from mldeploy.core.controller import Reports, decisions, scopes
from mldeploy.core.evidence import Comparison, GuardVerdict, Measure, merge, tallied
from mldeploy.core.policy import settings
from mldeploy.core.retirement import Heard
from mldeploy.core.rollout import Decision, deadline_of, guards_of
from mldeploy.core.state import Ramp, Serving, State
from mldeploy.core.types import format_duration
from mldeploy.reporting.words import guard_value
from mldeploy.store.tail import record_key


class Underway:
    """What the hosts' reports say of rollouts and shadows. Remembers when records were written."""

    def __init__(self, at: Connection) -> None:
        self._at = at
        self._began: dict[int, float] = {}

    def decisions(self, state: State, environment: str, seen: list[fleet.Seen]) -> dict[str, Decision]:
        """What each rollout of the environment does next, or waits for, by model; empty with none."""
        if not any(serving.ramp for serving in state.environments.get(environment, {}).values()):
            return {}
        began = {seq: when for seq in scopes(state, environment) if (when := self._stored(seq)) is not None}
        ours = [host for host in seen if host.member and host.report.environment == environment]
        now = fleet.store_time(self._at, [*began.values(), *(host.modified for host in ours), 0.0])
        reports = Reports(
            environment=environment,
            heard=tuple(
                Heard(
                    host=host.report.host, at=host.modified, head=host.report.head,
                    failed=host.report.failed, watched=host.report.watched, uses=host.report.uses,
                )
                for host in ours
            ),
            up={host.report.host: host.report.up for host in ours if host.report.up is not None},
            measures=merge(measure for host in ours for measure in host.report.measures),
            began=began,
        )  # fmt: skip
        return decisions(state, reports, now)

    def _stored(self, seq: int) -> float | None:
        if seq not in self._began:
            fetched = self._at.store.get(record_key(seq))
            if fetched is not None:
                self._began[seq] = fetched.modified
        return self._began.get(seq)


def candidate_of(state: State, environment: str, now: Serving, decision: Decision | None) -> Candidate | None:
    """The rollout under way; without a decision (of a time that is past) by the log alone."""
    ramp = now.ramp
    if ramp is None:
        return None
    said = settings(state, environment)
    ours = measure_of(ramp, decision)
    return Candidate(
        version=ramp.version,
        share=ramp.share,
        steps=ramp.steps,
        paused=ramp.paused,
        since=ramp.started,
        actor=ramp.actor,
        rollout=ramp.rollout,
        step=ramp.step,
        hold=ramp.hold,
        deadline=deadline_of(ramp, said),
        min_requests=ramp.min_requests,
        on=ramp.on,
        requests=requests_in(ours),
        waits=(*decision.waits, *_paused(ours)) if decision else (),
        next=type(decision.action).__name__.lower() if decision and decision.action else "",
        guards=decision.evidence.guards if decision else (),
        guarded=tuple(guard.text for guard in guards_of(ramp, said)),
    )


def _paused(measure: Measure | None) -> tuple[str, ...]:
    """That hosts were too busy to compare answers, where they were."""
    compared = measure.comparison if measure is not None else None
    if compared is None or not compared.paused_ms:
        return ()
    paused = format_duration(timedelta(milliseconds=compared.paused_ms))
    return (f"busy hosts have paused shadows for {paused} ({compared.dropped:,} copies dropped)",)


def measure_of(ramp: Ramp, decision: Decision | None) -> Measure | None:
    """What was counted of the candidate at its present step."""
    if decision is None:
        return None
    role = "candidate" if ramp.share else "shadow"
    return tallied(decision.evidence.measures, ramp.version, ramp.seq, role)


def requests_in(measure: Measure | None) -> int:
    """Requests answered by a candidate; copies compared, of a shadow."""
    if measure is None:
        return 0
    if measure.role == "shadow":
        return measure.comparison.pairs if measure.comparison else 0
    return measure.tally.requests


def shadows_of(name: str, now: Serving, seen: list[fleet.Seen], environment: str) -> tuple[ShadowStatus, ...]:
    """The shadows under way, with what the hosts have compared up to now."""
    found = []
    for shadow in now.shadows:
        measures = merge(
            measure
            for host in seen
            if host.member and host.report.environment == environment
            for measure in host.report.measures
            if (measure.model, measure.scope) == (name, shadow.seq)
        )
        ours = tallied(measures, shadow.version, shadow.seq, "shadow")
        compared = ours.comparison if ours is not None and ours.comparison is not None else Comparison()
        same, of = compared.agreement
        found.append(
            ShadowStatus(
                version=shadow.version, shadow=shadow.shadow, fraction=shadow.fraction, where=shadow.where,
                lasts=shadow.lasts, keep=shadow.keep, since=shadow.started, actor=shadow.actor,
                pairs=compared.pairs, agreement=same / of if of else None, failed=compared.failed,
                dropped=compared.dropped, pauses=compared.pauses,
            )
        )  # fmt: skip
    return tuple(found)


def guard_numbers(found: GuardVerdict) -> tuple[str, str, str]:
    """The candidate's value, stable's and the limit, each in the guard's unit; empty where there is none."""
    numbers = (found.value, found.stable, found.limit)
    candidate, stable, limit = ("" if n is None else guard_value(found.guard, n) for n in numbers)
    return candidate, stable, limit
