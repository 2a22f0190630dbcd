"""Workers and fronts that die, and the ways a front ends."""

from __future__ import annotations

import json
import signal
import socket
import threading

import pytest

HOLD = b'POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 14\r\n\r\n{"do": "hold"}'


@pytest.mark.parametrize(
    "how",
    [
        {"do": "die"},
        {"do": "close"},
        {"do": "garbage"},
        {"do": "ask"},
        *({"do": "status", "status": status} for status in (0, 100, 600)),
    ],
    ids=str,
)
def test_a_worker_lost_with_a_request_is_503(host, build, how):
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front()
    status, headers, body = host.infer(body=how)
    assert (status, headers["retry-after"]) == (503, "1")
    assert "went away" in body["error"] or "gone away" in body["error"]
    assert host.inflight() == {"w1": 0}
    if how != {"do": "die"}:
        host.until(lambda: host.infer()[0] == 200)


def test_what_a_lost_worker_had_is_sent_to_a_replica(host, build, wire):
    routes = [host.worker("w1", 1), host.worker("w2", 1)]
    host.write(m=build.model({1: build.version(routes[0])}))
    host.front()
    lines = [wire(host) for _ in range(8)]
    for line in lines:
        line.send(HOLD)
    host.until(lambda: host.inflight()["w1"] == 8)
    host.publish(m=build.model({1: build.version(*routes)}))
    host.kill_worker("w1")
    host.until(lambda: host.inflight() == {"w1": 0, "w2": 8})
    host.infer(body={"do": "release"})
    assert {(status, json.loads(body)["worker"]) for status, _, body in (x.answer() for x in lines)} == {
        (200, "w2")
    }
    assert host.control({"op": "stats"})["counters"][0]["retries"] == 8
    assert host.inflight() == {"w1": 0, "w2": 0}


def test_what_a_stopped_worker_had_follows_the_new_table(host, build, wire):
    old, new = host.worker("w1", 1), host.worker("w2", 2)
    host.write(m=build.model({1: build.version(old)}))
    host.front()
    line = wire(host)
    line.send(HOLD)
    host.until(lambda: host.inflight()["w1"] == 1)
    host.publish(m=build.model({2: build.version(new)}))
    host.kill_worker("w1")
    host.until(lambda: host.inflight() == {"w2": 1})
    host.infer(body={"do": "release"})
    status, headers, body = line.answer()
    assert (status, json.loads(body)["model_version"], headers["mldeploy-version"]) == (200, "2", "m@2")


def test_a_request_that_kills_workers_kills_two_at_most(host, build):
    routes = [host.worker(f"w{k}", 1) for k in range(4)]
    host.write(m=build.model({1: build.version(*routes)}))
    host.front()
    assert host.infer(body={"do": "die"})[0] == 503
    host.until(lambda: sum(process.poll() is None for process in host.workers.values()) == 2)
    assert {host.infer()[0] for _ in range(10)} == {200}


