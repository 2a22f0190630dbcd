"""The access log: one JSON line a request on stderr, written by a thread of its own.

Whoever reads stderr may be slow; a front must not be. So lines wait in a bounded queue, and are dropped and
counted where it is full. Off unless the configuration says otherwise.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from typing import Any

import msgspec

from mldeploy_daemon.front.exchange import Exchange
from mldeploy_daemon.front.router import path_of

_WAITING = 10_000
_STDERR = 2


class AccessLog:
    """Call `start` before `write`, `close` to have everything written."""

    def __init__(self) -> None:
        self._lines: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, name="access-log", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        """Start the thread that writes."""
        self._thread.start()

    def write(self, exchange: Exchange, status: int, sent: int, seconds: float) -> None:
        """One request was answered with `status` and `sent` bytes after `seconds`."""
        line: dict[str, Any] = {
            "time": time.time(),
            "method": exchange.method,
            "path": path_of(exchange.url),
            "status": status,
            "ms": round(seconds * 1_000, 3),
            "bytes_in": exchange.size,
            "bytes_out": sent,
            "request_id": exchange.request_id.decode("latin-1"),
        }
        if exchange.version:
            line["version"] = exchange.version.ref
        try:
            self._lines.put_nowait(msgspec.json.encode(line) + b"\n")
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, for at most two seconds."""
        try:
            self._lines.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(1)

    def _work(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                os.write(_STDERR, line)
            except OSError:
                self.dropped += 1
