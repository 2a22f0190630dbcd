"""Bodies of Open Inference Protocol v2 as arrays by name: typed and bounded by a signature, as in a worker.

What cannot be read, has tensors the signature does not know, or comes as binary tensors is None: nothing here
is anybody's request any more. Left out: what the arrays are compared with.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt

from mldeploy.core.criterion import Value
from mldeploy.core.manifest import Tensor
from mldeploy.runtime.errors import BadRequestError
from mldeploy.runtime.reading import NOT_JSON
from mldeploy.runtime.spec import Tensor as Spec
from mldeploy.runtime.tensors import Array, TensorReader

Arrays = dict[str, Array]
Floats = npt.NDArray[np.float64]


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Request(msgspec.Struct):
    inputs: list[_Tensor]


class _Answer(msgspec.Struct):
    outputs: list[_Tensor]


_requests = msgspec.json.Decoder(_Request)
_answers = msgspec.json.Decoder(_Answer)


class Reader:
    """Reads one side (`inputs` or `outputs`) of one signature."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._readers = {
            tensor.name: TensorReader(Spec(tensor.name, tensor.datatype, tensor.shape)) for tensor in tensors
        }

    def request(self, body: bytes | memoryview) -> Arrays | None:
        """The inputs of a request."""
        try:
            return self._arrays(_requests.decode(body).inputs)
        except NOT_JSON:
            return None

    def answer(self, body: bytes | memoryview) -> Arrays | None:
        """The outputs of an answer."""
        try:
            return self._arrays(_answers.decode(body).outputs)
        except NOT_JSON:
            return None

    def _arrays(self, tensors: list[_Tensor]) -> Arrays | None:
        arrays: Arrays = {}
        for given in tensors:
            reader = self._readers.get(given.name)
            if reader is None or isinstance(given.data, msgspec.UnsetType):
                return None
            try:
                arrays[given.name] = reader.read(given.datatype, given.shape, given.data)
            except BadRequestError:
                return None
        return arrays


def element(arrays: Arrays, name: str, place: int) -> Value | None:
    """An element by its place in row-major order, as a criterion compares it; None where there is none."""
    array = arrays.get(name)
    if array is None or place >= array.size:
        return None
    value = array.flat[place]
    if isinstance(value, np.floating):
        return float(str(value))  # its shortest decimal is what the client wrote: 0.1, also as FP32
    found: Value = value.item() if isinstance(value, np.generic) else str(value)
    return found
