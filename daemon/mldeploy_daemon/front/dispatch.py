"""A prediction's way: version, worker, answer; or another worker, a deadline, a refusal.

In flight is counted in `_assign` and uncounted in `_release`, nowhere else. A request whose worker could not
be reached is selected again from the newest table, as if it had just come. One that was sent and lost is
sent once more, to another worker of the same version (predictions have no effects), or wherever the newest
table says if that has stopped naming its worker. A second loss is a 503: it may be the request that kills.
A request for a version that sleeps waits until a table gives it workers, or says that it will not wake.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from mldeploy_daemon.front import answers
from mldeploy_daemon.front.deadlines import Deadlines
from mldeploy_daemon.front.exchange import Exchange
from mldeploy_daemon.front.router import Route
from mldeploy_daemon.front.routes import Routes, Version
from mldeploy_daemon.front.select import Refusal, pick_version, pick_worker
from mldeploy_daemon.front.upstream import Handlers, Pool
from mldeploy_daemon.front.waiting import Waiting

if TYPE_CHECKING:
    from mldeploy.runtime.frames import Frame
    from mldeploy_daemon.front.config import Limits
    from mldeploy_daemon.front.mirror import Mirror

#: Workers tried for one request before it is refused.
_ATTEMPTS = 8


class Host(Protocol):
    """What the dispatcher needs of its front."""

    limits: Limits
    routes: Routes
    mirror: Mirror

    def forget(self, exchange: Exchange) -> None:
        """Its body is not held any more."""


class Dispatcher:
    """All predictions in flight in one front."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.pool = Pool(Handlers(self._answered, self._lost), host.limits)
        self._idents = itertools.count(1)
        self.waiting = Waiting(host.limits.waiting)
        self._timers: Deadlines[Exchange] = Deadlines(self._exchanges, self._expire, slack=0.005)

    def infer(self, exchange: Exchange, route: Route) -> None:
        """Answer a prediction, in its time."""
        exchange.route = route
        headers = exchange.headers
        seconds = self._host.limits.request_seconds
        if b"x-request-timeout-ms" in headers:
            wanted = _number(headers[b"x-request-timeout-ms"])
            if not wanted:
                self._refuse(exchange, 400, "x-request-timeout-ms is not a number of milliseconds above 0")
                return
            seconds = min(seconds, wanted / 1_000)
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            self._refuse(exchange, 415, "the body must not be compressed")
            return
        if b"inference-header-content-length" in headers:
            length = _number(headers[b"inference-header-content-length"])
            if not length or length > len(exchange.body):
                self._refuse(exchange, 400, "inference-header-content-length does not fit the body")
                return
            exchange.header = length
        exchange.deadline = exchange.started + seconds
        self._select(exchange, route, exchange.started)

    def rerouted(self) -> None:
        """There is a new table: whoever waits for what is awake in it, or will not wake, goes on."""
        models = self._host.routes.models
        keys = set()
        for name, number in self.waiting.versions():
            version = models[name].versions.get(str(number)) if name in models else None
            if version is None or version.workers or not version.routes.wakes:
                keys.add((name, number))
        now = time.monotonic()
        for exchange in self.waiting.take(keys):
            if exchange.conn and exchange.route:
                self._select(exchange, exchange.route, now)

    def _exchanges(self) -> Iterator[Exchange]:
        yield from self.pool.exchanges()
        yield from self.waiting.exchanges()

    def close(self) -> None:
        """Disconnect from the workers."""
        self._timers.close()
        self.waiting.close()
        self.pool.close()

    def _select(self, exchange: Exchange, route: Route, now: float) -> None:
        model = self._host.routes.models.get(route.model)
        if model is None:
            exchange.series = exchange.version = exchange.feed = None
            exchange.counts = ()
            self._refuse(exchange, 404, f"there is no model {route.model!r}")
            return
        exchange.series = model.series
        version = pick_version(model, route.version, exchange, self._host.limits.key_bytes)
        if isinstance(version, Refusal):
            exchange.version = exchange.feed = None
            exchange.counts = ()  # of a table before, where this is not the first try
            self._refuse(exchange, version.status, version.message)
            return
        if route.version is None:
            exchange.counts, exchange.feed = version.counts, version.feed
        self._assign(exchange, version, now)

    def _assign(self, exchange: Exchange, version: Version, now: float) -> None:
        exchange.version, exchange.series = version, version.series
        if not version.workers and version.routes.wakes:
            self._hold(exchange, version)
            return
        worker = pick_worker(version, exchange.avoid)
        if worker is None:
            if any(worker.id not in exchange.avoid for worker in version.workers):
                self._refuse(exchange, 503, f"the queues of {version.ref} are full, try again")
            else:
                self._refuse(exchange, 503, f"the workers of {version.ref} have gone away, try again")
            return
        exchange.worker = worker
        worker.inflight += 1
        exchange.ident, exchange.assigned, exchange.sent = next(self._idents), now, False
        self._timers.at(exchange.deadline)
        worker.take(exchange, now)

    def _hold(self, exchange: Exchange, version: Version) -> None:
        if not self.waiting.hold(exchange, version.model, version.number):
            self._refuse(exchange, 503, f"too many requests wait for {version.ref} to wake, try again")
            return
        version.series.held += 1
        self._timers.at(exchange.deadline)

    def _release(self, exchange: Exchange) -> None:
        worker, exchange.worker = exchange.worker, None
        if worker is not None:
            worker.inflight -= 1
            if not worker.routed:
                self.pool.settle(worker)

    def _answered(self, exchange: Exchange, frame: Frame) -> None:
        self._release(exchange)
        conn, version = exchange.conn, exchange.version
        if exchange.answered or conn is None or version is None:
            self._drop(exchange, frame.status)
            return
        body = frame.body if isinstance(frame.body, bytes) else bytes(frame.body)
        extra = version.line
        kind = answers.JSON
        if frame.header:
            kind = answers.BINARY
            extra += b"inference-header-content-length: %d\r\n" % frame.header
        if frame.status in (429, 503):
            extra += answers.RETRY_AFTER
        conn.respond(exchange, frame.status, body, kind, extra)
        if exchange.feed is not None and frame.status == 200:
            self._host.mirror.offer(exchange, exchange.feed, frame, body)

    def _lost(self, exchange: Exchange) -> None:
        worker, route = exchange.worker, exchange.route
        self._release(exchange)
        if worker is None or route is None or exchange.answered or exchange.conn is None:
            self._drop(exchange, 503)
            return
        now = time.monotonic()
        exchange.avoid = (*exchange.avoid, worker.id)
        ref = exchange.version.ref if exchange.version else route.model
        if (exchange.sent and exchange.retried) or len(exchange.avoid) > _ATTEMPTS:
            self._refuse(exchange, 503, f"the workers of {ref} went away before they answered")
            return
        if exchange.sent:
            exchange.retried = True
            if exchange.series:
                exchange.series.retries += 1
            if worker.routed and exchange.version:
                self._assign(exchange, self._newest(exchange.version, route), now)
                return
        self._select(exchange, route, now)

    def _newest(self, version: Version, route: Route) -> Version:
        """The same version as the newest table has it."""
        model = self._host.routes.models.get(route.model)
        return (model and model.versions.get(str(version.number))) or version

    def _expire(self, exchange: Exchange, now: float) -> None:
        worker = exchange.worker
        exchange.deadline = math.inf
        if worker is not None and worker.withdraw(exchange):
            self._release(exchange)
            if exchange.conn is None:  # no worker will bring it back, and nobody is left to be told
                self._drop(exchange, 504)
                return
        exchange.body = b""
        taken = int((now - exchange.started) * 1_000)
        if self.waiting.drop(exchange) and exchange.version:
            version = self._newest(exchange.version, exchange.route) if exchange.route else exchange.version
            reason = version.routes.reason or f"it is {version.routes.state}"
            self._refuse(exchange, 503, f"{version.ref} did not wake within {taken} ms: {reason}")
            return
        self._refuse(exchange, 504, f"no answer within {taken} ms")

    def _refuse(self, exchange: Exchange, status: int, message: str) -> None:
        extra = exchange.version.line if exchange.version else b""
        if status == 503:
            extra += answers.RETRY_AFTER
        if exchange.conn:
            exchange.conn.respond(exchange, status, answers.error_body(message), extra=extra)

    def _drop(self, exchange: Exchange, status: int) -> None:
        """Its client is gone, or was told that the time was up."""
        if not exchange.answered and exchange.series:
            now = time.monotonic()
            exchange.series.observe(status, now - exchange.started, exchange.size, 0, now)
            for count in exchange.counts:
                count.observe(status, now - exchange.started)
            exchange.answered = True
        self._host.forget(exchange)


def _number(text: bytes) -> int | None:
    """A plain decimal of at most nine digits."""
    return int(text) if text.isdigit() and len(text) <= 9 else None
