"""New tables under load: no request fails, none is answered by a version the table did not name."""

from __future__ import annotations

import http.client
import json
import math
import threading

import msgspec
import pytest

from mldeploy.core.routing import choose
from mldeploy_daemon.table import Table


class Load:
    """Constant requests from threads; what each saw, with the swaps known before and after it."""

    def __init__(self, host, clients: int) -> None:
        self.host = host
        self.published = 0  # tables written
        self.acknowledged = 0  # tables every front has
        self.stable = [0]  # version by table number
        self.failures: list[object] = []
        self.answers = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        client = self.host.client()
        while not self._stop.is_set():
            before = self.acknowledged
            try:
                client.request("POST", "/v2/models/m/infer", b"{}")
                answer = client.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                client.close()
                continue
            after = self.published
            allowed = {str(version) for version in self.stable[before : after + 1]}
            body = json.loads(text)
            version = body.get("model_version")
            if answer.status != 200 or answer.headers["mldeploy-version"] != f"m@{version}":
                self.failures.append((answer.status, text))
            elif version not in allowed or body["outputs"][0]["data"] != [float(version)]:
                self.failures.append((version, allowed))
            self.answers += 1
        client.close()

    def swap(self, version: int, model) -> list[dict]:
        """Publish `model`, whose stable is `version`."""
        self.stable.append(version)
        self.published += 1
        answers = self.host.publish(m=model)
        self.acknowledged += 1
        assert all(answer["generation"] == self.host.generation for answer in answers.values())
        return list(answers.values())


def test_deployments_under_load_are_not_noticed(host, build):
    """Each round starts a new version's worker, swaps, drains the old one by the fronts' word, kills it."""
    workers = {1: host.worker("w1", 1)}
    host.write(m=build.model({1: build.version(workers[1])}))
    host.front(0)
    host.front(1)
    load = Load(host, 6)
    load.stable = [1]
    with load:
        for version in range(2, 12):
            workers[version] = host.worker(f"w{version}", version)
            load.swap(version, build.model({version: build.version(workers[version])}))
            old = f"w{version - 1}"
            host.until(lambda old=old: not any(host.inflight(k).get(old) for k in host.fronts))
            host.kill_worker(old)
        served = load.answers
        host.until(lambda: load.answers > served + 500)
    assert load.failures == []
    assert load.answers > 1_000
    for k in host.fronts:
        assert host.inflight(k) == {"w11": 0}


def test_fifty_swaps_between_two_versions(host, build):
    one, two = build.version(host.worker("w1", 1)), build.version(host.worker("w2", 2))
    host.write(m=build.model({1: one, 2: two}, stable=1))
    host.front(0)
    host.front(1)
    load = Load(host, 6)
    load.stable = [1]
    with load:
        for swap in range(50):
            version = 2 - swap % 2
            load.swap(version, build.model({1: one, 2: two}, stable=version))
            served = load.answers
            host.until(lambda served=served: load.answers > served + 20)
    assert load.failures == []
    for k in host.fronts:
        assert host.inflight(k) == {"w1": 0, "w2": 0}


