"""Live inputs and outputs against a baseline: counted by the mirror, equal to a count beside it."""

from __future__ import annotations

import json
import random

import msgspec
import numpy as np

from mldeploy.core.baseline import Baseline, Bins
from mldeploy.core.evidence import Measure, merge
from mldeploy_daemon.table import ModelRoutes, ShadowRoute
from tests.front.test_mirror import SAME, ask, connected, version

EDGES = (2.0, 4.0, 6.0, 8.0)
BASELINE = Baseline(
    rows=500,
    columns=(
        Bins(name="x", side="inputs", tensor="x", edges=EDGES, counts=(100, 100, 100, 100, 100)),
        Bins(name="y", side="outputs", tensor="y", edges=(5.0,), counts=(250, 250)),
        Bins(
            name="label", side="outputs", tensor="label", kind="category", values=("low",), counts=(250, 250)
        ),
    ),
)


def serve(host, *, share: int = 0):
    (host.state / "baseline.json").write_bytes(msgspec.json.encode(BASELINE))
    one, two = (
        msgspec.structs.replace(version(host.worker(f"w{n}", n, score=SAME)), baseline="baseline.json")
        for n in (1, 2)
    )
    routes = ModelRoutes(stable=1, candidate=2, share=share, salt="r", scope=9, versions={"1": one, "2": two})
    host.publish(m=routes)


def drift(host) -> dict[tuple[int, str], dict]:
    told = merge(msgspec.convert(host.mirrored()["measures"], list[Measure], strict=False))
    return {(each.version, each.role): each.drift.columns for each in told if each.drift}


def counted(host) -> int:
    return sum(columns["x"].total for columns in drift(host).values())


def test_every_sampled_request_is_counted_in_its_bins(host):
    host.front(mirror_samples=1e9, stats_seconds=30)
    host.mirror()
    serve(host, share=4_000)
    connected(host)
    dice = random.Random(3)
    seen: dict[str, list[float]] = {"1": [], "2": []}
    for number in range(150):
        x = dice.uniform(3, 10)  # nothing in the first bin
        status, _, body = ask(host, x, x_request_id=f"id-{number}")
        assert status == 200
        seen[body["model_version"]].append(x)
    host.infer("/v2/models/m/versions/1/infer", body={"inputs": []})  # pinned: not counted
    host.until(lambda: counted(host) == 150)
    for key, role in (("1", "stable"), ("2", "candidate")):
        columns = drift(host)[int(key), role]
        expected = np.histogram(seen[key], [-np.inf, *EDGES, np.inf])[0]
        assert list(columns["x"].live) == expected.tolist()
        high = sum(x > 5 for x in seen[key])
        assert columns["y"].live == (len(seen[key]) - high, high)
        assert columns["label"].live == (len(seen[key]) - high, high)
        assert columns["x"].psi() > 0.25
        base, live = np.array(columns["x"].baseline) + 0.5, expected + 0.5
        base, live = base / base.sum(), live / live.sum()
        assert np.isclose(columns["x"].psi(), float(((live - base) * np.log(live / base)).sum()))
    text = host.ask("GET", "/metrics")[2]
    assert 'mldeploy_drift{model="m",version="2",tensor="x"}' in text
    assert f'mldeploy_drift_values{{model="m",version="1",tensor="y"}} {len(seen["1"])}' in text


def test_what_cannot_be_read_is_not_counted_and_harms_nobody(host):
    host.front(mirror_samples=1e9, stats_seconds=30)
    host.mirror()
    serve(host)
    connected(host)
    for body in (b"{}", b'{"inputs":[{"name":"z","shape":[1],"datatype":"FP64","data":[1]}],"do":1}'):
        host.infer(body=body)
    assert ask(host, 5.0)[0] == 200
    host.until(lambda: counted(host) == 1)


def test_samples_are_few_a_second(host):
    host.front(mirror_samples=0.001)
    host.mirror()
    serve(host)
    connected(host)
    for _ in range(50):
        assert ask(host, 5.0)[0] == 200
    host.until(lambda: counted(host) == 1)
    assert counted(host) == 1


def test_a_baseline_that_is_gone_or_garbage_is_none(host):
    host.front(mirror_samples=1e9, stats_seconds=30)
    host.mirror()
    serve(host)
    (host.state / "baseline.json").write_text(json.dumps({"rows": "many"}))
    host.stop_front()
    host.front(mirror_samples=1e9, stats_seconds=30)
    assert ask(host, 5.0)[0] == 200
    assert host.mirrored()["generation"] == host.generation


def test_a_shadow_is_held_against_its_own_baseline(host):
    host.front(stats_seconds=30)
    host.mirror()
    (host.state / "baseline.json").write_bytes(msgspec.json.encode(BASELINE))
    one, other = host.worker("w1", 1, score=SAME), host.worker("w2", 2, score=[[-1e9, 0.0, 9.0]])
    versions = {
        "1": version(one),
        "2": msgspec.structs.replace(version(other), baseline="baseline.json"),
    }
    shadow = ShadowRoute(id="s", version=2, scope=9, workers=(other,))
    host.publish(m=ModelRoutes(stable=1, versions=versions, shadows=(shadow,)))
    connected(host)
    assert ask(host, [1.0, 3.0, 5.0])[0] == 200
    columns = host.until(lambda: drift(host).get((2, "shadow")))
    assert columns["x"].live == (1, 1, 1, 0, 0)
    assert columns["y"].live == (0, 3)  # its answers, not the primary's
    assert columns["label"].live == (0, 3)
    assert 'mldeploy_drift{model="m",version="2",tensor="y"}' in host.ask("GET", "/metrics")[2]
