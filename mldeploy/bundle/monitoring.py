"""Makes monitoring/baseline.json: how inputs and outputs were distributed in the data given when packing.

Numbers get bins of equal shares of that data, so that every bin says something; text, truths and whole
numbers of few values are counted by value. Columns beyond `MAX_COLUMNS`, and tensors whose rows vary in
size, are left out.
Rules: the file depends on the data alone; fewer than MIN_ROWS rows make no baseline, for against a handful of
rows everything looks like drift. numpy is imported when used.
Left out: the format (`core/baseline.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from mldeploy.bundle.tensors import Arrays
from mldeploy.core.baseline import (
    BASELINE,
    CATEGORY,
    INPUTS,
    MAX_BINS,
    MAX_COLUMNS,
    NUMBER,
    OUTPUTS,
    Baseline,
    Bins,
    column_name,
    width,
)
from mldeploy.core.manifest import Signature, Tensor
from mldeploy.errors import UsageError

#: Rows that a baseline is made of, at least and at most (evenly over what was given).
MIN_ROWS, MAX_ROWS = 100, 10_000
#: Bins of a column of numbers.
QUANTILES = 10
#: Whole numbers of so many different values are counted by value.
FEW = 20
#: Characters of a text that are kept as a value.
_TEXT = 200


def thin(inputs: Arrays) -> Arrays:
    """At most MAX_ROWS rows of each, evenly."""
    rows = next(iter(inputs.values())).shape[0]
    step = max(1, -(-rows // MAX_ROWS))
    return {name: array[::step] for name, array in inputs.items()}


def baseline(signature: Signature, inputs: Arrays, outputs: Arrays) -> Baseline:
    """The distributions in `inputs`, and in the answers to them."""
    columns: list[Bins] = []
    taken: frozenset[str] = frozenset()
    for side, tensors, arrays in ((INPUTS, signature.inputs, inputs), (OUTPUTS, signature.outputs, outputs)):
        for tensor in tensors:
            if tensor.shape[:1] == (-1,) and tensor.name in arrays:
                found = _columns(side, tensor, arrays[tensor.name], taken)
                columns += list(found)[: MAX_COLUMNS - len(columns)]
        taken = frozenset(column.name for column in columns)
    return Baseline(rows=next(iter(inputs.values())).shape[0], columns=tuple(columns))


def write_baseline(
    folder: Path, signature: Signature, observed: tuple[Arrays, Arrays] | None, *, asked_for: bool
) -> None:
    """Put the baseline of observed inputs and outputs where the bundle has it, if there is anything to say.

    Raises UsageError where it was `asked_for` and there are too few rows.
    """
    if observed is None:
        if asked_for:
            raise UsageError(
                "training_data has too few rows to say anything of drift",
                f"give at least {MIN_ROWS}, or leave it out",
            )
        return
    made = baseline(signature, *observed)
    if not made.columns:
        return
    path = folder / BASELINE
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(msgspec.json.encode(made) + b"\n")


def in_chunks(function: Callable[[Arrays], Arrays], inputs: Arrays, rows: int) -> Arrays:
    """The outputs for all inputs, `rows` at a time, as a batch would be."""
    import numpy as np

    total = next(iter(inputs.values())).shape[0]
    parts = [
        function({name: array[start : start + rows] for name, array in inputs.items()})
        for start in range(0, total, rows)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _columns(side: str, tensor: Tensor, array: Any, taken: frozenset[str]) -> Iterator[Bins]:
    places = width(tensor)
    if not places:
        return
    rows = array.reshape(array.shape[0], places)
    for place in range(min(places, MAX_COLUMNS)):
        name = column_name(tensor, place, taken)
        found = _bins(rows[:, place])
        if found is not None:
            yield Bins(name=name, side=side, tensor=tensor.name, place=place, **found)


def _bins(values: Any) -> dict[str, Any] | None:
    """Kind, edges or values, and counts of one column; None where text is too long to be a category."""
    if values.dtype.kind in "Ob":
        return _categories(values.tolist())
    if values.dtype.kind in "iu" and len(set(values.tolist())) <= FEW:
        return _categories(values.tolist())
    return _numbers(values)


def _categories(values: Iterable[Any]) -> dict[str, Any] | None:
    counted = Counter(values)
    # the most frequent ones, and of equal ones the first in order: the same file from the same data
    order = sorted(counted, key=lambda value: (-counted[value], str(value)))
    known = [value for value in order if len(str(value)) <= _TEXT][: MAX_BINS - 1]
    if not known:
        return None
    other = sum(counted.values()) - sum(counted[value] for value in known)
    return {
        "kind": CATEGORY,
        "values": tuple(known),
        "counts": (*(counted[value] for value in known), other),
    }


def _numbers(values: Any) -> dict[str, Any]:
    import numpy as np

    numbers = values.astype(np.float64)
    shares = np.linspace(0, 1, QUANTILES + 1)[1:-1]
    edges = np.unique(np.quantile(numbers, shares, method="lower"))
    counts = np.bincount(np.searchsorted(edges, numbers, side="right"), minlength=len(edges) + 1)
    return {"kind": NUMBER, "edges": tuple(edges.tolist()), "counts": tuple(counts.tolist())}
