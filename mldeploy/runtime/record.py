"""Recording: the answers of sample requests, and the signature they imply.

Rules: what the manifest states of the signature is kept and checked; what it leaves out is inferred. The
first dimension of an input is variable; of an output where it follows the rows of the input, which is tried
with another number of rows. Names that nobody gave are `y`, or `y0`, `y1`, …. Whatever cannot be said in the
protocol is a BundleError. Left out: comparing (replay.py).
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from .codec import Request, RequestDecoder, ResponseEncoder
from .errors import BundleError, OutputError
from .loader import load
from .model import Model, check_signature
from .replay import read_request
from .spec import Manifest, Sample, Signature, Tensor
from .tensors import Array, as_output, datatype_of

STAGE = "samples"


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]


class _Infer(msgspec.Struct):
    inputs: list[_Input]


def record(bundle: str, manifest: Manifest) -> dict[str, Any]:
    """The completed signature and one response for each sample, as JSON values. Raises BundleError."""
    if not manifest.samples:
        raise BundleError(STAGE, "manifest.yaml", "samples", "is empty", "give a sample request")
    stated = manifest.signature
    inputs = stated.inputs or _infer_inputs(bundle, manifest.samples[0])
    model = Model(load(bundle, manifest.entry), Signature(inputs, ()), manifest.entry.input)
    decoder = RequestDecoder(Signature(inputs, stated.outputs))
    requests = [(sample, read_request(bundle, sample, decoder)) for sample in manifest.samples]
    answers = [_outputs(model, request.arrays, stated, sample) for sample, request in requests]
    if stated.outputs:
        signature = Signature(inputs, stated.outputs)
    else:
        follows, names = _follows_rows(model, requests[0][1], stated, requests[0][0]), list(answers[0])
        shapes = [[answer[name] for answer in answers] for name in names]
        outputs = [
            _infer_output(name, arrays, follows)
            for name, arrays in zip(names, shapes, strict=True)
        ]  # fmt: skip
        signature = Signature(inputs, tuple(outputs))
    check_signature(signature)
    return {
        "signature": signature,
        "responses": [
            _response(manifest, signature, request, answer, sample)
            for (sample, request), answer in zip(requests, answers, strict=True)
        ],
    }


def _infer_inputs(bundle: str, sample: Sample) -> tuple[Tensor, ...]:
    try:
        with open(os.path.join(bundle, sample.request), "rb") as file:
            given = msgspec.json.decode(file.read(), type=_Infer).inputs
    except OSError as error:
        raise BundleError(STAGE, sample.request, "", f"cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(
            STAGE, sample.request, "", str(error), "write an Open Inference Protocol request"
        ) from error
    inputs = tuple(Tensor(one.name, one.datatype, (-1, *one.shape[1:])) for one in given if one.shape)
    if not inputs or len(inputs) < len(given):
        raise BundleError(STAGE, sample.request, "inputs", "needs inputs of at least one dimension")
    check_signature(Signature(inputs, inputs))
    return inputs


def _outputs(model: Model, arrays: Sequence[Array], stated: Signature, sample: Sample) -> dict[str, Array]:
    """What the model answers, by name. Raises BundleError."""
    try:
        result = model.raw(arrays)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        raise BundleError(
            STAGE,
            sample.request,
            "",
            f"the model raised {type(error).__name__}: {error}",
            "give a sample input that the model can take",
        ) from error
    return {name: _array(name, value) for name, value in _named(result, stated).items()}


def _named(result: Any, stated: Signature) -> dict[str, object]:
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items()}
    several = isinstance(result, tuple) or (
        isinstance(result, list) and any(isinstance(value, np.ndarray) for value in result)
    )
    values = list(result) if several else [result]
    names = [tensor.name for tensor in stated.outputs]
    if len(names) != len(values):
        names = ["y"] if len(values) == 1 else [f"y{index}" for index in range(len(values))]
    return dict(zip(names, values, strict=True))


def _array(name: str, value: object) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise BundleError(
            STAGE, "", f"outputs.{name}", f"is not an array: {error}", "return arrays of one shape"
        ) from error
    datatype = datatype_of(array)
    if datatype in (None, "FP16"):
        raise BundleError(
            STAGE,
            "",
            f"outputs.{name}",
            f"has type {array.dtype}, which has no JSON form",
            "return numbers, booleans or strings",
        )
    return array


def _follows_rows(model: Model, request: Request, stated: Signature, sample: Sample) -> bool:
    """Whether another number of rows gives that number of rows."""
    rows = request.arrays[0].shape[0]
    if not rows or any(array.shape[0] != rows for array in request.arrays):
        return False
    other = 1 if rows > 1 else 2
    arrays = [array[np.arange(other) % rows] for array in request.arrays]
    try:
        outputs = _outputs(model, arrays, stated, sample)
    except BundleError:
        return False  # it takes that number of rows alone
    return all(output.shape[:1] == (other,) for output in outputs.values())


def _infer_output(name: str, arrays: Sequence[Array], follows: bool) -> Tensor:
    datatypes = {datatype_of(array) or "" for array in arrays}
    ranks = {array.ndim for array in arrays}
    if len(datatypes) > 1 or len(ranks) > 1:
        raise BundleError(
            STAGE,
            "",
            f"outputs.{name}",
            "has another type or rank in another sample",
            "return one type always",
        )
    sizes = zip(*(array.shape for array in arrays), strict=True)
    shape = [size[0] if len(set(size)) == 1 else -1 for size in sizes]
    if follows and shape:
        shape[0] = -1
    return Tensor(name, datatypes.pop(), tuple(shape))


def _response(
    manifest: Manifest, signature: Signature, request: Request, answer: dict[str, Array], sample: Sample
) -> msgspec.Raw:
    try:
        arrays = [as_output(tensor, answer[tensor.name], None) for tensor in signature.outputs]
        encoder = ResponseEncoder(manifest.name, "", signature.outputs)
        ident = request.id or sample.request.rpartition("/")[2].partition(".")[0]
        return msgspec.Raw(encoder.encode(ident, arrays, check=True))
    except KeyError as error:
        raise BundleError(
            STAGE, sample.request, f"outputs.{error.args[0]}", "is in the signature, and the model gave none"
        ) from error
    except OutputError as error:
        raise BundleError(
            STAGE, sample.request, "", str(error), "correct the model or the signature"
        ) from error
