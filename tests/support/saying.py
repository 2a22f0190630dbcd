"""An HTTP server that answers what a test scripts, for the answers of S3 that no server gives on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import cast


@dataclass(frozen=True)
class Say:
    """One answer. `status` 0: none, the connection is cut once the request has been read. `keep`: only so
    many bytes of the body come, then it is cut. `chunked`: the head does not say how long the body is.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    keep: int | None = None
    chunked: bool = False


def error(status: int, code: str, message: str = "in the server's words", **more: str) -> Say:
    """An error as S3 says it, with further elements (`Region="eu-west-1"`)."""
    tags = "".join(f"<{name}>{value}</{name}>" for name, value in more.items())
    text = f"<Error><Code>{code}</Code><Message>{message}</Message>{tags}</Error>"
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return Say(status, (head + text).encode(), {"content-type": "application/xml"})


#: A success for any verb.
FINE = Say(200, b"", {"etag": '"e"', "last-modified": "Tue, 24 Nov 2026 06:39:56 GMT"})
CUT = Say(0)


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Saying:
    """A context. `answer` gives the answer to each request; `says(...)` a list of them, the last for ever."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], Say] = lambda _: FINE
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def says(self, *answers: Say) -> None:
        left = list(answers)
        self.asked.clear()
        self.answer = lambda _: left.pop(0) if len(left) > 1 else left[0]

    def __enter__(self) -> Saying:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    owner: Saying
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    timeout = 60

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def handle_expect_100(self) -> bool:
        going_on = super().handle_expect_100()
        self.wfile.flush()  # else the client waits for ever
        return going_on

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        owner = cast("_Server", self.server).owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers, body)
        owner.asked.append(asked)
        say = owner.answer(asked)
        if not say.status:
            self.close_connection = True
            return
        self.send_response(say.status)
        for name, value in say.headers.items():
            self.send_header(name, value)
        if say.chunked:
            self.send_header("transfer-encoding", "chunked")
        elif say.status not in (204, 304) and "content-length" not in say.headers:
            self.send_header("content-length", str(len(say.body)))
        self.end_headers()
        if say.chunked:
            self._write_chunks(say)
            return
        if self.command != "HEAD" and say.status not in (204, 304):
            self.wfile.write(say.body[: say.keep])
        self.wfile.flush()
        if say.keep is not None:
            self.close_connection = True

    def _write_chunks(self, say: Say) -> None:
        body = say.body[: say.keep]
        for start in range(0, len(body), 1000):
            piece = body[start : start + 1000]
            self.wfile.write(b"%x;a=b\r\n%b\r\n" % (len(piece), piece))
        if say.keep is None:
            self.wfile.write(b"0\r\nx-trailer: t\r\n\r\n")
        self.wfile.flush()
        self.close_connection = say.keep is not None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any
