"""A worker's answers, seen through its socket."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mldeploy.runtime import process
from mldeploy.runtime.frames import HEADER, RESPONSE
from tests.runtime.helpers import (
    ONE,
    SLOW,
    Bundle,
    Front,
    Host,
    X,
    Y,
    calls,
    go,
    infer,
    rows,
    tensor,
    wait_until,
)


def test_answers_and_says_what_it_is(host: Host, sums: Bundle) -> None:
    worker = host.fork(sums, replica=3)
    line = worker.settled()
    assert line["state"] == "ready"
    assert worker.front().ask(infer([[1, 2, 3, 4], [5, 6, 7, 8]], id="abc")) == (
        200,
        {
            "model_name": "churn",
            "model_version": "7",
            "id": "abc",
            "outputs": [{"name": "y", "shape": [2], "datatype": "FP64", "data": [10.0, 26.0]}],
        },
    )
    status = worker.status()
    assert status == line
    assert status["pid"] == worker.pid
    stat = Path(f"/proc/{worker.pid}/stat").read_text()
    assert status["start_ticks"] == int(stat.rpartition(")")[2].split()[19])
    assert (status["model"], status["version"], status["replica"]) == ("churn", 7, 3)
    assert status["samples"] == 1
    assert status["load_ms"] > 0
    assert status["latency_ms"] > 0
    assert status["memory_bytes"] > 0


def test_generates_an_id_that_is_never_empty_or_repeated(host: Host, sums: Bundle) -> None:
    front = host.fork(sums).ready().front()
    ids = [front.ask({**ONE, "id": given})[1]["id"] for given in (None, "", None)]
    assert all(ids)
    assert len(set(ids)) == 3


def test_many_fronts_and_frames_in_one_write(host: Host, sums: Bundle) -> None:
    worker = host.fork(sums).ready()
    fronts = [worker.front() for _ in range(5)]
    values = rows(40)
    for front in fronts:
        front.socket.sendall(b"".join(Front.frame(i, infer([row])) for i, row in enumerate(values)))
    for front in fronts:
        answers = front.answers(40)
        for i, row in enumerate(values):
            assert answers[i][0] == 200
            assert answers[i][1]["outputs"][0]["data"] == pytest.approx([sum(row)])


def test_queued_requests_share_a_call(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    worker = host.fork(make_bundle().code(SLOW).sums(), max_batch=8).ready()
    front = worker.front()
    before = len(calls(host))
    slow = Front.frame(99, infer([[200.0, 0, 0, 0]]))
    front.socket.sendall(slow)
    wait_until(lambda: len(calls(host)) > before, "the slow call")
    front.socket.sendall(b"".join(Front.frame(i, infer([[i, 0, 0, 0]])) for i in range(12)))
    go(host)
    answered = [front.read() for _ in range(13)]
    assert {frame.id: json.loads(frame.body)["outputs"][0]["data"][0] for frame in answered} == {
        **{i: float(i) for i in range(12)},
        99: 200.0,
    }
    assert calls(host)[before:] == [1, 8, 4]
    # the frame says how many rows were in the call that answered
    assert [frame.budget for frame in answered] == [1] + [8] * 8 + [4] * 4


def test_a_request_of_more_rows_than_a_batch_is_one_call(
    host: Host, make_bundle: Callable[..., Bundle]
) -> None:
    worker = host.fork(make_bundle().code(SLOW).sums(), max_batch=8).ready()
    status, answer = worker.front().ask(infer(rows(50)))
    assert status == 200
    assert answer["outputs"][0]["shape"] == [50]
    assert calls(host)[-1] == 50


def test_budget_gone_in_the_queue_is_504_without_a_call(
    host: Host, make_bundle: Callable[..., Bundle]
) -> None:
    worker = host.fork(make_bundle().code(SLOW).sums(), max_batch=1).ready()
    front = worker.front()
    before = len(calls(host))
    front.socket.sendall(
        Front.frame(1, infer([[300.0, 0, 0, 0]]))
        + Front.frame(2, ONE, budget=1)
        + Front.frame(3, ONE, budget=60_000)
    )
    wait_until(lambda: len(calls(host)) > before, "the slow call")
    gone = time.monotonic() + 0.01
    wait_until(lambda: time.monotonic() > gone, "the second request's time")
    go(host)
    answers = front.answers(3)
    assert [answers[i][0] for i in (1, 2, 3)] == [200, 504, 200]
    assert "queue" in answers[2][1]["error"]
    assert len(calls(host)) - before == 2


def test_one_bad_request_of_a_batch_fails_alone(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    code = """
import sys
class Model:
    def predict(self, x):
        if (x[:, 0] == 13).any():
            raise KeyError("thirteen")
        if (x[:, 0] == 14).any():
            sys.exit("bye")
        if (x[:, 0] == 16).any():
            raise ValueError("not Unicode: \\udcff")
        y = x.sum(axis=1)
        y[x[:, 0] == 15] = float("nan")
        return y
