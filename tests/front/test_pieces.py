"""The pure pieces: addresses, the table's bytes, the histogram, request ids, deadlines."""

from __future__ import annotations

import asyncio
import math
import re
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mldeploy.core.evidence import Measure, Tally
from mldeploy_daemon.front import exposition
from mldeploy_daemon.front.deadlines import Deadlines
from mldeploy_daemon.front.exchange import request_id
from mldeploy_daemon.front.metrics import BUCKETS, Metrics, Series
from mldeploy_daemon.front.router import resolve
from mldeploy_daemon.table import (
    ModelRoutes,
    ShadowRoute,
    Table,
    VersionRoutes,
    decode_table,
    encode_table,
    write_table,
)


@pytest.mark.parametrize(
    ("url", "kind", "model", "version"),
    [
        (b"/v2/models/m/infer", "infer", "m", None),
        (b"/v2/models/m/versions/7/infer?a=/b", "infer", "m", "7"),
        (b"http://host:8080/v2/models/m/infer", "infer", "m", None),
        (b"/v2/models/a%2Fb/ready", "model_ready", "a/b", None),
        (b"/v2/models/%E0%A4%A/ready", "model_ready", "\ufffd%A", None),
        (b"/v2/models/versions/versions/versions", "metadata", "versions", "versions"),
        (b"/", "page", "", None),
        (b"http://host", "page", "", None),
        (b"/v2/", "server", "", None),
        (b"//v2", "unknown", "", None),
        (b"/V2", "unknown", "", None),
        (b"*", "unknown", "", None),
        (b"/v2/models/m/versions/7/infer/more", "unknown", "", None),
        (b"/v2/models", "unknown", "", None),
    ],
)
def test_addresses(url, kind, model, version):
    route = resolve(url)
    assert (route.kind, route.model, route.version) == (kind, model, version)


@given(st.binary(max_size=80))
def test_any_address_resolves_to_something(url):
    assert resolve(url).kind


def test_the_table_s_bytes_round_trip_and_allow_new_keys(tmp_path):
    table = Table(generation=3, models={"m": ModelRoutes(stable=1, versions={"1": VersionRoutes()})})
    assert decode_table(encode_table(table)) == table
    raw = msgspec.json.decode(encode_table(table))
    raw["new"] = raw["models"]["m"]["new"] = 1
    assert decode_table(msgspec.json.encode(raw)) == table
    write_table(table, tmp_path / "routes.json")
    assert [path.name for path in tmp_path.iterdir()] == ["routes.json"]
    with pytest.raises(msgspec.ValidationError):
        decode_table(b'{"generation":"3"}')


def test_a_duration_is_in_the_bucket_whose_bound_it_does_not_exceed():
    series = Series("m", 1)
    for seconds in (0.0, BUCKETS[0], BUCKETS[0] * 1.01, BUCKETS[-1], 1e6):
        series.observe(200, seconds, 0, 0, 1.0)
    assert series.buckets[0] == 2
    assert series.buckets[1] == 1
    assert series.buckets[len(BUCKETS) - 1] == 1
    assert series.buckets[-1] == 1
    assert sum(series.buckets) == sum(series.requests) == 5


def test_counters_of_what_has_long_left_the_table_are_dropped():
    metrics = Metrics()
    metrics.series("m", 1), metrics.series("m", 2)
    metrics.scoped("m", 2, 7, "stable"), metrics.scoped("m", 2, 8, "stable")
    metrics.routed({("m", 2)}, {("m", 8)}, 0.0)
    metrics.routed({("m", 2)}, {("m", 8)}, 3_000.0)
    assert len(metrics.dump()["counters"]) == len(metrics.dump()["measures"]) == 2
    metrics.routed({("m", 2)}, {("m", 8)}, 3_700.0)
    assert [c["version"] for c in metrics.dump()["counters"]] == [2]
    assert [measure.scope for measure in metrics.dump()["measures"]] == [8]


def test_label_values_are_escaped():
    table = Table(environment='a"b\\c\nd')
    assert rb'environment="a\"b\\c\nd"' in exposition.render(table, True, {})


def test_the_evidence_of_what_is_under_way_and_of_what_ended_last_is_shown():
    def measure(scope: int, model: str = "m") -> Measure:
        return Measure(model=model, version=2, scope=scope, role="stable", tally=Tally(requests=scope))

    table = Table(
        models={"m": ModelRoutes(stable=2, scope=9, shadows=(ShadowRoute(id="s", version=3, scope=5),))}
    )
    shown = exposition.render(
        table, True, {}, (*map(measure, (5, 7, 8, 9)), measure(3, "n"), measure(4, "n"))
    ).decode()
    found = re.findall(r'rollout_requests_total\{model="(.)",version="2",scope="(.)".*\} (.)\n', shown)
    assert sorted(found) == [("m", "5", "5"), ("m", "8", "8"), ("m", "9", "9"), ("n", "4", "4")]


@pytest.mark.parametrize("given_id", [b"a", b"x" * 128, b"a-b/c.d:e"])
def test_request_ids_kept(given_id):
    assert request_id(given_id) == given_id


@pytest.mark.parametrize("given_id", [None, b"", b"x" * 129, b"a b", b"\xff", b"a\tb"])
def test_request_ids_replaced(given_id):
    made = request_id(given_id)
    assert made != given_id
    assert made.isascii()
    assert made != request_id(given_id)


class Item:
    def __init__(self, deadline: float) -> None:
        self.deadline = deadline


def test_deadlines_ring_in_order_and_not_before():
    async def run() -> None:
        now = time.monotonic()
        items = [Item(now + 0.03), Item(now + 0.01), Item(math.inf), Item(now + 0.02)]
        order, done = [], asyncio.Event()

        def expire(item: Item, at: float) -> None:
            assert item.deadline <= at
            item.deadline = math.inf
            order.append(items.index(item))
            if len(order) == 3:
                done.set()

        deadlines: Deadlines[Item] = Deadlines(lambda: items, expire, slack=0.0)
        for item in items:
            deadlines.at(item.deadline)
        async with asyncio.timeout(5):
            await done.wait()
        assert order == [1, 3, 0]
        items[2].deadline = now
        deadlines.close()
        deadlines.at(now)
        assert order == [1, 3, 0]

    asyncio.run(run())
