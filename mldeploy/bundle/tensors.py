"""Arrays and their signature: sample input and answers as named tensors, and as JSON of the protocol.

Rules: the first dimension is the batch and stands as -1; what the protocol's JSON cannot say (complex
numbers, dates, half precision, NaN) is refused with the name of the tensor. numpy is imported when used.
Left out: calling the model (`samples.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mldeploy.core.manifest import Tensor
from mldeploy.errors import UsageError

#: numpy's dtypes by the protocol's names. Half precision has no JSON form.
_NAMES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "float32": "FP32",
    "float64": "FP64",
}  # fmt: skip
Arrays = dict[str, Any]  # name -> numpy array


def named_inputs(sample: object, name: str = "x") -> Arrays:
    """The sample input as arrays by name: a dict as it stands, anything else as one input called `name`.

    Raises UsageError for what is no array of rows.
    """
    given = (
        {str(key): value for key, value in sample.items()} if isinstance(sample, Mapping) else {name: sample}
    )
    if not given:
        raise UsageError(
            "sample_input is empty", "give a few rows as the model takes them, for example X[:5]"
        )
    arrays = {key: _array(f"sample_input {key!r}", value) for key, value in given.items()}
    rows = {key: array.shape[0] if array.ndim else 0 for key, array in arrays.items()}
    if min(rows.values()) < 1:
        raise UsageError(
            f"sample_input {min(rows, key=lambda key: rows[key])!r} holds no rows",
            "the first dimension is the batch: give one row as [row], and at least one",
        )
    if len(set(rows.values())) > 1:
        raise UsageError(f"the inputs have different numbers of rows: {rows}", "give as many rows of each")
    return arrays


def named_outputs(answer: object, names: Sequence[str] | None) -> Arrays:
    """A model's answer as arrays by name: y, or y0, y1… of a tuple, or a dict's keys; `names` renames."""
    if isinstance(answer, Mapping):
        return {str(key): _array(f"output {key!r}", value) for key, value in answer.items()}
    parts = list(answer) if _several(answer, names) else [answer]  # type: ignore[call-overload]
    default = ["y"] if len(parts) == 1 else [f"y{index}" for index in range(len(parts))]
    chosen = list(names or default)
    if len(chosen) != len(parts):
        raise UsageError(
            f"the model gave {len(parts)} outputs, and {len(chosen)} names were given",
            "name each output once",
        )
    return {name: _array(f"output {name!r}", value) for name, value in zip(chosen, parts, strict=True)}


def _several(answer: object, names: Sequence[str] | None) -> bool:
    if isinstance(answer, tuple):
        return True
    return isinstance(answer, list) and names is not None and len(names) > 1


def _array(what: str, value: Any) -> Any:
    import numpy as np

    try:
        array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    except ValueError as error:
        raise UsageError(f"{what} is not an array: {error}", "give rows of equal length") from error
    if array.dtype.kind in "USO":
        return _strings(what, array)
    if array.dtype == np.float16:
        array = array.astype(np.float32)  # the protocol's JSON has no half precision
    if array.dtype.name not in _NAMES:
        raise UsageError(f"{what} has datatype {array.dtype}", "give numbers, booleans or strings")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError(f"{what} holds NaN or Infinity, which JSON cannot say", "choose other sample rows")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _strings(what: str, array: Any) -> Any:
    import numpy as np

    out = np.empty(array.size, dtype=object)
    for index, value in enumerate(array.ravel().tolist()):
        if isinstance(value, bytes):
            value = value.decode("utf-8", "strict") if _utf8(value) else None
        if not isinstance(value, str):
            raise UsageError(
                f"{what} holds values that are neither numbers nor text",
                "give one array per datatype, in a dict",
            )
        out[index] = value
    return out.reshape(array.shape)


def _utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def datatype_of(array: Any) -> str:
    """The protocol's name of an array's datatype; the array comes from this module."""
    return "BYTES" if array.dtype.kind == "O" else _NAMES[array.dtype.name]


def tensors(arrays: Arrays, rows: int) -> tuple[Tensor, ...]:
    """The signature of one side; what has `rows` rows varies in its first dimension."""
    return tuple(
        Tensor(name=name, datatype=datatype_of(array), shape=_shape(array.shape, rows))
        for name, array in arrays.items()
    )


def _shape(shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
    return (-1, *shape[1:]) if shape and shape[0] == rows else tuple(shape)


def encode(side: str, arrays: Arrays) -> bytes:
    """A request ("inputs") or response ("outputs") of Open Inference Protocol v2, ending in a newline."""
    written = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatype_of(array),
            "data": array.ravel().tolist(),
        }
        for name, array in arrays.items()
    ]
    return document({side: written})


def document(data: object) -> bytes:
    """JSON bytes that depend on `data` alone."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode() + b"\n"
