"""One value out of a prediction request's body: the routing key, where a manifest names an input.

Rules: JSON bodies of at most `most` bytes; nothing is built but the names of the inputs and one scalar, whose
kind is checked. What is not such a body has no key, and the caller falls back to the request id: whether the
request is any good is for the worker to say.
Left out: validation against the signature (the worker's), and binary tensors.
"""

from __future__ import annotations

import re

import msgspec

#: Where the first scalar of flat or nested data stands.
_FIRST = re.compile(rb'[\s\[]*("(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false)\s*[,\]]')


class _Input(msgspec.Struct):
    name: str
    data: msgspec.Raw = msgspec.Raw(b"")


class _Body(msgspec.Struct):
    inputs: list[_Input]


_body = msgspec.json.Decoder(_Body)
_scalar = msgspec.json.Decoder(str | int | float | bool)


def first_element(body: bytes, name: str, most: int) -> str | None:
    """The first element of the input `name`, as text; None where there is none that can be read cheaply."""
    if len(body) > most:
        return None
    try:
        inputs = _body.decode(body).inputs
        for given in inputs:
            if given.name == name:
                found = _FIRST.match(memoryview(given.data))
                return _text(_scalar.decode(found[1])) if found else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None


def _text(value: str | int | float | bool) -> str:
    # 7.0 and 7 are one user to a client that writes numbers as it likes
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return value if isinstance(value, str) else str(value).lower()
