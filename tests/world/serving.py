"""What the fronts and the mirror of a simulated machine answer and count.

A front goes by the production table (`ModelRoutes`), splits by the production hash and counts with the
production front's own `Metrics`; the mirror's comparisons are production values. Left out: which workers
there are (`machine.py`), and what the clients want (`clients.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mldeploy.core.evidence import Comparison, Latency, Measure
from mldeploy.core.host import Desired, ModelRoute, Worker
from mldeploy_daemon.front.metrics import Metrics
from mldeploy_daemon.fronts import Total
from mldeploy_daemon.publish import model_routes
from mldeploy_daemon.table import SHADOW, ModelRoutes, ShadowRoute, Table, scopes_of
from tests.world.clients import KEYS, Clients, agreeing, answered, chosen
from tests.world.rollouts import Rollouts
from tests.world.telling import Telling


@dataclass
class SimFront:
    """A front: the table it goes by, its requests in flight by worker, and what it has counted."""

    index: int
    instance: str  # no other front, ever, has the same
    generation: int = 0
    routes: dict[str, ModelRoute] = field(default_factory=dict)
    table: dict[str, ModelRoutes] = field(default_factory=dict)
    inflight: Counter[str] = field(default_factory=Counter)
    metrics: Metrics = field(default_factory=Metrics)
    _told: dict[tuple[str, int, int, str], tuple[tuple[int, ...], Measure]] = field(default_factory=dict)

    def measures(self) -> tuple[Measure, ...]:
        """All that it has counted, made anew where it has gone on."""
        found = {}
        for key, count in self.metrics._counts.items():
            mark = (count.requests, count.offered, count.dropped)
            known = self._told.get(key)
            found[key] = known if known is not None and known[0] == mark else (mark, count.measure())
        self._told = found
        return tuple(measure for _, measure in found.values())


def table_of(generation: int, routes: dict[str, ModelRoute], desired: Desired) -> Table:
    """The production table of these routes, without what only sockets need."""
    none: Counter[tuple[str, int]] = Counter()
    models = {
        name: model_routes(route, desired, name, (), lambda digest: None, none, none)
        for name, route in routes.items()
    }
    return Table(generation=generation, models=models)


class Serving:
    """One machine's. `worker` gives a live one of those named, or None."""

    def __init__(
        self,
        name: str,
        clients: Clients,
        rollouts: Rollouts,
        telling: Telling,
        seed: int,
        worker: Callable[[tuple[str, ...]], Worker | None],
        crash: Callable[[str], None],
    ) -> None:
        self.name, self.clients, self.rollouts, self.telling = name, clients, rollouts, telling
        self.worker, self.crash = worker, crash
        self.totals: Counter[tuple[str, int]] = Counter()  # requests that were answered, by version
        self.copies: dict[tuple[str, int, int, str], Measure] = {}  # what the mirror has counted
        self.mirror = ""  # which process that is
        self._draw = np.random.Generator(np.random.PCG64(seed))

    def ask(self, front: SimFront, now: float, allowed: float) -> None:
        """All clients ask that front. `allowed`: see `Rollouts.routed`."""
        for name, routes in front.table.items():
            each = self.clients.ask(name, now)
            route = front.routes[name]
            if not each:
                continue
            stable = self._up(route, routes.stable)
            keys: frozenset[str] = frozenset()
            candidate = self._up(route, routes.candidate) if routes.share else None
            if candidate is not None and routes.candidate is not None:
                keys = chosen(routes.salt, routes.share)
                self.rollouts.routed(self.name, front.index, name, routes, keys, allowed)
                self._answer(front, name, routes, candidate, each * len(keys))
            if stable is None:
                continue  # nobody answers the others
            self._answer(front, name, routes, stable, each * (len(KEYS) - len(keys)))
            for shadow in routes.shadows:
                copied = chosen(shadow.salt or shadow.id, shadow.fraction) - keys
                self._copy(front, name, route, shadow, each * len(copied))

    def pinned(self, model: str, version: int) -> None:
        """One client names a version: a use, and no evidence."""
        self.totals[model, version] += 1
        self.telling.used(self.name, f"{model}@{version}")

    def answers(self) -> dict[tuple[str, int], Total]:
        """By version, as the agent has it of its fronts."""
        return {key: Total(requests=count) for key, count in self.totals.items()}

    def _up(self, route: ModelRoute, version: int | None) -> Worker | None:
        return self.worker(route.workers.get(version, ())) if version is not None else None

    def _answer(self, front: SimFront, name: str, routes: ModelRoutes, worker: Worker, count: int) -> None:
        if not count:
            return
        version = worker.version
        came = answered(self.clients.quality(worker.digest), count, self._draw)
        for scope, role in scopes_of(routes, version):
            if role == SHADOW:
                continue
            counted = front.metrics.scoped(name, version, scope, role)
            counted.requests += count
            counted.failures += came.failures
            for index, found in came.latency.items():
                counted.latency[index] += found
            self.rollouts.counted(counted.key, count)
        self.totals[name, version] += count
        self.telling.used(self.name, f"{name}@{version}")
        if came.crashes:
            self.crash(worker.id)

    def _copy(self, front: SimFront, name: str, route: ModelRoute, shadow: ShadowRoute, count: int) -> None:
        if not count:
            return
        offered = front.metrics.scoped(name, shadow.version, shadow.scope, SHADOW)
        offered.offered += count
        worker = self.worker(route.idle.get(shadow.version, ()))
        if worker is None:
            offered.dropped += count
            return
        quality = self.clients.quality(worker.digest)
        came, alike = answered(quality, count, self._draw), agreeing(quality, count, self._draw)
        alike = min(alike, count - came.failures)
        compared = Comparison(
            pairs=count, failed=came.failures, agreed=alike, within=alike, latency=Latency(came.latency)
        )
        measure = Measure(
            model=name, version=shadow.version, scope=shadow.scope, role=SHADOW, comparison=compared
        )
        known = self.copies.get(measure.key)
        self.copies[measure.key] = measure if known is None else known.merge(measure)
        self.rollouts.counted(measure.key, count)
        if came.crashes:
            self.crash(worker.id)
