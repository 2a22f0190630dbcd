"""Shadows under saturation: the primary beside itself, in alternating windows with a shadow and without.

The load comes from one Python process on the same machine and takes all it can get; so the shadow has to give
way, and what is measured is what its giving way costs. The processor time of front and primary for a request
says the same on a machine that has other work too, give or take some percent: how the connections fall to the
fronts is chance. Afterwards a trickle shows that the shadow comes back.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from bench.serving import host, judge, make_load, rate
from mldeploy.client.daemon import LocalDaemon
from mldeploy.core.evidence import Comparison
from mldeploy.core.records import Action, Shadow, Unshadow
from mldeploy.demo.load import v2_request
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import Log
from mldeploy.store.objects import open_store
from mldeploy_daemon.measure_file import read_measures

_WINDOW, _SETTLE = 3.0, 1.0
_PAIRS = 5
_FRACTION = 2_000


def run() -> Iterator[str]:
    """A linear model on 64 features, one row a request; the shadow gets 20 % of them."""
    with host() as (daemon, client, folder):
        yield from _alternate(daemon, folder, client.store)


def _alternate(daemon: LocalDaemon, folder: Path, store: str) -> Iterator[str]:
    windows: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
    _window(daemon, folder)  # warm
    ident = ""
    for pair in range(_PAIRS):
        for shadowed in (pair % 2 == 0, pair % 2 == 1):  # so that no side is always first
            if shadowed and not ident:
                ident = new_ulid()
                _say(store, Shadow(model="linear", version=2, shadow=ident, fraction=_FRACTION))
                _until(lambda: _routed(folder))
            elif not shadowed and ident:
                _say(store, Unshadow(shadow=ident))
                ident = ""
                _until(lambda: not _routed(folder))
            windows[shadowed].append(_window(daemon, folder))
    for index, (what, unit, scale) in enumerate(
        (("throughput", "/s", 1.0), ("p99", " ms", 1e3), ("processor time a request", " µs", 1e6))
    ):
        without, beside = ([window[index] for window in windows[side]] for side in (False, True))
        ratio = statistics.median(beside) / statistics.median(without)
        yield (
            f"{what}: {statistics.median(without) * scale:.1f}{unit} without a shadow, "
            f"{statistics.median(beside) * scale:.1f}{unit} with one: {ratio:.3f} ×"
        )
    counts = _counts(folder)
    yield (
        f"of {counts.offered} requests chosen for it {counts.pairs} were compared, {counts.dropped} dropped; "
        f"paused {counts.pauses} times, {counts.paused_ms / 1000:.1f} s"
    )
    if not ident:
        ident = new_ulid()
        _say(store, Shadow(model="linear", version=2, shadow=ident, fraction=_FRACTION))
        _until(lambda: _routed(folder))
    yield _resumed(daemon, folder)


def _resumed(daemon: LocalDaemon, folder: Path) -> str:
    """At some hundred requests a second. One connection that asks without a pause keeps two processors busier
    than shadows resume at.
    """
    parts, body = urlsplit(daemon.address), v2_request("x", "FP64", [[0.5] * 64])
    before, began = _counts(folder).pairs, time.monotonic()
    with contextlib.closing(http.client.HTTPConnection(parts.hostname or "", parts.port)) as connection:

        def paired() -> bool:
            for _ in range(20):
                connection.request("POST", "/v2/models/linear/infer", body)
                connection.getresponse().read()
            return _counts(folder).pairs > before + 50

        try:
            _until(paired, 60.0)
        except TimeoutError:
            return "with a trickle it did not resume within 60 s: something keeps this machine busy"
    return f"with a trickle, 50 more pairs after {time.monotonic() - began:.1f} s"


def _window(daemon: LocalDaemon, folder: Path) -> tuple[float, float, float]:
    """At 32 connections: requests a second, their 99th percentile, and processor time each, in seconds."""
    pressed = make_load(daemon, 32)
    spent = _processor(folder)
    pressed.start()
    threading.Event().wait(_SETTLE + _WINDOW)
    tally = pressed.stop()
    spent = _processor(folder) - spent
    judge(tally)
    ended = tally.ended[-1]
    return rate(tally), tally.percentile(0.99, ended - _WINDOW, ended), spent / len(tally.ended)


def _processor(folder: Path) -> float:
    """Seconds that the fronts and the workers of the primary have had of a processor."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            inside = (path / "cwd").readlink() == (folder / "host").resolve()
            stat = (path / "stat").read_text().rpartition(")")[2].split()
            niced = int(stat[16]) > 0
        except OSError:
            continue
        if inside and not niced and (b"mldeploy_daemon.front" in command or b"boot.py" in command):
            ticks += int(stat[11]) + int(stat[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _counts(folder: Path) -> Comparison:
    found = [each.comparison for each in read_measures(folder / "host/measures.json") if each.comparison]
    total = Comparison()
    for each in found:
        total = total.merge(each)
    return total


def _routed(folder: Path) -> bool:
    routes = json.loads((folder / "host/run/routes.json").read_bytes())
    return bool(routes["models"]["linear"].get("shadows"))


def _say(store: str, action: Action) -> None:
    Log(open_store(store)).append(lambda _: (action,), actor="bench", now=datetime.now(UTC))


def _until(done: Callable[[], bool], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError("the shadow did not come, or go, in time")
        threading.Event().wait(0.1)
