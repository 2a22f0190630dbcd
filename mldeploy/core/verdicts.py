"""What verdicts on guards are made of: what there is to judge by, how sure one has to be, what is missing.

Left out: the judging (`core/judge.py`, `core/judge_latency.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from mldeploy.core import sequential
from mldeploy.core.evidence import GuardVerdict, Measure
from mldeploy.core.guards import Guard

BREACHED, HOLDS, UNDECIDED, RESTS = "breached", "holds", "undecided", "rests"


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


def unknown(guard: Guard, why: str) -> GuardVerdict:
    """Undecided, because there is nothing to judge by."""
    return GuardVerdict(guard=guard.text, verdict=UNDECIDED, limit=None, why=why)


def verdict_of(worse: float, better: float, doubt: Doubt) -> str:
    """The verdict, from the evidence (logarithms) for being over the limit and for being under it."""
    if worse >= sequential.needed(doubt.breach):
        return BREACHED
    return HOLDS if better >= sequential.needed(doubt.hold) else UNDECIDED


def lacking(verdict: str, count: int, evidence: float, doubt: Doubt, what: str = "requests") -> str:
    """About how many more requests an undecided guard needs, if things go on as they do."""
    if verdict != UNDECIDED:
        return ""
    # a prior costs a few nats before evidence grows, in proportion to the number of requests
    needed = sequential.needed(doubt.hold)
    if count < 50 or evidence <= 0:
        return f"more {what} are needed"
    more = math.ceil(count * (needed / evidence - 1))
    return f"about {max(more, 1):,} more {what} are needed"