def test_a_request_in_progress_finishes_where_it_was_sent(host, build, wire):
    old, new = host.worker("w1", 1), host.worker("w2", 2)
    host.write(m=build.model({1: build.version(old)}))
    host.front()
    line = wire(host)
    body = b'{"do": "hold"}'
    line.send(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 14\r\n\r\n" + body)
    host.until(lambda: host.inflight()["w1"] == 1)
    answer = host.publish(m=build.model({2: build.version(new)}))[0]
    assert answer["inflight"] == {"w1": 1, "w2": 0}
    assert host.infer()[2]["model_version"] == "2"
    both = {1: build.version(old), 2: build.version(new)}
    host.publish(m=build.model(both))  # so that a release can reach it
    host.infer("/v2/models/m/versions/1/infer", {"do": "release"})
    assert json.loads(line.answer()[2])["model_version"] == "1"
    assert host.publish(m=build.model({2: build.version(new)}))[0]["inflight"] == {"w2": 0}


def test_a_worker_that_cannot_be_reached_costs_no_answer(host, build):
    """The table names a replica that is gone already, and one that is there."""
    here, gone = host.worker("w1", 1), host.worker("w2", 1)
    host.kill_worker("w2")
    host.write(m=build.model({1: build.version(gone, here)}))
    host.front()
    assert {host.infer()[0] for _ in range(20)} == {200}
    host.publish(m=build.model({1: build.version(gone)}))
    status, headers, _ = host.infer()
    assert status == 503
    assert headers["retry-after"] == "1"
    assert host.inflight() == {"w2": 0}


def test_a_worker_that_comes_back_is_connected_again(host, build):
    route = host.worker("w1", 1)
    host.write(m=build.model({1: build.version(route)}))
    host.front()
    assert host.infer()[0] == 200
    host.kill_worker("w1")
    assert host.infer()[0] == 503
    (host.state / route.socket).unlink()
    host.worker("w1", 1)
    host.until(lambda: host.infer()[0] == 200)


def test_a_table_that_cannot_be_read_leaves_the_old_one(host, build):
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front()
    for text in ("{", '{"generation":"x"}', '{"generation":9,"models":{"m":{"versions":{"seven":{}}}}}'):
        (host.state / "run/routes.json").write_text(text)
        answer = host.control({"op": "table", "generation": 9})
        assert (answer["ok"], answer["generation"]) == (False, 1)
        assert answer["error"]
        assert host.infer()[0] == 200
    assert host.control({"op": "dance"})["ok"] is False


def test_a_table_that_comes_with_the_word_counts_until_the_disk_has_a_later_one(host, build):
    """The disk is full: it still has the table in which version 1 serves."""
    one, two = (build.model({n: build.version(host.worker(f"w{n}", n))}) for n in (1, 2))
    host.write(m=one)
    host.front()
    table = msgspec.to_builtins(Table(generation=5, ready=True, models={"m": two}))
    assert host.control({"op": "table", "generation": 5, "table": table})["generation"] == 5
    assert host.infer()[2]["model_version"] == "2"
    answer = host.control({"op": "table", "generation": 5})  # as a new agent says, from its own file
    assert (answer["ok"], answer["generation"]) == (True, 5)
    assert host.infer()[2]["model_version"] == "2"
    answer = host.control({"op": "table", "generation": 6, "table": {"models": 7}})
    assert (answer["ok"], answer["generation"]) == (False, 5)
    assert host.infer()[2]["model_version"] == "2"
    host.generation = 5
    host.publish(m=one)
    assert host.infer()[2]["model_version"] == "1"


def test_replicas_share_by_what_they_have_in_flight(host, build, wire):
    routes = [host.worker(f"w{k}", 1) for k in range(3)]
    host.write(m=build.model({1: build.version(*routes)}))
    host.front()
    lines = [wire(host) for _ in range(9)]
    for count, line in enumerate(lines, 1):
        line.send(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 14\r\n\r\n")
        line.send(b'{"do": "hold"}')
        host.until(lambda count=count: sum(host.inflight().values()) == count)
    assert host.inflight() == {"w0": 3, "w1": 3, "w2": 3}


SHARES = (100, 1_000, 5_000, 10_000)


@pytest.mark.parametrize("key", ["", "header:X-User"])
def test_the_split_is_sticky_monotone_and_fair(host, build, key):
    one, two = build.version(host.worker("w1", 1)), build.version(host.worker("w2", 2))
    host.write()
    host.front()
    count, before = 300, set()
    name = "x-user" if key else "x-request-id"
    client = host.client()
    for share in SHARES:
        model = build.model({1: one, 2: two}, stable=1, candidate=2, share=share, salt="r9", key=key)
        host.publish(m=model)
        chosen = set()
        for k in range(count):
            client.request("POST", "/v2/models/m/infer", b"{}", {name: f"user-{k}"})
            if json.loads(client.getresponse().read())["model_version"] == "2":
                chosen.add(k)
        part = share / 10_000
        assert abs(len(chosen) - count * part) <= 3 * math.sqrt(count * part * (1 - part))
        assert before <= chosen
        assert chosen == {k for k in range(count) if choose(f"user-{k}", "r9", share)}
        before = chosen
    client.close()
    pinned = host.infer("/v2/models/m/versions/stable/infer")[2]["model_version"]
    assert pinned == "1"


def test_made_request_ids_split_fairly_too(host, build):
    one, two = build.version(host.worker("w1", 1)), build.version(host.worker("w2", 2))
    host.write(m=build.model({1: one, 2: two}, stable=1, candidate=2, share=3_000, salt="r"))
    host.front()
    client, hits, count = host.client(), 0, 400
    for _ in range(count):
        client.request("POST", "/v2/models/m/infer", b"{}")
        hits += json.loads(client.getresponse().read())["model_version"] == "2"
    client.close()
    assert abs(hits - count * 0.3) <= 4 * math.sqrt(count * 0.3 * 0.7)
