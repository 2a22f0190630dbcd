"""Heads of HTTP answers, from parts that are encoded once.

Every answer that is not 200 is `{"error": "..."}` with the content type exactly `application/json`: clients
of this protocol compare it as a string, and fail on an error they cannot decode.
"""

from __future__ import annotations

import http
import time
from email.utils import formatdate
from typing import Any

import msgspec

JSON = b"application/json"
HTML = b"text/html; charset=utf-8"
METRICS = b"text/plain; version=0.0.4; charset=utf-8"
BINARY = b"application/octet-stream"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
RETRY_AFTER = b"retry-after: 1\r\n"

_STARTS = {
    status.value: b"HTTP/1.1 %d %b\r\ncontent-type: " % (status.value, status.phrase.encode())
    for status in http.HTTPStatus
}
_encode = msgspec.json.encode


class _Date:
    """The Date header, made once a second."""

    def __init__(self) -> None:
        self.text = b""
        self._until = 0.0

    def at(self, now: float) -> bytes:
        if now >= self._until:
            self._until = now + 1.0
            self.text = formatdate(time.time(), usegmt=True).encode()
        return self.text


_date = _Date()


def head(
    status: int, kind: bytes, length: int, request_id: bytes, now: float, extra: bytes, connection: bytes
) -> bytes:
    """The head of an answer with `length` bytes of `kind`. `extra` and `connection` are whole lines."""
    start = _STARTS.get(status) or b"HTTP/1.1 %d Status\r\ncontent-type: " % status
    return b"%b%b\r\ncontent-length: %d\r\nx-request-id: %b\r\ndate: %b\r\n%b%b\r\n" % (
        start,
        kind,
        length,
        request_id,
        _date.at(now),
        extra,
        connection,
    )


def error_body(message: str, **more: Any) -> bytes:
    """`{"error": message}`, and what else is said there."""
    return _encode({"error": message, **more})


def json_body(value: Any) -> bytes:
    """`value` as JSON."""
    return _encode(value)


def refused_connection() -> bytes:
    """What a connection beyond the cap is told before it is closed."""
    body = error_body("too many connections")
    return head(503, JSON, len(body), b"-", time.monotonic(), RETRY_AFTER, b"connection: close\r\n") + body
