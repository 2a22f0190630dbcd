"""HTTP/1.1 on one connection: bytes in, exchanges out, answers back in order.

Requests are handled one at a time; what a client pipelines waits, up to a bound. Every state a client can
leave a connection in has a deadline. A refusal that leaves unread bytes behind is followed by a lingering
close: closing at once would reset the connection, and the client would never see why.
Left out: parsing and its caps (`parse.py`), what the answers are (`server.py`), and TLS.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

from mldeploy_daemon.front import answers
from mldeploy_daemon.front.exchange import Exchange
from mldeploy_daemon.front.parse import BODY, HEAD, IDLE, SHUT, RequestReader

if TYPE_CHECKING:
    from mldeploy_daemon.front.config import Limits
    from mldeploy_daemon.front.deadlines import Deadlines

_KEEP = b"connection: keep-alive\r\n"
_CLOSE = b"connection: close\r\n"
#: Below this, head and body go out as one piece of memory.
_JOIN = 65_536
#: Requests waiting on a connection before it is not read any more.
_ENOUGH = 8
#: A connection between requests has this long (s) once the front is stopping.
_STOPPING_IDLE = 0.25


class Application(Protocol):
    """What a connection needs of the front it belongs to."""

    limits: Limits
    connections: set[Connection]
    timers: Deadlines[Connection]
    buffered: int
    stopping: bool

    def handle(self, exchange: Exchange) -> None:
        """Answer it, now or later, by `exchange.conn.respond`."""

    def answered(self, exchange: Exchange, status: int, sent: int, now: float) -> None:
        """It has been answered with `status` and `sent` bytes."""

    def gone(self, connection: Connection) -> None:
        """A connection has ended."""

    def forget(self, exchange: Exchange) -> None:
        """Its body is not held any more."""


class Connection(asyncio.Protocol):
    """One client. `deadline` is what the front's timer looks at."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._limits = app.limits
        self.deadline = math.inf
        self.queue: deque[Exchange] = deque()
        self._reader = RequestReader(self, app.limits, app)
        self._transport: asyncio.Transport | None = None
        self._current: Exchange | None = None
        self._pumping = self._stuffed = self._held = self._closing = False
        self._since = 0.0  # when the head or body that is arriving began to be waited for; 0.0: not yet
        self._awaited = IDLE
        self._unsent = 0  # bytes the client had not taken when last looked

    # the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start: the client has as long for its first byte as between requests."""
        self._transport = cast("asyncio.Transport", transport)
        self._app.connections.add(self)
        self._rest(time.monotonic())

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; what a worker has of it goes on, and is dropped when it comes."""
        self._app.gone(self)
        self._transport, self.deadline = None, math.inf
        gone = [*self.queue, *filter(None, (self._reader.close(), self._current))]
        self.queue.clear()
        self._current = None
        for exchange in gone:
            exchange.conn = None
            if exchange.worker is None:  # else its worker's answer ends it
                self._app.forget(exchange)

    def data_received(self, data: bytes) -> None:
        """Parse `data`, then handle what is complete."""
        if self._closing:
            return
        reader = self._reader
        reader.feed(data)
        if self.queue and self._current is None:
            self._pump()
        if self._current is None:
            if reader.phase in (HEAD, BODY):
                self._rest(time.monotonic())
        elif len(self.queue) >= _ENOUGH and not self._held and self._transport:
            self._held = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """A client may close its side and still wait for the answers it asked for."""
        last = self.queue[-1] if self.queue else self._current
        if last is None or self._closing:
            return False
        last.keep = False
        return True

    def pause_writing(self) -> None:
        """The client is slow to read: no further request is handled until it catches up."""
        self._stuffed = True
        self._watch_writing(time.monotonic())

    def resume_writing(self) -> None:
        """It has caught up."""
        self._stuffed = False
        self._rest(time.monotonic())
        self._pump()

    # answers

    def invite(self) -> None:
        """Say 100 Continue, once nothing is to be answered before."""
        if self._reader.expects and self._current is None and not self.queue and self._transport:
            self._reader.expects = False
            self._transport.write(answers.CONTINUE)

    def _pump(self) -> None:
        """Handle what is complete, in order, for as long as the answers come at once."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self.queue and self._current is None and not self._stuffed and self._transport:
                exchange = self._current = self.queue.popleft()
                self.deadline, self._since = math.inf, 0.0
                if exchange.refusal:
                    status, message = exchange.refusal
                    extra = answers.RETRY_AFTER if status == 503 else b""
                    self.respond(exchange, status, answers.error_body(message), extra=extra)
                else:
                    self._app.handle(exchange)
        finally:
            self._pumping = False
        if self._held and not self.queue and self._transport:
            self._held = False
            self._transport.resume_reading()

    def respond(
        self, exchange: Exchange, status: int, body: bytes, kind: bytes = answers.JSON, extra: bytes = b""
    ) -> None:
        """Answer the request being handled; `extra` is whole header lines. Nothing, if it was answered."""
        transport = self._transport
        if transport is None or exchange is not self._current:
            return
        now = time.monotonic()
        exchange.answered = True
        if self._app.stopping and not self.queue:
            exchange.keep = False
        connection = (_KEEP if exchange.old else b"") if exchange.keep else _CLOSE
        head = answers.head(status, kind, len(body), exchange.request_id, now, extra, connection)
        self._current = None
        if exchange.method == "HEAD":
            transport.write(head)
        elif len(body) < _JOIN:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        self._app.answered(exchange, status, len(body), now)
        if exchange.keep:
            if self._reader.expects:
                self.invite()
            self._rest(now)
            self._pump()
        else:
            self._close(transport, now)

    def _close(self, transport: asyncio.Transport, now: float) -> None:
        """Close after what was written has gone out; if bytes may be unread, after the client has closed."""
        self._closing = True
        self._since = 0.0
        if self._reader.refused:
            if self._held:
                transport.resume_reading()
            transport.write_eof()
        else:
            transport.close()
        self._rest(now)

    # deadlines

    def _watch_writing(self, now: float) -> None:
        self._unsent = self._transport.get_write_buffer_size() if self._transport else 0
        self.deadline = now + self._limits.write_seconds
        self._app.timers.at(self.deadline)

    def _rest(self, now: float) -> None:
        """Set the deadline of the state the connection is left in."""
        if self._stuffed:
            return  # that deadline is not moved by what the client sends
        limits, reader = self._limits, self._reader
        if self._closing and self._transport and self._transport.get_write_buffer_size():
            self._watch_writing(now)
            return
        if self._closing:
            deadline = now + limits.linger_seconds
        elif self._current is not None:
            deadline = math.inf
        elif reader.phase == IDLE:
            self._since = 0.0
            deadline = now + (_STOPPING_IDLE if self._app.stopping else limits.idle_seconds)
        else:
            if not self._since or self._awaited != reader.phase:
                self._since, self._awaited = now, reader.phase
            if reader.phase == HEAD:
                deadline = self._since + limits.header_seconds
            else:
                size = reader.incoming.size if reader.incoming else 0
                deadline = min(now, self._since + size / limits.body_rate) + limits.body_seconds
        self.deadline = deadline
        self._app.timers.at(deadline)

    def expire(self, now: float) -> None:
        """The deadline has passed: for reading, writing, or between requests."""
        self.deadline = math.inf
        transport, phase = self._transport, self._reader.phase
        if transport is None:
            return
        unsent = transport.get_write_buffer_size()
        if self._stuffed or (self._closing and unsent):
            if self._unsent - unsent >= self._limits.body_rate * self._limits.write_seconds:
                self._watch_writing(now)
            else:
                transport.abort()
        elif self._closing or (phase == IDLE and unsent):
            transport.abort()
        elif phase in (HEAD, BODY):
            what = "head" if phase == HEAD else "body"
            self._reader.refuse(408, f"the request's {what} did not arrive in time")
            self._pump()
        else:
            transport.close()

    def stop(self, now: float) -> None:
        """The front is stopping: between requests there is little time left."""
        if self._current is None and not self._closing and self._reader.phase in (IDLE, SHUT):
            self._rest(now)
