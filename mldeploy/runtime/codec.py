"""Open Inference Protocol v2 in JSON: request bytes to arrays, arrays to response bytes.

Rules: decoding is typed and bounded, against the signature: nothing is read as an untyped tree, whose size a
client could choose. Whatever is wrong with a request is a BadRequestError that names the input. NaN and
Infinity are not JSON: refused on the way in, an OutputError on the way out. Unknown fields and `parameters`
are accepted and ignored. Left out: the binary tensor extension (its frames are refused).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from itertools import count

import msgspec

from .errors import BadRequestError, OutputError
from .reading import NOT_JSON
from .spec import Signature, Tensor
from .tensors import Array, TensorReader, finite, tidy

#: Bodies larger than this are not read a second time to find out where a NaN stands.
_DIAGNOSED = 1 << 20


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Wanted(msgspec.Struct):
    name: str


class _Infer(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    outputs: list[_Wanted] | None = None


class _Names(msgspec.Struct):
    inputs: list[_Wanted]


class _Outputs(msgspec.Struct):
    outputs: list[_Input]


_decoder = msgspec.json.Decoder(_Infer)
_names = msgspec.json.Decoder(_Names)
_outputs = msgspec.json.Decoder(_Outputs)
_encode = msgspec.json.Encoder().encode


class Request:
    """One decoded request. `key` tells which requests may share a call: equal keys may."""

    __slots__ = ("arrays", "id", "key", "rows", "wanted")

    def __init__(
        self,
        id: str,  # noqa: A002 - the protocol's name
        arrays: tuple[Array, ...],
        rows: int,
        key: tuple[tuple[int, ...], ...],
        wanted: tuple[int, ...] | None,
    ) -> None:
        self.id = id  # "" where the client gave none
        self.arrays = arrays  # in order of the signature
        self.rows = rows  # 1 where nothing can be batched
        self.key = key
        self.wanted = wanted  # indices of the outputs asked for; None is all


class RequestDecoder:
    """Reads the requests of one signature."""

    def __init__(self, signature: Signature) -> None:
        self._readers = tuple(TensorReader(tensor) for tensor in signature.inputs)
        self._index = {tensor.name: index for index, tensor in enumerate(signature.inputs)}
        self._outputs = {tensor.name: index for index, tensor in enumerate(signature.outputs)}
        self._batchable = signature.batchable
        # one key for all where only the batch can vary: the usual case costs nothing
        self._uniform = all(-1 not in tensor.shape[1:] for tensor in signature.inputs)

    def decode(self, body: bytes | memoryview) -> Request:
        """The request in `body`. Raises BadRequestError."""
        try:
            infer = _decoder.decode(body)
        except NOT_JSON as error:
            raise BadRequestError(_explain(body, error)) from error
        arrays = self._arrays(infer.inputs)
        rows = 1
        key: tuple[tuple[int, ...], ...] = ()
        if self._batchable:
            rows = self._rows(arrays)
            if not self._uniform:
                key = tuple(array.shape[1:] for array in arrays)
        return Request(infer.id or "", arrays, rows, key, self._wanted(infer.outputs))

    def _arrays(self, inputs: list[_Input]) -> tuple[Array, ...]:
        readers = self._readers
        if len(inputs) == 1 == len(readers) and inputs[0].name == readers[0].name:
            return (_read(readers[0], inputs[0]),)
        arrays: list[Array | None] = [None] * len(readers)
        for given in inputs:
            index = self._index.get(given.name)
            if index is None:
                raise BadRequestError(f"input {given.name[:100]!r} is unknown; {self._expected()}")
            if arrays[index] is not None:
                raise BadRequestError(f"input {given.name!r} is given twice")
            arrays[index] = _read(readers[index], given)
        whole = tuple(array for array in arrays if array is not None)
        if len(whole) < len(readers):
            missing = ", ".join(repr(name) for name, at in self._index.items() if arrays[at] is None)
            raise BadRequestError(f"input {missing} is missing; {self._expected()}")
        return whole

    def _expected(self) -> str:
        return f"the model takes {', '.join(map(repr, self._index))}"

    def _rows(self, arrays: tuple[Array, ...]) -> int:
        rows = int(arrays[0].shape[0])
        for reader, array in zip(self._readers, arrays, strict=True):
            if array.shape[0] != rows:
                raise BadRequestError(
                    f"input {reader.name!r} has {array.shape[0]} rows, and input "
                    f"{self._readers[0].name!r} has {rows}"
                )
        if rows == 0:
            # alone the model would fail, beside others it would not: the same answer in both cases
            raise BadRequestError(f"input {self._readers[0].name!r} has no rows")
        return rows

    def _wanted(self, outputs: list[_Wanted] | None) -> tuple[int, ...] | None:
        if not outputs:
            return None
        indices = []
        for output in outputs:
            index = self._outputs.get(output.name)
            if index is None:
                known = ", ".join(map(repr, self._outputs))
                raise BadRequestError(f"output {output.name[:100]!r} is unknown; the model gives {known}")
            if index in indices:
                raise BadRequestError(f"output {output.name!r} is asked for twice")
            indices.append(index)
        return tuple(indices)


def _read(reader: TensorReader, given: _Input) -> Array:
    if isinstance(given.data, msgspec.UnsetType):
        raise BadRequestError(f"input {reader.name!r} has no data")
    return reader.read(given.datatype, given.shape, given.data)


def _explain(body: bytes | memoryview, error: Exception) -> str:
    """Why a body is no request, naming the input where that can be found out."""
    if isinstance(error, RecursionError):
        return "the request is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "the request is not UTF-8"
    name = _input_at(body, str(error)) if isinstance(error, msgspec.ValidationError) else _non_finite(body)
    if isinstance(error, msgspec.ValidationError):
        text = re.sub(r" at data\.?", " at ", tidy(error)).removesuffix(" at ")
        return f"input {name!r}: {text}" if name else f"the request: {text}"
    if name:
        return f"input {name!r} has NaN or Infinity, which JSON does not have"
    return f"the request is not JSON: {tidy(error)}"


def _input_at(body: bytes | memoryview, message: str) -> str:
    match = re.search(r"\$\.inputs\[(\d+)\]", message)
    try:
        return _names.decode(body).inputs[int(match[1])].name if match else ""
    except (*NOT_JSON, IndexError):
        return ""


def _non_finite(body: bytes | memoryview) -> str:
    """The input that holds NaN or Infinity, for clients that write them; "" where it is something else."""
    text = bytes(body) if len(body) <= _DIAGNOSED else b""
    if b"NaN" not in text and b"Infinity" not in text:
        return ""
    found = False

    def note(_: str) -> float:
        nonlocal found
        found = True
        return 0.0

    def input_name(pairs: list[tuple[str, object]]) -> object:
        nonlocal found
        given = dict(pairs)
        if found and isinstance(given.get("name"), str) and "data" in given:
            found = False
            names.append(str(given["name"]))
        return None

    names: list[str] = []
    try:
        json.loads(text, parse_constant=note, object_pairs_hook=input_name)
    except (ValueError, RecursionError):
        return ""
    return names[0] if names else ""


class ResponseEncoder:
    """Writes the answers of one version."""

    def __init__(self, model: str, version: str, outputs: Sequence[Tensor]) -> None:
        head: dict[str, str] = {"model_name": model}
        if version:
            head["model_version"] = version
        self._head = _encode(head)[:-1] + b',"id":'
        self._parts = tuple(
            (
                tensor.name,
                b'{"name":' + _encode(tensor.name) + b',"shape":',
                b',"datatype":' + _encode(tensor.datatype) + b',"data":',
            )
            for tensor in outputs
        )
        self._all = tuple(range(len(self._parts)))
        self._refused = {tensor.name for tensor in outputs if tensor.datatype == "FP16"}
        self._ids = count(1)
        self._prefix = os.urandom(6).hex()

    def encode(
        self, request: str, arrays: Sequence[Array], wanted: tuple[int, ...] | None = None, *, check: bool
    ) -> bytes:
        """The body for the request of that id. Raises OutputError where JSON cannot say a value.

        `check` is false where the caller has seen that every number is finite.
        """
        written = []
        for index in self._all if wanted is None else wanted:
            name, before, between = self._parts[index]
            array = arrays[index]
            if name in self._refused:
                raise OutputError(f"output {name!r} is FP16, which has no JSON form")
            if check and not finite(array):
                raise OutputError(f"output {name!r} has NaN or Infinity, which JSON does not have")
            try:
                data = _encode(array.ravel().tolist())
            except UnicodeEncodeError as error:
                raise OutputError(f"output {name!r} has text that is not Unicode: {error.reason}") from error
            written.append(b"%b%b%b%b}" % (before, _encode(array.shape), between, data))
        ident = request or f"{self._prefix}-{next(self._ids)}"
        return b'%b%b,"outputs":[%b]}' % (self._head, _encode(ident), b",".join(written))


def decode_outputs(body: bytes, tensors: Sequence[Tensor]) -> dict[str, Array]:
    """The outputs of a recorded response, by name. Raises BadRequestError naming the output."""
    readers = {tensor.name: TensorReader(tensor, "output") for tensor in tensors}
    try:
        given = _outputs.decode(body).outputs
    except NOT_JSON as error:
        raise BadRequestError(f"the response: {tidy(error)}") from error
    arrays = {}
    for output in given:
        if output.name not in readers:
            raise BadRequestError(f"output {output.name!r} is not in the signature")
        arrays[output.name] = _read(readers[output.name], output)
    return arrays


def error_body(message: str) -> bytes:
    """What every answer that is not 200 holds. A model's message may not be Unicode."""
    return _encode({"error": message.encode(errors="backslashreplace").decode()})
