"""The fronts' connections to the mirror: frames in, a word to pause or resume out. See `copies.py`.

What is no frame of ours ends that connection and nothing else. Left out: what becomes of a copy
(`mirror.py`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import msgspec

from mldeploy.runtime.frames import Frame, FrameError, FrameReader
from mldeploy_daemon.copies import COPY, PAUSE, PULSE, Copy, Pulse, word_frame
from mldeploy_daemon.mirror.mirror import Mirror

log = logging.getLogger(__name__)

_copies = msgspec.json.Decoder(Copy)
_pulses = msgspec.json.Decoder(Pulse)


class Inbox(asyncio.Protocol):
    """One front."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._reader = FrameReader()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is told at once where a pause is under way."""
        self._transport = cast("asyncio.WriteTransport", transport)
        self._mirror.peers.add(self)
        if self._mirror.word == PAUSE:
            self.tell(PAUSE)

    def tell(self, status: int) -> None:
        """Pause or resume."""
        if self._transport:
            self._transport.write(word_frame(status))

    def data_received(self, data: bytes) -> None:
        """Copies and pulses."""
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except (FrameError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.error("a front: %s", error)
            if self._transport:
                self._transport.abort()

    def _take(self, frame: Frame) -> None:
        body = memoryview(frame.body)
        envelope = body[: frame.header]
        if frame.flags == PULSE:
            self._mirror.heard(_pulses.decode(envelope))
        elif frame.flags == COPY:
            copy = _copies.decode(envelope)
            middle = frame.header + copy.request
            if not frame.header <= middle <= len(body):
                raise FrameError("a copy whose parts do not fit")
            self._mirror.take(copy, bytes(body[frame.header : middle]), bytes(body[middle:]))
        else:
            raise FrameError(f"flags {frame.flags} mean nothing")

    def connection_lost(self, exc: Exception | None) -> None:
        """The front has ended, or let go."""
        self._mirror.peers.discard(self)
        self._transport = None
