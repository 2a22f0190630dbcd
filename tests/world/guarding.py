"""Whether the guards of a step hold, judged again from what its own record tells.

Whoever ends a step says of each guard whether it holds. Here that is not believed: they must be the guards
that the rollout or the policy names, and what can be reckoned from the counts in the record is reckoned. It
is less than the production judge does: that asks how sure the counts make it, and here they need only be on
the right side of the limit.
"""

from __future__ import annotations

from collections.abc import Sequence

from mldeploy.core.evidence import Evidence, Measure
from mldeploy.core.guards import Guard

#: A rate below it is no difference from stable's, as people are told.
FLOOR = 0.005


def unheld(guards: Sequence[Guard], told: Evidence, candidate: Measure | None, scope: int) -> str:
    """What is wrong with the verdicts, in words; "" for nothing. `candidate`: its counts at the step."""
    said = [verdict.guard for verdict in told.guards]
    if said != [guard.text for guard in guards]:
        return f"by the guards {said}, which are not the ones that count"
    stable = next((each for each in told.measures if (each.scope, each.role) == (scope, "stable")), None)
    for guard, verdict in zip(guards, told.guards, strict=True):
        if verdict.verdict not in ("holds", "rests"):
            return f"though a guard does not hold: {verdict}"
        if verdict.verdict == "holds" and candidate is not None and _over(guard, candidate, stable):
            return f"though {guard.text!r} does not hold by its own counts: {verdict}"
    return ""


def _over(guard: Guard, candidate: Measure, stable: Measure | None) -> bool:
    """Whether the counts lie beyond the limit. What needs more than a division is left to the judge."""
    if guard.measure == "crashes":
        return candidate.tally.crashes >= guard.limit
    if guard.measure != "error_rate":
        return False
    limit = max(FLOOR, guard.limit * _failing(stable)) if guard.times else guard.limit
    return _failing(candidate) >= limit


def _failing(measure: Measure | None) -> float:
    """The share of requests, or of copies, that failed."""
    if measure is None:
        return 0.0
    if measure.role == "shadow":
        compared = measure.comparison
        return compared.failed / compared.pairs if compared and compared.pairs else 0.0
    return measure.tally.failures / measure.tally.requests if measure.tally.requests else 0.0
