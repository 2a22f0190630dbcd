"""Requests for a version that sleeps: held, the agent told, answered once awake, or refused in time."""

from __future__ import annotations

import json
import socket
import struct
import threading

import pytest

from mldeploy_daemon.table import VersionRoutes


@pytest.fixture
def agent(host):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(host.state / "run/agent.sock"))
        ear.settimeout(20)
        yield ear


@pytest.fixture
def asleep(build) -> VersionRoutes:
    return build.version(state="sleeping", wakes=True, reason="waits for memory")


class Asking(threading.Thread):
    """One request in the background."""

    def __init__(self, host, path: str = "/v2/models/m/infer", **headers: str) -> None:
        super().__init__()
        self.host, self.path, self.headers = host, path, headers
        self.start()

    def run(self) -> None:
        self.answer = self.host.infer(self.path, **self.headers)

    def result(self):
        self.join(20)
        assert not self.is_alive()
        return self.answer


def held(host, count: int) -> None:
    """Wait until so many requests have been held."""
    line = f'mldeploy_requests_held_total{{model="m",version="1",front="0"}} {count}'
    host.until(lambda: line in host.ask("GET", "/metrics")[2])


def test_they_are_answered_when_it_wakes_and_the_agent_is_told_until_then(host, build, agent, asleep):
    host.write(m=build.model({1: asleep}))
    host.front()
    assert host.ask("GET", "/v2/models/m/ready")[0] == 200
    asking = [Asking(host) for _ in range(5)]
    held(host, 5)
    for _ in range(3):  # it is told again: it may have been away
        assert json.loads(agent.recv(4096)) == {"wake": ["m", 1]}
    loading = build.version(state="loading", wakes=True)
    host.publish(m=build.model({1: loading}))
    host.publish(m=build.model({1: build.version(host.worker("w1", 1))}))
    for each in asking:
        status, _, body = each.result()
        assert (status, body["model_version"]) == (200, "1")
    assert host.inflight() == {"w1": 0}


def test_too_many_are_refused_and_those_that_wait_are_not(host, build, agent, asleep):
    host.write(m=build.model({1: asleep}))
    host.front(waiting=2)
    asking = [Asking(host) for _ in range(2)]
    held(host, 2)
    status, headers, body = host.infer()
    assert (status, headers["retry-after"]) == (503, "1")
    assert "too many requests wait for m@1" in body["error"]
    host.publish(m=build.model({1: build.version(host.worker("w1", 1))}))
    assert [each.result()[0] for each in asking] == [200, 200]


def test_a_deadline_ends_the_waiting_with_the_reason(host, build, asleep):
    host.write(m=build.model({1: asleep}))
    host.front()  # no agent hears: that alone fails nothing
    status, headers, body = host.infer(x_request_timeout_ms="200")
    assert (status, headers["retry-after"]) == (503, "1")
    assert body["error"].startswith("m@1 did not wake within 2")
    assert body["error"].endswith("ms: waits for memory")


def test_what_fails_to_wake_is_refused_at_once(host, build, agent, asleep):
    host.write(m=build.model({1: asleep}))
    host.front()
    asking = Asking(host)
    held(host, 1)
    host.publish(m=build.model({}, reason="m@1 is failed: out of luck"))
    status, _, body = asking.result()
    assert status == 503
    assert "out of luck" in body["error"]


def test_a_client_that_goes_away_waits_for_nothing(host, build, agent, asleep, wire):
    host.write(m=build.model({1: asleep}))
    host.front()
    line = wire(host)
    line.send(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
    held(host, 1)
    line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    line.close()
    host.until(lambda: host.control({"op": "stats"})["buffered"] == 0)
    host.publish(m=build.model({1: build.version(host.worker("w1", 1))}))
    assert host.infer()[0] == 200
    assert host.inflight() == {"w1": 0}


def test_a_named_previous_version_is_woken_and_the_others_go_on(host, build, agent, asleep):
    two = build.version(host.worker("w2", 2))
    host.write(m=build.model({1: asleep, 2: two}, stable=2, previous=1))
    host.front()
    asking = Asking(host, "/v2/models/m/versions/previous/infer")
    held(host, 1)
    assert host.infer()[2]["model_version"] == "2"
    host.publish(m=build.model({1: build.version(host.worker("w1", 1)), 2: two}, stable=2, previous=1))
    assert asking.result()[2]["model_version"] == "1"
