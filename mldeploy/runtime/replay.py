"""Proof before serving: the samples give the answers they gave when packed, alone and in one call together.

Rules: floats agree within the sample's tolerances, everything else exactly (class labels, strings, integers).
Batching must not change answers: rows of the samples, each in a call of its own and all in one call, must
agree likewise. Whatever fails is a BundleError of stage `samples` that names file, output and values.
Left out: how long it took (warmup.py).
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .codec import Request, RequestDecoder, decode_outputs
from .errors import BadRequestError, BundleError, OutputError
from .model import Model
from .spec import Manifest, Sample, Tensor
from .tensors import Array

#: The check that batching changes nothing looks at so many rows, and stops adding after so many seconds.
INVARIANCE_ROWS = 16
INVARIANCE_SECONDS = 2.0
STAGE = "samples"


@dataclass(frozen=True, slots=True)
class Replayed:
    """One sample that passed."""

    sample: Sample
    request: Request


def read_request(bundle: str, sample: Sample, decoder: RequestDecoder) -> Request:
    """The request of a sample. Raises BundleError."""
    try:
        return decoder.decode(_read(bundle, sample.request))
    except BadRequestError as error:
        raise BundleError(
            STAGE, sample.request, "", str(error), "the sample must fit the signature of the manifest"
        ) from error


def replay(bundle: str, manifest: Manifest, model: Model) -> list[Replayed]:
    """Every sample once, compared with its recorded answers. Raises BundleError at the first that differs."""
    decoder = RequestDecoder(manifest.signature)
    replayed = []
    for sample in manifest.samples:
        request = read_request(bundle, sample, decoder)
        try:
            recorded = decode_outputs(_read(bundle, sample.response), manifest.signature.outputs)
        except BadRequestError as error:
            raise BundleError(STAGE, sample.response, "", str(error), "pack the bundle again") from error
        outputs = call(model, request.arrays, sample.request)
        for tensor, output in zip(manifest.signature.outputs, outputs, strict=True):
            if tensor.name not in recorded:
                continue
            difference = compare(output, recorded[tensor.name], sample)
            if difference:
                raise BundleError(
                    STAGE,
                    sample.response,
                    f"outputs.{tensor.name}",
                    f"the model now answers differently: {difference}",
                    "its environment or files differ from those it was packed with, or it is random",
                )
        replayed.append(Replayed(sample, request))
    return replayed


def call(model: Model, arrays: Sequence[Array], file: str) -> tuple[Array, ...]:
    """One call in the name of a sample's file. Raises BundleError; a traceback goes to stderr."""
    try:
        return model(arrays)
    except OutputError as error:
        raise BundleError(STAGE, file, "", str(error), "correct the signature of the manifest") from error
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        raise BundleError(
            STAGE, file, "", f"the model raised {type(error).__name__}: {error}", "see its log"
        ) from error


def compare(got: Array, recorded: Array, sample: Sample) -> str:
    """What differs, in a few words; "" where nothing does. `recorded` is the reference of the tolerance."""
    if got.shape != recorded.shape:
        return f"shape {list(got.shape)}, packed with {list(recorded.shape)}"
    if got.dtype.kind == "f":
        near = np.isclose(got, recorded, rtol=sample.rtol, atol=sample.atol, equal_nan=True)
    else:
        near = np.asarray(got == recorded, dtype=bool)
    if near.all():
        return ""
    at = tuple(int(index) for index in np.argwhere(~near)[0])
    return (
        f"at {list(at)} {_plain(got[at])}, packed with {_plain(recorded[at])}"
        f" ({int((~near).sum())} of {near.size} values differ)"
    )


def check_batching(
    replayed: Sequence[Replayed],
    model: Model,
    max_rows: int,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Compare rows called alone with the same rows in one call. Raises BundleError where they differ.

    Nothing is checked where nothing can be batched, or `max_rows` is 1.
    """
    if not model.batchable or max_rows < 2:
        return
    for group in _groups(replayed).values():
        sample = group[0].sample
        started = clock()
        rows: list[tuple[Array, ...]] = []
        alone: list[tuple[Array, ...]] = []
        for arrays in _single_rows(group):
            if len(rows) >= 2 and clock() - started > INVARIANCE_SECONDS:
                break
            rows.append(arrays)
            alone.append(call(model, arrays, sample.request))
            if len(rows) == min(INVARIANCE_ROWS, max_rows):
                break
        if len(rows) == 1:
            rows, alone = rows * 2, alone * 2
        _compare_together(model, rows, alone, sample, model.signature.outputs)


def _compare_together(
    model: Model,
    rows: list[tuple[Array, ...]],
    alone: list[tuple[Array, ...]],
    sample: Sample,
    outputs: Sequence[Tensor],
) -> None:
    together = call(model, [np.concatenate(column) for column in zip(*rows, strict=True)], sample.request)
    for index, tensor in enumerate(outputs):
        try:
            expected = np.concatenate([answer[index] for answer in alone])
        except ValueError:
            difference = "rows alone have answers of different shapes"
        else:
            difference = compare(together[index], expected, sample)
        if difference:
            raise BundleError(
                STAGE,
                "manifest.yaml",
                "batching.max_size",
                f"batching changes output {tensor.name!r}: {difference.replace('packed with', 'alone')}",
                "set batching.max_size to 1",
            )


def _groups(replayed: Sequence[Replayed]) -> dict[object, list[Replayed]]:
    groups: dict[object, list[Replayed]] = {}
    for one in replayed:
        groups.setdefault(one.request.key, []).append(one)
    return groups


def _single_rows(group: list[Replayed]) -> list[tuple[Array, ...]]:
    return [
        tuple(array[row : row + 1] for array in one.request.arrays)
        for one in group
        for row in range(one.request.rows)
    ]


def _read(bundle: str, path: str) -> bytes:
    try:
        with open(os.path.join(bundle, path), "rb") as file:
            return file.read()
    except OSError as error:
        raise BundleError(STAGE, path, "", f"cannot be read: {error.strerror}") from error


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value
