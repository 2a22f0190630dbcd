"""Requests over sockets: answers that lie or end early, connections that were closed, TLS and proxies."""

from __future__ import annotations

import base64
import contextlib
import gc
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mldeploy.store import s3_http
from mldeploy.store.s3_heard import Failed
from mldeploy.store.s3_http import Http
from mldeploy.store.s3_way import Way

TLS = Path(__file__).parents[1] / "support" / "tls"
BODY = bytes(range(256)) * 1000
#: What a connection does with its n-th request: the bytes to answer, or what to do with the socket.
Answers = list[bytes | Callable[[socket.socket], None]]


class Server:
    """Answers in bytes: the n-th connection by the n-th script, the last one for all that follow; a script
    that is through closes its connection.
    """

    def __init__(self, *scripts: Answers, context: ssl.SSLContext | None = None) -> None:
        self._scripts, self._context = list(scripts), context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.asked: list[bytes] = []
        self.connections = 0
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)

    def _run(self) -> None:
        threads = []
        while True:
            try:
                made, _ = self._listener.accept()
            except OSError:
                break
            self.connections += 1
            script = self._scripts.pop(0) if len(self._scripts) > 1 else list(self._scripts[0])
            threads.append(threading.Thread(target=self._talk, args=(made, script), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join(60)

    def _talk(self, made: socket.socket, script: Answers) -> None:
        with contextlib.suppress(OSError), made:
            if self._context:
                made = self._context.wrap_socket(made, server_side=True)
            with made:
                for answer in script:
                    if not self._read(made):
                        return
                    if callable(answer):
                        answer(made)
                    else:
                        made.sendall(answer)

    def _read(self, made: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data and data[:1] != b"\x16":  # the first byte of TLS
            more = made.recv(1 << 16)
            if not more:
                return b""
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(body) < length:
            body += made.recv(1 << 16)
        self.asked.append(head + b"\r\n\r\n" + body)
        return head


def says(body: bytes = b"", *lines: str, status: str = "200 OK", length: int | None = None) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def http(server: Server, **more: str) -> Http:
    return Http(Way(server.url, **more))


def got(http: Http, method: str = "GET", body: bytes = b"") -> bytes:
    with http.send(method, "/a/b?c=d", {"x": "y", "content-length": str(len(body))}, body) as answer:
        return answer.read()


def failed(http: Http) -> tuple[str, str]:
    with pytest.raises(Failed) as caught:
        got(http)
    return caught.value.failure.cause, caught.value.failure.said


def test_one_connection_serves_many_requests() -> None:
    with Server([says(BODY), says(b"", "X-Odd:  two  words "), says(b"x")]) as server:
        client = http(server)
        assert got(client) == BODY
        with client.send("PUT", "/k", {"content-length": str(len(BODY))}, BODY) as answer:
            assert answer.headers["x-odd"] == "two  words"
        assert got(client) == b"x"
        assert server.connections == 1
        assert server.asked[1].endswith(b"\r\n\r\n" + BODY)
        assert server.asked[0].startswith(b"GET /a/b?c=d HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n" % server.port)


def test_an_answer_goes_into_the_buffers_that_are_given() -> None:
    with Server([says(BODY)]) as server, http(server).send("GET", "/", {}) as answer:
        buffer = memoryview(bytearray(100_000))
        counts, seen = [], b""
        while count := answer.readinto(buffer):
            counts.append(count)
            seen += bytes(buffer[:count])
        assert counts == [100_000, 100_000, 56_000]
        assert seen == BODY


def chunked(*pieces: bytes, end: bytes = b"0\r\nx-trailer: t\r\n\r\n") -> bytes:
    chunks = b"".join(b"%X;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + end


def test_chunks() -> None:
    with Server([chunked(b"abc", BODY, b"d"), says(b"next"), chunked()]) as server:
        client = http(server)
        assert got(client) == b"abc" + BODY + b"d"
        assert got(client) == b"next"
        assert got(client) == b""
        assert server.connections == 1


def test_a_body_that_ends_with_its_connection() -> None:
    with Server([b"HTTP/1.0 200 OK\r\n\r\n" + BODY], [says(b"next")]) as server:
        client = http(server)
        assert got(client) == BODY
        assert got(client) == b"next"


def test_what_comes_before_an_answer() -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    with Server([early + says(BODY)]) as server:
        assert got(http(server)) == BODY


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_answers_without_a_body(status: str) -> None:
    with Server([f"HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\n".encode(), says(b"next")]) as server:
        client = http(server)
        assert got(client) == b""
        assert got(client) == b"next"
        assert server.connections == 1


def test_a_head_has_no_body() -> None:
    with Server([says(length=9), says(b"next")]) as server:
        client = http(server)
        assert got(client, "HEAD") == b""
        assert got(client) == b"next"


@pytest.mark.parametrize(
    "answer",
    [
        says(BODY, length=len(BODY) + 1),
        says(b"", length=1),
        chunked(BODY, end=b""),
        chunked(BODY, end=b"0\r\n"),
        chunked(end=b"5\r\nab"),
        chunked(end=b"2\r\nabcd\r\n0\r\n\r\n"),
        chunked(end=b"x\r\nab\r\n"),
        chunked(end=b"-1\r\nab\r\n"),
        chunked(BODY, end=b"0\r\n" + b"a: b\r\n" * 300 + b"\r\n"),
        b"HTTP/1.1 100 Continue\r\n\r\n" * 300,
        says(b"", "Content-Length: 5"),
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nwithout a colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300 + b"\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 20\xb2 OK\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x50",
    ],
    ids=lambda answer: repr(answer[-40:]),
)  # fmt: skip
def test_an_answer_that_is_less_than_it_says_or_makes_no_sense(answer: bytes) -> None:
    with Server([says(b"good"), answer], [says(b"next")]) as server:
        client = http(server)
        assert got(client) == b"good"
        cause, said = failed(client)
        assert cause == "cut" and said
        assert got(client) == b"next"  # over another connection


def reset(made: socket.socket) -> None:
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    made.close()


@pytest.mark.parametrize("end", [lambda made: None, reset], ids=["closed", "reset"])
def test_what_came_before_a_cut_is_given_out(end: Callable[[socket.socket], None]) -> None:
    def cut(made: socket.socket) -> None:
        made.sendall(says(BODY[:1000], length=5000))
        end(made)

    with Server([cut]) as server, http(server).send("GET", "/", {}) as answer:
        buffer = memoryview(bytearray(3000))
        assert answer.readinto(buffer) == 1000
        assert bytes(buffer[:1000]) == BODY[:1000]
        with pytest.raises(Failed):
            answer.readinto(buffer)


def test_a_connection_whose_answer_was_not_read_is_not_used_again() -> None:
    with Server([says(BODY), says(b"never")], [says(b"next")]) as server:
        client = http(server)
        with client.send("GET", "/", {}) as answer:
            answer.readinto(memoryview(bytearray(10)))
        assert got(client) == b"next"


@pytest.mark.parametrize("extra", [b"x", says(b"of another")])
def test_a_connection_that_brings_more_than_it_said_is_not_used_again(extra: bytes) -> None:
    with Server([says(b"first") + extra, says(b"never")], [says(b"next")]) as server:
        client = http(server)
        assert got(client) == b"first"
        assert got(client) == b"next"


@pytest.mark.parametrize("line", ["Connection: close", "connection: Close"])
def test_a_connection_that_the_server_will_close(line: str) -> None:
    with Server([says(b"first", line), says(b"never")], [says(b"next")]) as server:
        client = http(server)
        assert got(client) == b"first"
        assert got(client) == b"next"


@pytest.mark.parametrize("end", [lambda made: None, reset], ids=["closed", "reset"])
@pytest.mark.parametrize("body", [b"", BODY])
def test_a_used_connection_that_broke_is_replaced(end: Callable[[socket.socket], None], body: bytes) -> None:
    """The request came, and then the connection ended without a byte: once more, on a new one."""
    with Server([says(b"first"), end], [says(b"second")]) as server:
        client = http(server)
        assert got(client) == b"first"
        assert got(client, "PUT", body) == b"second"
        assert server.asked[-1].endswith(b"\r\n\r\n" + body)


def test_a_new_connection_that_breaks_is_a_failure() -> None:
    with Server([reset]) as server:
        client = http(server)
        assert failed(client)[0] == "cut"
        assert server.connections == 1


def test_a_server_that_refuses_a_body_before_it_has_read_it() -> None:
    answer = says(b"<Code>AccessDenied</Code>", "Connection: close", status="403 Forbidden")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            made, _ = listener.accept()
            with made:
                made.recv(1000)
                made.sendall(answer)
                made.shutdown(socket.SHUT_WR)
                while made.recv(1 << 20):  # else the answer is lost with the connection
                    pass

        thread = threading.Thread(target=refuse)
        thread.start()
        client = Http(Way(f"http://127.0.0.1:{listener.getsockname()[1]}"))
        with client.send("PUT", "/", {"content-length": str(8 << 20)}, bytes(8 << 20)) as got:
            assert got.status == 403
            assert got.read() == b"<Code>AccessDenied</Code>"
        thread.join()


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_http, "SILENCE", 0.05)
    ended = threading.Event()
    with Server([lambda _: ended.wait(60) and None]) as server:
        assert failed(http(server))[0] == "timeout"
        ended.set()


def test_no_connection_is_left_open() -> None:
    closed = threading.Event()

    def until_closed(made: socket.socket) -> None:
        made.sendall(says(b"x"))
        if not made.recv(1):
            closed.set()

    with Server([until_closed]) as server:
        client = http(server)
        assert got(client) == b"x"
        del client
        gc.collect()
        assert closed.wait(60)


def test_threads_have_connections_of_their_own() -> None:
    together = threading.Barrier(4)

    def meet(made: socket.socket) -> None:
        together.wait(60)
        made.sendall(says(b"x"))

    with Server([meet, meet]) as server:
        client = http(server)

        def twice() -> None:
            assert got(client) + got(client) == b"xx"

        threads = [threading.Thread(target=twice) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.connections == 4
        assert len(server.asked) == 8


# --- no connection


def test_nobody_there() -> None:
    assert failed(Http(Way("http://127.0.0.1:1")))[0] == "refused"
    assert failed(Http(Way("http://no-such-host.invalid")))[0] == "unresolved"
    assert failed(Http(Way(f"http://{'a' * 70}.invalid")))[0] == "unresolved"


@pytest.mark.parametrize("base", ["host:9000", "http://host:port", "ftp://host", "http://[::1"])
def test_what_is_no_server(base: str) -> None:
    with pytest.raises(Failed, match="is not the URL of a server"):
        Way(base)


# --- TLS


@pytest.fixture
def secure() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
    return context


def test_tls_is_verified_by_the_authorities_of_a_bundle(secure: ssl.SSLContext) -> None:
    with Server([says(BODY), says(b"next")], context=secure) as server:
        client = Http(Way(f"https://localhost:{server.port}", str(TLS / "ca.pem")))
        assert got(client, "PUT", BODY) == BODY
        assert got(client) == b"next"
        assert server.connections == 1
        cause, said = failed(Http(Way(f"https://localhost:{server.port}")))
        assert cause == "tls" and "certificate" in said
        # the certificate is localhost's
        assert failed(Http(Way(f"https://127.0.0.2:{server.port}", str(TLS / "ca.pem"))))[0] in (
            "tls",
            "refused",
        )


def test_a_bundle_that_is_none(secure: ssl.SSLContext, tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("certificates")
    with Server([says(BODY)], context=secure) as server:
        assert failed(Http(Way(f"https://localhost:{server.port}", str(bundle))))[0] == "tls"


def test_a_tls_connection_that_the_server_closed_is_replaced(secure: ssl.SSLContext) -> None:
    with Server([says(b"first")], [says(b"second")], context=secure) as server:
        client = Http(Way(f"https://localhost:{server.port}", str(TLS / "ca.pem")))
        assert got(client) == b"first"
        assert got(client) == b"second"


def test_a_server_without_tls() -> None:
    with Server([b"HTTP/1.1 400 Bad Request\r\n\r\n"]) as server:
        assert failed(Http(Way(f"https://127.0.0.1:{server.port}")))[0] in ("tls", "unreachable")


# --- proxies


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_a_proxy_is_asked_for_the_whole_address(environ: pytest.MonkeyPatch) -> None:
    with Server([says(BODY)]) as proxy:
        environ.setenv("http_proxy", f"http://me:pass%2Fword@127.0.0.1:{proxy.port}")
        assert got(Http(Way("http://bucket.example:9000"))) == BODY
        head = proxy.asked[0]
        assert head.startswith(
            b"GET http://bucket.example:9000/a/b?c=d HTTP/1.1\r\nhost: bucket.example:9000\r\n"
        )
        assert b"proxy-authorization: Basic " + base64.b64encode(b"me:pass/word") in head


def test_hosts_that_need_no_proxy(environ: pytest.MonkeyPatch) -> None:
    with Server([says(BODY)]) as server:
        environ.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        environ.setenv("NO_PROXY", "localhost,127.0.0.1")
        assert got(http(server)) == BODY
        environ.delenv("NO_PROXY")
        assert failed(http(server))[0] == "unreachable"


@pytest.mark.parametrize(
    ("host", "excepted", "proxied"),
    [
        ("10.1.2.3:9000", "10.0.0.0/8", False),
        ("10.1.2.3", "localhost, 10.1.2.0/24", False),
        ("11.1.2.3", "10.0.0.0/8,nonsense/8", True),
        ("[::1]:9000", "::1", False),
        ("[fd00::5]", "fd00::/8", False),
        ("[fd00::5]", "10.0.0.0/8", True),
        ("s3.example", "10.0.0.0/8", True),
        ("s3.example", ".example", False),
    ],
)
def test_networks_that_need_no_proxy(
    environ: pytest.MonkeyPatch, host: str, excepted: str, proxied: bool
) -> None:
    environ.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    environ.setenv("NO_PROXY", excepted)
    assert bool(Way(f"http://{host}").prefix) is proxied


@pytest.mark.parametrize("host", ["127.0.0.1:1", "nobody.invalid:3128"])
def test_a_proxy_out_of_reach_is_named(environ: pytest.MonkeyPatch, host: str) -> None:
    environ.setenv("HTTP_PROXY", f"http://{host}")
    cause, said = failed(Http(Way("http://bucket.example:9000")))
    assert cause == "unreachable"
    assert said.startswith(f"the proxy {host.partition(':')[0]}")


def test_a_proxy_whose_port_is_none(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("HTTP_PROXY", "http://127.0.0.1:port")
    with pytest.raises(Failed, match="the proxy's URL"):
        Way("http://bucket.example:9000")


def test_tls_goes_through_a_proxy(environ: pytest.MonkeyPatch, secure: ssl.SSLContext) -> None:
    with Server([says(BODY), says(b"next")], context=secure) as server:

        def tunnel(made: socket.socket) -> None:
            with socket.create_connection(("127.0.0.1", server.port)) as onward:
                made.sendall(b"HTTP/1.1 200 Connection established\r\nvia: x\r\n\r\n")
                back = threading.Thread(target=pump, args=(onward, made))
                back.start()
                pump(made, onward)
                back.join()

        with Server([tunnel]) as proxy:
            environ.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy.port}")
            client = Http(Way(f"https://localhost:{server.port}", str(TLS / "ca.pem")))
            assert got(client) == BODY
            assert got(client) == b"next"
            name = f"localhost:{server.port}".encode()
            assert proxy.asked == [b"CONNECT " + name + b" HTTP/1.1\r\nhost: " + name + b"\r\n\r\n"]
            assert b"proxy" not in server.asked[0]
            del client
            gc.collect()


def pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def test_a_proxy_that_refuses(environ: pytest.MonkeyPatch) -> None:
    with Server([says(status="407 Proxy Authentication Required")]) as proxy:
        environ.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        assert failed(Http(Way("https://localhost:1"))) == ("unreachable", "the proxy 127.0.0.1 answers 407")


def test_a_proxy_of_another_kind(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(Failed, match="socks5"):
        Way("http://127.0.0.1:1")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()  # a socket that was left open is a failure of the test that left it
