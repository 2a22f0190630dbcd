"""Serving: predictions beside the same front's health answer, and a swap beside the calm before it.

The health answer is the floor: the same HTTP, the same connections, no model. The load comes from one Python
process on the same machine, so that the ratios mean more than the figures.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from mldeploy.client import Client
from mldeploy.client.daemon import LocalDaemon
from mldeploy.demo.load import Load, Tally, v2_answer, v2_request

_SECONDS = 4.0
_SWAPS = 10

_MODEL = """
import numpy as np

class Model:
    def load(self, folder):
        self.weights = np.random.default_rng(VERSION).normal(size=(64, 10))

    def predict(self, x):
        return (x @ self.weights).argmax(axis=1)
"""


def run() -> Iterator[str]:
    """A linear model on 64 features, one row a request."""
    with host() as (daemon, client, _):
        for connections in (1, 8, 32):
            yield _compare(daemon, connections)
        yield _swaps(daemon, client)


@contextlib.contextmanager
def host() -> Iterator[tuple[LocalDaemon, Client, Path]]:
    """A daemon that serves version 1 of `linear`, with version 2 published; a client; and their folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        client = Client(str(folder / "store"))
        for version in (1, 2):
            client.push(_source(folder / f"v{version}", version))
        client.promote("linear@1")
        daemon = LocalDaemon(store=client.store, state=folder / "host", listen="127.0.0.1:0")
        daemon.start()
        try:
            client.wait("linear", timeout=120)
            yield daemon, client, folder
        finally:
            daemon.stop()


def _compare(daemon: LocalDaemon, connections: int) -> str:
    floor, model = make_load(daemon, connections, "/v2/health/live"), make_load(daemon, connections)
    for load in (floor, model):
        load.start()
        threading.Event().wait(_SECONDS)
        judge(load.stop())
    ours, bare = rate(model.tally), rate(floor.tally)
    return (
        f"{connections:>2} connections: {ours:6.0f}/s, "
        f"p50 {_ms(model.tally, 0.5)}, p99 {_ms(model.tally, 0.99)}; "
        f"{ours / bare:.2f} × the front's health answer ({bare:.0f}/s)"
    )


def _swaps(daemon: LocalDaemon, client: Client) -> str:
    load = make_load(daemon, 32)
    load.start()
    threading.Event().wait(_SECONDS)
    began = load.tally.ended[-1]
    for turn in range(_SWAPS):
        client.promote(f"linear@{2 - turn % 2}")
        client.wait("linear", timeout=120)
    ended = load.tally.ended[-1]
    tally = load.stop()
    judge(tally)
    before = tally.percentile(0.99, began - _SECONDS, began)
    during = tally.percentile(0.99, began, ended)
    return (
        f"{_SWAPS} swaps in a row, 32 connections: {(ended - began) / _SWAPS:.2f} s each, "
        f"0 of {tally.total} failed, p99 {during * 1000:.1f} ms, {during / before:.1f} × the calm before"
    )


def make_load(daemon: LocalDaemon, connections: int, path: str = "/v2/models/linear/infer") -> Load:
    """Constant load on that path, not started yet."""
    parts = urlsplit(daemon.address)
    body = v2_request("x", "FP64", [[0.5] * 64])

    def check(_index: int, _status: int, answer: bytes) -> str:
        return v2_answer(answer)[0] if "infer" in path else "live"

    load = Load(str(parts.hostname), parts.port or 0, path, [body], check, connections)
    if "infer" not in path:
        load.requests = [f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()]
    return load


def judge(tally: Tally) -> None:
    """End the benchmark where a request failed: its figures would mean nothing."""
    if tally.failures or tally.disagreements:
        raise SystemExit(f"error: the load failed: {(tally.failures + tally.disagreements)[0]}")


def rate(tally: Tally) -> float:
    """Answers a second."""
    return len(tally.ended) / (tally.ended[-1] - tally.ended[0])


def _ms(tally: Tally, share: float) -> str:
    return f"{tally.percentile(share, 0, float('inf')) * 1000:.1f} ms"


def _source(folder: Path, version: int) -> Path:
    (folder / "samples").mkdir(parents=True)
    (folder / "model.py").write_text(_MODEL.replace("VERSION", str(version)))
    request = json.loads(v2_request("x", "FP64", [[0.5] * 64]))
    (folder / "samples/0.request.json").write_text(json.dumps(request))
    (folder / "model.yaml").write_text(
        "name: linear\nowner: bench@example.com\nexpires: 30d\nentry: model:Model\nrequirements: [numpy]\n"
        "signature:\n  inputs: [{name: x, datatype: FP64, shape: [-1, 64]}]\n"
    )
    return folder
