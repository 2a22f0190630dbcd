"""Connections from this front to workers: one each, many requests on it, answers in any order.

A worker's connection is made when the table first names it and again, with growing pauses, while the table
still does; a request that finds none waits for the attempt. What was sent and not answered stays counted in
flight until the answer comes or the connection ends, even when its client has long been told otherwise: the
agent stops workers on that count.
Left out: which worker gets a request, and what becomes of one that could not be answered (`dispatch.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, cast

from mldeploy.runtime.frames import HEADER, REQUEST_V2, RESPONSE, Frame, FrameError, FrameReader

if TYPE_CHECKING:
    from mldeploy_daemon.front.config import Limits
    from mldeploy_daemon.front.exchange import Exchange
    from mldeploy_daemon.table import WorkerRoute

_JOIN = 65_536
_PAUSE, _LONGEST_PAUSE = 0.05, 2.0

log = logging.getLogger(__name__)


class Handlers:
    """What happens to exchanges that come back: `answered` by a frame, `lost` without one (sent or not)."""

    def __init__(self, answered: Callable[[Exchange, Frame], None], lost: Callable[[Exchange], None]) -> None:
        self.answered = answered
        self.lost = lost


class Link(asyncio.Protocol):
    """One connection to a worker."""

    def __init__(self, worker: Worker, handlers: Handlers, buffer: int) -> None:
        self._worker = worker
        self._handlers = handlers
        self._buffer = buffer
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self.pending: dict[int, Exchange] = {}
        self.stuffed = False
        self._out: list[bytes] = []  # goes out together, before the event loop waits again

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected; the worker sends nothing before it is asked."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._buffer)

    @property
    def connected(self) -> bool:
        """It has not been lost."""
        return self._transport is not None

    def send(self, exchange: Exchange, now: float) -> None:
        """Send it, with the time that is left for it."""
        exchange.sent = True
        alone = not self.pending
        self.pending[exchange.ident] = exchange
        body = exchange.body
        budget = max(1, int((exchange.deadline - now) * 1_000))
        head = HEADER.pack(len(body), REQUEST_V2, 0, 0, exchange.ident, budget, exchange.header)
        transport = self._transport
        if transport is None:
            return  # connection_lost is about to hand it back
        if len(body) > _JOIN:
            self._flush()
            transport.writelines((head, body))
        elif alone:
            transport.write(head + body)
        else:
            # with others in flight, a system call for each costs more than anything else here
            if not self._out:
                asyncio.get_running_loop().call_soon(self._flush)
            self._out += (head, body)

    def _flush(self) -> None:
        if self._out and self._transport:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def data_received(self, data: bytes) -> None:
        """Answers; anything else ends the connection."""
        try:
            frames = self._reader.feed(data)
        except FrameError as error:
            log.error("worker %s: %s", self._worker.id, error)
            self.abort()
            return
        for frame in frames:
            if frame.kind != RESPONSE or not 200 <= frame.status <= 599:
                log.error("worker %s sent kind %d, status %d", self._worker.id, frame.kind, frame.status)
                self.abort()
                return
            exchange = self.pending.pop(frame.id, None)
            if exchange is None:
                log.error("worker %s answered a request it was not sent", self._worker.id)
                self.abort()
                return
            self._handlers.answered(exchange, frame)

    def pause_writing(self) -> None:
        """The worker takes nothing: it gets no more until it does."""
        self.stuffed = True

    def resume_writing(self) -> None:
        """It takes again."""
        self.stuffed = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Whatever was not answered goes back."""
        self._transport = None
        self._worker.link_lost(self)
        pending, self.pending = list(self.pending.values()), {}
        for exchange in pending:
            self._handlers.lost(exchange)

    def abort(self) -> None:
        """End the connection now."""
        if self._transport:
            self._transport.abort()

    def close(self) -> None:
        """End the connection; nothing is in flight on it."""
        if self._transport:
            self._transport.close()


