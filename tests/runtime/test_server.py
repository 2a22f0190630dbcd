"""The loop by itself, with a decoder and an engine that fail as nobody foresaw."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence

import pytest

from mldeploy.runtime.batching import Batcher
from mldeploy.runtime.codec import Request
from mldeploy.runtime.server import Server
from tests.runtime.helpers import DEADLINE, Front


class Fragile:
    """Decoder and engine in one: a body says which of them fails on it."""

    def decode(self, body: bytes) -> Request:
        if body == b"decode":
            raise MemoryError
        return Request(body.decode(), (), 1, (), None)

    def answer(self, requests: Sequence[Request]) -> list[tuple[int, bytes]]:
        if any(request.id == "answer" for request in requests):
            raise UnicodeError("of no answer")
        return [(200, b"{}")] * len(requests)


@pytest.fixture
def front() -> Iterator[Front]:
    """A front of a server that runs in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        wake, waker = socket.socketpair()
        server = Server(listener, wake, Fragile(), Fragile(), Batcher(1))  # type: ignore[arg-type]
        thread = threading.Thread(target=server.run)
        thread.start()
        with wake, waker, socket.create_connection(listener.getsockname(), timeout=DEADLINE) as connection:
            yield Front(connection)
            server.stop()
            waker.send(b"x")
            thread.join(DEADLINE)
        assert not thread.is_alive()


def test_what_nobody_foresaw_is_a_500_and_the_loop_goes_on(
    front: Front, capsys: pytest.CaptureFixture[str]
) -> None:
    for body, kind in ((b"decode", "MemoryError"), (b"answer", "UnicodeError")):
        assert front.ask(body) == (500, {"error": "internal error"})
        assert kind in capsys.readouterr().err
        assert front.ask(b"fine") == (200, {})
