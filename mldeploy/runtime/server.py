"""The loop of a worker: frames in, batches through the model, frames out.

Rules: one thread, nothing blocks but the model itself. Every connection has its own buffers: a front that
reads slowly, or never, delays nobody and is not read from until it has taken its answers. Bytes that are no
frame disconnect their sender alone. A request whose budget ran out in the queue is answered 504 without a
call. No request ends the loop: what goes wrong unforeseen is a 500, and in the log. Asked to stop, it accepts
nobody more, answers all it has received, and returns.
Left out: loading and signals (worker.py), what an answer is (model.py).
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable

from .batching import Batcher, take
from .codec import RequestDecoder, error_body
from .errors import BadRequestError
from .frames import HEADER, REQUEST_V2, RESPONSE, Frame, FrameError, FrameReader
from .model import Engine
from .process import log_exception

#: With so many requests queued none are read: the fronts' own queues then fill, and they answer 429.
MAX_QUEUE = 1024
MAX_CONNECTIONS = 256
#: Bytes of answers a connection may have waiting before its requests are neither read nor called for.
HIGH_WATER = 4 << 20
TICK_SECONDS = 10.0
_CHUNK = 256 << 10
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT


class Connection:
    """One front."""

    __slots__ = ("chunks", "closed", "interest", "parked", "reader", "rest", "socket", "waiting")

    def __init__(self, peer: socket.socket) -> None:
        self.socket = peer
        self.reader = FrameReader()
        self.chunks: list[bytes] = []  # to be sent after `rest`
        self.rest: memoryview | None = None
        self.waiting = 0  # bytes in both
        self.interest = _IN
        self.closed = False
        self.parked: list[Pending] = []  # for when it has taken its answers

    def put(self, ident: int, status: int, rows: int, body: bytes) -> None:
        """Queue an answer; `flush` sends it."""
        self.chunks.append(HEADER.pack(len(body), RESPONSE, 0, status, ident, rows, 0))
        self.chunks.append(body)
        self.waiting += HEADER.size + len(body)

    def flush(self) -> None:
        """Send what the peer takes now. Raises OSError where it is gone."""
        while self.waiting:
            if self.rest is None:
                self.rest = memoryview(b"".join(self.chunks))
                self.chunks.clear()
            try:
                sent = self.socket.send(self.rest)
            except BlockingIOError:
                return
            self.waiting -= sent
            self.rest = self.rest[sent:] if sent < len(self.rest) else None


class Pending:
    """A request in the queue."""

    __slots__ = ("connection", "deadline", "id", "key", "request", "rows")

    def __init__(self, connection: Connection, frame: Frame, decoder: RequestDecoder, now: float) -> None:
        self.connection = connection
        self.id = frame.id
        self.deadline = now + frame.budget / 1000 if frame.budget else float("inf")
        self.request = decoder.decode(frame.body)
        self.key = self.request.key
        self.rows = self.request.rows


class Server:
    """Serves `listener`, which is non-blocking and listening, until `stop` was called."""

    def __init__(
        self,
        listener: socket.socket,
        wake: socket.socket,
        engine: Engine,
        decoder: RequestDecoder,
        batcher: Batcher,
        drain: float = 5.0,
        tick: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listener = listener
        self._wake = wake  # readable when a signal came
        self._engine = engine
        self._decoder = decoder
        self._batcher = batcher
        self._drain_seconds = drain  # for the last answers to be taken once asked to stop
        self._tick = tick  # called now and then, between calls
        self._clock = clock
        self._connections: dict[int, Connection] = {}
        self._queue: deque[Pending] = deque()
        self._rows = 0  # in the queue
        self._stopping = False
        self._read_any = False

    def stop(self) -> None:
        """From a signal handler: finish and return from `run`."""
        self._stopping = True

    def run(self) -> None:
        """Serve; returns when everything received before `stop` was answered and taken."""
        with select.epoll() as self._epoll:
            self._epoll.register(self._listener.fileno(), _IN)
            self._epoll.register(self._wake.fileno(), _IN)
            ticked = self._clock()
            while not self._stopping:
                self._gather()
                self._answer()
                if self._clock() - ticked > TICK_SECONDS:
                    ticked = self._clock()
                    self._tick()
            self._drain()

    def _gather(self) -> None:
        """Fill the queue until it is time to call."""
        timeout = 0.0 if self._queue else TICK_SECONDS
        while len(self._queue) < MAX_QUEUE:
            self._poll(timeout)
            if self._stopping or not self._queue:
                return
            timeout = self._batcher.wait(self._clock(), len(self._queue), self._rows)
            if timeout <= 0.0:
                return

    def _poll(self, timeout: float) -> None:
        if 0.0 < timeout < 0.005:
            # epoll counts in milliseconds, select in microseconds
            select.select([self._epoll], [], [], timeout)
            timeout = 0.0
        for fd, event in self._epoll.poll(timeout):
            connection = self._connections.get(fd)
            if connection is not None:
                if event & _OUT:
                    self._flush(connection)
                if event & ~_OUT and not connection.closed:
                    self._read(connection)
            elif fd == self._listener.fileno():
                self._accept()
            elif fd == self._wake.fileno():
                self._wake.recv(4096)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:  # nobody waits, or they left, or no descriptor is free: they try again
                return
            if len(self._connections) >= MAX_CONNECTIONS:
                peer.close()
                continue
            peer.setblocking(False)
            self._connections[peer.fileno()] = Connection(peer)
            self._epoll.register(peer.fileno(), _IN)

    def _read(self, connection: Connection) -> bool:
        """Take in what arrived, a bounded part of it; whether anything did."""
        try:
            data = connection.socket.recv(_CHUNK)
            if data:
                self._take_in(connection, connection.reader.feed(data))
                return True
        except BlockingIOError:
            return False
        except FrameError as error:
            print(f"mldeploy: disconnected a front: {error}", file=sys.stderr)
        except OSError:
            pass  # it is gone, as with no data
        self._close(connection)
        return False

    def _take_in(self, connection: Connection, frames: list[Frame]) -> None:
        now = self._clock()
        for frame in frames:
            if frame.kind != REQUEST_V2:
                raise FrameError(f"kind {frame.kind} is no request")
            try:
                if frame.header:
                    raise BadRequestError("binary tensor data is not supported; send JSON")
                pending = Pending(connection, frame, self._decoder, now)
            except BadRequestError as error:
                connection.put(frame.id, 400, 0, error_body(str(error)))
            except Exception:  # noqa: BLE001 - the edge of a request
                log_exception()
                connection.put(frame.id, 500, 0, _FAILED)
            else:
                self._queue.append(pending)
                self._rows += pending.rows
        if connection.waiting:
            self._flush(connection)

    def _answer(self) -> None:
        """One call with what may share it, and its answers on their way."""
        queue = self._queue
        if not queue:
            return
        started = self._clock()
        arrived = len(queue)
        batch = take(queue, self._batcher.max_rows)
        touched: dict[Connection, None] = {}
        live = []
        for pending in batch:
            self._rows -= pending.rows
            if pending.deadline < started:
                pending.connection.put(pending.id, 504, 0, _LATE)
                touched[pending.connection] = None
            elif pending.connection.waiting >= HIGH_WATER:
                pending.connection.parked.append(pending)
            elif not pending.connection.closed:
                live.append(pending)
        if live:
            try:
                answers = self._engine.answer([pending.request for pending in live])
            except Exception:  # noqa: BLE001 - what the model raises is in the answers: this is our own
                log_exception()
                answers = [(500, _FAILED)] * len(live)
            rows = sum(pending.rows for pending in live)
            for pending, (status, body) in zip(live, answers, strict=True):
                pending.connection.put(pending.id, status, rows, body)
                touched[pending.connection] = None
        for connection in touched:
            if not connection.closed:
                self._flush(connection)
        if live:
            self._batcher.called(self._clock() - started, len(live), len(queue), arrived)

    def _flush(self, connection: Connection) -> None:
        try:
            connection.flush()
        except OSError:
            self._close(connection)
            return
        interest = _OUT if connection.waiting else 0
        if connection.waiting < HIGH_WATER:
            interest |= _IN
            for pending in connection.parked:
                self._queue.append(pending)
                self._rows += pending.rows
            connection.parked.clear()
        if interest != connection.interest:
            connection.interest = interest
            self._epoll.modify(connection.socket.fileno(), interest)

    def _close(self, connection: Connection) -> None:
        """Forget a front; what it asked is not called for any more."""
        connection.closed = True
        connection.parked.clear()
        del self._connections[connection.socket.fileno()]
        connection.socket.close()  # which takes it out of the epoll set as well

    def _drain(self) -> None:
        deadline = self._clock() + self._drain_seconds
        self._accept()  # who had connected before we were asked to stop
        self._epoll.unregister(self._listener.fileno())
        self._listener.close()
        while True:
            reading = [c for c in self._connections.values() if c.interest & _IN]
            got = [self._read(connection) for connection in reading]
            if not self._queue and not (any(got) and self._clock() < deadline):
                break
            while self._queue:
                self._answer()
        for connection in self._connections.values():
            # no more requests, only the rest of the answers
            self._epoll.modify(connection.socket.fileno(), _OUT if connection.waiting else 0)
        self._epoll.unregister(self._wake.fileno())
        while (left := deadline - self._clock()) > 0 and self._unsent():
            self._poll(left)
            while self._queue:  # of those that were waiting for their front to read
                self._answer()
        for connection in list(self._connections.values()):
            self._close(connection)

    def _unsent(self) -> bool:
        return any(connection.waiting for connection in self._connections.values())


_FAILED = error_body("internal error")
_LATE = error_body("the request's time ran out in the worker's queue")
