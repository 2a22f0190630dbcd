"""Datatypes of the Open Inference Protocol and numpy's: which is which, what JSON may hold, what may be cast.

Rules: a value is never changed silently. JSON numbers must lie in the range of the datatype; an answer of the
model may be cast within its kind (integers that fit, floats that stay finite) and no further. BYTES are
Python strings in object arrays. FP16 has no JSON form.
Left out: requests and responses as a whole (codec.py).
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from .errors import BadRequestError, OutputError
from .reading import NOT_JSON
from .spec import Tensor

Array = npt.NDArray[Any]

#: A tensor of more elements is refused whatever its data; empty dimensions do not hide large ones.
MAX_ELEMENTS = 1 << 30
MAX_RANK = 32

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items() if name != "BYTES"}
# what rounds to the largest finite FP32 is in range; half a unit above it no longer is
_FP32_BOUND = 3.4028235677973366e38
_OPENING = re.compile(rb"[\s\[]*")


def datatype_of(array: Array) -> str | None:
    """The protocol's name for an array's dtype; None where it has none. Strings and bytes are BYTES."""
    if array.dtype.kind in "US":
        return "BYTES"
    if array.dtype.kind == "O":
        return "BYTES" if all(isinstance(value, str | bytes) for value in array.flat) else None
    return _NAMES.get(array.dtype.newbyteorder("="))


def _element_type(datatype: str) -> Any:
    if datatype == "BOOL":
        return bool
    if datatype == "BYTES":
        return str
    if datatype == "FP64":
        return float
    if datatype == "FP32":
        return Annotated[float, msgspec.Meta(gt=-_FP32_BOUND, lt=_FP32_BOUND)]
    if datatype == "UINT64":
        return Annotated[int, msgspec.Meta(ge=0)]  # msgspec's bounds end at INT64; numpy checks the rest
    if datatype == "INT64":
        return int
    info = np.iinfo(DTYPES[datatype])
    return Annotated[int, msgspec.Meta(ge=int(info.min), le=int(info.max))]


class TensorReader:
    """Reads the JSON data of one tensor of a signature, flat or nested."""

    def __init__(self, tensor: Tensor, what: str = "input") -> None:
        self.name = tensor.name
        self._where = f"{what} {tensor.name!r}"
        self._datatype = tensor.datatype
        self._dtype = DTYPES[tensor.datatype]
        self._shape = tensor.shape
        self._json = tensor.datatype != "FP16"
        self._element = _element_type(tensor.datatype) if self._json else float
        self._flat = self._decoder(1)
        self._nested = self._decoder(len(tensor.shape))

    def _decoder(self, depth: int) -> msgspec.json.Decoder[Any]:
        kind: Any = self._element
        for _ in range(max(depth, 1)):
            kind = list[kind]
        return msgspec.json.Decoder(kind)

    def read(self, datatype: str, shape: list[int], data: msgspec.Raw) -> Array:
        """The array. Raises BadRequestError naming the tensor."""
        if datatype != self._datatype:
            raise BadRequestError(f"{self._where} has datatype {datatype[:20]!r}, not {self._datatype!r}")
        if not self._json:
            raise BadRequestError(f"{self._where} is FP16, which has no JSON form")
        count = self._count(shape)
        depth = self._depth(data)
        try:
            if depth == 1:
                array = np.array(self._flat.decode(data), dtype=self._dtype)
            elif depth == len(self._shape):
                array = np.array(self._nested.decode(data), dtype=self._dtype)
            elif count == 0 and depth < len(self._shape):
                # [[], []] is all there is of [2, 0, 3]
                array = np.array(self._decoder(depth).decode(data), dtype=self._dtype)
            else:
                raise BadRequestError(
                    f"{self._where} has data nested {depth} deep, not flat or {len(self._shape)}"
                )
        except NOT_JSON as error:
            raise BadRequestError(f"{self._where}: {tidy(error)}") from error
        except OverflowError as error:
            raise BadRequestError(f"{self._where} has a number out of range of {self._datatype}") from error
        except ValueError as error:
            raise BadRequestError(f"{self._where} has ragged data: rows of different lengths") from error
        return self._fit(array, shape, count, nested=depth > 1)

    def _count(self, shape: list[int]) -> int:
        """Elements the shape takes, after every dimension, the rank and the product were checked."""
        if len(shape) != len(self._shape):
            raise BadRequestError(
                f"{self._where} has shape {show(shape)} of {len(shape)} dimensions, not {len(self._shape)}"
            )
        bound = count = 1
        for size, expected in zip(shape, self._shape, strict=True):
            if size < 0:
                raise BadRequestError(f"{self._where} has shape {show(shape)}, with a size below zero")
            if size != expected >= 0:
                raise BadRequestError(f"{self._where} has shape {show(shape)}, not {show(self._shape)}")
            count *= size
            bound *= size or 1
        if bound > MAX_ELEMENTS:
            raise BadRequestError(f"{self._where} has shape {show(shape)}, more than {MAX_ELEMENTS} elements")
        return count

    @staticmethod
    def _depth(data: msgspec.Raw) -> int:
        match = _OPENING.match(memoryview(data))
        depth = match.group().count(b"[") if match else 0
        # a scalar is for the typed decoder to refuse, with its own words
        return depth or 1

    def _fit(self, array: Array, shape: list[int], count: int, *, nested: bool) -> Array:
        if nested and count and array.shape != tuple(shape):
            raise BadRequestError(
                f"{self._where} has data of shape {show(array.shape)}, and shape {show(shape)}"
            )
        if array.size != count:
            raise BadRequestError(
                f"{self._where} has {array.size} elements, and shape {show(shape)} takes {count}"
            )
        return array.reshape(shape)


def as_output(tensor: Tensor, value: object, rows: int | None) -> Array:
    """What the model gave for `tensor`, as its signature says. Raises OutputError naming the output.

    `rows` is the size the first dimension must have, None where nothing was batched.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise OutputError(f"output {tensor.name!r} is not an array: {error}") from error
    dtype = DTYPES[tensor.datatype]
    if array.dtype != dtype or dtype.kind == "O":
        array = _cast(tensor, array, dtype)
    shape = array.shape
    if len(shape) != len(tensor.shape) or any(
        size != expected != -1 for size, expected in zip(shape, tensor.shape, strict=True)
    ):
        raise OutputError(f"output {tensor.name!r} has shape {show(shape)}, not {show(tensor.shape)}")
    if rows is not None and shape[0] != rows:
        raise OutputError(f"output {tensor.name!r} has {shape[0]} rows for {rows} rows of input")
    return array


