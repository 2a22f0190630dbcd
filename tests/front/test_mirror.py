"""Copies to shadows: a real front, a real mirror, and workers whose answers can be computed beside them."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import socket
from itertools import pairwise

import msgspec
import pytest

from mldeploy.core.evidence import Comparison, Measure, merge
from mldeploy.core.manifest import Tensor
from mldeploy.core.routing import choose
from mldeploy_daemon.front.mirror import ONE_IN
from mldeploy_daemon.table import ModelRoutes, ShadowRoute, VersionRoutes

_numbers = itertools.count(10)
SAME = [[-1e9, 1.0, 0.0]]
#: Nearly the same from 3 on, another number from 7 on.
OTHER = [[-1e9, 1.0, 0.0], [3.0, 1.0, 1e-9], [7.0, 0.5, 0.3]]
INPUTS = (Tensor(name="x", datatype="FP64", shape=(-1,)),)
OUTPUTS = (
    Tensor(name="y", datatype="FP64", shape=(-1,)),
    Tensor(name="label", datatype="BYTES", shape=(-1,)),
)


def version(*workers):
    return VersionRoutes(workers=workers, inputs=INPUTS, outputs=OUTPUTS)


def serve(host, *shadows: ShadowRoute, primary=None, **more):
    """Model m: version 1 serves, the rest are shadows."""
    primary = primary or host.worker(f"p{next(_numbers)}", 1, score=SAME)
    versions = {"1": version(primary)} | {str(each.version): version(*each.workers) for each in shadows}
    more.setdefault("scope", 4)
    routes = ModelRoutes(stable=1, versions=versions, shadows=shadows, **more)
    host.publish(m=routes)
    return primary


def shadow(host, number: int = 2, **more) -> ShadowRoute:
    options = more.pop("worker", {"score": OTHER})
    more.setdefault("workers", (host.worker(f"w{next(_numbers)}", number, **options),))
    more.setdefault("scope", next(_numbers))
    return ShadowRoute(id=f"s{more['scope']}", version=number, salt=f"salt{number}", **more)


def ask(host, x, **headers):
    values = x if isinstance(x, list) else [x]
    tensor = {"name": "x", "shape": [len(values)], "datatype": "FP64", "data": values}
    return host.infer(body={"inputs": [tensor]}, **headers)


def connected(host) -> None:
    """Wait until the front has found the mirror: from now on nothing is dropped for want of one."""
    host.until(lambda: host.control({"op": "stats"})["mirrored"])


def comparison(host, route: ShadowRoute) -> Comparison:
    """What front and mirror have counted together of that shadow."""
    told = [*host.control({"op": "stats"})["measures"], *host.mirrored()["measures"]]
    found = [m for m in merge(msgspec.convert(told, list[Measure], strict=False)) if m.role == "shadow"]
    return next(m.comparison for m in found if m.scope == route.scope)


def settled(host, route: ShadowRoute) -> Comparison:
    """The same, once every copy has its end."""

    def look():
        found = comparison(host, route)
        return found if found.pairs + found.dropped == found.offered else None

    return host.until(look)


def offline(xs: list[float], fails_above: float) -> Comparison:
    """The figures, computed from the requests alone."""

    def score(x: float, rules) -> float:
        _, slope, bias = [rule for rule in rules if x > rule[0]][-1]
        return slope * x + bias

    answered = [(score(x, SAME), score(x, OTHER)) for x in xs if x <= fails_above]
    orders = [(a2 - a1) * (b2 - b1) for (a1, b1), (a2, b2) in pairwise(answered)]
    return Comparison(
        offered=len(xs),
        pairs=len(xs),
        failed=len(xs) - len(answered),
        agreed=sum(a == b for a, b in answered),
        within=sum(abs(a - b) <= 1e-8 + 1e-5 * abs(a) for a, b in answered),
        classed=len(answered),
        same_class=sum((a > 5) == (b > 5) for a, b in answered),
        concordant=sum(order > 0 for order in orders),
        discordant=sum(order < 0 for order in orders),
    )


@pytest.fixture(scope="module")
def host(module_host):
    """One front and one mirror for the tests that ask nothing special of them."""
    module_host.front(stats_seconds=30)  # the mirror comes last on a busy machine
    module_host.mirror()
    return module_host


def test_the_figures_are_those_of_an_offline_computation(host):
    everything = shadow(host, 2, worker={"score": OTHER, "fails_above": 9.0})
    chosen = shadow(
        host, 3, fraction=2_000, where="header.country in [NL, BE] and input.x > 1",
        worker={"score": OTHER, "fails_above": 9.0},
    )  # fmt: skip
    serve(host, everything, chosen)
    connected(host)
    dice = random.Random(7)
    sent = [(dice.uniform(0, 10), dice.choice(["NL", "BE", "DE"]), f"id-{n}") for n in range(250)]
    for x, country, ident in sent:
        status, _, body = ask(host, x, country=country, x_request_id=ident)
        assert (status, body["outputs"][0]["data"]) == (200, [x])
    found = msgspec.structs.replace(settled(host, everything), latency=Comparison().latency)
    assert found == offline([x for x, _, _ in sent], 9.0)
    picked = [
        x for x, country, ident in sent
        if country in ("NL", "BE") and x > 1 and choose(ident, "salt3", 2_000)
    ]  # fmt: skip
    assert 10 < len(picked) < 60
    found = settled(host, chosen)
    assert found.latency.total == len(picked)
    assert msgspec.structs.replace(found, latency=Comparison().latency) == offline(picked, 9.0)


def test_rows_of_one_request_are_compared_together(host):
    route = shadow(host)
    serve(host, route)
    connected(host)
    assert ask(host, [1.0, 2.0, 4.0])[0] == 200  # within, not the same
    assert ask(host, [1.0, 8.0, 2.0])[0] == 200  # 8 is another number and another class
    found = settled(host, route)
    assert (found.pairs, found.agreed, found.within, found.same_class) == (2, 0, 1, 1)
    assert (found.concordant, found.discordant) == (5, 0)


def test_pinned_and_refused_requests_are_not_copied(host):
    route = shadow(host)
    serve(host, route)
    connected(host)
    for path in ("versions/1/", "versions/stable/", "versions/2/"):
        assert host.infer(f"/v2/models/m/{path}infer")[0] == 200
    assert host.infer(body={"do": "status", "status": 400})[0] == 400
    assert ask(host, 1.0)[0] == 200
    assert settled(host, route).offered == 1


def test_a_shadow_that_never_answers_costs_its_copies_and_nothing_else(host):
    route = shadow(host, worker={"score": OTHER, "deaf": True})
    serve(host, route)
    connected(host)
    for n in range(400):
        assert ask(host, float(n))[0] == 200
    most = 256 + 8  # the queue, and what is at the worker
    found = host.until(lambda: (c := comparison(host, route)).dropped >= 400 - most and c)
    assert (found.offered, found.dropped, found.pairs) == (400, 400 - most, 0)
    host.infer("/v2/models/m/versions/2/infer", body={"do": "hear"})
    found = settled(host, route)
    assert (found.pairs, found.dropped) == (most, 400 - most)


def test_a_shadow_that_dies_fails_and_primaries_do_not(host):
    route = shadow(host, worker={"score": OTHER, "die_on": 3})
    primary = serve(host, route)
    connected(host)
    for n in range(5):
        assert ask(host, float(n))[0] == 200
        host.until(lambda n=n: (c := comparison(host, route)).pairs + c.dropped > min(n, 2))
    found = comparison(host, route)
    assert (found.pairs - found.failed, found.failed) == (2, 1)
    serve(host, shadow(host, scope=route.scope), primary=primary)
    assert ask(host, 1.0)[0] == 200
    found = settled(host, route)
    assert found.failed >= 1
    assert found.pairs - found.failed >= 3


def test_the_end_of_the_mirror_is_nobodys_business(fresh_host):
    host = fresh_host
    host.front()
    first = host.mirror()
    route = shadow(host, worker={"score": SAME})
    serve(host, route)
    connected(host)
    for n in range(30):
        if n == 10:
            os.kill(first.pid, signal.SIGKILL)
            first.wait()
        assert ask(host, float(n))[0] == 200
    assert host.control({"op": "stats"})["measures"]
    host.mirror()
    connected(host)
    before = host.control({"op": "stats"})
    dropped = next(m["comparison"].get("dropped", 0) for m in before["measures"] if m["role"] == "shadow")
    assert dropped <= 20
    for n in range(5):
        assert ask(host, float(n))[0] == 200
    host.until(lambda: comparison(host, route).agreed == 5)


def test_a_mirror_that_stands_still_costs_copies_and_no_memory(fresh_host):
    host = fresh_host
    host.front(mirror_buffer=65_536)
    mirror = host.mirror()
    route = shadow(host, worker={"score": SAME})
    serve(host, route)
    connected(host)
    mirror.send_signal(signal.SIGSTOP)
    values = [float(n) for n in range(1_000)]
    try:
        dropped = 0
        while dropped <= 20:
            assert ask(host, values)[0] == 200
            told = host.control({"op": "stats"})["measures"]
            counted = next(m["comparison"] for m in told if m["role"] == "shadow")
            dropped = counted.get("dropped", 0)
            assert counted["offered"] < 1_000, "somebody holds everything"
    finally:
        mirror.send_signal(signal.SIGCONT)
    ended = settled(host, route)
    assert ended.agreed == ended.offered - ended.dropped > 0


def test_long_bodies_are_not_copied(fresh_host):
    host = fresh_host
    host.front(mirror_body=2_000)
    host.mirror()
    route = shadow(host, worker={"score": SAME})
    serve(host, route)
    connected(host)
    assert ask(host, [float(n) for n in range(500)])[0] == 200
    assert ask(host, 1.0)[0] == 200
    found = settled(host, route)
    assert (found.offered, found.dropped, found.agreed) == (2, 1, 1)


def test_a_full_queue_pauses_and_its_end_resumes(fresh_host):
    host = fresh_host
    host.front()
    host.mirror(queue=0.5)
    route = shadow(host, worker={"score": SAME, "deaf": True})
    serve(host, route)
    connected(host)
    sent = 0
    while not host.mirrored()["paused"]:
        assert sent < 2_000
        assert ask(host, float(sent))[0] == 200
        sent += 1
    assert host.mirrored()["why"] == "queue"
    host.until(lambda: host.control({"op": "stats"})["mirrored"] == "paused")
    before = comparison(host, route)
    for n in range(2 * ONE_IN):
        assert ask(host, float(n))[0] == 200
    now = comparison(host, route)
    assert now.offered == before.offered + 2 * ONE_IN  # two were looked at
    assert now.dropped == before.dropped + 2 * ONE_IN
    host.infer("/v2/models/m/versions/2/infer", body={"do": "hear"})
    host.until(lambda: not host.mirrored()["paused"])
    host.until(lambda: host.control({"op": "stats"})["mirrored"] == "connected")
    assert ask(host, 1.0)[0] == 200
    found = settled(host, route)
    assert found.pauses == 1
    assert found.paused_ms >= 1_000
    assert found.agreed == found.pairs


def test_a_busy_machine_gets_no_copies_at_all(fresh_host):
    host = fresh_host
    host.front()
    host.mirror(pressure=-1.0)  # whatever it has to do is too much
    route = shadow(host, worker={"score": SAME})
    serve(host, route)
    host.until(lambda: host.mirrored()["paused"])
    host.until(lambda: host.control({"op": "stats"})["mirrored"] == "paused")
    before = comparison(host, route)
    for n in range(3 * ONE_IN):
        assert ask(host, float(n))[0] == 200
    found = comparison(host, route)
    assert (found.offered, found.dropped) == (before.offered + 3 * ONE_IN, before.dropped + 3 * ONE_IN)
    assert found.pairs == before.pairs
    assert (found.pauses, host.mirrored()["why"]) == (1, "processor")


@pytest.mark.parametrize("garbage", [b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n" * 10])
def test_garbage_ends_its_connection_and_nothing_else(host, garbage):
    route = shadow(host, worker={"score": SAME})
    serve(host, route)
    connected(host)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(host.state / "run/copies.sock"))
        sock.sendall(garbage)
        assert sock.recv(100) == b""
    assert ask(host, 1.0)[0] == 200
    assert settled(host, route).agreed == 1


def test_an_ended_shadow_keeps_its_figures_and_its_worker_is_let_go(host):
    route = shadow(host, worker={"score": SAME})
    primary = serve(host, route)
    connected(host)
    assert ask(host, 1.0)[0] == 200
    settled(host, route)
    serve(host, primary=primary)
    assert host.mirrored()["inflight"] == {}
    assert comparison(host, route).agreed == 1


def test_copies_that_come_before_or_after_the_table_are_dropped_and_counted(host):
    primary = serve(host, shadow(host, worker={"score": SAME}))
    connected(host)
    early = shadow(host, worker={"score": SAME})
    routes = ModelRoutes(
        stable=1, shadows=(early,), versions={"1": version(primary), "2": version(*early.workers)}
    )
    host.write(m=routes)
    host.control({"op": "table"})  # the front knows it, and the mirror does not
    for n in range(3):
        assert ask(host, float(n))[0] == 200
    host.publish(m=routes)
    assert ask(host, 1.0)[0] == 200
    found = settled(host, early)
    assert (found.offered, found.dropped, found.agreed) == (4, 3, 1)
    host.write(m=ModelRoutes(stable=1, versions={"1": version(primary)}))
    host.tell_mirror()  # and now the other way
    assert ask(host, 1.0)[0] == 200
    assert settled(host, early).dropped == 4


def test_a_starved_shadow_does_not_hang(fresh_host):
    host = fresh_host
    host.front()
    host.mirror(queue=0.1)
    route = shadow(host, worker={"score": SAME, "deaf": True})
    serve(host, route)
    connected(host)
    assert ask(host, 1.0)[0] == 200
    host.until(lambda: host.mirrored()["oldest_ms"])
    for n in range(60):
        assert ask(host, float(n))[0] == 200
    host.until(lambda: host.mirrored()["paused"])
    assert host.mirrored()["oldest_ms"] == {}


def test_metrics_show_what_is_compared(host):
    route = shadow(host, worker={"score": SAME})
    serve(host, route)
    connected(host)
    ask(host, 1.0)
    settled(host, route)
    kept = {"past": [json.loads(msgspec.json.encode(each)) for each in _told(host)]}
    (host.state / "measures.json").write_text(json.dumps(kept))
    text = host.ask("GET", "/metrics")[2]
    scope = f'scope="{route.scope}"'
    assert f'mldeploy_shadow_agreed_total{{model="m",version="2",{scope}}} 1' in text
    assert f'mldeploy_rollout_requests_total{{model="m",version="1",{scope},role="stable"}} 1' in text
    assert "\nmldeploy_mirror_up 1\n" in text
    assert "\nmldeploy_mirror_paused 0\n" in text


def _told(host) -> tuple[Measure, ...]:
    told = [*host.control({"op": "stats"})["measures"], *host.mirrored()["measures"]]
    return merge(msgspec.convert(told, list[Measure], strict=False))


def test_pairs_are_kept_as_asked(host):
    route = shadow(host, keep=3)
    primary = serve(host, route)
    connected(host)
    for n in range(12):
        assert ask(host, 8.0 + n)[0] == 200
    assert settled(host, route).pairs == 12
    serve(host, primary=primary)
    (file,) = host.until(lambda: list((host.state / f"pairs/{route.id}").glob("*.jsonl")))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 3
    first = lines[0]
    x = first["request"]["inputs"][0]["data"][0]
    assert first["answer"]["outputs"][0]["data"] == [x]
    assert first["shadow_answer"]["outputs"][0]["data"] == [0.5 * x + 0.3]
    assert (first["version"], first["shadow_status"], first["within"]) == (1, 200, False)
    assert (host.state / f"pairs/{route.id}/kept").read_text() == "3"
