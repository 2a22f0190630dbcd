"""Requests out of a byte stream: httptools' callbacks, the caps on heads and bodies, and what is refused.

A refusal ends the reading: the exchange that carries it is the last one. Both framings at once, repeated
lengths, folded headers and the like are refused by the parser itself, which is left at its strictest.
Left out: the connection (`http.py`), its deadlines, and which paths exist (`router.py`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import httptools

from mldeploy_daemon.front.exchange import Exchange, request_id

if TYPE_CHECKING:
    from mldeploy_daemon.front.config import Limits
    from mldeploy_daemon.front.http import Connection

#: Between requests; inside a head; inside a body; reading no more.
IDLE, HEAD, BODY, SHUT = range(4)
#: Pieces of a body are put together up to this size as they come: a client may send it by the byte, and every
#: piece kept for itself costs more than the few bytes that are counted.
_PIECE = 65_536

log = logging.getLogger(__name__)


class Budget(Protocol):
    """Bytes of bodies held by the whole front."""

    buffered: int


class _Refused(Exception):  # noqa: N818 - it ends the parsing, it is not an error of ours
    pass


class RequestReader:
    """Feeds bytes to the parser; `queue` on the connection receives the exchanges, in order."""

    def __init__(self, conn: Connection, limits: Limits, budget: Budget) -> None:
        self._conn = conn
        self._limits = limits
        self._budget = budget
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self.phase = IDLE
        self.refused = False
        self.incoming: Exchange | None = None
        self.expects = False  # the client waits for 100 Continue
        self._chunks: list[bytes | bytearray] = []
        self._head = self._count = self._idle_bytes = 0
        self._upgrading = False

    def feed(self, data: bytes) -> None:
        """Take what arrived. Never raises: what cannot be taken becomes a refusal."""
        if self.phase == SHUT or self._parser is None:
            return
        if self.phase != IDLE:
            self._idle_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._failed(error)
        # a header or trailer that never ends makes no callback
        if self.phase in (HEAD, BODY) and self._idle_bytes > self._limits.header_bytes:
            self.refuse(431, "the request has too large headers")

    def refuse(self, status: int, message: str) -> None:
        """Answer `status` after what came before, and read no more."""
        exchange = self.incoming or Exchange(self._conn)
        exchange.refusal, exchange.keep = (status, message), False
        exchange.request_id = exchange.request_id or request_id(exchange.headers.get(b"x-request-id"))
        self.incoming = None
        self.expects = False
        self._chunks.clear()
        self.phase, self.refused = SHUT, True
        self._conn.queue.append(exchange)

    def close(self) -> Exchange | None:
        """Let go of the parser, which refers back here; what was arriving, if anything."""
        self.phase = SHUT
        exchange, self.incoming = self.incoming, None
        self._chunks.clear()
        self._parser = None
        return exchange

    # httptools' callbacks

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        if self._upgrading:
            return
        if len(self._conn.queue) >= self._limits.pipeline:
            self._conn.queue[-1].keep = False
            self.phase, self.refused = SHUT, True
            raise _Refused
        self.phase = HEAD
        self._head = self._count = self._idle_bytes = 0
        self.incoming = Exchange(self._conn)

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        if not self._upgrading and (exchange := self.incoming):
            exchange.url += url
            self._head += len(url)
            if self._head > self._limits.header_bytes:
                self._stop(431, "the request's address is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer."""
        if self._upgrading:
            return
        self._head += len(name) + len(value) + 4
        self._count += 1
        if self._head > self._limits.header_bytes or self._count > self._limits.header_count:
            self._stop(431, "the request has too many or too large headers")
        if self.phase == HEAD and (exchange := self.incoming):  # else a trailer, of which none is known
            # blanks around a value are no part of it; the parser leaves those behind it, and takes no others
            name, value = name.lower(), value.rstrip()
            headers = exchange.headers
            headers[name] = headers[name] + b", " + value if name in headers else value

    def on_headers_complete(self) -> None:
        """The head is whole: judge it."""
        exchange, parser = self.incoming, self._parser
        if exchange is None or parser is None:
            raise _Refused
        if self._upgrading:  # the second head of a declined upgrade
            self._upgrading = False
            return
        self.phase = BODY
        headers = exchange.headers
        exchange.method = parser.get_method().decode()
        exchange.keep = parser.should_keep_alive()
        # HTTP/1.0 closes unless it says otherwise; asking for the version costs more than the rest of this
        if not exchange.keep or b"connection" in headers:
            exchange.old = parser.get_http_version() == "1.0"
        exchange.request_id = request_id(headers.get(b"x-request-id"))
        self._check_head(exchange, headers)
        if parser.should_upgrade():
            if exchange.method == "CONNECT":
                self._stop(405, "this is not a proxy")
            self._upgrading = True

    def on_body(self, chunk: bytes) -> None:
        """A piece of the body."""
        exchange = self.incoming
        if exchange is None:
            raise _Refused
        self.expects = False
        self._idle_bytes = 0
        exchange.size += len(chunk)
        self._budget.buffered += len(chunk)
        if exchange.size > self._limits.body_bytes:
            self._stop(413, f"the body is larger than {self._limits.body_bytes} bytes")
        if self._budget.buffered > self._limits.buffered_bytes:
            self._stop(503, "too many bodies are held at once, try again")
        if self._chunks and len(chunk) < _PIECE:
            self._extend(chunk)
        else:
            self._chunks.append(chunk)  # the usual body is one piece, and is not copied

    def on_message_complete(self) -> None:
        """The request is whole."""
        exchange = self.incoming
        if self._upgrading or exchange is None:
            return
        if chunks := self._chunks:
            exchange.body = b"".join(chunks)  # of one piece that piece itself
            self._chunks = []
        self.incoming = None
        self.expects = False
        self.phase = IDLE if exchange.keep else SHUT
        self._conn.queue.append(exchange)

    # what they share

    def _extend(self, chunk: bytes) -> None:
        last = self._chunks[-1]
        if isinstance(last, bytearray) and len(last) < _PIECE:
            last += chunk
        else:
            self._chunks.append(bytearray(chunk))

    def _check_head(self, exchange: Exchange, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host")
        if (host is None and not exchange.old) or (host and b"," in host):
            self._stop(400, "an HTTP/1.1 request carries exactly one Host header")
        coding = headers.get(b"transfer-encoding")
        if coding is not None and exchange.old:
            self._stop(400, "HTTP/1.0 has no transfer codings")
        if coding is not None and coding.strip().lower() != b"chunked":
            self._stop(501, "the only transfer coding taken is chunked")
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._limits.body_bytes:
            self._stop(413, f"the body is larger than {self._limits.body_bytes} bytes")
        expected = headers.get(b"expect")
        if expected is not None and not exchange.old:
            if expected.lower() != b"100-continue":
                self._stop(417, "the only expectation met is 100-continue")
            self.expects = True
            self._conn.invite()

    def _stop(self, status: int, message: str) -> None:
        self.refuse(status, message)
        raise _Refused

    def _failed(self, error: httptools.HttpParserError) -> None:
        if self.phase == SHUT:
            return  # refused already, or bytes after a request that said close
        if isinstance(error, httptools.HttpParserCallbackError):
            log.error("a request could not be taken", exc_info=error.__context__ or error)
            self.refuse(500, "internal error")
        else:
            self.refuse(400, f"not a valid HTTP/1.1 request: {error}")

    def _decline_upgrade(self, rest: bytes) -> None:
        """Go on in HTTP/1.1, as a server may: the parser has to be told the body's framing again."""
        exchange = self.incoming
        if exchange is None:
            return
        lines = [
            b"%b: %b\r\n" % (name, exchange.headers[name])
            for name in (b"content-length", b"transfer-encoding")
            if name in exchange.headers
        ]
        if not exchange.keep:
            lines.append(b"connection: close\r\n")
        self._parser = httptools.HttpRequestParser(self)
        self.feed(b"POST / HTTP/1.1\r\n" + b"".join(lines) + b"\r\n" + rest)