def _cast(tensor: Tensor, array: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "O":
        return _strings(tensor, array)
    kinds = array.dtype.kind + dtype.kind
    if kinds in ("bb", "ff"):
        with np.errstate(over="ignore"):  # judged below
            cast = array.astype(dtype)
        if kinds == "ff" and bool(np.any(np.isinf(cast) & ~np.isinf(array))):
            raise OutputError(f"output {tensor.name!r} has a number out of range of {tensor.datatype}")
        return cast
    if kinds in ("ii", "uu", "iu", "ui"):
        info = np.iinfo(dtype)
        if array.size and not (info.min <= int(array.min()) and int(array.max()) <= info.max):
            raise OutputError(f"output {tensor.name!r} has a number out of range of {tensor.datatype}")
        return array.astype(dtype)
    raise OutputError(f"output {tensor.name!r} is {array.dtype}, which is not {tensor.datatype}")


def _strings(tensor: Tensor, array: Array) -> Array:
    values = []
    for value in array.ravel().tolist():
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError as error:
                raise OutputError(f"output {tensor.name!r} has bytes that are not UTF-8") from error
        elif not isinstance(value, str):
            raise OutputError(f"output {tensor.name!r} has a {type(value).__name__}, which is not BYTES")
        values.append(str(value))
    strings = np.empty(len(values), dtype=object)
    strings[:] = values
    return strings.reshape(array.shape)


def finite(array: Array) -> bool:
    """Whether JSON can say every number of it."""
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def show(shape: list[int] | tuple[int, ...]) -> str:
    """A shape for a message, cut where it is absurdly long."""
    text = ", ".join(str(size) for size in shape[:8])
    return f"[{text}{', ...' if len(shape) > 8 else ''}]"


def tidy(error: Exception) -> str:
    """msgspec's words for people who do not know its paths: "expected `float`, got `str` at data[3]"."""
    text = str(error).replace(" - at `$", " at `data").replace("JSON is malformed: ", "malformed JSON: ")
    text = re.sub(r" at `(data[^`]*)`", r" at \1", text)
    return text[:1].lower() + text[1:]
