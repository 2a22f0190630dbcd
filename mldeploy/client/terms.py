"""The terms of a rollout: what the caller says, what the bundle says, what the policy says; in that order.

Rules: what the caller says is checked before anything is read. All of it at once needs no other terms.
Left out: what forbids a promote (`intents.py` and the fold).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypedDict

from mldeploy.core.guards import guards_problem, names_problem
from mldeploy.core.manifest import Rollout
from mldeploy.core.manifest_check import MAX_DEADLINE, MAX_HOLD, NO_SHARE, rollout_problems, steps_problem
from mldeploy.core.policy import Settings
from mldeploy.core.state import Ramp
from mldeploy.core.types import FULL_SHARE, format_duration, parse_duration, parse_share
from mldeploy.core.wish import labels_problem
from mldeploy.errors import UsageError

#: The word for a first step that copies traffic and takes none.
SHADOW = "shadow"


#: What a duration may be.
_LIMITS = {
    "hold": f"write 0 to {format_duration(timedelta(seconds=MAX_HOLD))}",
    "deadline": f"write 1s to {format_duration(timedelta(seconds=MAX_DEADLINE))}",
}


class TermError(UsageError):
    """What is wrong with one of the terms: `field` is its name, `said` what is wrong without it."""

    def __init__(self, field: str, said: str, hint: str) -> None:
        option = field.replace("_", "-").replace("guards", "guard")
        super().__init__(f"--{option}: {said}", hint)
        self.field, self.said = field, said


class RolloutTerms(TypedDict, total=False):
    """How a version shall take traffic. What is left out, or None, is as the bundle or the policy says.

    `to` is a percentage, `steps` are percentages of which the first may be "shadow", `now` is all at once.
    `hold` (at each step) and `deadline` are seconds or durations (10m), `guards` texts such as
    "error_rate < 1%" (docs/rollouts.md), `min_requests` those of the candidate at each step. `on` has labels
    (zone=a): the rollout is for hosts that carry them all, and stays at its last step there.
    """

    to: int | float | str | None
    steps: Sequence[int | float | str] | None
    now: bool
    hold: int | str | None
    guards: Sequence[str] | None
    min_requests: int | None
    deadline: int | str | None
    on: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Wish:
    """RolloutTerms, as a value."""

    to: int | float | str | None = None
    steps: Sequence[int | float | str] | None = None
    now: bool = False
    hold: int | str | None = None
    guards: Sequence[str] | None = None
    min_requests: int | None = None
    deadline: int | str | None = None
    on: Sequence[str] | None = None

    def check(self) -> None:
        """Raise UsageError for what makes no sense, before anything is read or made."""
        self.rollout()
        self.labels()

    def labels(self) -> tuple[str, ...]:
        """The labels of the hosts it is for; none: all. Raises UsageError."""
        on = tuple(self.on or ())
        problem = labels_problem(on)
        if problem:
            raise TermError("on", *problem)
        return on

    def rollout(self) -> Rollout:
        """What is said of it. Raises UsageError."""
        given = [self.to is not None, self.steps is not None, self.now]
        if sum(given) > 1:
            raise UsageError("--to, --steps and --now exclude each other", "give one of them")
        rollout = Rollout(
            steps=self._steps() if any(given) else (),
            hold=_seconds(self.hold),
            guards=tuple(self.guards or ()),
            min_requests=self.min_requests,
            deadline=_seconds(self.deadline),
        )
        if self.now and rollout != Rollout(steps=rollout.steps):
            raise UsageError("--now takes all traffic at once", "leave out what is said of a ramp")
        for key, message, hint in rollout_problems(rollout):
            field = key.removeprefix("rollout.")
            if field in _LIMITS:  # in the words of the caller
                message, hint = f"{getattr(self, field)} is out of range", _LIMITS[field]
            if field == "steps":
                raise UsageError(message, hint)
            raise TermError(field, message, hint)
        return rollout

    def _steps(self) -> tuple[int, ...]:
        wanted = self.steps if self.steps is not None else ("100" if self.now else self.to,)
        steps = tuple(0 if step == SHADOW else parse_share(str(step)) for step in wanted)
        named = [share for step, share in zip(wanted, steps, strict=True) if step != SHADOW]
        problem = NO_SHARE if 0 in named else steps_problem(steps)
        if problem:
            raise UsageError(*problem)
        return steps


@dataclass(frozen=True, slots=True)
class Terms:
    """What a promote says in its record, in seconds and hundredths of a percent. 0: as the policy says."""

    steps: tuple[int, ...] = (FULL_SHARE,)
    hold: int = 0
    guards: tuple[str, ...] = ()
    min_requests: int = 200
    deadline: int = 0
    fraction: int = 0
    on: tuple[str, ...] = ()


def terms_under_way(ramp: Ramp) -> Terms:
    """Those of a rollout under way."""
    return Terms(ramp.steps, ramp.hold, ramp.guards, ramp.min_requests, ramp.deadline, ramp.fraction, ramp.on)


def terms(wish: Wish, bundle: Callable[[], Rollout], policy: Settings) -> Terms:
    """What counts, of what the caller, the bundle and the policy say. `bundle` is asked where it matters.

    Raises UsageError where they do not go together.
    """
    wished, on = wish.rollout(), wish.labels()
    packed = Rollout() if wished.steps == (FULL_SHARE,) else bundle()
    steps = wished.steps or packed.steps or policy.steps
    if steps == (FULL_SHARE,):
        if wished != Rollout(steps=wished.steps):
            raise UsageError(
                "it would take all traffic at once, with no step to hold or to guard",
                "give --steps, for example --steps 1,10,50,100, or leave out what is said of a ramp",
            )
        return Terms(on=on)
    found = Terms(
        steps=steps,
        hold=_first(wished.hold, packed.hold, policy.hold),
        guards=wished.guards or packed.guards or policy.guards,
        min_requests=_first(wished.min_requests, packed.min_requests, policy.min_requests),
        deadline=_first(wished.deadline, packed.deadline, 0),
        fraction=_first(wished.shadow_fraction, packed.shadow_fraction, 0),
        on=on,
    )
    problem = guards_problem(found.guards, steps)
    if problem:
        raise UsageError(*problem)
    holds = found.hold * len(steps)
    if found.deadline and found.deadline <= holds:
        ramp = format_duration(timedelta(seconds=holds))
        raise UsageError(f"the holds alone take {ramp}, and the deadline comes first", "give a later one")
    return found


def refuse_unmeasured(found: Terms, metrics: Collection[str], columns: Callable[[], Collection[str]]) -> None:
    """Raise UsageError for a guard on a metric or column that the bundle has not: see `names_problem`."""
    problem = names_problem(found.guards, metrics, columns)
    if problem:
        raise UsageError(*problem)


def _first(*said: int | None) -> int:
    return next((value for value in said if value is not None), 0)


def _seconds(said: int | str | None) -> int | None:
    if said is None or isinstance(said, int):
        return said
    return 0 if said.strip() in ("0", "0s") else int(parse_duration(said).total_seconds())
