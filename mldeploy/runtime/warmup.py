"""The first calls, made before anyone waits for them, and what they measured.

Rules: each sample a few times as it is, one row, and as many rows as a call may have; bounded in time, so
that a slow model is not kept from serving. Times are of the call alone, in milliseconds, the median.
Left out: whether the answers are right (replay.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import msgspec
import numpy as np

from .errors import BundleError
from .model import Model
from .replay import Replayed, call
from .tensors import Array

ROUNDS = 3
#: Seconds after which no further round begins, and a batch expected to take longer is not tried.
LIMIT = 3.0


class Measured(msgspec.Struct, frozen=True):
    """Milliseconds of one call; 0.0 where there was nothing to measure."""

    latency_ms: float = 0.0  # one row, or a sample as it is where nothing can be batched
    batch_ms: float = 0.0  # max_rows rows
    batch_rows: int = 0


def warm_up(
    replayed: Sequence[Replayed],
    model: Model,
    max_rows: int,
    clock: Callable[[], float] = time.monotonic,
) -> Measured:
    """Call the model as it will be called. Raises BundleError of stage `warmup`."""
    if not replayed:
        return Measured()
    try:
        return _measure(replayed, model, max_rows, clock)
    except BundleError as error:
        raise BundleError("warmup", error.file, error.key, error.message, error.hint) from error


def _measure(
    replayed: Sequence[Replayed], model: Model, max_rows: int, clock: Callable[[], float]
) -> Measured:
    stop = clock() + LIMIT
    single: list[float] = []
    for one in replayed:
        arrays = one.request.arrays
        if model.batchable:
            _time(model, arrays, one, stop, clock)
            arrays = tuple(array[:1] for array in arrays)
        single += _time(model, arrays, one, stop, clock)
    latency = median(single)
    if not model.batchable or max_rows < 2 or latency * max_rows > LIMIT * 1000:
        return Measured(latency)
    first = replayed[0]
    batch = median(_time(model, _tiled(first.request.arrays, max_rows), first, stop, clock))
    return Measured(latency, batch, max_rows)


def _time(
    model: Model, arrays: Sequence[Array], one: Replayed, stop: float, clock: Callable[[], float]
) -> list[float]:
    """Milliseconds of up to ROUNDS calls, at least one."""
    times: list[float] = []
    while not times or (len(times) < ROUNDS and clock() < stop):
        started = clock()
        call(model, arrays, one.sample.request)
        times.append((clock() - started) * 1000)
    return times


def _tiled(arrays: Sequence[Array], rows: int) -> list[Array]:
    """The sample's rows over and over until there are `rows`."""
    return [array[np.arange(rows) % array.shape[0]] for array in arrays]
