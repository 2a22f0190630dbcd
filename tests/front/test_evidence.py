"""What is counted as evidence: every routed request once, under its version, scope and role, and no other."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mldeploy.core.evidence import LAST_BUCKET, Measure, bucket, edge, merge
from mldeploy_daemon.front.metrics import Count
from mldeploy_daemon.table import ShadowRoute


def measures(host, *fronts: int) -> dict[tuple[int, int, str], Measure]:
    found = []
    for number in fronts or (0,):
        dumped = host.control({"op": "stats"}, number)["measures"]
        found += msgspec.convert(dumped, list[Measure], strict=False)
    return {(each.version, each.scope, each.role): each for each in merge(found)}


def test_routed_requests_count_in_their_scope_and_pinned_ones_nowhere(host, build):
    one, two = build.version(host.worker("w1", 1)), build.version(host.worker("w2", 2))

    def write(share, scope):
        return build.model({1: one, 2: two}, stable=1, candidate=2, share=share, salt="r", scope=scope)

    host.write(m=write(5_000, 12))
    host.front(0)
    sent = {"1": 0, "2": 0}
    for number in range(40):
        sent[host.infer(x_request_id=f"a-{number}")[2]["model_version"]] += 1
    for number in range(6):
        host.infer("/v2/models/m/versions/candidate/infer")
        host.infer("/v2/models/m/versions/1/infer", x_request_id=f"b-{number}")
    found = measures(host)
    assert set(found) == {(1, 12, "stable"), (2, 12, "candidate")}
    assert found[1, 12, "stable"].tally.requests == sent["1"] > 0
    assert found[2, 12, "candidate"].tally.requests == sent["2"] > 0
    assert found[2, 12, "candidate"].tally.latency.total == sent["2"]
    host.publish(m=write(10_000, 15))
    for _ in range(3):
        host.infer(body={"do": "status", "status": 400})
    for _ in range(2):
        host.infer(body={"do": "status", "status": 500})
    host.infer(body={"do": "hold"}, x_request_timeout_ms="30")
    found = measures(host)
    assert found[2, 12, "candidate"].tally.requests == sent["2"]  # the scope before stands still
    new = found[2, 15, "candidate"].tally
    assert (new.requests, new.failures, new.refusals) == (6, 3, 3)
    assert max(new.latency.counts) >= bucket(0.03)
    assert found[1, 15, "stable"].tally.requests == 0


def test_stable_counts_beside_every_shadow(host, build):
    one, two = build.version(host.worker("w1", 1)), build.version(host.worker("w2", 2))
    shadows = tuple(
        ShadowRoute(id=f"s{scope}", version=2, scope=scope, workers=two.workers) for scope in (21, 22)
    )
    host.write(m=build.model({1: one, 2: two}, stable=1, shadows=shadows))
    host.front()
    for _ in range(5):
        host.infer()
    found = measures(host)
    assert {key: each.tally.requests for key, each in found.items()} == {
        (1, 21, "stable"): 5, (1, 22, "stable"): 5, (2, 21, "shadow"): 0, (2, 22, "shadow"): 0,
    }  # fmt: skip
    comparison = found[2, 21, "shadow"].comparison
    assert (comparison.offered, comparison.dropped) == (
        5,
        5,
    )  # no mirror runs: it is counted, and costs nothing


def test_nothing_is_counted_where_nothing_is_judged(host, build):
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}))
    host.front()
    host.infer()
    assert measures(host) == {}


def test_a_lost_request_is_a_failure(host, build):
    one = build.version(host.worker("w1", 1))
    host.write(m=build.model({1: one}, scope=3))
    host.front()
    assert host.infer(body={"do": "die"})[0] == 503
    tally = measures(host)[1, 3, "stable"].tally
    assert (tally.requests, tally.failures) == (1, 1)


def test_what_a_newer_table_refuses_is_no_failure_of_the_version_before(host, build, wire):
    host.write(m=build.model({1: build.version(host.worker("w1", 1))}, scope=3))
    host.front()
    line = wire(host)
    line.send(b'POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 14\r\n\r\n{"do": "hold"}')
    host.until(lambda: host.inflight()["w1"] == 1)
    host.publish(m=build.model({1: build.version(state="loading")}, scope=3))
    host.kill_worker("w1")
    assert line.answer()[0] == 503
    tally = measures(host)[1, 3, "stable"].tally
    assert (tally.requests, tally.failures) == (0, 0)


@given(st.floats(0, 200))
def test_latencies_fall_in_the_buckets_of_the_evidence(seconds):
    count = Count("m", 1, 1, "stable")
    count.observe(200, seconds)
    (found,) = count.measure().tally.latency.counts
    assert found == bucket(seconds) or math.isclose(edge(bucket(seconds)), seconds, rel_tol=1e-8)


def test_edges_fall_below_them():
    for index in range(LAST_BUCKET):
        count = Count("m", 1, 1, "stable")
        count.observe(200, edge(index))
        assert count.measure().tally.latency.counts == {index: 1}