"""
    worker = host.fork(make_bundle().code(code).sums()).ready()
    front = worker.front()
    front.socket.sendall(b"".join(Front.frame(i, infer([[i, 0, 0, 0]])) for i in range(10, 20)))
    answers = front.answers(10)
    assert {i: answers[i][0] for i in answers} == {
        i: 500 if i in (13, 14, 15, 16) else 200 for i in range(10, 20)
    }
    assert answers[13][1] == {"error": "KeyError: 'thirteen'"}
    assert answers[14][1] == {"error": "SystemExit: bye"}
    assert answers[15][1] == {"error": "output 'y' has NaN or Infinity, which JSON does not have"}
    assert answers[16][1] == {"error": "ValueError: not Unicode: \\udcff"}
    assert "Traceback" in worker.log()
    assert front.ask(ONE)[0] == 200


def test_bad_requests_are_400_and_the_connection_goes_on(host: Host, sums: Bundle) -> None:
    front = host.fork(sums).ready().front()
    for body in (b"", b"{", b"\xff", b"[]", {"inputs": []}, infer([[1.0, 2.0]])):
        status, answer = front.ask(body)
        assert status == 400
        assert list(answer) == ["error"]
    for deep in (b'"shape":1}],"z":', b'"shape":1,"data":'):
        body = b'{"inputs":[{"name":"x",' + deep + b"[" * 1_500 + b"]" * 1_500 + b"}"
        assert front.ask(body)[0] == 400
    assert front.ask(b"12345", header=3)[0] == 400
    assert front.ask(ONE)[0] == 200


def header(length: int, kind: int, header: int = 0) -> bytes:
    return HEADER.pack(length, kind, 0, 0, 1, 0, header)


@pytest.mark.parametrize(
    "bad",
    [header((1 << 30) + 1, 1), header(0, 77), header(0, RESPONSE), header(1, 1, 2) + b"x", os.urandom(64)],
    ids=["too long", "unknown kind", "a response", "header beyond body", "noise"],
)
def test_what_is_no_frame_disconnects_its_sender_alone(host: Host, sums: Bundle, bad: bytes) -> None:
    worker = host.fork(sums).ready()
    good, evil = worker.front(), worker.front()
    evil.socket.sendall(bad)
    assert evil.at_end()
    assert good.ask(ONE)[0] == 200


def test_half_a_frame_and_a_front_that_leaves_delay_nobody(host: Host, sums: Bundle) -> None:
    worker = host.fork(sums).ready()
    half, gone, good = worker.front(), worker.front(), worker.front()
    frame = Front.frame(5, ONE)
    half.socket.sendall(frame[:40])
    gone.socket.sendall(frame * 50 + frame[:30])
    gone.socket.close()
    assert good.ask(ONE)[0] == 200
    half.socket.sendall(frame[40:])
    assert half.answers(1)[5][0] == 200


def test_a_front_that_never_reads_delays_nobody(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    code = """
import numpy as np
class Model:
    def predict(self, x):
        return np.repeat(x[:, :1], 20_000, axis=1)