def test_replica_deaths_under_load_cost_no_answer(host, build):
    """Two replicas die in turn at a moment of their own choosing; their requests go to the one that stays."""
    routes = [host.worker("w0", 1), host.worker("w1", 1, die_on=100), host.worker("w2", 1, die_on=200)]
    host.write(m=build.model({1: build.version(*routes)}))
    host.front()
    statuses: list[int] = []

    def client() -> None:
        with_one = host.client()
        for _ in range(150):
            with_one.request("POST", "/v2/models/m/infer", b"{}")
            answer = with_one.getresponse()
            answer.read()
            statuses.append(answer.status)
        with_one.close()

    threads = [threading.Thread(target=client) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 900
    host.until(lambda: [host.workers[f"w{k}"].poll() for k in range(3)] == [None, 1, 1])
    assert set(host.inflight().values()) == {0}


def test_a_killed_front_loses_nothing_that_was_queued(host, build, wire):
    """Connections wait in the kernel while both fronts stand still; one is killed, the other serves all."""
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front(0)
    host.front(1)
    for k in (0, 1):
        host.fronts[k].send_signal(signal.SIGSTOP)
    lines = [wire(host) for _ in range(60)]
    for line in lines:
        line.send(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
    host.stop_front(0, signal.SIGKILL)
    host.fronts[1].send_signal(signal.SIGCONT)
    assert [line.answer()[0] for line in lines] == [200] * 60


def test_a_front_killed_under_load_fails_only_what_it_held(host, build):
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front(0)
    host.front(1)
    done, failed = [], []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                done.append(host.infer()[0])
            except (OSError, ValueError) as error:
                failed.append(error)

    threads = [threading.Thread(target=client) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        before = len(done)
        host.until(lambda before=before: len(done) > before + 100)
        host.stop_front(0, signal.SIGKILL)
        before = len(done)
        host.until(lambda before=before: len(done) > before + 100)
        (host.state / "run/front-0.sock").unlink()
        host.front(0)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(done) == {200}
    assert len(failed) <= 3 * 6  # a client has one request in flight
    host.until(lambda: not any(host.inflight(k)["w1"] for k in host.fronts))


def test_drain_and_stop(host, build, wire):
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front()
    idle, busy = wire(host), wire(host)
    idle.send(b"GET /v2 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert idle.answer()[0] == 200
    busy.send(HOLD)
    host.until(lambda: host.inflight()["w1"] == 1)
    assert host.control({"op": "drain"}) == {"ok": True}
    status, headers, body = host.ask("GET", "/v2/health/ready")
    assert (status, headers["retry-after"], body["ready"]) == (503, "1", False)
    assert host.ask("GET", "/v2/models/m/ready")[0] == 503
    assert host.ask("GET", "/v2/health/live")[::2] == (200, {"live": True, "ready": False})
    assert host.infer()[0] == 200  # still serving
    host.publish(m=build.model({1: build.version(*_routes(host))}))
    assert host.ask("GET", "/v2/health/ready")[0] == 503  # a new table does not undo it
    front = host.fronts.pop(0)
    front.send_signal(signal.SIGTERM)
    assert idle.answer() is None  # closed soon
    assert front.poll() is None  # but not while one is in flight
    # nobody accepts any more; the socket is still the keeper's, and another front takes over
    queued = wire(host)
    queued.send(b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n")
    with socket.socket(socket.AF_UNIX) as direct:
        direct.connect(str(host.state / "run/w1.sock"))
        direct.sendall(_frame(b'{"do":"release"}'))
        status, headers, _ = busy.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert front.wait(20) == 0
    assert not (host.state / "run/front-0.sock").exists()
    host.front(1)
    assert queued.answer()[0] == 200


def test_stopping_is_bounded(host, build, wire):
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front(stop_seconds=0.3)
    line = wire(host)
    line.send(HOLD)
    host.until(lambda: host.inflight()["w1"] == 1)
    assert host.stop_front() == 0
    assert "cut off" in host.errors()


def test_stopping_answers_what_was_pipelined(host, build, wire):
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front()
    line = wire(host)
    line.send(HOLD + b"GET /v2 HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
    host.until(lambda: host.inflight()["w1"] == 1)
    front = host.fronts[0]
    front.send_signal(signal.SIGTERM)
    host.until(lambda: host.control({"op": "stats"})["draining"])
    del host.fronts[0]
    with socket.socket(socket.AF_UNIX) as direct:
        direct.connect(str(host.state / "run/w1.sock"))
        direct.sendall(_frame(b'{"do":"release"}'))
        answers = [line.answer() for _ in range(3)]
    assert [answer[0] for answer in answers] == [200] * 3
    assert answers[-1][1]["connection"] == "close"
    assert line.answer() is None
    assert front.wait(20) == 0


def test_a_front_without_a_configuration_says_so():
    import os
    import subprocess
    import sys

    env = {key: value for key, value in os.environ.items() if key != "MLDEPLOYD"}
    for text in (None, "{", '{"front": 1}'):
        extra = {} if text is None else {"MLDEPLOYD": text}
        run = subprocess.run(
            [sys.executable, "-m", "mldeploy_daemon.front"],
            env={**env, **extra},
            capture_output=True,
            text=True,
        )
        assert run.returncode == os.EX_CONFIG
        assert run.stderr.startswith("error: MLDEPLOYD")
        assert "\nhint: " in run.stderr


def _routes(host):
    from mldeploy_daemon.table import WorkerRoute

    return [WorkerRoute(id=ident, socket=f"run/{ident}.sock") for ident in host.workers]


def _frame(body: bytes) -> bytes:
    from mldeploy.runtime.frames import HEADER, REQUEST_V2

    return HEADER.pack(len(body), REQUEST_V2, 0, 0, 1, 1_000, 0) + body
