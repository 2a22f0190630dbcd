"""From the records of one rollout or shadow to its windows: what each step was, how long, and how it ended.

A window begins with a record that sets a step and ends with the next record of the rollout, whose evidence
(if it has any) was measured in it: its scope is the number of the record that began it. Pure.
Left out: the report around the steps (`compose.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mldeploy.core import records
from mldeploy.core.evidence import Evidence, Measure, merge, plausible
from mldeploy.core.records import Record
from mldeploy.reporting.figures import agreement, drift, figures
from mldeploy.reporting.values import StepReport
from mldeploy.reporting.words import rfc3339


class Told(NamedTuple):
    """A record of the log, and when the store says it was written (unix seconds)."""

    record: Record
    at: float


class Subject(NamedTuple):
    """What the story is about."""

    environment: str
    model: str
    version: int
    rollout: str  # or the shadow's id; empty where one record did it all


@dataclass
class Story:
    """What the records say, in order."""

    begun: Told | None = None
    ended: Told | None = None
    promote: records.Promote | None = None
    shadow: records.Shadow | None = None
    outcome: str = ""  # empty: under way
    reason: str = ""
    steps: list[StepReport] = field(default_factory=list)


class _Open(NamedTuple):
    step: int
    share: int
    scope: int
    at: float
    paused: bool = False


def story(subject: Subject, told: Sequence[Told]) -> Story:
    """Fold `told` (ascending) into the story of `subject`; records about others are passed over."""
    reading = _Reading(subject)
    for each in told:
        for action in each.record.actions:
            reading.take(action, each)
    return reading.story


def step_report(
    subject: Subject,
    window: tuple[int, int, int],
    times: tuple[float, float | None],
    outcome: str,
    evidence: Evidence | None,
    *,
    actor: str = "",
    reason: str = "",
    copied: int = 0,
) -> StepReport:
    """One window. `window`: step from 0, share, scope. `times`: when it began and ended (None: not yet)."""
    step, share, scope = window
    start, end = times
    # of a record: nobody has judged the evidence in it
    counted = [m for m in evidence.measures if m.scope == scope and plausible((m,))] if evidence else []
    measures = merge(counted)
    candidate = _of(measures, subject, candidate=True)
    stable = _of(measures, subject, candidate=False)
    compared = candidate.comparison if candidate is not None else None
    return StepReport(
        number=step + 1,
        share=share,
        copied=copied if share == 0 else 0,
        scope=scope,
        start=rfc3339(start),
        end=rfc3339(end) if end is not None else None,
        seconds=max(end - start, 0.0) if end is not None else None,
        outcome=outcome,
        actor=actor,
        reason=reason,
        hosts=evidence.hosts if evidence else None,
        members=evidence.members if evidence else None,
        candidate=figures(candidate) if candidate is not None else None,
        stable=figures(stable) if stable is not None else None,
        agreement=agreement(compared) if compared is not None else None,
        drift=drift(candidate.drift) if candidate is not None and candidate.drift is not None else (),
        guards=evidence.guards if evidence else (),
    )


def _of(measures: Iterable[Measure], subject: Subject, *, candidate: bool) -> Measure | None:
    """The measure of the version the story is about, or of the one beside it."""
    roles = ("candidate", "shadow") if candidate else ("stable",)
    return next(
        (
            m for m in measures
            if m.model == subject.model and m.role in roles and (m.version == subject.version) == candidate
        ),
        None,
    )  # fmt: skip


class _Reading:
    """The fold of `story`."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.story = subject, Story()
        self.open: _Open | None = None

    def take(self, action: records.Action, told: Told) -> None:
        subject = self.subject
        rollout = getattr(action, "rollout", None) or getattr(action, "shadow", None)
        mine = bool(subject.rollout) and rollout == subject.rollout
        match action:
            case records.Promote() if mine or (not subject.rollout and self._about(action)):
                self._promote(action, told)
            case records.Promote() | records.Rollback() if self.story.shadow and self._works(action):
                self._end(told, "ended", "it takes traffic now", None)
            case records.Promote() if self.open and action.model == subject.model and self._here(action):
                self._end(told, "superseded", f"by {action.model}@{action.version}", None)
            case records.Shadow() if mine:
                self.story.begun, self.story.shadow = told, action
                self.open = _Open(0, 0, told.record.seq, told.at)
            case records.Advance() if mine and self.open:
                self._close(told, "advanced", "", action.evidence)
                self._next(action.step + 1, told)
            case records.Pause() if mine and self.open:
                self._close(told, "held", action.reason, None)
                self.open = self.open._replace(scope=told.record.seq, at=told.at, paused=True)
            case records.Resume() if mine and self.open:
                self._close(told, "paused", "", None)
                self.open = self.open._replace(scope=told.record.seq, at=told.at, paused=False)
            case records.Complete() if mine:
                self._end(told, "launched", "", action.evidence)
            case records.Halt() if mine:
                self._end(told, "halted", action.reason, action.evidence)
            case records.Unshadow() if mine:
                self._end(told, "ended", action.reason, action.evidence)
            case records.Rollback() if action.model == subject.model and self._here(action):
                self._end(told, "rolled back", action.reason, None)
            case records.Retire() if self._about(action):
                self._end(told, "retired", action.reason, action.evidence)
            case records.Retire() if self.story.shadow and action.force and action.model == subject.model:
                # of what answered beside it: of another version it would not stand in the shadow's trail
                self._end(told, "ended", f"{action.model}@{action.version} was retired", None)
            case _:
                pass

    def _about(self, action: records.Promote | records.Retire) -> bool:
        here = not isinstance(action, records.Promote) or self._here(action)
        return (action.model, action.version) == (self.subject.model, self.subject.version) and here

    def _works(self, action: records.Promote | records.Rollback) -> bool:
        """Whether it puts the version to work."""
        version = action.version if isinstance(action, records.Promote) else action.to
        return (action.model, version) == (self.subject.model, self.subject.version) and self._here(action)

    def _here(self, action: records.Promote | records.Rollback) -> bool:
        return action.environment == self.subject.environment

    def _promote(self, action: records.Promote, told: Told) -> None:
        self.story.begun, self.story.promote = told, action
        if self.subject.rollout:
            self.open = _Open(0, action.steps[0], told.record.seq, told.at)

    def _next(self, step: int, told: Told) -> None:
        steps = self.story.promote.steps if self.story.promote else ()
        share = steps[step] if step < len(steps) else 0
        self.open = _Open(step, share, told.record.seq, told.at)

    def _close(self, told: Told, outcome: str, reason: str, evidence: Evidence | None) -> None:
        if self.open is None:
            return
        window = self.open
        self.story.steps.append(
            step_report(
                self.subject,
                (window.step, window.share, window.scope),
                (window.at, told.at),
                "paused" if window.paused and outcome == "held" else outcome,
                evidence,
                actor=told.record.actor,
                reason=reason,
                copied=self.copied,
            )
        )

    @property
    def copied(self) -> int:
        """Share of the traffic that is copied at a shadow step."""
        if self.story.shadow is not None:
            return self.story.shadow.fraction
        return self.story.promote.fraction if self.story.promote else 0

    def _end(self, told: Told, outcome: str, reason: str, evidence: Evidence | None) -> None:
        self._close(told, "completed" if outcome == "launched" else outcome, reason, evidence)
        self.open = None
        self.story.ended, self.story.outcome, self.story.reason = told, outcome, reason
