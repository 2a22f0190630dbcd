"""HTTP as bytes: framing, pipelining, closing, and what hostile or odd clients send."""

from __future__ import annotations

import json

import pytest

INFER = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n"


def post(body: bytes = b"{}", extra: bytes = b"") -> bytes:
    return INFER + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.fixture(scope="module")
def served(module_host, build):
    host = module_host
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front(body_bytes=200_000)
    return host


def test_pipelined_requests_are_answered_in_order(served, wire):
    line = wire(served)
    requests = [post(extra=b"x-request-id: r%d\r\n" % k) for k in range(40)]
    requests[7] = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\nx-request-id: r7\r\n\r\n"
    line.send(b"".join(requests))
    answers = [line.answer() for _ in requests]
    assert [answer[1]["x-request-id"] for answer in answers] == [f"r{k}" for k in range(40)]
    assert {answer[0] for answer in answers} == {200}


def test_too_many_pipelined_end_the_connection_after_those_taken(served, wire):
    line = wire(served)
    line.send(post() * 500)
    answers = []
    while answer := line.answer():
        answers.append(answer)
    assert 60 <= len(answers) <= 66
    assert {answer[0] for answer in answers} == {200}
    assert answers[-1][1]["connection"] == "close"
    assert served.infer()[0] == 200


def test_byte_by_byte(served, wire):
    line = wire(served)
    for byte in post(b'{"a": [1, 2]}'):
        line.send(bytes([byte]))
    assert line.answer()[0] == 200
    chunked = INFER + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\n{ \r\r\n1\r\n}\r\n0\r\nTrailer: t\r\n\r\n"
    for byte in chunked:
        line.send(bytes([byte]))
    assert line.answer()[0] == 200


def test_keep_alive_of_http_1_0_and_1_1(served, wire):
    old = wire(served)
    old.send(b"GET /v2/health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
    assert [old.answer()[1]["connection"] for _ in range(2)] == ["keep-alive"] * 2
    old.send(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
    assert old.answer()[1]["connection"] == "close"
    assert old.answer() is None
    new = wire(served)
    new.send(post() + post(extra=b"Connection: close\r\n") + post())
    assert "connection" not in new.answer()[1]
    assert new.answer()[1]["connection"] == "close"
    assert new.answer() is None


def test_head_has_no_body(served, wire):
    line = wire(served)
    line.send(b"HEAD /v2 HTTP/1.1\r\nHost: h\r\n\r\n")
    head = line.file.readline()
    while (more := line.file.readline()) != b"\r\n":
        head += more
    assert b" 200 " in head
    assert b"content-length: " in head
    assert b"content-length: 0" not in head
    line.send(post())
    assert line.answer()[0] == 200


def test_expect_continue(served, wire):
    line = wire(served)
    line.send(INFER + b"Expect: 100-continue \r\nContent-Length: 2\r\n\r\n")
    assert line.file.readline() == b"HTTP/1.1 100 Continue\r\n"
    assert line.file.readline() == b"\r\n"
    line.send(b"{}")
    assert line.answer()[0] == 200
    line.send(INFER + b"Expect: 100-continue\r\nContent-Length: 200001\r\n\r\n")
    assert line.answer()[0] == 413
    line = wire(served)
    line.send(INFER + b"Expect: a-miracle\r\nContent-Length: 2\r\n\r\n")
    assert line.answer()[0] == 417


def test_expect_behind_another_request_waits_its_turn(served, wire):
    line = wire(served)
    line.send(post(b'{"do": "hold"}') + INFER + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    served.until(lambda: served.inflight()["w1"] == 1)
    served.infer(body={"do": "release"})
    assert line.answer()[0] == 200
    assert line.file.readline() == b"HTTP/1.1 100 Continue\r\n"
    assert line.file.readline() == b"\r\n"
    line.send(b"{}")
    assert line.answer()[0] == 200


@pytest.mark.parametrize("framing", [b"Content-Length: 14", b"Transfer-Encoding: chunked"])
def test_an_offer_to_upgrade_is_declined_and_the_body_kept(served, wire, framing):
    line = wire(served)
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"
    body = b'{"do": "echo"}'
    if framing.startswith(b"T"):
        body = b"e\r\n" + body + b"\r\n0\r\n\r\n"
    line.send(INFER + offer + framing + b"\r\n\r\n" + body + post())
    status, _, answer = line.answer()
    assert status == 200
    assert json.loads(answer)["budget"] > 0
    assert line.answer()[0] == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (INFER + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (INFER + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", 400),
        (INFER + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (INFER + b"Content-Length: 2, 2\r\n\r\n{}", 400),
        (INFER + b"Content-Length: -2\r\n\r\n{}", 400),
        (INFER + b"Content-Length: 99999999999999999999999\r\n\r\n{}", 400),
        (INFER + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (INFER + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400),
        (INFER + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (INFER + b"Transfer-Encoding: chunked\r\n\r\n" + b"8000\r\n%b\r\n" % (b"x" * 0x8000) * 8, 413),
        (INFER + b"Content-Length: 200001\r\n\r\n", 413),
        (INFER + b"Host: other\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: h\n\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64, 400),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * 101 + b"\r\n", 431),
        (INFER + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: a\r\n" * 101 + b"\r\n", 431),
    ],
)
def test_bad_requests_are_refused_and_the_connection_closed(served, wire, request_, status):
    line = wire(served)
    line.send(post() + request_)
    assert line.answer()[0] == 200  # what came before has its answer
    found, headers, body = line.answer()
    assert found == status
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert json.loads(body)["error"]
    assert line.answer() is None
    served.until(lambda: set(served.inflight().values()) == {0})
    assert served.infer()[0] == 200


@pytest.mark.parametrize(
    "start",
    [b"GET / HTTP/1.1\r\nHost: h\r\nX: ", INFER + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: "],
)
def test_a_header_that_never_ends_is_cut_off(served, wire, start):
    line = wire(served)
    line.send(start)
    for _ in range(40):
        line.send(b"a" * 1_000)
        served.control({"op": "stats"})
    assert line.answer()[0] == 431


def test_a_large_upload_that_is_refused_still_sees_why(served):
    status, _, body = served.infer(body=b"x" * 5_000_000)
    assert status == 413
    assert "200000 bytes" in body["error"]


def test_a_client_that_shuts_its_side_gets_its_answer(served, wire):
    line = wire(served)
    line.send(post() + post())
    line.sock.shutdown(1)
    assert line.answer()[0] == 200
    assert line.answer()[0] == 200
    assert line.answer() is None


def test_large_bodies_both_ways(served):
    status, _, text = served.infer(body=json.dumps({"do": "big", "bytes": 3_000_000}).encode())
    assert status == 200
    assert len(text) == 3_000_000 - 2
    assert served.infer(body=b"x" * 200_000)[0] == 200


def test_nothing_is_held_once_all_is_answered(served, wire):
    line = wire(served)
    line.send(post(b"x" * 1000) * 3 + INFER + b"Content-Length: 1000\r\n\r\nhalf")
    assert [line.answer()[0] for _ in range(3)] == [200] * 3
    assert served.control({"op": "stats"})["buffered"] == 4
    line.close()
    served.until(lambda: served.control({"op": "stats"})["buffered"] == 0)
