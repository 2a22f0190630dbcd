"""What comes on a connection: in whatever pieces it comes, and where it does not."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mldeploy.store.s3_input import AHEAD, LINE, Input, bounded, receiver


def coming(*pieces: bytes) -> Callable[[memoryview], int]:
    """Receives these pieces, a part of one where there is no room for all of it, and then the end."""
    left = [piece for piece in pieces if piece]

    def receive(view: memoryview) -> int:
        if not left:
            return 0
        piece, rest = left[0][: len(view)], left[0][len(view) :]
        left[:1] = [rest] if rest else []
        view[: len(piece)] = piece
        return len(piece)

    return receive


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@given(st.lists(st.binary(min_size=1, max_size=40)), st.integers(1, 50))
def test_lines_are_the_same_in_whatever_pieces_they_come(pieces: list[bytes], ahead: int) -> None:
    source = Input(coming(*pieces), ahead)
    assert list(iter(source.line, b"")) == io.BytesIO(b"".join(pieces)).readlines()


@given(st.lists(st.binary(min_size=1, max_size=40)), st.integers(1, 50), st.integers(1, 30))
def test_a_body_after_what_was_read_ahead_of_it(pieces: list[bytes], ahead: int, room: int) -> None:
    source, view, body = Input(coming(*pieces), ahead), memoryview(bytearray(room)), b""
    source.wait()
    while count := source.readinto(view):
        body += view[:count]
    assert body == b"".join(pieces)
    assert not source.ahead


def test_a_head_is_taken_as_a_whole_or_not_at_all() -> None:
    source = Input(coming(b"a: 1\r\n\r", b"\nbody"))
    assert source.wait()
    assert source.until(b"\r\n\r\n") is None
    assert source.line() == b"a: 1\r\n"
    assert source.line() == b"\r\n"
    assert source.ahead
    assert source.until(b"dy") == b"body"
    assert not source.wait()


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    line = Input(coming(*[b"x" * 1000] * 1000)).line()
    assert LINE < len(line) <= LINE + AHEAD
    assert not line.endswith(b"\n")


def test_a_piece_comes_as_a_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    bounded(ours, 60, secure=False)
    body, view = bytes(range(256)) * 256, memoryview(bytearray(1 << 16))

    def send() -> None:
        for start in range(0, len(body), 5000):
            theirs.sendall(body[start : start + 5000])
        theirs.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    receive = receiver(ours, secure=False)
    assert receive(view) == len(body)
    assert view == body
    assert receive(view) == 0
    thread.join()


def test_silence_ends(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    bounded(ours, 0.02, secure=False)
    receive = receiver(ours, secure=False)
    with pytest.raises(TimeoutError):
        receive(memoryview(bytearray(10)))
    theirs.sendall(b"half")
    view = memoryview(bytearray(1 << 16))
    assert receive(view) == 4  # what came is not lost
    with pytest.raises(TimeoutError):
        receive(view)
