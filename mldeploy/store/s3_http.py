"""HTTP/1.1 to one server, for transfers: kept-alive connections for threads, bodies straight into buffers.

Python's own client takes longer for the head of an answer than it takes to hash a small file; here a body
goes from the kernel into the caller's buffer. docs/adr/0007 has what was measured.
Rules:
  - a connection that has been idle is used again, unless something lies on it that nobody asked for; where it
    breaks before a byte of an answer came, as one does that the server closed meanwhile, the request is sent
    once more on another. All requests of transfers may be sent twice;
  - a connection whose answer was not read to its end is never used again;
  - what goes wrong is a `Failed` whose failure has a cause (`store/s3_heard.py`).
Left out: signing and what an answer means (`store/s3_requests.py`), trying again (`store/retry.py`),
redirects (an answer like others: the region is wrong), and HTTP/2 (S3 has none).
"""

from __future__ import annotations

import select
import socket
import weakref
from collections import deque
from collections.abc import Callable, Mapping

from mldeploy.store.s3_answer import Answer, Hearing, cut, said
from mldeploy.store.s3_input import Input, receiver
from mldeploy.store.s3_way import Way

#: Seconds without a byte moving.
SILENCE = 30.0
#: Bytes given to the connection at a time: `SILENCE` is for each.
_BITE = 1 << 20
#: Bytes of a body that goes along with its head, in one call.
_SMALL = 128 << 10


class Http:
    """The connections to the server at the end of `way`. The constructor does no I/O.

    Threads may share one; a child of fork may not use one.
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        self.host = way.host
        self._idle: deque[_Connection] = deque()
        weakref.finalize(self, _close_all, self._idle)

    @property
    def idle(self) -> bool:
        """Whether a connection is kept that nobody uses. Another thread may take it meanwhile."""
        return bool(self._idle)

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """The answer, whose body is still to be read. Raises Failed where none came."""
        return self.begin(method, target, headers, body).answer()

    def begin(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Asked:
        """Send a request whose answer is waited for later. Raises Failed where it cannot be sent."""
        lines = "".join(
            f"{name}: {value}\r\n" for name, value in (*headers.items(), *self._way.headers.items())
        )
        first = f"{method} {self._way.prefix}{target} HTTP/1.1\r\nhost: {self.host}\r\n"
        asked = Asked(self, method, f"{first}{lines}\r\n".encode("latin-1"), body)
        asked.send()
        return asked

    def keep(self, connection: _Connection) -> None:
        """It can be used again."""
        self._idle.append(connection)

    def connection(self) -> tuple[_Connection, bool]:
        """A connection, and whether it has been used before."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was quicker
                break
            if connection.fresh():
                return connection, True
            connection.close()
        return _Connection(self._way.connect(SILENCE), secure=self._way.secure), False


class Asked:
    """A request on its way, of one thread. Its `answer` is taken once, or it is closed."""

    def __init__(self, http: Http, method: str, head: bytes, body: bytes) -> None:
        self._http, self._method, self._head, self._body = http, method, head, body
        self._connection: _Connection | None = None
        self._used = False  # whether the connection was, before

    def send(self) -> None:
        """On a connection that is free. Raises Failed."""
        self._connection, self._used = self._http.connection()
        self._connection.send(self._head, self._body)

    def answer(self) -> Answer:
        """Wait for it. Raises Failed where none comes."""
        while True:
            assert self._connection is not None
            try:
                return self._connection.answer(self._method, self._http.keep)
            except _StaleError as error:
                if not self._used:
                    raise cut(str(error)) from error
                self.send()

    def close(self) -> None:
        """Nobody wants it any more."""
        if self._connection is not None:
            self._connection.close()


class _StaleError(Exception):
    """The connection broke before a byte of an answer came."""


class _Connection:
    """A socket, and what has been read from it."""

    def __init__(self, made: socket.socket, *, secure: bool) -> None:
        self._socket, self._secure = made, secure
        self._input = Input(receiver(made, secure=secure))
        self._lost: OSError | None = None  # what broke while the last request was sent
        self._poll = select.poll()
        self._poll.register(made, select.POLLIN)

    def fresh(self) -> bool:
        """Whether nothing came since it was used: neither an end nor what nobody asked for."""
        if self._input.ahead or self._poll.poll(0):
            return False
        if not self._secure:
            return True
        import ssl

        self._socket.settimeout(0)
        try:
            self._input.wait()  # or the end
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False
        finally:
            self._socket.settimeout(SILENCE)
        return False

    def send(self, head: bytes, body: bytes) -> None:
        """Send a request. Where the connection breaks meanwhile there may be an answer all the same: a server
        refuses, and closes, before it has read all of a body.
        """
        try:
            with Hearing():
                self._lost = self._sent(head, body)
        except BaseException:
            self.close()
            raise

    def answer(self, method: str, keep: Callable[[_Connection], None]) -> Answer:
        """The answer to what was sent. `keep` is called with the connection once it can be used again."""

        def release(whole: bool) -> None:
            if whole and not self._lost:  # else half a request lies on it
                keep(self)
            else:
                self.close()

        try:
            with Hearing():
                self._await()
                return Answer(self._input, method, release)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """No more."""
        self._socket.close()

    def _sent(self, head: bytes, body: bytes) -> OSError | None:
        """What broke meanwhile."""
        try:
            if len(body) <= _SMALL:
                self._socket.sendall(head + body)
                return None
            self._socket.sendall(head)
            view = memoryview(body)
            for start in range(0, len(view), _BITE):
                self._socket.sendall(view[start : start + _BITE])
        except TimeoutError:
            raise
        except BlockingIOError as error:
            raise TimeoutError from error
        except OSError as error:
            return error
        return None

    def _await(self) -> None:
        """Wait for the first byte of an answer."""
        try:
            if self._input.wait():
                return
        except TimeoutError:
            raise
        except OSError as error:
            raise _StaleError(said(self._lost or error)) from error
        raise _StaleError(
            said(self._lost) if self._lost else "the server closed the connection without an answer"
        )


def _close_all(idle: deque[_Connection]) -> None:
    while idle:
        idle.pop().close()
