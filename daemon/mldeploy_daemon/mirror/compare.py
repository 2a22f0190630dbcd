"""How like the answers of a shadow are to those that were given: counted, pair by pair.

Rules. `agreed`: every output is the same, to the last digit. `within`: every number is within atol + rtol
times the primary's, and everything else the same. `classed`: an output names a class in every row (text,
whole numbers and truths by their value, two or more scores by the largest), and `same_class`: all of them
are the same in all rows. Ranks: the first output of numbers is a score in each row (of several the last,
which of two is the positive class's); each is held against the one compared before it, and the two versions
order them alike or not. Where one version has an output that the other has not, no answers are alike within
tolerance, and the outputs that both have are compared by class and rank. An answer of the shadow that cannot
be read as its signature says is of no class that the primary's names.
Left out: where pairs come from, and what follows.
"""

from __future__ import annotations

import numpy as np

from mldeploy.core.evidence import Comparison, Latency
from mldeploy.runtime.tensors import Array
from mldeploy_daemon.mirror.answers import Arrays, Floats

#: Rows of one answer that count for the ranks.
_RANKED = 64


class Comparing:
    """The counts of one shadow in one scope."""

    def __init__(self, rtol: float, atol: float) -> None:
        self.rtol, self.atol = rtol, atol
        self.offered = self.dropped = self.pairs = self.failed = 0
        self.agreed = self.within = self.classed = self.same_class = 0
        self.concordant = self.discordant = 0
        self.pauses = 0
        self.paused_ms = 0
        self.latency: dict[int, int] = {}
        self._last: tuple[float, float] | None = None  # the scores of the row compared before

    def failure(self) -> None:
        """The shadow answered with an error, or ended, where the primary had an answer."""
        self.pairs += 1
        self.failed += 1

    def pair(self, primary: Arrays, shadow: Arrays | None) -> bool:
        """Two answers to one request; whether they are alike within tolerance."""
        self.pairs += 1
        both = [(one, shadow[name]) for name, one in primary.items() if name in shadow] if shadow else []
        if shadow is None or any(one.shape != other.shape for one, other in both):
            classes = [False] if any(_classes(one) is not None for one in primary.values()) else []
            agreed = within = False
        else:
            whole = primary.keys() == shadow.keys()
            agreed = whole and all(_same(one, other) for one, other in both)
            within = agreed or (whole and all(self._near(one, other) for one, other in both))
            classes = [alike for one, other in both if (alike := _same_classes(one, other)) is not None]
            self._rank(both)
        self.agreed += agreed
        self.within += within
        self.classed += bool(classes)
        self.same_class += bool(classes) and all(classes)
        return within

    def _near(self, one: Array, other: Array) -> bool:
        if one.dtype.kind != "f" or other.dtype.kind not in "fiu":
            return _same(one, other)
        return bool(np.isclose(other, one, rtol=self.rtol, atol=self.atol, equal_nan=True).all())

    def _rank(self, both: list[tuple[Array, Array]]) -> None:
        for one, other in both:
            scores = _scores(one), _scores(other)
            if scores[0] is None or scores[1] is None:
                continue
            ours, theirs = scores[0][:_RANKED], scores[1][:_RANKED]
            if not len(ours):
                return
            if self._last is not None:
                ours = np.concatenate(([self._last[0]], ours))
                theirs = np.concatenate(([self._last[1]], theirs))
            orders = np.sign(np.diff(ours)) * np.sign(np.diff(theirs))
            self.concordant += int((orders > 0).sum())
            self.discordant += int((orders < 0).sum())
            self._last = float(ours[-1]), float(theirs[-1])
            return

    def value(self) -> Comparison:
        """The counts as evidence."""
        return Comparison(
            offered=self.offered,
            dropped=self.dropped,
            pairs=self.pairs,
            failed=self.failed,
            agreed=self.agreed,
            within=self.within,
            classed=self.classed,
            same_class=self.same_class,
            concordant=self.concordant,
            discordant=self.discordant,
            latency=Latency(self.latency.copy()),
            pauses=self.pauses,
            paused_ms=self.paused_ms,
        )


def _same(one: Array, other: Array) -> bool:
    if (one.dtype.kind == "O") != (other.dtype.kind == "O"):
        return False  # text and numbers
    if one.dtype.kind == "f":
        return bool(np.array_equal(one, other, equal_nan=True))
    return bool(np.array_equal(one, other))


def _same_classes(one: Array, other: Array) -> bool | None:
    ours, theirs = _classes(one), _classes(other)
    return None if ours is None or theirs is None else bool(np.array_equal(ours, theirs))


def _classes(array: Array) -> Array | None:
    """The class of each row; None where the output names none."""
    if array.dtype.kind != "f":
        return array
    if array.ndim >= 2 and array.shape[-1] >= 2:
        return np.asarray(array.argmax(axis=-1))
    return None


def _scores(array: Array) -> Floats | None:
    """One number a row; None where the output has none."""
    if array.dtype.kind != "f" or array.ndim > 2 or (array.ndim == 2 and not array.shape[1]):
        return None
    return np.asarray(array[:, -1] if array.ndim == 2 else np.atleast_1d(array), dtype=np.float64)
