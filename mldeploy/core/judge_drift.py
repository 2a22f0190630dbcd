"""Whether a guard on drift holds: the population stability index of a column against the bundle's baseline.

Live values and baseline are samples, both. The live one grows, and is looked at again and again; the baseline
is one draw of a hundred rows or more, and its noise never goes away: n rows in b bins alone make an index of
about (b - 1) / n. So the guard **holds** by the index against the baseline as it stands, but for the noise of
the live values; it is **breached** only by what the noise of both together does not explain. In between it is
undecided, however much traffic there is, and says that the baseline is too small.

A baseline of n rows makes n times the index about noncentral chi-squared, with b - 1 degrees of freedom and
n times the true index as its noncentrality; its upper tail is bounded as by Birgé (An alternative point of
view on Lepski's method, 2001, lemma 8.1). Values are named in a baseline because they were frequent in it, so
those of few rows are overrated: for a breach they count with all other values. That can only hide drift.
Left out: counting (`core/evidence.py`).
"""

from __future__ import annotations

import math
from itertools import zip_longest

from mldeploy.core import sequential
from mldeploy.core.evidence import Column, GuardVerdict
from mldeploy.core.guards import Guard
from mldeploy.core.verdicts import BREACHED, HOLDS, UNDECIDED, Doubt, Step, unknown

#: Rows of the baseline, below which a bin counts with the last one, which holds all other values.
_FEW = 5


def drift(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
    """The verdict on a guard such as `drift(age) < 0.2`."""
    found = step.candidate.drift if step.candidate else None
    column = found.columns.get(guard.of) if found else None
    if found and found.columns and column is None:
        known = ", ".join(sorted(found.columns)[:5])
        return unknown(guard, f"the bundle's baseline has no column {guard.of}; it has {known}")
    if column is None or not column.total:
        return unknown(guard, "no live values have been sampled")
    if not sum(column.baseline):
        return unknown(guard, f"the bundle's baseline has no values of {guard.of}")
    value, margin = column.psi(), _margin(column, doubt.hold)
    verdict = UNDECIDED
    if _least(column, doubt.breach) > guard.limit:
        verdict = BREACHED
    elif value + margin < guard.limit:
        verdict = HOLDS
    known_margin = math.isfinite(margin)
    return GuardVerdict(
        guard=guard.text,
        verdict=verdict,
        value=value,
        low=_least(column, doubt.hold) if known_margin else None,
        high=value + margin if known_margin else None,
        limit=guard.limit,
        why=_lacking(column, guard.limit, doubt) if verdict == UNDECIDED else "",
    )


def _lacking(column: Column, limit: float, doubt: Doubt) -> str:
    if _seen(column, doubt.breach) > limit:
        rows = sum(column.baseline)
        return f"a baseline of {rows:,} rows is too small to tell this from chance: pack it with more"
    return "more live values are needed"


def _least(column: Column, doubt: float) -> float:
    """What the true index is at least, but for a chance of `doubt`: half for the live values, half for the
    baseline.
    """
    told = _told_apart(column)
    rows, spare = sum(told.baseline), max(len(told.baseline), len(told.live)) - 1
    enough = sequential.needed(doubt / 2)
    # the bound is T = spare + c + 2 √((spare + 2c) · enough) + 2 · enough, solved for the noncentrality c
    room = 2 * rows * _seen(told, doubt / 2) - spare
    if room <= 0:
        return 0.0
    root = math.sqrt(room) - 2 * math.sqrt(enough)
    return max(0.0, (root * root - spare) / (2 * rows)) if root > 0 else 0.0


def _seen(column: Column, doubt: float) -> float:
    """What the index against the baseline as it stands is at least, whatever the noise of the live values."""
    shares = column.shares()
    curved = sum((1 / now + before / now**2) * now * (1 - now) for before, now in shares)
    return column.psi() - curved / (2 * column.total) - _margin(column, doubt)


def _margin(column: Column, doubt: float) -> float:
    """How far the noise of the live values carries the index, at any time; infinite where they are few.

    By the delta method: the derivative by a bin's share p against its baseline q is ln(p / q) + 1 - q / p,
    and half the second derivative times the share's variance is what is expected where nothing has changed.
    """
    slopes = [(now, math.log(now / before) + 1 - before / now) for before, now in column.shares()]
    mean = sum(now * slope for now, slope in slopes)
    variance = sum(now * (slope - mean) ** 2 for now, slope in slopes)
    return sequential.mean_margin(column.total, variance, doubt)


def _told_apart(column: Column) -> Column:
    """The column with the bins of few baseline rows in its last one, the last among them."""
    pairs = list(zip_longest(column.baseline, column.live, fillvalue=0))
    kept = [pair for pair in pairs[:-1] if pair[0] >= _FEW]
    if len(kept) == len(pairs) - 1:
        return column
    rest_before, rest_now = (sum(side) for side in zip(*pairs, strict=True))
    rest = rest_before - sum(before for before, _ in kept), rest_now - sum(now for _, now in kept)
    baseline, live = zip(*kept, rest, strict=True)
    return Column(baseline=baseline, live=live)
