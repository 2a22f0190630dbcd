"""The baseline distributions of a bundle: monitoring/baseline.json, how its columns are named and counted.

A column is one place of one tensor's row. Numbers are counted between edges that were quantiles when the
bundle was packed; text, truths and whole numbers of few values by value, all others together. Live values
are counted into the same bins, so that a host needs a few integers for each column however much traffic
there is.
Rules: bounded (MAX_COLUMNS, MAX_BINS); the file is checked against the signature by gate 1.
Left out: making it (`bundle/monitoring.py`) and counting (the mirror).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import msgspec

from mldeploy.core.manifest_fields import Signature, Tensor
from mldeploy.errors import ManifestError

#: Where it stands in a bundle.
BASELINE = "monitoring/baseline.json"
FORMAT = 1
#: Columns of one bundle, the first ones of each tensor; bins of one column, the last for all other values.
MAX_COLUMNS, MAX_BINS = 256, 32
INPUTS, OUTPUTS = "inputs", "outputs"
NUMBER, CATEGORY = "number", "category"


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    pass


class Bins(_Strict, frozen=True, kw_only=True):
    """One column: `counts[i]` values in bin i when it was packed.

    kind "number": bin i holds edges[i - 1] <= value < edges[i], the first and last are open to their side.
    kind "category": bin i holds values[i], and the last everything else.
    """

    name: str  # as guards and reports call it: "age", or "x[3]" where a row has several places
    side: str  # INPUTS or OUTPUTS
    tensor: str
    place: int = 0  # in a row, in row-major order
    kind: str = NUMBER
    edges: tuple[float, ...] = ()
    values: tuple[str | int | bool, ...] = ()
    counts: tuple[int, ...]

    @property
    def bins(self) -> int:
        """How many bins its kind gives it."""
        return 1 + len(self.edges if self.kind == NUMBER else self.values)


class Baseline(_Strict, frozen=True, kw_only=True):
    """All columns, and of how many rows they were counted."""

    format: int = FORMAT
    rows: int
    columns: tuple[Bins, ...] = ()


_decoder = msgspec.json.Decoder(Baseline)


def parse_baseline(data: bytes) -> Baseline:
    """The baseline in `data`. Raises ManifestError."""
    try:
        found = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ManifestError(f"it cannot be read: {error}", "pack the bundle again") from error
    if found.format != FORMAT:
        raise ManifestError(f"format {found.format} is not {FORMAT}", "upgrade mldeploy, or pack it again")
    return found


def column_names(data: bytes) -> tuple[str, ...]:
    """The columns of the baseline in `data`, as guards name them. Raises ManifestError."""
    return tuple(column.name for column in parse_baseline(data).columns)


def problems(baseline: Baseline, signature: Signature) -> Iterator[tuple[str, str]]:
    """Everything that is wrong with it, as (key, message)."""
    if len(baseline.columns) > MAX_COLUMNS:
        yield "columns", f"{len(baseline.columns)} columns; at most {MAX_COLUMNS}"
        return
    names = set()
    for index, column in enumerate(baseline.columns):
        where = f"columns[{index}]"
        if column.name in names:
            yield f"{where}.name", f"{column.name!r} is there twice"
        names.add(column.name)
        yield from ((f"{where}.{key}", message) for key, message in _column(column, signature))


def _column(column: Bins, signature: Signature) -> Iterator[tuple[str, str]]:
    if column.side not in (INPUTS, OUTPUTS):
        yield "side", f"{column.side!r} is neither inputs nor outputs"
        return
    tensors = signature.inputs if column.side == INPUTS else signature.outputs
    tensor = next((tensor for tensor in tensors if tensor.name == column.tensor), None)
    if tensor is None:
        yield "tensor", f"{column.tensor!r} is not among the {column.side} of the signature"
    elif not 0 <= column.place < (width(tensor) or 0):
        yield "place", f"{column.place} is no place in a row of {column.tensor!r}"
    if column.kind not in (NUMBER, CATEGORY):
        yield "kind", f"{column.kind!r} is neither number nor category"
    elif (column.edges if column.kind == CATEGORY else column.values) or not 1 <= column.bins <= MAX_BINS:
        yield "kind", f"its bins are not those of a {column.kind}"
    if len(column.counts) != column.bins or any(count < 0 for count in column.counts):
        yield "counts", f"{len(column.counts)} counts for {column.bins} bins"
    finite = all(math.isfinite(edge) for edge in column.edges)
    if not finite or any(later <= before for before, later in pairwise(column.edges)):
        yield "edges", "they do not grow"


def width(tensor: Tensor) -> int | None:
    """Values in one row of a tensor; None where it varies. Without a batch it is all one row."""
    sizes = tensor.shape[1:] if tensor.shape[:1] == (-1,) else tensor.shape
    return None if -1 in sizes else math.prod(sizes)


def column_name(tensor: Tensor, place: int, taken: frozenset[str] = frozenset()) -> str:
    """`age`, or `x[3]` where a row has several; with `output ` before it where an input has that name."""
    name = tensor.name if width(tensor) == 1 else f"{tensor.name}[{place}]"
    return f"output {name}" if name in taken else name
