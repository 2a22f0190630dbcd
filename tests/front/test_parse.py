"""The reader of requests by itself: what it keeps of what arrives."""

from __future__ import annotations

import tracemalloc
from collections import deque

import pytest

from mldeploy_daemon.front.config import Limits
from mldeploy_daemon.front.parse import RequestReader

INFER = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n"


class Taken:
    """The connection and the budget of a reader."""

    def __init__(self) -> None:
        self.queue = deque()
        self.buffered = 0
        self.reader = RequestReader(self, Limits(), self)

    def body(self) -> bytes:
        """Of the one request that has arrived."""
        return self.queue.pop().body


@pytest.fixture
def taken():
    return Taken()


def test_blanks_around_a_value_are_no_part_of_it(taken):
    taken.reader.feed(
        b"GET / HTTP/1.1\r\nHost: h \r\nX-User:\t bob \t\r\nX-A: a b \r\nX-A: c\r\nX-None:  \r\n\r\n"
    )
    headers = {b"host": b"h", b"x-user": b"bob", b"x-a": b"a b, c", b"x-none": b""}
    assert taken.queue.pop().headers == headers


def chunked(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def test_a_body_in_tiny_chunks_is_held_in_about_its_size(taken):
    pieces = [b"%02d" % (k % 100) for k in range(1_000)]
    data = chunked(pieces)
    taken.reader.feed(INFER + b"Transfer-Encoding: chunked\r\n\r\n")
    tracemalloc.start()
    try:
        for _ in range(300):
            taken.reader.feed(data)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken.buffered == 600_000
    assert held < 1.5 * taken.buffered
    taken.reader.feed(b"0\r\n\r\n")
    assert taken.body() == b"".join(pieces) * 300


@pytest.mark.parametrize(
    "sizes", [[1, 70_000, 1, 1, 200_000, 3], [65_535, 65_535, 65_535], [65_536, 1, 65_536], [5]]
)
def test_a_body_in_pieces_of_any_size_is_whole(taken, sizes):
    pieces = [bytes([65 + k]) * size for k, size in enumerate(sizes)]
    taken.reader.feed(INFER + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(pieces) + b"0\r\n\r\n")
    assert taken.body() == b"".join(pieces)