class Worker:
    """One worker as this front sees it. `inflight`: requests assigned and not answered."""

    def __init__(self, route: WorkerRoute, handlers: Handlers, limits: Limits) -> None:
        self.id = route.id
        self._socket = route.socket
        self._handlers = handlers
        self._limits = limits
        self.inflight = 0
        self.routed = True  # the newest table names it
        self.link: Link | None = None
        self._waiting: dict[int, Exchange] = {}
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pause = _PAUSE

    @property
    def full(self) -> bool:
        """Nothing more may be sent to it."""
        return self.inflight >= self._limits.worker_inflight or (self.link is not None and self.link.stuffed)

    def take(self, exchange: Exchange, now: float) -> None:
        """Send it now, or once connected."""
        if self.link:
            self.link.send(exchange, now)
        else:
            self._waiting[exchange.ident] = exchange
            self.connect()

    def connect(self) -> None:
        """Connect unless it is connected, or being so."""
        if self.link is None and self._task is None:
            if self._timer:
                self._timer.cancel()
                self._timer = None
            self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        link = Link(self, self._handlers, self._limits.worker_buffer)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: link, self._socket)
            connected = link.connected
        except OSError as error:
            connected = False
            log.log(logging.INFO if self.routed else logging.DEBUG, "worker %s: %s", self.id, error)
        self._task = None
        waiting, self._waiting = list(self._waiting.values()), {}
        if not connected:
            self._again()
            for exchange in waiting:
                self._handlers.lost(exchange)
        elif not self.routed and not self.inflight:
            link.close()
        else:
            self.link, self._pause = link, _PAUSE
            now = time.monotonic()
            for exchange in waiting:
                link.send(exchange, now)

    def _again(self) -> None:
        if self.routed and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self.connect)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def link_lost(self, link: Link) -> None:
        """Its connection has ended."""
        if self.link is link:
            self.link = None
            self._again()

    def withdraw(self, exchange: Exchange) -> bool:
        """Take back an exchange that was never sent. False if it was."""
        return self._waiting.pop(exchange.ident, None) is not None

    def exchanges(self) -> Iterator[Exchange]:
        """Everything assigned to it, oldest first."""
        if self.link:
            yield from self.link.pending.values()
        yield from self._waiting.values()

    def close(self) -> None:
        """Let go of it; nothing is in flight."""
        self.routed = False
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self.link:
            self.link.close()


class Pool:
    """Every worker the newest table names, and those that still owe answers."""

    def __init__(self, handlers: Handlers, limits: Limits) -> None:
        self._handlers = handlers
        self._limits = limits
        self.workers: dict[str, Worker] = {}

    def route(self, routes: Iterable[WorkerRoute]) -> None:
        """The newest table names these, and no others. Connects to the new ones."""
        named = {route.id: route for route in routes}
        for ident, route in named.items():
            if ident not in self.workers:
                self.workers[ident] = Worker(route, self._handlers, self._limits)
            self.workers[ident].connect()
        for worker in tuple(self.workers.values()):
            worker.routed = worker.id in named
            self.settle(worker)

    def settle(self, worker: Worker) -> None:
        """Let go of `worker` if the table does not name it any more and it owes nothing."""
        if not worker.routed and not worker.inflight:
            worker.close()
            self.workers.pop(worker.id, None)

    def exchanges(self) -> Iterator[Exchange]:
        """Everything in flight."""
        for worker in self.workers.values():
            yield from worker.exchanges()

    def inflight(self) -> dict[str, int]:
        """By worker, zeros included."""
        return {worker.id: worker.inflight for worker in self.workers.values()}

    def oldest_ms(self, now: float) -> dict[str, int]:
        """By worker, the age of the oldest exchange in flight, where there is one."""
        ages = {}
        for worker in self.workers.values():
            if worker.inflight:
                oldest = min((exchange.assigned for exchange in worker.exchanges()), default=now)
                ages[worker.id] = int((now - oldest) * 1_000)
        return ages

    def close(self) -> None:
        """Disconnect from every worker."""
        for worker in self.workers.values():
            worker.close()
