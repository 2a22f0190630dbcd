"""What comes on a connection: lines of heads, which are read a little ahead, and bodies, which are not.

Rules: a body goes past the buffer, from the kernel into where it belongs; a wait that takes longer than the
connection's timeout is a TimeoutError; other errors of the system pass through.
On a plain connection the kernel itself counts the seconds and waits until a whole piece has come: one call
for a piece, where Python's own timeouts take two calls for every packet, each of which lets other threads
in between. TLS, which reads by its own records, has Python's.
Left out: what the bytes mean (`store/s3_answer.py`).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

#: Bytes that are read ahead.
AHEAD = 8 << 10
#: Bytes of a line at most.
LINE = 64 << 10


class Input:
    """`receive` puts what comes into a buffer and says how much: 0 at the end. `ahead`: bytes that are read
    before anybody asks for them, at most. The constructor reads nothing.
    """

    def __init__(self, receive: Callable[[memoryview], int], ahead: int = AHEAD) -> None:
        self._receive = receive
        self._buffer = bytearray(ahead)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    @property
    def ahead(self) -> bool:
        """Whether something was read that nobody has taken."""
        return self._start < self._end

    def wait(self) -> bool:
        """Wait for a byte, where none was read ahead; false at the end."""
        if self._start == self._end:
            self._start, self._end = 0, self._receive(self._view)
        return self._start < self._end

    def until(self, mark: bytes) -> bytes | None:
        """What was read ahead, up to and with `mark`; None, and nothing is taken, where it has not come."""
        found = self._buffer.find(mark, self._start, self._end)
        return None if found < 0 else self._take(found + len(mark))

    def line(self) -> bytes:
        """Up to and with the next end of a line; without one where there is none within `LINE`, or at all."""
        line = b""
        while self.wait():
            ended = self.until(b"\n")
            line += self._take(self._end) if ended is None else ended
            if ended is not None or len(line) > LINE:
                break
        return line

    def readinto(self, view: memoryview) -> int:
        """Put what comes next into `view`; returns how many bytes, which may be fewer; 0 at the end."""
        if self._start == self._end:
            return self._receive(view)
        piece = self._buffer[self._start : min(self._end, self._start + len(view))]
        self._start += len(piece)
        view[: len(piece)] = piece
        return len(piece)

    def _take(self, end: int) -> bytes:
        taken = bytes(self._view[self._start : end])
        self._start = end
        return taken


def receiver(made: socket.socket, *, secure: bool) -> Callable[[memoryview], int]:
    """What receives from a connection that `bounded` was called for. `secure`: it is one of TLS."""
    if secure:
        return made.recv_into

    def receive(view: memoryview) -> int:
        try:
            # a body's piece as a whole; of a head nobody knows how long it is
            return made.recv_into(view, len(view), socket.MSG_WAITALL if len(view) > AHEAD else 0)
        except BlockingIOError as error:
            raise TimeoutError from error

    return receive


def bounded(made: socket.socket, seconds: float, *, secure: bool) -> None:
    """Let no call on the connection wait longer than so many seconds for a byte to move."""
    if secure:
        made.settimeout(seconds)
        return
    made.settimeout(None)
    limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))  # a timeval
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
