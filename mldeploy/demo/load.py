"""Constant load: many keep-alive connections that each send a prediction once the last is answered.

Rules: every answer is counted once, as an answer, a failure or a disagreement (its values are not what the
version it names answers); a connection the server closes while nothing is in flight is opened again and
counts as nothing. Left out: open-loop load (a fixed rate), which measures queueing, not swaps.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

#: Judges one answer: (index of the request, status, body) -> the version that answered. Raises ValueError
#: where version and values disagree.
Check = Callable[[int, int, bytes], str]


@dataclass(slots=True)
class Tally:
    """What the load saw. Times are seconds of `time.monotonic`, latencies seconds."""

    answers: Counter[str] = field(default_factory=Counter)  # by version
    failures: list[str] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)  # when each answer came
    latencies: list[float] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Requests sent and accounted for."""
        return sum(self.answers.values()) + len(self.failures) + len(self.disagreements)

    def percentile(self, share: float, since: float, until: float) -> float:
        """The latency in seconds that `share` of the answers between two moments kept to; NaN if none."""
        window = sorted(
            taken for end, taken in zip(self.ended, self.latencies, strict=True) if since <= end < until
        )
        return window[min(len(window) - 1, int(share * len(window)))] if window else float("nan")


class _Connection(asyncio.Protocol):
    """One client: sends, waits for the answer, sends the next."""

    def __init__(self, load: Load, first: int) -> None:
        self.load = load
        self.index = first
        self.buffer = b""
        self.sent: float | None = None
        self.transport: asyncio.Transport | None = None
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.send()

    def send(self) -> None:
        assert self.transport is not None
        if self.load.stopping:
            self.transport.close()
            return
        if self.transport.is_closing():
            return  # it was closed in the pause; connection_lost opens another
        self.sent = time.monotonic()
        self.transport.write(self.load.requests[self.index])

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = _content_length(head)
        if len(body) < length:
            return
        self.buffer = body[length:]
        assert self.sent is not None
        self.load.account(self.index, int(head[9:12]), body[:length], self.sent)
        self.sent = None
        self.index = (self.index + self.load.connections) % len(self.load.requests)
        if self.load.pause and not self.load.stopping:
            asyncio.get_running_loop().call_later(self.load.pause, self.send)
        else:
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.sent is not None:
            self.load.tally.failures.append(f"connection lost with a request in flight: {exc}")
            self.sent = None
        if not self.over.done():
            self.over.set_result(None)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError(f"an answer without a length: {head!r}")


class Load:
    """Keeps `connections` clients busy from a thread of its own between `start` and `stop`.

    Each waits `pause` seconds between an answer and its next request: with none, as fast as it goes.
    """

    def __init__(
        self,
        host: str,
        port: int,
        path: str,
        bodies: Sequence[bytes],
        check: Check,
        connections: int = 32,
        pause: float = 0.0,
    ) -> None:
        self.host, self.port, self.check, self.connections = host, port, check, connections
        self.pause = pause
        self.requests = [_request(host, port, path, body) for body in bodies]
        self.tally = Tally()
        self.stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Open the connections and begin; returns at once."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")
        self._thread.start()

    def stop(self) -> Tally:
        """Let the requests in flight be answered, close, and return what was seen."""
        self.stopping = True
        if self._thread is not None:
            self._thread.join()
        return self.tally

    def account(self, index: int, status: int, body: bytes, sent: float) -> None:
        """Count one answer."""
        now = time.monotonic()
        if status != 200:
            self.tally.failures.append(f"{status} {body[:200]!r}")
            return
        try:
            version = self.check(index, status, body)
        except ValueError as error:
            self.tally.disagreements.append(str(error))
            return
        self.tally.answers[version] += 1
        self.tally.ended.append(now)
        self.tally.latencies.append(now - sent)

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(self.connections)))

    async def _client(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        while not self.stopping:
            try:
                _, client = await loop.create_connection(
                    lambda: _Connection(self, number % len(self.requests)), self.host, self.port
                )
            except OSError as error:
                self.tally.failures.append(f"cannot connect: {error}")
                await asyncio.sleep(0.05)  # a server that is gone would be hammered otherwise
                continue
            await client.over


def _request(host: str, port: int, path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def v2_request(name: str, datatype: str, rows: Sequence[Sequence[float]]) -> bytes:
    """An Open Inference Protocol v2 request with one input of shape [rows, columns]."""
    flat = [value for row in rows for value in row]
    tensor = {"name": name, "shape": [len(rows), len(rows[0])], "datatype": datatype, "data": flat}
    return json.dumps({"inputs": [tensor]}).encode()


def v2_answer(body: bytes) -> tuple[str, list[object]]:
    """(model_version, data of the only output) of an Open Inference Protocol v2 answer."""
    answer = json.loads(body)
    return str(answer["model_version"]), answer["outputs"][0]["data"]
