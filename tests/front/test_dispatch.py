"""The dispatcher by itself: a host of nothing but a table, and a worker nobody can reach."""

from __future__ import annotations

import asyncio
import time

import pytest

from mldeploy_daemon.front.config import Limits
from mldeploy_daemon.front.dispatch import Dispatcher
from mldeploy_daemon.front.exchange import Exchange
from mldeploy_daemon.front.metrics import Metrics
from mldeploy_daemon.front.router import resolve
from mldeploy_daemon.front.routes import make_routes, named_workers
from mldeploy_daemon.front.upstream import Link, Worker
from mldeploy_daemon.table import Table, WorkerRoute


class Host:
    """What a dispatcher needs of its front, and the bytes it holds."""

    def __init__(self, build) -> None:
        self.limits = Limits()
        self.metrics = Metrics()
        self.mirror = None
        self.buffered = 0
        self.dispatcher = Dispatcher(self)
        worker = WorkerRoute(id="w1", socket="run/w1.sock")
        table = Table(models={"m": build.model({1: build.version(worker)})})
        self.dispatcher.pool.route(named_workers(table))
        self.routes = make_routes(table, self.dispatcher.pool, self.metrics)

    def ask(self, body: bytes, milliseconds: int) -> Exchange:
        """A request with so much time, from a client that goes away at once."""
        exchange = Exchange(None)
        exchange.body, exchange.size, exchange.started = body, len(body), time.monotonic()
        exchange.headers[b"x-request-timeout-ms"] = b"%d" % milliseconds
        self.buffered += exchange.size
        self.dispatcher.infer(exchange, resolve(b"/v2/models/m/infer"))
        return exchange

    def forget(self, exchange: Exchange) -> None:
        self.buffered -= exchange.size
        exchange.size = 0

    def counted(self) -> tuple[int, int]:
        """Failures, and bytes that came in."""
        series = self.metrics.series("m", 1)
        return series.requests[5], series.bytes_in


@pytest.fixture
def unreachable(monkeypatch):
    """Connecting to a worker takes for ever."""

    async def connect(worker: Worker) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Worker, "_connect", connect)


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


def test_who_leaves_while_a_worker_is_being_connected_to_is_counted_once_the_time_is_up(build, unreachable):
    async def run() -> None:
        host = Host(build)
        host.ask(b"12345", 1)
        assert (host.buffered, host.dispatcher.pool.inflight()) == (5, {"w1": 1})
        await until(lambda: host.dispatcher.pool.inflight() == {"w1": 0})
        assert host.buffered == 0
        assert host.counted() == (1, 5)

    asyncio.run(run())


def test_who_leaves_while_a_worker_has_it_is_counted_when_that_answers(build, unreachable):
    async def run() -> None:
        host = Host(build)
        worker = host.dispatcher.pool.workers["w1"]
        worker.link = link = Link(worker, worker._handlers, 0)
        exchange = host.ask(b"12345", 1)
        await until(lambda: not exchange.body)  # the time is up
        assert (host.buffered, host.counted()) == (5, (0, 0))
        link.connection_lost(None)
        assert host.dispatcher.pool.inflight() == {"w1": 0}
        assert host.buffered == 0
        assert host.counted() == (1, 5)

    asyncio.run(run())
