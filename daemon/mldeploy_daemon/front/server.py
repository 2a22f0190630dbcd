"""One front: the newest table, the connections, and what a request is answered with.

A table is replaced by one assignment; requests already routed finish with the worker they were given.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from mldeploy_daemon.front import answers, control, exposition, page, v2
from mldeploy_daemon.front import router as kinds
from mldeploy_daemon.front.accesslog import AccessLog
from mldeploy_daemon.front.config import FrontConfig
from mldeploy_daemon.front.deadlines import Deadlines
from mldeploy_daemon.front.dispatch import Dispatcher
from mldeploy_daemon.front.exchange import Exchange
from mldeploy_daemon.front.http import Connection
from mldeploy_daemon.front.metrics import Metrics
from mldeploy_daemon.front.mirror import Mirror
from mldeploy_daemon.front.router import Route, resolve
from mldeploy_daemon.front.routes import Routes, make_routes, named_workers, scope_keys, version_keys
from mldeploy_daemon.measure_file import MEASURES, read_measures
from mldeploy_daemon.table import Reading, Table

#: Addresses whose route is remembered, and how long one may be.
_REMEMBERED, _SHORT = 4_096, 256

log = logging.getLogger(__name__)


class Front:
    """See the module. Everything runs on one event loop."""

    def __init__(self, config: FrontConfig) -> None:
        self.config = config
        self.limits = config.limits
        self.metrics = Metrics()
        self.connections: set[Connection] = set()
        self.timers: Deadlines[Connection] = Deadlines(lambda: self.connections, _expire, slack=0.1)
        self.buffered = 0
        self.draining = self.stopping = False
        self.routes = Routes(Table(), {})
        self._reading = Reading()
        self.mirror = Mirror(config.limits, config.fronts)
        self.dispatcher = Dispatcher(self)
        self.path = control.socket_path(config.front)
        self._access = AccessLog() if config.access_log else None
        self._remembered: dict[bytes, Route] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._simple = self._handlers()
        self._empty = asyncio.Event()  # no connection is open; looked at only while stopping
        self._empty.set()

    # the table

    def swap(self, table: Table) -> None:
        """Route by `table` from now on. Raises ValueError for a table that does not hold together."""
        keys = version_keys(table)  # raises before anything has changed
        self.dispatcher.pool.route(named_workers(table))
        self.routes = make_routes(table, self.dispatcher.pool, self.metrics)
        self.metrics.routed(keys, scope_keys(table), time.monotonic())
        self.mirror.wanted(self.routes.feeds)
        self.dispatcher.rerouted()

    def reload(self, told: Any = None) -> dict[str, Any]:
        """Read the table again, or take the one that came along; one that cannot be read leaves the old one
        in place.
        """
        try:
            if (table := self._reading.read(told)) is not None:
                self.swap(table)
        except FileNotFoundError:
            log.info("no routing table yet")  # the agent has not decided anything since the keeper started
            return {"ok": False, "error": "no routing table yet", **self._acknowledged()}
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            log.error("the routing table cannot be used: %s", error)
            return {"ok": False, "error": str(error), **self._acknowledged()}
        return {"ok": True, **self._acknowledged()}

    def _acknowledged(self) -> dict[str, Any]:
        inflight = self.dispatcher.pool.inflight()
        return {"generation": self.routes.table.generation, "inflight": inflight}

    @property
    def ready(self) -> bool:
        """Whether a load balancer should send requests here."""
        return self.routes.table.ready and not self.leaving

    @property
    def leaving(self) -> bool:
        """Whether traffic is to leave: this process is about to stop, or the host is drained."""
        return self.draining or self.routes.table.drained

    def drain(self) -> None:
        """Not ready from now on, but still serving."""
        self.draining = True

    def stats(self) -> dict[str, Any]:
        """What the agent and the sibling fronts want to know; `control.py` lists the keys."""
        pool = self.dispatcher.pool
        stats = self.metrics.dump()
        inflight: dict[tuple[str, int], int] = {}
        for exchange in pool.exchanges():
            if exchange.series:
                key = (exchange.series.model, exchange.series.version)
                inflight[key] = inflight.get(key, 0) + 1
        for series in stats["counters"]:
            series["inflight"] = inflight.get((series["model"], series["version"]), 0)
        return {
            "front": self.config.front,
            "pid": os.getpid(),
            "draining": self.draining,
            "mirrored": self.mirror.state,
            "connections": len(self.connections),
            "buffered": self.buffered,
            "oldest_ms": pool.oldest_ms(time.monotonic()),
            **self._acknowledged(),
            **stats,
        }

    # requests

    def handle(self, exchange: Exchange) -> None:
        """Answer a whole request, now or later."""
        exchange.started = time.monotonic()
        route = self._remembered.get(exchange.url) or self._resolve(exchange.url)
        exchange.kind = route.kind
        try:
            if exchange.method not in route.methods:
                self._wrong(exchange, route)
            elif route.kind == kinds.INFER:
                self.dispatcher.infer(exchange, route)
            elif route.kind == kinds.METRICS:
                self._later(self._metrics(exchange))
            else:
                self._respond(exchange, self._simple[route.kind](exchange, route))
        except Exception:
            log.exception("a request failed: %s %r", exchange.method, exchange.url[:_SHORT])
            self._respond(exchange, v2.refusal(500, "internal error"))

    def _resolve(self, url: bytes) -> Route:
        route = resolve(url)
        if route.methods and len(url) <= _SHORT:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[url] = route
        return route

    def _wrong(self, exchange: Exchange, route: Route) -> None:
        if not route.methods:
            self._respond(exchange, v2.refusal(404, f"there is nothing at {route.path or '/'!r}"))
            return
        message = f"use {' or '.join(route.methods)} here, not {exchange.method}"
        self._respond(exchange, v2.refusal(405, message)._replace(extra=route.allow))

    def _handlers(self) -> dict[str, Callable[[Exchange, Route], v2.Answer]]:
        return {
            kinds.SERVER: lambda _, __: v2.server(_version()),
            kinds.LIVE: lambda _, __: v2.live(self.ready),
            kinds.READY: lambda _, __: v2.ready(self.ready, self.leaving),
            kinds.METADATA: lambda _, route: v2.metadata(self.routes, route),
            kinds.MODEL_READY: lambda _, route: v2.model_ready(self.routes, route, self.leaving),
            kinds.INDEX: lambda exchange, _: v2.index(self.routes, exchange),
            kinds.MANAGE: lambda _, __: v2.manage(),
            kinds.PAGE: lambda exchange, _: page.page(
                self.routes, exchange.headers.get(b"accept", b""), self.ready
            ),
        }

    def _respond(self, exchange: Exchange, answer: v2.Answer) -> None:
        if exchange.conn:
            exchange.conn.respond(exchange, answer.status, answer.body, answer.kind, answer.extra)

    async def _metrics(self, exchange: Exchange) -> None:
        try:
            fronts = await control.ask_siblings(self.path, self.limits.stats_seconds)
            fronts[str(self.config.front)] = self.stats()
            mirror = await control.ask(control.MIRROR, {"op": "stats"}, self.limits.stats_seconds)
            measures = read_measures(MEASURES)
            text = exposition.render(self.routes.table, self.ready, fronts, measures, mirror)
        except Exception:
            log.exception("the metrics could not be put together")
            self._respond(exchange, v2.refusal(500, "internal error"))
        else:
            self._respond(exchange, v2.Answer(200, text, answers.METRICS))

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def answered(self, exchange: Exchange, status: int, sent: int, now: float) -> None:
        """Count and log a request that has its answer."""
        started = exchange.started or now
        if exchange.series:
            exchange.series.observe(status, now - started, exchange.size, sent, now)
        for count in exchange.counts:
            count.observe(status, now - started)
        self.metrics.count(exchange.kind or "refused", status)
        if self._access:
            self._access.write(exchange, status, sent, now - started)
        self.forget(exchange)

    def gone(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def forget(self, exchange: Exchange) -> None:
        """Its body is not held any more."""
        self.buffered -= exchange.size
        exchange.size = 0

    # life

    def start(self) -> None:
        """Start what runs beside the event loop."""
        if self._access:
            self._access.start()

    async def stop(self) -> None:
        """Finish what is in flight, for at most Limits.stop_seconds, and let go of everything."""
        self.draining = self.stopping = True
        for connection in tuple(self.connections):
            connection.stop(time.monotonic())
        if self.connections:
            self._empty.clear()
        try:
            async with asyncio.timeout(self.limits.stop_seconds):
                await self._empty.wait()
        except TimeoutError:
            log.warning("%d connections were cut off", len(self.connections))
        self.timers.close()
        self.dispatcher.close()
        self.mirror.close()
        if self._access:
            self._access.close()


def _expire(connection: Connection, now: float) -> None:
    connection.expire(now)


def _version() -> str:
    try:
        return version("mldeploy")
    except PackageNotFoundError:
        return "0"
