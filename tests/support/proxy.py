"""A TCP proxy for HTTP/1.1 that counts requests and bytes, and cuts connections where a rule says so.

    with Proxy("127.0.0.1:9000", rule=chance(seed=7, share=0.1)) as proxy:
        ... a client at http://{proxy.address} ...
    proxy.requests       # in the order in which they came: method, target, bytes, what was done to it

A request is read whole before it is passed on (its body in memory); an answer is passed on as it comes. To
the client every cut is the same: the connection ends without an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import TracebackType


class Action(Enum):
    """What becomes of a request."""

    PASS = "pass"
    BEFORE = "before"  # cut when it came; the server never hears of it
    HALF = "half"  # the server gets half of the bytes, then both connections are cut
    MEANWHILE = "meanwhile"  # the server gets all of it, then both connections are cut at once
    AFTER = "after"  # the server gets all of it and answers; the answer is dropped


@dataclass
class Request:
    """A request that came. `sent` and `received` are the bytes of the bodies up and down."""

    method: str
    target: str
    headers: dict[str, str]
    sent: int = 0
    received: int = 0
    status: int = 0
    action: Action = Action.PASS


Rule = Callable[[Request], Action]


def chance(seed: int, share: float, *actions: Action) -> Rule:
    """Cut that share of the requests, at random by the seed, in one of the ways given (default: in any)."""
    draw = random.Random(seed)
    ways = actions or (Action.BEFORE, Action.HALF, Action.MEANWHILE, Action.AFTER)
    return lambda _: draw.choice(ways) if draw.random() < share else Action.PASS


class Proxy:
    """A proxy before `target` (host:port) in a thread of its own; a context. `rule` may be changed."""

    def __init__(self, target: str, rule: Rule = lambda _: Action.PASS) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.rule = rule
        self.requests: list[Request] = []
        self.address = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._stop = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Proxy:
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def count(self, method: str = "", part: str = "") -> int:
        """How many requests came of that method, with that text in their target."""
        return sum(1 for one in list(self.requests) if method in ("", one.method) and part in one.target)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener, limit=1 << 20)
        async with server:
            await self._stop.wait()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        # asyncio does it only for sockets that it made; without it every second packet waits 40 ms
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # what the two sides do to each other is the test's matter, not the proxy's
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                await self._connection(reader, writer)
        finally:
            self._connections.discard(task)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while head := await _head(reader):
                request, raw = await self._request(head, reader, writer)
                self.requests.append(request)
                request.action = action = self.rule(request)
                if action is Action.BEFORE:
                    return
                up = up or await asyncio.open_connection(*self._target, limit=1 << 20)
                up[1].write(raw[: len(raw) // 2] if action is Action.HALF else raw)
                await up[1].drain()
                if action in (Action.HALF, Action.MEANWHILE):
                    return
                target = None if action is Action.AFTER else writer
                if not await _answer(request, up[0], target) or action is Action.AFTER:
                    return
        finally:
            for one in (writer, up[1] if up else None):
                if one is not None:
                    one.transport.abort()  # a reset, as when a machine goes away

    async def _request(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[Request, bytes]:
        first, headers = _parse(head)
        method, target, _ = first.split(" ", 2)
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            lines = head.split(b"\r\n")
            head = b"\r\n".join(line for line in lines if not line.lower().startswith(b"expect:"))
        body = await _body(headers, reader)
        return Request(method, target, headers, sent=len(body)), head + body


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    return first, {name.strip().lower(): value.strip() for name, value in pairs}


async def _body(headers: dict[str, str], reader: asyncio.StreamReader) -> bytes:
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", 0)))
    out = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        out += line
        if int(line.split(b";")[0], 16) == 0:
            while line != b"\r\n":
                line = await reader.readuntil(b"\r\n")
                out += line
            return out
        out += await reader.readexactly(int(line.split(b";")[0], 16) + 2)


async def _answer(
    request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None
) -> bool:
    """Pass the answer on; whether the connection goes on after it."""
    head = await _head(reader)
    while head.startswith((b"HTTP/1.1 100", b"HTTP/1.0 100")):
        head = await _head(reader)
    if not head:
        return False
    first, headers = _parse(head)
    request.status = int(first.split(" ")[1])
    if writer:
        writer.write(head)
    if request.method == "HEAD" or request.status in (204, 304):
        left = 0
    elif "chunked" in headers.get("transfer-encoding", ""):
        left, body = 0, await _body(headers, reader)
        request.received += len(body)
        if writer:
            writer.write(body)
    else:
        left = int(headers.get("content-length", 1 << 62))
    while left:
        data = await reader.read(min(left, 1 << 16))
        if not data:
            return False
        left -= len(data)
        request.received += len(data)
        if writer:
            writer.write(data)
            await writer.drain()
    if writer:
        await writer.drain()
    return headers.get("connection", "").lower() != "close"
