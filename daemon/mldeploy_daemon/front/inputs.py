"""One value out of a prediction request's body: the routing key, where a manifest names an input.

Rules: JSON bodies of at most `most` bytes; nothing is built but the names of the inputs and one scalar, whose
kind is checked. What is not such a body has no key, and the caller falls back to the request id: whether the
request is any good is for the worker to say.
Where a manifest names a header, or what it names is missing, the key is that header, or the request id.
Left out: validation against the signature (the worker's), and binary tensors.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from mldeploy.core.routing import Key, parse_key
from mldeploy.errors import UsageError
from mldeploy.runtime.reading import NOT_JSON

if TYPE_CHECKING:
    from mldeploy_daemon.front.exchange import Exchange

#: Where the first scalar of flat or nested data stands.
_FIRST = re.compile(rb'[\s\[]*("(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false)\s*[,\]]')


class KeyOf:
    """Reads the routing key that a table names: what the split and the shadows' choice hash."""

    def __init__(self, text: str) -> None:
        try:
            key = parse_key(text)
        except UsageError:  # of a newer agent: the request id serves until this front is replaced too
            key = Key()
        self._header = key.name.encode() if key.source == "header" else None
        self._input = key.name if key.source == "input" else None

    def of(self, exchange: Exchange, most: int) -> str:
        """The key of a request. Bodies over `most` bytes, or of binary tensors, are not looked into."""
        if self._input is not None and not exchange.header:
            found = first_element(exchange.body, self._input, most)
            if found is not None:
                return found
        value = exchange.headers.get(self._header) if self._header else None
        return (value or exchange.request_id).decode("utf-8", "replace")


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
    except NOT_JSON:
        return None
    return None


def _text(value: str | int | float | bool) -> str:
    # 7.0 and 7 are one user to a client that writes numbers as it likes
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return value if isinstance(value, str) else str(value).lower()
