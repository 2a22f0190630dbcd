"""Sample requests and the model's answers to them, made while a Python object is packed.

Rules: the model is called as the runtime will call it: arrays in order of the signature, or by name where the
sample input is a dict whose names the method takes. At most 8 rows are kept. Left out: replaying samples
(the runtime does), folders that bring their own (`sources/`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mldeploy.bundle import monitoring
from mldeploy.bundle.tensors import Arrays, datatype_of, encode, named_inputs, named_outputs, tensors
from mldeploy.core.manifest import Sample, Signature
from mldeploy.errors import UsageError

MAX_ROWS = 8
REQUEST, RESPONSE = "samples/0.request.json", "samples/0.response.json"
#: Tolerances that another processor's order of additions stays within: (relative, absolute).
TOLERANCES = {"FP32": (1e-4, 1e-6)}
DEFAULT_TOLERANCE = (1e-5, 1e-8)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a model takes and gives, seen by asking it."""

    method: str
    style: str  # "positional" or "named"
    signature: Signature
    sample: Sample
    request: bytes
    response: bytes


def ask(
    model: object,
    sample_input: object,
    *,
    method: str = "predict",
    input_name: str = "x",
    output_names: Sequence[str] | None = None,
) -> Asked:
    """Call the model with the first rows of `sample_input` and note its signature and its answer.

    Raises UsageError where the model has no such method, cannot take the sample, or answers what no signature
    can say.
    """
    method, function = _method(model, method)
    inputs = {name: array[:MAX_ROWS] for name, array in named_inputs(sample_input, input_name).items()}
    style = "named" if isinstance(sample_input, dict) and _takes_names(function, inputs) else "positional"
    rows = next(iter(inputs.values())).shape[0]
    outputs = named_outputs(_call(function, method, style, inputs), output_names)
    signature = Signature(inputs=tensors(inputs, rows), outputs=tensors(outputs, rows))
    rtol, atol = tolerance({datatype_of(array) for array in outputs.values()})
    sample = Sample(request=REQUEST, response=RESPONSE, rtol=rtol, atol=atol)
    return Asked(method, style, signature, sample, encode("inputs", inputs), encode("outputs", outputs))


def observe(
    model: object,
    asked: Asked,
    data: object,
    *,
    input_name: str = "x",
    output_names: Sequence[str] | None = None,
    rows: int = 64,
) -> tuple[Arrays, Arrays] | None:
    """The rows of `data` (evenly thinned), and the model's answers to them, `rows` in a call.

    None where they are too few for a baseline. Raises UsageError where they are not what the sample input is,
    or the model cannot take them.
    """
    inputs = monitoring.thin(named_inputs(data, input_name))
    if next(iter(inputs.values())).shape[0] < monitoring.MIN_ROWS:
        return None
    wanted = {tensor.name: (tensor.datatype, tensor.shape[1:]) for tensor in asked.signature.inputs}
    found = {name: (datatype_of(array), array.shape[1:]) for name, array in inputs.items()}
    if found != wanted:
        raise UsageError(
            f"training_data is {found}, and sample_input {wanted}",
            "give the same columns and datatypes in both",
        )
    function = getattr(model, asked.method)

    def ask_for(part: Arrays) -> Arrays:
        return named_outputs(_call(function, asked.method, asked.style, part), output_names)

    return inputs, monitoring.in_chunks(ask_for, inputs, rows)


def tolerance(datatypes: set[str]) -> tuple[float, float]:
    """(relative, absolute) for answers of these datatypes."""
    found = [TOLERANCES.get(datatype, DEFAULT_TOLERANCE) for datatype in datatypes] or [DEFAULT_TOLERANCE]
    return max(found)


def _method(model: object, method: str) -> tuple[str, Callable[..., Any]]:
    if method == "predict" and not hasattr(model, "predict") and callable(model):
        method = "__call__"
    function = getattr(model, method, None)
    if not callable(function):
        raise UsageError(
            f"the model (a {type(model).__name__}) has no method {method!r}",
            "name the method: method='transform'",
        )
    return method, function


def _takes_names(function: Callable[..., Any], inputs: Arrays) -> bool:
    try:
        inspect.signature(function).bind(**inputs)
    except (TypeError, ValueError):  # ValueError: a builtin that does not say what it takes
        return False
    return True


def _call(function: Callable[..., Any], method: str, style: str, inputs: Arrays) -> object:
    shown = ", ".join(f"{name}: {datatype_of(array)} {list(array.shape)}" for name, array in inputs.items())
    try:
        return function(**inputs) if style == "named" else function(*inputs.values())
    except Exception as error:  # whatever a user's model raises
        raise UsageError(
            f"the model cannot take the sample input: {type(error).__name__}: {error}",
            f"it was called as {method}({shown}); give a batch of rows as it takes them, or another method",
        ) from error


def write_samples(folder: Path, asked: Asked) -> None:
    """Put request and response where the manifest says."""
    (folder / "samples").mkdir(exist_ok=True)
    (folder / REQUEST).write_bytes(asked.request)
    (folder / RESPONSE).write_bytes(asked.response)
