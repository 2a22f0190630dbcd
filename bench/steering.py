"""Steering a fleet: the time of one look, and the requests of each host in an hour.

A look is of 10,000 hosts and 10,000 models, 100 of them being rolled out. The hours are of fleets with few
models: requests hang on what is under way, not on how many there are. The store is in memory and its clock is
moved: what is counted are requests and the time of our own code, not a network. Polls and reports, which a
host makes whatever is under way, are told beside.
"""

from __future__ import annotations

import contextlib
import functools
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any
from unittest import mock

import msgspec

from mldeploy.core.controller import Reports, propose, ranked, report_pause
from mldeploy.core.evidence import Latency, Measure, Tally
from mldeploy.core.retirement import Heard
from mldeploy.core.state import Host, Model, Ramp, Serving, State, Version
from mldeploy.store.fleet import Fleet, group_of
from mldeploy.store.memory import MemoryStore
from mldeploy.store.objects import Fetched
from mldeploy.store.reports import HostReport, write_report
from mldeploy_daemon import steering
from mldeploy_daemon.steering import Steering

_HOSTS, _MODELS, _RAMPS = 10_000, 10_000, 100
_GUARDS = ("error_rate < 1.5x", "p99 < 1.5x", "crashes < 1")
#: Minutes that are played: with nothing under way the first look comes after a quarter of an hour.
_MINUTES, _QUIET_MINUTES = 5, 61


def run() -> Iterator[str]:
    """The tick at full size, and an hour of fleets of several sizes."""
    state = _state(_HOSTS, _MODELS, _RAMPS)
    what = f"{_HOSTS:,} hosts, {_MODELS:,} models, {_RAMPS} ramps"
    yield f"propose {_seconds(state, _reports(state)) * 1e3:6.0f} ms of processor time: {what}"
    quiet = _state(_HOSTS, _MODELS, 0)
    reports = msgspec.structs.replace(_reports(quiet), measures=(), up={})
    yield f"propose {_seconds(quiet, reports) * 1e3:6.0f} ms of processor time: the same with no ramp"
    for ramps in (1, 0):
        for hosts in (10, 100, 1_000, 10_000):
            yield _hour(hosts, ramps)


def _seconds(state: State, reports: Reports) -> float:
    """The processor time of one look."""
    times = []
    for _ in range(3):
        began = time.process_time()
        propose(state, reports, 5_000.0)
        times.append(time.process_time() - began)
    return statistics.median(times)


def _version(number: int) -> Version:
    return Version(
        version=number, digest="", push="", blobs=(), size=0, owner="o", expires="2040-01-01", python="3.11",
        platform="linux-x86_64", actor="", published="", seq=number,
    )  # fmt: skip


def _state(hosts: int, models: int, ramps: int) -> State:
    names = [f"model-{number}" for number in range(models)]
    serving = {}
    for number, name in enumerate(names):
        ramp = Ramp(
            rollout=f"r{number}", version=2, steps=(100, 10_000), step=0, seq=7, begun=7, guards=_GUARDS,
            min_requests=10**9, deadline=10**9,
        )  # fmt: skip
        serving[name] = Serving(stable=1, ramp=ramp if number < ramps else None)
    return State(
        head=10,
        models={name: Model(name=name, versions={1: _version(1), 2: _version(2)}) for name in names},
        environments={"production": serving},
        hosts={
            f"host-{number}": Host(
                id=f"host-{number}", environment="production", hostname="", labels={}, seq=1, joined=""
            )
            for number in range(hosts)
        },
    )


def _measures(ramps: int, requests: int) -> tuple[Measure, ...]:
    chance = random.Random(1)
    latency = Latency()
    for _ in range(2_000):
        latency.observe(chance.lognormvariate(-4.5, 0.8))
    tally = Tally(requests=requests, failures=requests // 100, latency=latency)
    return tuple(
        Measure(model=f"model-{number}", version=version, scope=7, role=role, tally=tally)
        for number in range(ramps)
        for version, role in ((1, "stable"), (2, "candidate"))
    )


def _reports(state: State) -> Reports:
    heard = tuple(Heard(host=host, at=4_990.0, head=10, watched=1.0) for host in state.hosts)
    # said by each host for itself, as they are read: no two of these share a value
    up = {host: tuple(f"model-{number}@2" for number in range(_RAMPS)) for host in state.hosts}
    return Reports(
        environment="production", heard=heard, measures=_measures(_RAMPS, 2_000), up=up, began={7: 1_000.0}
    )


class _Here(Executor):
    """Does the work at once: one thread is enough to count."""

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*args, **kwargs))
        return done


class _Store(MemoryStore):
    """Counts requests; every report is fresh, and merged ones are as old as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 1_900_000_000.0
        self.asked = 0
        self.written: dict[str, float] = {}

    def put(self, key: str, data: bytes) -> None:
        self.asked += 1
        self.written[key] = self.clock
        super().put(key, data)

    def get(self, key: str) -> Fetched | None:
        self.asked += 1
        found = super().get(key)
        if found is None:
            return None
        fresh = "merged-" not in key
        return Fetched(found.data, self.clock - 5 if fresh else self.written[key])


@contextlib.contextmanager
def _once_for_all() -> Iterator[None]:
    """What every host would reckon for itself is reckoned once: it is requests that are counted."""
    orders: dict[tuple[frozenset[str], str], list[str]] = {}

    def remembered(hosts: Iterable[str], matter: str) -> list[str]:
        key = frozenset(hosts), matter
        if key not in orders:
            orders[key] = ranked(key[0], matter)
        return orders[key]

    groups = functools.cache(group_of)
    with mock.patch.multiple(steering, ranked=remembered, group_of=groups):
        yield


def _hour(hosts: int, ramps: int) -> str:
    """Every host steers for some minutes of the store's time."""
    with _once_for_all():
        return _steered(hosts, ramps)


def _steered(hosts: int, ramps: int) -> str:
    store, state = _Store(), _state(hosts, 10, ramps)
    for host in state.hosts:
        write_report(
            store,
            HostReport(host=host, environment="production", head=10, measures=_measures(ramps, 100)),
        )
    mono = 0.0
    made_here = {
        host: Steering("production", host, Fleet(store, lambda _: _Here()), 10.0, lambda: mono)
        for host in state.hosts
    }
    due = dict.fromkeys(ranked(state.hosts, "any"), 0.0)
    made: Counter[str] = Counter(dict.fromkeys(state.hosts, 0))
    minutes = _MINUTES if ramps else _QUIET_MINUTES
    while mono < minutes * 60:
        for host, at in due.items():
            if at <= mono:
                before = store.asked
                turn = made_here[host].look(state)
                made[host] += store.asked - before
                due[host] = mono + max(turn.pause, 1.0)
        mono += 1.0
        store.clock += 1.0
    counts = sorted(round(count * 60 / minutes) for count in made.values())
    polls, reports = 3600 / max(1.0, hosts / 2000), 3600 / max(10.0, report_pause(hosts))
    what = "a ramp under way" if ramps else "nothing under way"
    return (
        f"{hosts:6,} hosts, {what}: requests an hour and host "
        f"median {statistics.median(counts):,.0f}, mean {statistics.mean(counts):,.0f}, most {counts[-1]:,}; "
        f"beside {polls:,.0f} polls and {reports:,.0f} reports at the most"
    )
