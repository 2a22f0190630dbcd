"""What is counted, over all fronts, and the access log."""

from __future__ import annotations

import json
import signal

from prometheus_client.parser import text_string_to_metric_families


def scrape(host) -> dict[str, list]:
    status, headers, text = host.ask("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return {family.name: family.samples for family in text_string_to_metric_families(text)}


def total(samples, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for sample in samples
        if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
    )


def test_metrics_of_two_fronts_are_what_was_sent(host, build):
    one, two = build.version(host.worker("w1", 1)), build.version(host.worker("w2", 2))
    host.write(m=build.model({1: one, 2: two}, stable=2, previous=1), idle=build.model({}))
    host.front(0)
    host.front(1)
    # a connection a request, until both fronts have had some
    sent = 0
    while sent < 100 or not all(host.control({"op": "stats"}, k)["http"].get("infer") for k in (0, 1)):
        assert sent < 5_000
        assert host.infer()[0] == 200
        sent += 1
    for _ in range(7):
        host.infer("/v2/models/m/versions/1/infer")
    for _ in range(3):
        host.infer(body={"do": "status", "status": 400})
        host.infer(body={"do": "status", "status": 500})
        host.infer("/v2/models/idle/infer")
        host.infer("/v2/models/unknown/infer")
    found = scrape(host)
    requests = found["mldeploy_requests"]
    name = "mldeploy_requests_total"
    assert total(requests, name, model="m", version="2", status="2xx") == sent
    assert total(requests, name, model="m", version="1", status="2xx") == 7
    assert total(requests, name, model="m", version="2", status="4xx") == 3
    assert total(requests, name, model="m", version="2", status="5xx") == 3
    assert total(requests, name, model="idle", version="", status="5xx") == 3
    assert total(requests, name) == sent + 16
    assert {sample.labels["front"] for sample in requests} == {"0", "1"}
    durations = found["mldeploy_request_duration_seconds"]
    count = "mldeploy_request_duration_seconds"
    assert total(durations, f"{count}_count", model="m", version="2") == sent + 6
    assert total(durations, f"{count}_bucket", model="m", version="2", le="+Inf") == sent + 6
    assert 0 < total(durations, f"{count}_sum", model="m", version="2") < 60
    assert total(found["mldeploy_inflight_requests"], "mldeploy_inflight_requests") == 0
    assert total(found["mldeploy_request_bytes"], "mldeploy_request_bytes_total", version="1") == 7 * 2
    infos = {
        (s.labels["model"], s.labels["version"], s.labels["part"])
        for s in found["mldeploy_model_version_info"]
    }
    assert infos == {("m", "1", "previous"), ("m", "2", "stable")}
    assert total(found["mldeploy_http_requests"], "mldeploy_http_requests_total", kind="infer") == sent + 19
    assert total(found["mldeploy_front_up"], "mldeploy_front_up") == 2
    assert total(found["mldeploy_ready"], "mldeploy_ready") == 1


def test_a_front_that_does_not_answer_does_not_hold_up_the_scrape(host, build):
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front(0, stats_seconds=0.2)
    host.front(1, stats_seconds=0.2)
    host.fronts[1].send_signal(signal.SIGSTOP)
    try:
        status, _, text = host.ask("GET", "/metrics")
        while 'mldeploy_front_up{front="1"} 0' not in text:  # the kernel may ask the one that stands still
            status, _, text = host.ask("GET", "/metrics")
    finally:
        host.fronts[1].send_signal(signal.SIGCONT)
    assert status == 200
    assert 'mldeploy_front_up{front="0"} 1' in text


def test_inflight_is_shown_while_it_lasts(host, build, wire):
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front()
    line = wire(host)
    line.send(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 14\r\n\r\n")
    line.send(b'{"do": "hold"}')
    host.until(lambda: total(scrape(host)["mldeploy_inflight_requests"], "mldeploy_inflight_requests") == 1)
    host.infer(body={"do": "release"})
    assert line.answer()[0] == 200
    assert total(scrape(host)["mldeploy_inflight_requests"], "mldeploy_inflight_requests") == 0


def test_stats_say_when_a_version_was_last_used(host, build):
    one, two = build.version(host.worker("w1", 1)), build.version(host.worker("w2", 2))
    host.write(m=build.model({1: one, 2: two}))
    host.front()
    host.infer()
    stats = host.control({"op": "stats"})
    used = {c["version"]: c["last_used"] for c in stats["counters"]}
    assert used[1] is None
    assert used[2] > 1_600_000_000
    assert stats["pid"] == host.fronts[0].pid
    assert stats["generation"] == 1


def test_the_access_log_has_a_line_a_request(host, build):
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front(access_log=True)
    host.infer(x_request_id="r-1")
    host.ask("GET", "/nowhere?x=secret")
    assert host.stop_front() == 0
    lines = [json.loads(line) for line in host.errors().splitlines() if line.startswith("{")]
    assert [(e["method"], e["path"], e["status"]) for e in lines] == [
        ("POST", "/v2/models/m/infer", 200), ("GET", "/nowhere", 404),
    ]  # fmt: skip
    assert lines[0]["version"] == "m@1"
    assert lines[0]["request_id"] == "r-1"
    assert lines[0]["bytes_in"] == 2
    assert lines[0]["ms"] >= 0


def test_no_access_log_unless_asked_for(host, build):
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front()
    host.infer()
    assert host.stop_front() == 0
    assert host.errors() == ""
