"""Live values counted into the bins of a bundle's baseline: a few integers a column, however much there is.

A sampled request counts in every scope its version counts in, and in two windows of half an hour, of which
the older is dropped when the newer is full: what /metrics shows is of the last half to whole hour.
Left out: who is sampled (the fronts), and what follows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mldeploy.core.baseline import CATEGORY, INPUTS, OUTPUTS, Baseline, Bins, parse_baseline
from mldeploy.core.evidence import Column, Drift
from mldeploy.core.manifest import Tensor
from mldeploy.errors import ManifestError
from mldeploy.runtime.tensors import Array
from mldeploy_daemon.mirror.answers import Arrays

#: Rows of one request that are counted.
ROWS = 256
#: Seconds of one window.
WINDOW = 1800.0

Counts = list[npt.NDArray[np.int64]]


def read_baseline(path: Path) -> Baseline | None:
    """The file of a bundle; None where it is gone or makes no sense, for nothing depends on it."""
    try:
        return parse_baseline(path.read_bytes())
    except (OSError, ManifestError):
        return None


class Drifting:
    """The live counts of one version."""

    def __init__(self, baseline: Baseline, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> None:
        self.columns = baseline.columns
        tensors = [*((INPUTS, tensor) for tensor in inputs), *((OUTPUTS, tensor) for tensor in outputs)]
        self._single = {(side, tensor.name) for side, tensor in tensors if tensor.shape[:1] != (-1,)}
        self._values = [_lookup(column) for column in self.columns]
        self._scopes: dict[tuple[int, str], Counts] = {}
        self._last: dict[tuple[int, str], float] = {}  # when each was counted in last
        self._windows: tuple[Counts, Counts] = (self._empty(), self._empty())
        self._turned = 0.0

    def _empty(self) -> Counts:
        return [np.zeros(column.bins, dtype=np.int64) for column in self.columns]

    def count(self, sides: dict[str, Arrays], scopes: Iterable[tuple[int, str]], now: float) -> None:
        """One request's inputs and outputs, in these scopes; `now` in seconds."""
        self._turn(now)
        targets = [self._windows[0]]
        for scope in scopes:
            if scope not in self._scopes:
                self._scopes[scope] = self._empty()
            targets.append(self._scopes[scope])
            self._last[scope] = now
        for index, column in enumerate(self.columns):
            array = sides[column.side].get(column.tensor)
            if array is None:
                continue
            single = (column.side, column.tensor) in self._single
            values = _column(array, column.place, single=single)
            if values is None:
                continue
            found = np.bincount(self._bins(index, column, values), minlength=column.bins)
            for counts in targets:
                counts[index] += found

    def _turn(self, now: float) -> None:
        age = now - self._turned
        if age > WINDOW:
            older = self._windows[0] if age <= 2 * WINDOW else self._empty()
            self._windows, self._turned = (self._empty(), older), now

    def _bins(self, index: int, column: Bins, values: Array) -> npt.NDArray[np.intp]:
        if column.kind == CATEGORY:
            known, other = self._values[index], len(column.values)
            return np.array([known.get(value, other) for value in values.tolist()], dtype=np.intp)
        return np.searchsorted(np.array(column.edges), values.astype(np.float64), side="right")

    def keep(self, scopes: Collection[tuple[int, str]], before: float) -> None:
        """Forget other scopes in which nothing has been counted since `before`."""
        gone = [scope for scope, last in self._last.items() if scope not in scopes and last < before]
        for scope in gone:
            del self._scopes[scope], self._last[scope]

    def scoped(self) -> dict[tuple[int, str], Drift]:
        """What was counted in each scope."""
        return {scope: self._drift(counts) for scope, counts in self._scopes.items()}

    def recent(self, now: float) -> Drift:
        """What was counted in the last half to whole hour."""
        self._turn(now)
        newer, older = self._windows
        return self._drift([one + other for one, other in zip(newer, older, strict=True)])

    def _drift(self, counts: Counts) -> Drift:
        columns = {
            column.name: Column(baseline=column.counts, live=tuple(found.tolist()))
            for column, found in zip(self.columns, counts, strict=True)
        }
        return Drift(columns=columns)


def _column(array: Array, place: int, *, single: bool) -> Array | None:
    """The values at `place` of the first rows; None where there are none. Without a batch all is one row."""
    if not array.size:
        return None
    rows = array.reshape(1 if single else array.shape[0], -1)
    return rows[:ROWS, place] if place < rows.shape[1] else None


def _lookup(column: Bins) -> dict[str | int | bool, int]:
    return {value: index for index, value in enumerate(column.values)}
