"""The front's line to the mirror: copies go out after their answers have, or they do not go at all.

Rules: nothing here waits, fails a request, or holds more than `Limits.mirror_buffer` bytes and one copy: what
does not fit, and everything while no mirror listens, is dropped and counted. While the mirror has said pause
the host is busy, and choosing costs more than it is worth: one request in ONE_IN is looked at, counts as so
many dropped, and may be a sample for drift, at a tenth of their rate. Four times a second the mirror hears
how long the primaries' answers take.
Left out: who is chosen (`feed.py`), and what the mirror does with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, cast

from mldeploy.runtime.frames import FrameError, FrameReader
from mldeploy_daemon.copies import COPIES, PAUSE, Copy, Pulse, copy_parts, pulse_frame

if TYPE_CHECKING:
    from mldeploy.runtime.frames import Frame
    from mldeploy_daemon.front.config import Limits
    from mldeploy_daemon.front.exchange import Exchange
    from mldeploy_daemon.front.feed import Feed, Shadow

#: Seconds between two attempts to connect, and between two pulses.
BEAT = 0.25
#: While paused, seconds between two samples are so many times longer.
PAUSED_RATE = 10
#: While paused, one request in so many is looked at.
ONE_IN = 16

log = logging.getLogger(__name__)


class Mirror(asyncio.Protocol):
    """One front's line. Nothing is connected before a table says that something is copied."""

    def __init__(self, limits: Limits, fronts: int) -> None:
        self._limits = limits
        self._rest = fronts / limits.mirror_samples  # seconds between two samples of this front
        self._feeds: tuple[Feed, ...] = ()
        self._transport: asyncio.WriteTransport | None = None
        self._reader = FrameReader()
        self._full = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._told: dict[str, tuple[int, float]] = {}
        self.paused = False

    @property
    def state(self) -> str:
        """For `stats`: "connected", "paused", or "" where there is no mirror, or nothing to copy."""
        return "" if self._transport is None else "paused" if self.paused else "connected"

    # the requests' side

    def offer(self, exchange: Exchange, feed: Feed, frame: Frame, answer: bytes) -> None:
        """The request has been answered with `answer`: copy it to those it is for."""
        weight = 1
        if self.paused:
            feed.skipped += 1
            if feed.skipped % ONE_IN:
                return
            weight = ONE_IN
        sure: list[Shadow] = []
        open_: list[Shadow] = []
        if feed.shadows:
            key = feed.key.of(exchange, self._limits.key_bytes)
            for shadow in feed.shadows:
                if shadow.takes(key) and (wants := shadow.wants(exchange)) is not False:
                    if wants:
                        shadow.count.offered += weight
                        sure.append(shadow)
                    else:
                        open_.append(shadow)
        sampled = feed.sampled and time.monotonic() >= feed.due
        if not sure and not open_ and not sampled:
            return
        now = time.monotonic()
        size = len(exchange.body) + len(answer)
        lost = self._transport is None or self._full or size > self._limits.mirror_body
        if lost or self.paused:
            self._drop(sure, open_, weight)
            if lost or not sampled:
                return
            sure, open_ = [], []
        if sampled:
            feed.due = now + self._rest * (PAUSED_RATE if self.paused else 1)
        copy = Copy(
            feed.model, feed.version, len(exchange.body), exchange.header, frame.header,
            tuple(shadow.id for shadow in sure), tuple(shadow.id for shadow in open_), sampled,
        )  # fmt: skip
        for shadow in open_:
            for name in shadow.headers:
                text = exchange.header_text(name)
                if text is not None:
                    copy.headers[name] = text
        if self._transport:
            parts = copy_parts(copy, now - exchange.started, exchange.body, answer)
            self._transport.write(b"".join(parts))

    @staticmethod
    def _drop(sure: list[Shadow], open_: list[Shadow], weight: int) -> None:
        """What nobody looked into might have been chosen: it is offered and dropped as well."""
        for shadow in sure:
            shadow.count.dropped += weight
        for shadow in open_:
            shadow.count.offered += weight
            shadow.count.dropped += weight

    # the table's side

    def wanted(self, feeds: tuple[Feed, ...]) -> None:
        """These are copied from now on: connect if there are any, and let go if there are none."""
        self._feeds = feeds
        if feeds and self._timer is None:
            self._tick()
        elif not feeds:
            self.close()

    def close(self) -> None:
        """Let go of the mirror."""
        self._feeds = ()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._transport:
            self._transport.abort()

    def _tick(self) -> None:
        """Connect where there is no connection; tell where there is one."""
        loop = asyncio.get_running_loop()
        if self._transport is None and self._task is None:
            self._task = loop.create_task(self._connect())
        elif self._transport and not self._full:
            self._tell(self._transport)
        self._timer = loop.call_later(BEAT, self._tick)

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self, COPIES)
        except OSError as error:  # it is being started again
            log.debug("the mirror cannot be reached: %s", error)
        finally:
            self._task = None

    def _tell(self, transport: asyncio.WriteTransport) -> None:
        answers: dict[str, tuple[int, float]] = {}
        told: dict[str, tuple[int, float]] = {}
        for feed in self._feeds:
            if feed.shadows:
                ref = f"{feed.model}@{feed.version}"
                told[ref] = count, seconds = sum(feed.series.requests), feed.series.seconds
                before, spent = self._told.get(ref, (count, seconds))
                if count > before:
                    answers[ref] = count - before, seconds - spent
        self._told = told
        if answers:
            transport.write(pulse_frame(Pulse(answers)))

    # the connection's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: it says by itself whether it is paused."""
        self._transport = cast("asyncio.WriteTransport", transport)
        self._transport.set_write_buffer_limits(high=self._limits.mirror_buffer)
        self._reader, self._full, self.paused = FrameReader(), False, False
        if not self._feeds:
            self._transport.abort()

    def pause_writing(self) -> None:
        """It does not keep up: what comes now is dropped."""
        self._full = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self._full = False

    def data_received(self, data: bytes) -> None:
        """Pause or resume."""
        try:
            for frame in self._reader.feed(data):
                self.paused = frame.status == PAUSE
        except FrameError as error:
            log.warning("the mirror: %s", error)
            if self._transport:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended; it is connected to again soon."""
        self._transport, self.paused = None, False