"""
    wide = make_bundle()
    wide.manifest["signature"]["outputs"] = [tensor("y", "FP64", -1, 20_000)]
    wide.code(code).sample(ONE, [])
    worker = host.fork(wide).ready()
    deaf, good = worker.front(), worker.front()
    deaf.socket.setblocking(False)
    frame, sent = Front.frame(1, ONE), 0
    try:
        while sent < 200_000:
            sent += deaf.socket.send(frame * 10) // len(frame)
    except BlockingIOError:
        pass  # it is not read from any more: its answers are in the way
    assert sent < 200_000
    for _ in range(3):
        assert good.ask(ONE)[0] == 200
    memory = worker.status()["memory_bytes"]
    assert process.memory(worker.pid).private - memory < 64 << 20
    # and once it reads, it gets what it asked for
    deaf.socket.setblocking(True)
    assert all(deaf.read().status == 200 for _ in range(200))


def test_several_inputs_and_outputs_by_name(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    code = """
import numpy as np
class Model:
    def score(self, *, b, a):
        return {"label": np.where(a > 2, "high", "low"), "both": a.astype("int64") + b}
"""
    bundle = make_bundle()
    bundle.manifest["signature"] = {
        "inputs": [tensor("a", "FP32", -1), tensor("b", "INT64", -1)],
        "outputs": [tensor("both", "INT64", -1), tensor("label", "BYTES", -1)],
    }
    a = {"name": "a", "shape": [3], "datatype": "FP32", "data": [1.5, 2.5, 3.5]}
    b = {"name": "b", "shape": [3], "datatype": "INT64", "data": [10, 20, 30]}
    outputs = [
        {"name": "label", "shape": [3], "datatype": "BYTES", "data": ["low", "high", "high"]},
        {"name": "both", "shape": [3], "datatype": "INT64", "data": [11, 22, 33]},
    ]
    bundle.code(code, method="score", input="named").sample({"inputs": [b, a]}, outputs)
    front = host.fork(bundle).ready().front()
    status, answer = front.ask({"inputs": [b, a]})
    assert (status, answer["outputs"]) == (200, outputs[::-1])
    status, answer = front.ask({"inputs": [a, b], "outputs": [{"name": "label"}]})
    assert (status, answer["outputs"]) == (200, outputs[:1])
    for wanted, part in (("labels", "'labels' is unknown"), ("label", "twice")):
        status, answer = front.ask({"inputs": [a, b], "outputs": [{"name": wanted}] * 2})
        assert status == 400
        assert part in answer["error"]


def test_requests_of_other_lengths_share_no_call(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle()
    bundle.manifest["signature"]["inputs"] = [{**X, "shape": [-1, -1]}]
    front = host.fork(bundle.code("class Model:\n    def predict(self, x): return x.sum(axis=1)\n").sums())
    client = front.ready().front()
    lengths = [1, 4, 1, 2, 4, 1]
    client.socket.sendall(b"".join(Front.frame(i, infer([[1.0] * n])) for i, n in enumerate(lengths)))
    answers = client.answers(6)
    assert [answers[i][1]["outputs"][0]["data"] for i in range(6)] == [[float(n)] for n in lengths]


def test_no_batch_dimension_means_a_call_each(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle()
    bundle.manifest["signature"] = {
        "inputs": [tensor("x", "FP64", 3)],
        "outputs": [{**Y, "shape": []}],
    }
    bundle.code(
        "class Model:\n    def predict(self, x):\n        assert x.shape == (3,)\n        return x.max()\n"
    )
    given = {"inputs": [{"name": "x", "shape": [3], "datatype": "FP64", "data": [1, 5, 2]}]}
    bundle.sample(given, [{**Y, "shape": [], "data": [5.0]}])
    front = host.fork(bundle).ready().front()
    front.socket.sendall(b"".join(Front.frame(i, given) for i in range(10)))
    answers = front.answers(10)
    assert all(answer["outputs"][0]["data"] == [5.0] for _, answer in answers.values())
