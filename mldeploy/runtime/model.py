"""A loaded model as a function of arrays that keeps its signature, and requests answered with it.

Rules: what the model returns is checked before anything is answered with it: names, number, datatype, shape,
rows. A call that fails with several requests in it is tried again request by request, so that one bad request
fails alone. Whatever the model raises is an answer of status 500 and a traceback in the log, never the end of
the worker. Left out: when to call (batching.py) and where answers go (server.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .codec import Request, ResponseEncoder, error_body
from .errors import BundleError, OutputError
from .process import log_exception
from .spec import Signature
from .tensors import DTYPES, Array, as_output, finite

#: A status and a body.
Answer = tuple[int, bytes]


class Model:
    """Calls `function` as its manifest says: arrays in order, or by name."""

    def __init__(self, function: Callable[..., Any], signature: Signature, style: str = "positional") -> None:
        self._function = function
        self._names = tuple(tensor.name for tensor in signature.inputs) if style == "named" else None
        self._outputs = signature.outputs
        self.signature = signature
        self.batchable = signature.batchable

    def __call__(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """The outputs in order of the signature. Raises OutputError, and whatever the model raises."""
        rows = arrays[0].shape[0] if self.batchable else None
        result = self.raw(arrays)
        if isinstance(result, np.ndarray) and len(self._outputs) == 1:
            return (as_output(self._outputs[0], result, rows),)
        return tuple(
            as_output(tensor, value, rows)
            for tensor, value in zip(self._outputs, self._in_order(result), strict=True)
        )

    def raw(self, arrays: Sequence[Array]) -> Any:
        """What the model itself returns."""
        if self._names is None:
            return self._function(*arrays)
        return self._function(**dict(zip(self._names, arrays, strict=True)))

    def _in_order(self, result: object) -> Sequence[object]:
        outputs = self._outputs
        if isinstance(result, Mapping):
            names = [tensor.name for tensor in outputs]
            if set(result) != set(names):
                raise OutputError(f"the model gave outputs {sorted(map(str, result))}, not {sorted(names)}")
            return [result[name] for name in names]
        if len(outputs) == 1:
            return result if isinstance(result, tuple) and len(result) == 1 else (result,)
        if isinstance(result, tuple | list):
            if len(result) == len(outputs):
                return result
            raise OutputError(f"the model gave {len(result)} outputs, not {len(outputs)}")
        raise OutputError(f"the model gave one {type(result).__name__}, not {len(outputs)} outputs")


class Engine:
    """Answers requests that may share a call."""

    def __init__(self, model: Model, encoder: ResponseEncoder) -> None:
        self._model = model
        self._encoder = encoder

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer for each, in order. Never raises what the model raises."""
        if len(requests) == 1:
            return [self._alone(requests[0])]
        try:
            columns = zip(*(request.arrays for request in requests), strict=True)
            outputs = self._model([np.concatenate(column) for column in columns])
        except (Exception, SystemExit):  # noqa: BLE001 - the edge of a request
            # whoever is at fault fails alone, and says so in the log
            return [self._alone(request) for request in requests]
        check = not all(map(finite, outputs))
        answers, at = [], 0
        for request in requests:
            end = at + request.rows
            answers.append(self._encode(request, [output[at:end] for output in outputs], check=check))
            at = end
        return answers

    def _alone(self, request: Request) -> Answer:
        try:
            outputs = self._model(request.arrays)
        except OutputError as error:
            return 500, error_body(str(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the edge of a request
            log_exception()
            return 500, error_body(f"{type(error).__name__}: {error}")
        return self._encode(request, outputs, check=True)

    def _encode(self, request: Request, outputs: Sequence[Array], *, check: bool) -> Answer:
        try:
            return 200, self._encoder.encode(request.id, outputs, request.wanted, check=check)
        except OutputError as error:
            return 500, error_body(str(error))


def check_signature(signature: Signature) -> None:
    """Refuse a signature this runtime cannot serve. Raises BundleError."""
    for side, tensors in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        for index, tensor in enumerate(tensors):
            key = f"signature.{side}[{index}]"
            if tensor.datatype not in DTYPES:
                raise BundleError(
                    "load", "manifest.yaml", f"{key}.datatype", f"{tensor.datatype!r} is unknown"
                )
        if not tensors:
            raise BundleError("load", "manifest.yaml", f"signature.{side}", "is empty")
