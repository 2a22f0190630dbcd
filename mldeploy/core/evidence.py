"""What hosts count of versions, and how the counts of many hosts become one: the evidence of verdicts.

Rules: everything is a count (or, for memory, a peak), so that merging is associative and commutative to the
last digit and it does not matter who merges what first; nothing grows with the number of requests. Counters
belong to a **scope** (see `Measure`) and start at zero with it, so candidate and stable are always counted
over the same window. Requests that pin a version by number or name are not counted: nobody routed them.
Left out: what the numbers mean for a guard (`core/guards.py`), and who counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import zip_longest
from typing import TypeVar

import msgspec

_M = TypeVar("_M")

#: Seconds: the upper edge of bucket 0, and the edge beyond which everything is one last bucket.
LOWEST, HIGHEST = 50e-6, 120.0
#: Each bucket's upper edge is so many times the one before.
GROWTH = 1.05
_LOG = math.log(GROWTH)
#: No count is higher: a float holds every whole number up to it.
_MOST = 2**53
LAST_BUCKET = math.ceil(math.log(HIGHEST / LOWEST) / _LOG) + 1


def bucket(seconds: float) -> int:
    """The bucket of a latency: 0 up to 50 µs, then (edge(i - 1), edge(i)], 0 to LAST_BUCKET."""
    if seconds <= LOWEST:
        return 0
    # a latency on the edge belongs below it, and rounding must not carry it over
    return min(LAST_BUCKET, math.ceil(math.log(seconds / LOWEST) / _LOG - 1e-9))


def edge(index: int) -> float:
    """The upper edge of a bucket in seconds."""
    return float(LOWEST * GROWTH**index)


class _Value(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    pass


class Latency(msgspec.Struct, omit_defaults=True):
    """Latencies counted by bucket, 5 % wide each: every quantile is known to 5 %."""

    counts: dict[int, int] = {}

    def observe(self, seconds: float, count: int = 1) -> None:
        """Count a latency, in place."""
        index = bucket(seconds)
        self.counts[index] = self.counts.get(index, 0) + count

    def merge(self, other: Latency) -> Latency:
        """Both together, as a new value."""
        return Latency(_added(self.counts, other.counts))

    @property
    def total(self) -> int:
        """How many were counted."""
        return sum(self.counts.values())

    def quantile(self, share: float) -> float:
        """Seconds that `share` (0 to 1) of the latencies do not exceed, to a bucket; 0.0 without any."""
        return self.ranked(math.ceil(share * self.total))

    def ranked(self, rank: int) -> float:
        """The upper edge of the bucket with the latency of that rank (1: the shortest); 0.0 without any."""
        seen = 0
        for index in sorted(self.counts):
            seen += self.counts[index]
            if seen >= rank:
                return edge(index)
        return edge(max(self.counts)) if self.counts else 0.0

    def moments(self) -> tuple[float, float]:
        """Mean (s) and variance (s²), each latency taken in the middle of its bucket, so to 2.5 %."""
        count = self.total
        if not count:
            return 0.0, 0.0
        middles = [(edge(index) / (1 + (GROWTH - 1) / 2), found) for index, found in self.counts.items()]
        mean = sum(middle * found for middle, found in middles) / count
        return mean, sum((middle - mean) ** 2 * found for middle, found in middles) / count


class Tally(_Value, frozen=True, omit_defaults=True, kw_only=True):
    """What became of the requests that were routed to one version."""

    requests: int = 0  # answered or lost
    failures: int = 0  # answered with a status from 500 on, or lost
    refusals: int = 0  # answered with 4xx by the worker
    latency: Latency = msgspec.field(default_factory=Latency)  # of all that were answered
    crashes: int = 0  # workers that ended unasked
    memory: int = 0  # bytes: the most private memory one worker was seen with

    def merge(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            requests=self.requests + other.requests,
            failures=self.failures + other.failures,
            refusals=self.refusals + other.refusals,
            latency=self.latency.merge(other.latency),
            crashes=self.crashes + other.crashes,
            memory=max(self.memory, other.memory),
        )


class Comparison(_Value, frozen=True, omit_defaults=True, kw_only=True):
    """Copies of requests answered by a shadow, beside the answers that were given.

    Rank agreement is counted, not summed: each pair of scores is held against the one compared before it on
    the same host, and the two models order them alike (`concordant`) or not. (concordant - discordant) /
    (concordant + discordant) estimates Kendall's tau.
    """

    offered: int = 0  # requests that its fraction and `where` chose
    dropped: int = 0  # of these, not copied: the queue was full, or the shadow paused
    pairs: int = 0  # copies that were answered, rightly or with an error
    failed: int = 0  # of these, answered with an error where the primary's answer was none
    agreed: int = 0  # the same answer, to the last digit
    within: int = 0  # the same within tolerance, the exact ones included
    classed: int = 0  # pairs whose answers name a class (a label, or the largest score)
    same_class: int = 0
    concordant: int = 0
    discordant: int = 0
    latency: Latency = msgspec.field(default_factory=Latency)  # of the shadow's answers
    pauses: int = 0
    paused_ms: int = 0

    @property
    def agreement(self) -> tuple[int, int]:
        """(agreeing, compared): by class where answers name one, else by tolerance. An error disagrees."""
        if self.classed:
            return self.same_class, self.classed + self.failed
        return self.within, self.pairs

    def merge(self, other: Comparison) -> Comparison:
        """Both together."""
        mine, theirs = msgspec.structs.asdict(self), msgspec.structs.asdict(other)
        del mine["latency"]
        added = {name: value + theirs[name] for name, value in mine.items()}
        return Comparison(latency=self.latency.merge(other.latency), **added)


class Column(_Value, frozen=True, omit_defaults=True, kw_only=True):
    """One input or output of a model: how many values fell in each bin of the baseline, then and now."""

    baseline: tuple[int, ...] = ()  # from the bundle, the same on every host
    live: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """How many live values were counted."""
        return sum(self.live)

    def merge(self, other: Column) -> Column:
        """Both together."""
        baseline = zip_longest(self.baseline, other.baseline, fillvalue=0)
        live = zip_longest(self.live, other.live, fillvalue=0)
        return Column(baseline=tuple(map(max, baseline)), live=tuple(map(sum, live)))

    def shares(self) -> list[tuple[float, float]]:
        """(baseline, live) share of every bin; half a value more in each, so that no bin is empty."""
        pairs = list(zip_longest(self.baseline, self.live, fillvalue=0))
        bins = len(pairs)
        before, now = sum(self.baseline) + bins / 2, self.total + bins / 2
        return [((old + 0.5) / before, (new + 0.5) / now) for old, new in pairs]

    def psi(self) -> float:
        """The population stability index: the sum over bins of (live - baseline) · ln(live / baseline).

        0.0 where either side was not counted. Under 0.1 is taken for no change, from 0.25 for a great one
        (Siddiqi, Credit Risk Scorecards, 2006).
        """
        if not self.total or not sum(self.baseline):
            return 0.0
        return sum((live - base) * math.log(live / base) for base, live in self.shares())


class Drift(_Value, frozen=True, omit_defaults=True, kw_only=True):
    """Live inputs and outputs against the bundle's baseline, by the tensor column's name."""

    columns: dict[str, Column] = {}

    def merge(self, other: Drift) -> Drift:
        """Both together."""
        names = [*self.columns, *(name for name in other.columns if name not in self.columns)]
        none = Column()
        merged = {n: self.columns.get(n, none).merge(other.columns.get(n, none)) for n in sorted(names)}
        return Drift(columns=merged)

    def psi(self) -> dict[str, float]:
        """`Column.psi` of every column."""
        return {name: column.psi() for name, column in self.columns.items()}


class Measure(_Value, frozen=True, omit_defaults=True, kw_only=True):
    """What was counted of one version in one scope.

    `scope` is the number of the record that set the present step of the ramp, or, for a shadow without a
    ramp, of the record that began it.
    """

    model: str
    version: int
    scope: int
    role: str  # "stable", "candidate" or "shadow"
    tally: Tally = msgspec.field(default_factory=Tally)
    comparison: Comparison | None = None  # None: it answered no copies
    drift: Drift | None = None  # None: nothing was sampled, or its bundle has no baseline

    @property
    def key(self) -> tuple[str, int, int, str]:
        """What must be the same for two measures to be one."""
        return self.model, self.version, self.scope, self.role

    def merge(self, other: Measure) -> Measure:
        """Both together. They must have the same key (ValueError: a mistake of the caller)."""
        if self.key != other.key:
            raise ValueError(f"{self.key} is not {other.key}")
        return msgspec.structs.replace(
            self,
            tally=self.tally.merge(other.tally),
            comparison=_either(self.comparison, other.comparison, Comparison.merge),
            drift=_either(self.drift, other.drift, Drift.merge),
        )


def merge(measures: Iterable[Measure]) -> tuple[Measure, ...]:
    """Measures with the same key made one, in the order of their keys."""
    found: dict[tuple[str, int, int, str], Measure] = {}
    for measure in measures:
        before = found.get(measure.key)
        found[measure.key] = measure if before is None else before.merge(measure)
    return tuple(found[key] for key in sorted(found))


def plausible(measures: Iterable[Measure]) -> bool:
    """Whether these could have been counted: they are other hosts' words, and nobody may choke on them.

    What is a part of something is not more than it: one process counts both and tells them at one moment, so
    that holds to the last digit, and in every sum of such counts.
    """
    return all(
        _counted(measure.tally)
        and _parts(measure.tally)
        and (measure.comparison is None or (_counted(measure.comparison) and _compared(measure.comparison)))
        and (measure.drift is None or all(map(_counted, measure.drift.columns.values())))
        for measure in measures
    )


def _counted(value: Tally | Comparison | Column) -> bool:
    for found in msgspec.structs.astuple(value):
        if isinstance(found, Latency):
            if not _within(found.counts, LAST_BUCKET):
                return False
            found = found.counts.values()
        elif not isinstance(found, tuple):
            found = (found,)
        if not _within(found, _MOST):
            return False
    return True


def _parts(tally: Tally) -> bool:
    return tally.failures + tally.refusals <= tally.requests


def _compared(found: Comparison) -> bool:
    alike = found.agreed <= found.within and found.same_class <= found.classed
    return alike and found.failed + max(found.within, found.classed) <= found.pairs


def _within(numbers: Collection[int], most: int) -> bool:
    return not numbers or (min(numbers) >= 0 and max(numbers) <= most)


class GuardVerdict(_Value, frozen=True, omit_defaults=True, kw_only=True):
    """What the evidence says of one guard.

    Rates are shares (0.01 is 1 %), latencies seconds, memory bytes. `low` and `high` hold the candidate's
    true value with the guard's confidence; null where the evidence does not bound it.
    """

    guard: str  # its text
    verdict: str  # "holds", "breached", "undecided", or "rests": not judged at this step
    value: float | None = None  # the candidate's
    low: float | None = None
    high: float | None = None
    stable: float | None = None  # stable's, where the guard compares with it
    limit: float | None = None  # what the value is held against
    why: str = ""  # in words: what is missing, or why it rests


class Evidence(_Value, frozen=True, omit_defaults=True, kw_only=True):
    """What a verdict in the log rests on: embedded in its record, so that it can be judged again later.

    Times are the store's, in unix seconds.
    """

    hosts: int = 0  # whose report was heard
    members: int = 0  # that it was for
    start: float = 0.0  # of the window: when the record of the scope was written
    end: float = 0.0
    measures: tuple[Measure, ...] = ()  # merged over the hosts heard
    guards: tuple[GuardVerdict, ...] = ()
    unused: float = 0.0  # retire: seconds for which no member has used it


def _either(one: _M | None, other: _M | None, both: Callable[[_M, _M], _M]) -> _M | None:
    if one is None or other is None:
        return other if one is None else one
    return both(one, other)


def _added(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    merged = dict(one)
    for key, count in other.items():
        merged[key] = merged.get(key, 0) + count
    return merged


def tallied(measures: Sequence[Measure], version: int, scope: int, role: str) -> Measure | None:
    """The one of that version, scope and role; None where nothing was counted."""
    return next((m for m in measures if (m.version, m.scope, m.role) == (version, scope, role)), None)
