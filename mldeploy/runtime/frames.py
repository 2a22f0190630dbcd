"""Frames between a front and a worker on a Unix stream socket.

A frame is a 24-byte little-endian header and a body:

    u32 length   bytes of the body
    u8  kind     REQUEST_* or RESPONSE
    u8  flags    REQUEST: 0. RESPONSE: FLAG_* below
    u16 status   REQUEST: 0. RESPONSE: the HTTP status to answer with
    u64 id       chosen by the front, unique on its connection; the response carries it back
    u32 budget   REQUEST: milliseconds the front will still wait, 0 for no limit. RESPONSE: rows in the call
                 that answered, 0 where the model was not called
    u32 header   REQUEST: bytes of the JSON header in a binary-tensor body, 0 for plain JSON. RESPONSE: same

Answers may come in any order. The body of a request is what the client sent, untouched; the body of a
response is what the client gets. A peer that sends anything else is disconnected. Source of the field
`header`: the binary tensor extension's Inference-Header-Content-Length.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER = struct.Struct("<IBBHQII")
#: No body on either side is longer; the front's own cap for clients is lower.
MAX_BODY = 1 << 30

#: Open Inference Protocol v2, `infer`.
REQUEST_V2 = 1
RESPONSE = 128


class Frame(NamedTuple):
    """One frame; see the module for the fields."""

    kind: int
    id: int
    body: bytes | memoryview
    status: int = 0
    budget: int = 0
    header: int = 0
    flags: int = 0


class FrameError(Exception):
    """Bytes that are not a frame."""


class FrameReader:
    """Cuts a byte stream into frames. Feed what arrived; take what is whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes of the frame that is not whole yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Every frame completed by `data`. Raises FrameError on a length or kind out of range."""
        frames: list[Frame] = []
        if not self._buffer:
            # what arrives is nearly always whole: cut it where it lies
            at = _cut(data, frames)
            if at < len(data):
                self._buffer += data[at:] if at else data
            return frames
        self._buffer += data
        with memoryview(self._buffer) as view:
            at = _cut(view, frames)
        if at:
            del self._buffer[:at]
        return frames


def _cut(data: bytes | memoryview, frames: list[Frame]) -> int:
    """Append the whole frames of `data` to `frames`; the offset of what is left."""
    at, size = 0, len(data)
    while size - at >= HEADER.size:
        length, kind, flags, status, ident, budget, header = HEADER.unpack_from(data, at)
        if length > MAX_BODY or kind not in (REQUEST_V2, RESPONSE) or header > length:
            raise FrameError(f"not a frame: length {length}, kind {kind}")
        start = at + HEADER.size
        if size - start < length:
            break
        at = start + length
        frames.append(Frame(kind, ident, bytes(data[start:at]), status, budget, header, flags))
    return at
