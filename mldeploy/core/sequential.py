"""What counts support, however often one looks: evidence as a number, and bounds that always hold.

Rules: a ramp is looked at every few seconds, and a test made for one look would in time find a difference
where there is none. So every test here is an **e-process**: a number that, where the hypothesis is true, is
expected never to exceed 1 at whatever moment one stops, and therefore ever reaches 1/doubt with a chance of
at most doubt (Ville, Étude critique de la notion de collectif, 1939). All are given as natural logarithms,
so the evidence suffices when it is at least log(1 / doubt).

For rates it is the likelihood mixed over a Beta prior, over the greatest likelihood that the hypothesis
allows (Robbins, Statistical methods related to the law of the iterated logarithm, 1970; Howard, Ramdas,
McAuliffe and Sekhon, Time-uniform, nonparametric, nonasymptotic confidence sequences, 2021, section 3).
Dividing by the greatest likelihood keeps it an e-process for every rate the hypothesis holds, and for two
independent samples the product is one for the pair (Wasserman, Ramdas and Balakrishnan, Universal inference,
2020, section 8). A quantile is a rate: the share of values above a threshold (Howard and Ramdas, Sequential
estimation of quantiles, 2022). Means, whose values have no bound, have asymptotic bounds (Waudby-Smith,
Arbour, Sinha, Kennedy and Ramdas, Time-uniform central limit theory and asymptotic confidence sequences,
2024).

All of it takes requests as independent of each other. Where one client's requests fail together, the
evidence is weaker than it looks: that is what a guard's margin is for.
Left out: what is compared with what (`core/judge.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple


class Rate(NamedTuple):
    """`hits` of `total`."""

    total: int
    hits: int

    @property
    def value(self) -> float:
        """The share, 0.0 of nothing."""
        return self.hits / self.total if self.total else 0.0


#: The prior on rates: half a hit in about twenty. It costs little where failures are rare.
_HITS, _MISSES = 0.5, 20.0


def needed(doubt: float) -> float:
    """The evidence (a logarithm) that suffices for `doubt`, the chance of being wrong."""
    return math.log(1 / doubt)


def above(rate: Rate, limit: float, around: float | None = None) -> float:
    """The evidence that the true rate is greater than `limit`. `around`: where the prior expects it."""
    return _mixture(rate, around) - _likelihood(rate, min(rate.value, limit))


def below(rate: Rate, limit: float, around: float | None = None) -> float:
    """The evidence that the true rate is less than `limit`."""
    return _mixture(rate, around) - _likelihood(rate, max(rate.value, limit))


def more_than_times(one: Rate, other: Rate, factor: float) -> float:
    """The evidence that the true rate of `one` is greater than `factor` times that of `other`."""
    return _mixture(one, None) + _mixture(other, None) - _together(one, other, factor, upper=True)


def less_than_times(one: Rate, other: Rate, factor: float) -> float:
    """The evidence that the true rate of `one` is less than `factor` times that of `other`."""
    return _mixture(one, None) + _mixture(other, None) - _together(one, other, factor, upper=False)


def either(one: float, other: float) -> float:
    """The evidence against a hypothesis that both `one` and `other` speak against: the mean of the two."""
    high, low = max(one, other), min(one, other)
    return high + math.log1p(math.exp(low - high)) - math.log(2) if math.isfinite(high) else high


def rate_bounds(rate: Rate, doubt: float, around: float | None = None) -> tuple[float, float]:
    """Where the true rate lies, but for a chance of `doubt` on each side, at any time."""
    if not rate.total:
        return 0.0, 1.0
    enough = needed(doubt)
    low = _edge(lambda limit: above(rate, limit, around) >= enough, rate.value, 0.0)
    high = _edge(lambda limit: below(rate, limit, around) >= enough, rate.value, 1.0)
    return low, high


def mean_margin(count: int, variance: float, doubt: float) -> float:
    """How far a mean of `count` values can be from the true one, but for `doubt`; infinite below 100."""
    if count < _ASYMPTOTIC:
        return math.inf
    # tightest near 2,000 values; valid, asymptotically, at every number
    spread = count * _TUNING + 1
    return math.sqrt(variance * 2 * spread / (count**2 * _TUNING) * math.log(math.sqrt(spread) / doubt))


_ASYMPTOTIC = 100
_TUNING = 8 / 2_000


def _edge(excluded: Callable[[float], bool], inside: float, outside: float) -> float:
    """The limit between `inside`, which is not excluded, and `outside`; `outside` if that is not either."""
    if not excluded(outside):
        return outside
    for _ in range(50):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if excluded(middle) else (middle, outside)
    return outside


def _mixture(rate: Rate, around: float | None) -> float:
    """The logarithm of the likelihood of `rate`, mixed over the prior."""
    hits, misses, whole = _prior(around)
    # whole numbers first: half a miss is lost in a total of 2^53, and nothing at all would be left of it
    return _beta(hits + rate.hits, misses + (rate.total - rate.hits)) - whole


@lru_cache(maxsize=256)
def _prior(around: float | None) -> tuple[float, float, float]:
    """The prior's hits and misses, and the logarithm of their Beta function.

    Half a hit or half a miss, whichever is rarer, and so many of the other that the mean is `around`.
    """
    hits, misses = (_HITS, _MISSES) if around is None else _shares(around)
    return hits, misses, _beta(hits, misses)


def _shares(around: float) -> tuple[float, float]:
    around = min(max(around, 1e-6), 1 - 1e-6)
    if around <= 0.5:
        return 0.5, 0.5 * (1 - around) / around
    return 0.5 * around / (1 - around), 0.5


def _beta(hits: float, misses: float) -> float:
    return math.lgamma(hits) + math.lgamma(misses) - math.lgamma(hits + misses)


def _likelihood(rate: Rate, true: float) -> float:
    """The logarithm of the likelihood of `rate` where the true rate is `true`."""
    misses = rate.total - rate.hits
    if (rate.hits and true <= 0.0) or (misses and true >= 1.0):
        return -math.inf
    found = rate.hits * math.log(true) if rate.hits else 0.0
    return found + (misses * math.log1p(-true) if misses else 0.0)


def _together(one: Rate, other: Rate, factor: float, *, upper: bool) -> float:
    """The greatest likelihood of both where `one`'s rate is at most (at least) `factor` times `other`'s."""
    allowed = one.value <= factor * other.value if upper else one.value >= factor * other.value
    if allowed:
        return _likelihood(one, one.value) + _likelihood(other, other.value)
    # the likelihood is concave, so its greatest value lies where the two are just `factor` apart
    low, high = 0.0, min(1.0, 1.0 / factor)
    for _ in range(80):
        middle = (low + high) / 2
        rising = _slope(one, factor * middle) * factor + _slope(other, middle) > 0
        low, high = (middle, high) if rising else (low, middle)
    true = (low + high) / 2
    return _likelihood(one, min(factor * true, 1.0)) + _likelihood(other, true)


def _slope(rate: Rate, true: float) -> float:
    misses = rate.total - rate.hits
    found = rate.hits / true if rate.hits else 0.0
    return found - (misses / max(1.0 - true, 1e-300) if misses else 0.0)
