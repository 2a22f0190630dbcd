"""Clients that are slow, silent or many: every state has a deadline, everything held has a cap."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import pytest

INFER = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n"
SHORT = {
    "header_seconds": 0.3,
    "body_seconds": 0.3,
    "body_rate": 1_000,
    "idle_seconds": 0.6,
    "write_seconds": 0.3,
    "linger_seconds": 0.3,
}


@pytest.fixture(scope="module")
def served(module_host, build):
    host = module_host
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front(**SHORT)
    return host


def test_idle_connections_are_closed_without_a_word(served, wire):
    line = wire(served)
    assert line.answer() is None
    line = wire(served)
    line.send(b"GET /v2 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert line.answer()[0] == 200
    assert line.answer() is None


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"G", "head"),
        (b"GET / HTT", "head"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX-Half: a", "head"),
        (b"GET /v2 HTTP/1.1\r\nHost: h\r\n\r\nGET /", "head"),
        (INFER + b"Content-Length: 100\r\n\r\n", "body"),
        (INFER + b"Content-Length: 100\r\n\r\nhalf", "body"),
        (INFER + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "body"),
        (INFER + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nX: ", "body"),
    ],
)
def test_silence_halfway_is_408(served, wire, start, what):
    line = wire(served)
    line.send(start)
    status, headers, body = line.answer()
    if status == 200:
        status, headers, body = line.answer()
    assert (status, headers["connection"]) == (408, "close")
    assert what in json.loads(body)["error"]
    assert line.answer() is None


def drip(line, data: bytes) -> bool:
    """Send a byte at a time, one each time the answer does not come; whether all of it was taken."""
    line.sock.settimeout(0.02)
    for byte in data:
        try:
            line.sock.send(bytes([byte]))
            if line.sock.recv(1, socket.MSG_PEEK):
                return False
        except TimeoutError:
            continue
        except OSError:
            return False
    return True


def test_dripping_does_not_extend_the_head_s_deadline(served, wire):
    line = wire(served)
    assert not drip(line, b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 400)


def test_dripping_below_the_rate_does_not_extend_the_body_s_deadline(served, wire):
    line = wire(served)
    line.send(INFER + b"Content-Length: 1000\r\n\r\n")
    assert not drip(line, b"a" * 999)


def test_chunk_extensions_are_no_progress(served, wire):
    line = wire(served)
    line.send(INFER + b"Transfer-Encoding: chunked\r\n\r\n1;")
    assert not drip(line, b"a" * 999)


def test_blank_lines_do_not_keep_a_connection_open(served, wire):
    line = wire(served)
    assert not drip(line, b"\r\n" * 400)


def test_a_body_that_keeps_the_rate_may_take_longer(served, wire):
    line = wire(served)
    line.send(INFER + b"Content-Length: 20000\r\n\r\n")
    start, sent = time.monotonic(), 0
    line.sock.settimeout(0.01)
    while sent < 20_000:
        if sent < (time.monotonic() - start) * 20_000:
            line.send(b"x" * 500)
            sent += 500
        else:
            with contextlib.suppress(TimeoutError):
                assert not line.sock.recv(1, socket.MSG_PEEK)
    line.sock.settimeout(20)
    assert time.monotonic() - start > 0.6
    assert line.answer()[0] == 200


def test_a_client_that_does_not_read_is_cut_off(served):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.settimeout(20)
    with sock:
        sock.connect(("127.0.0.1", served.port))
        body = b'{"do": "big", "bytes": 30000000}'
        sock.sendall(INFER + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        served.until(lambda: served.control({"op": "stats"})["connections"] == 1)
        served.until(lambda: served.control({"op": "stats"})["connections"] == 0)
    assert served.infer()[0] == 200


def test_a_slow_reader_that_goes_on_reading_gets_everything(served):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    sock.settimeout(20)
    with sock:
        sock.connect(("127.0.0.1", served.port))
        body = b'{"do": "big", "bytes": 12000000}'
        sock.sendall(INFER + b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
        start, got = time.monotonic(), 0
        while data := sock.recv(65_536):
            got += len(data)
            while got > (time.monotonic() - start) * 12_000_000:
                served.control({"op": "stats"})  # others are served meanwhile
        assert got > 12_000_000


def test_connections_beyond_the_cap_are_told_so(host, build, wire):
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front(connections=3)
    lines = [wire(host) for _ in range(3)]
    for line in lines:
        line.send(INFER + b"Content-Length: 2\r\n\r\n{}")
        assert line.answer()[0] == 200
    status, headers, body = wire(host).answer()
    assert (status, headers["content-type"], headers["retry-after"]) == (503, "application/json", "1")
    assert "connections" in json.loads(body)["error"]
    lines[0].close()
    host.until(lambda: host.control({"op": "stats"})["connections"] == 2)
    assert host.infer()[0] == 200


def test_bodies_held_in_total_are_capped(host, build, wire):
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front(buffered_bytes=10_000)
    first = wire(host)
    first.send(INFER + b"Content-Length: 9000\r\n\r\n" + b"x" * 8_999)
    host.until(lambda: host.control({"op": "stats"})["buffered"] == 8_999)
    status, headers, _ = host.infer(body=b"x" * 2_000)
    assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
    first.send(b"x")
    assert first.answer()[0] == 200
    assert host.infer(body=b"x" * 2_000)[0] == 200
    assert host.control({"op": "stats"})["buffered"] == 0


def test_full_queues_are_503_and_recover(host, build, wire):
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front(worker_inflight=4)
    hold = b'{"do": "hold"}'
    lines = [wire(host) for _ in range(4)]
    for line in lines[:3]:
        line.send(INFER + b"Content-Length: %d\r\n\r\n%b" % (len(hold), hold))
    host.until(lambda: host.inflight()["w1"] == 3)
    lines[3].send(INFER + b"Content-Length: %d\r\n\r\n%b" % (len(hold), hold))
    host.until(lambda: host.inflight()["w1"] == 4)
    assert host.control({"op": "stats"})["oldest_ms"]["w1"] >= 0
    status, headers, body = host.infer()
    assert (status, headers["retry-after"]) == (503, "1")
    assert "full" in body["error"]
    assert headers["mldeploy-version"] == "m@1"
    lines[3].close()  # its client has gone, the worker still has it
    assert host.inflight()["w1"] == 4
    host.kill_worker("w1")
    for line in lines[:3]:
        assert line.answer()[0] == 503
    host.until(lambda: host.inflight()["w1"] == 0)
