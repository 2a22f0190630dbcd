"""An answer of HTTP/1.1 as it comes from a connection: its head, and its body straight into buffers.

Rule: an answer has all of the bytes that its head announces, or reading it raises a `Failed`; one that makes
no sense is as good as a connection that broke.
Left out: sending, and whether a connection is used again (`store/s3_http.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType

from mldeploy.store.s3_heard import Failed, Failure
from mldeploy.store.s3_input import Input

#: Lines of a head at most.
_LINES = 200
#: Bytes of an answer that is kept whole: at most, and at a time.
_WHOLE, _PIECE = 64 << 20, 1 << 20


class Answer:
    """Status, headers (names in small letters), and a body that is read once. A context manager.

    `length`: bytes of the body, None where the head does not say. `release` is called once, when it is
    closed, with whether the connection can be used again: if the body was read to its end.
    """

    def __init__(self, source: Input, method: str, release: Callable[[bool], None]) -> None:
        self._source, self._release = source, release
        for _ in range(_LINES):
            self.status, self.headers, newer = head_of(source)
            if self.status >= 200:
                break
        else:
            raise cut("heads without end, and no answer")
        said = self.headers.get("connection", "").lower()
        self._kept = said != "close" if newer else said == "keep-alive"
        self.length: int | None = None
        self._chunked = self._ended = self._closed = False
        self._left = 0  # of the body, or of the chunk; -1 where the body ends with the connection
        if method == "HEAD" or self.status in (204, 304):
            self._ended = True
        elif "transfer-encoding" in self.headers:
            self._chunked = True
        elif "content-length" in self.headers:
            self.length = self._left = _number(self.headers["content-length"], 10)
            self._ended = not self._left
        else:
            self._left, self._kept = -1, False

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back. Bytes of the body that were not read go with it."""
        if not self._closed:
            self._closed = True
            self._release(self._ended and self._kept)

    def readinto(self, view: memoryview) -> int:
        """Fill `view` with what comes next; returns how many bytes: 0 only at the end of the body.

        Raises Failed where the connection ends before the body does; what came until then is returned first.
        """
        with Hearing():
            done = 0
            while done < len(view) and not self._ended:
                try:
                    count = self._some(view[done:])
                except OSError:
                    if done:  # the next call meets it again
                        break
                    raise
                if not count and not self._ended:
                    if done:
                        break
                    raise cut("the answer ends before its end")
                done += count
            return done

    def read(self) -> bytes:
        """All of the body, of an answer that is not long."""
        body = bytearray()
        buffer = memoryview(bytearray(_PIECE if self.length is None else min(self.length, _PIECE)))
        while count := self.readinto(buffer):
            body += buffer[:count]
            if len(body) > _WHOLE:
                raise cut("an answer that does not end")
        return bytes(body)

    def _some(self, view: memoryview) -> int:
        if self._chunked and not self._left:
            self._left = _number(_line(self._source).partition(";")[0].strip(), 16)
            if not self._left:
                if all(_line(self._source) for _ in range(_LINES)):
                    raise cut("trailers without end")
                self._ended = True
                return 0
        wanted = view if self._left < 0 else view[: self._left]
        count = self._source.readinto(wanted)
        if self._left < 0:
            self._ended = not count
            return count
        self._left -= count
        if not self._left:
            if not self._chunked:
                self._ended = True
            elif _line(self._source):
                raise cut("a chunk is longer than it says")
        return count


class Hearing:
    """Makes the system's errors of a connection a Failed. A context, and a class: it is entered often."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, TimeoutError):
            raise Failed(Failure(cause="timeout", said="no byte came in time")) from error
        if isinstance(error, OSError):  # TLS's errors are among them
            raise cut(said(error)) from error


def cut(why: str) -> Failed:
    """The connection broke, or might as well have."""
    return Failed(Failure(cause="cut", said=why))


def said(error: Exception) -> str:
    """The system's words."""
    return getattr(error, "strerror", "") or str(error)


def head_of(source: Input) -> tuple[int, dict[str, str], bool]:
    """Status and headers, and whether it is of HTTP/1.1. Raises Failed for what is no head."""
    whole = source.until(b"\r\n\r\n") if source.wait() else None
    # nearly always it has come as a whole: to read it by lines takes three times as long
    lines = iter(whole.decode("latin-1").split("\r\n")) if whole else _lines(source)
    first = next(lines)
    version, _, rest = first.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (rest[:3].isascii() and rest[:3].isdigit()):
        raise cut(f"no answer of HTTP: {first[:60]!r}")
    headers: dict[str, str] = {}
    for line, _ in zip(lines, range(_LINES), strict=False):
        if not line:
            return int(rest[:3]), headers, version == "HTTP/1.1"
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip()
        if not colon or (name == "content-length" and headers.get(name, value) != value):
            break
        headers[name] = value
    raise cut("the head of the answer makes no sense")


def _lines(source: Input) -> Iterator[str]:
    while True:
        yield _line(source)


def _line(source: Input) -> str:
    line = source.line()
    if not line.endswith(b"\n"):
        raise cut("the answer ends before its end")
    return line.rstrip(b"\r\n").decode("latin-1")


def _number(text: str, base: int) -> int:
    if not text or len(text) > 16 or text.lower().strip("0123456789abcdef"[:base]):
        raise cut(f"the answer says {text[:20]!r} where a length belongs")
    return int(text, base)
