"""The routing table made ready for use: names resolved, workers looked up, header lines encoded.

Made once for every new table, and never changed: a request in progress keeps what it was given.
"""

from __future__ import annotations

from collections.abc import Iterator

from mldeploy.core.routing import Split
from mldeploy_daemon.front.feed import Feed, Shadow, make_feed
from mldeploy_daemon.front.inputs import KeyOf
from mldeploy_daemon.front.metrics import Count, Metrics, Series
from mldeploy_daemon.front.upstream import Pool, Worker
from mldeploy_daemon.table import SHADOW, ModelRoutes, Table, VersionRoutes, WorkerRoute, scopes_of


class Version:
    """One version: its ready workers, and what its answers carry."""

    def __init__(
        self, model: str, number: int, routes: VersionRoutes, workers: tuple[Worker, ...], series: Series
    ) -> None:
        self.ref = f"{model}@{number}"
        self.model = model
        self.number = number
        self.routes = routes
        self.workers = workers
        self.series = series
        self.line = b"mldeploy-version: %b\r\n" % self.ref.encode()
        self.counts: tuple[Count, ...] = ()  # of the requests that are routed to it
        self.feed: Feed | None = None  # who gets copies of them
        self.turn = 0  # where the search for a worker begins, so that equal ones take turns


class Model:
    """One model: its versions by number and by part."""

    def __init__(self, name: str, routes: ModelRoutes, versions: dict[str, Version], series: Series) -> None:
        self.name = name
        self.routes = routes
        self.versions = versions
        self.series = series  # of requests no version could be chosen for
        self.parts = {
            "stable": self._part(routes.stable),
            "candidate": self._part(routes.candidate),
            "previous": self._part(routes.previous),
        }
        self.stable = self.parts["stable"]
        self.candidate = self.parts["candidate"]
        self.split = Split(routes.salt, routes.share) if routes.share else None
        self.key = KeyOf(routes.key)

    def _part(self, number: int | None) -> Version | None:
        return None if number is None else self.versions.get(str(number))


class Routes:
    """A whole table."""

    def __init__(self, table: Table, models: dict[str, Model]) -> None:
        self.table = table
        self.models = models
        versions = (version for model in models.values() for version in model.versions.values())
        self.feeds = tuple(version.feed for version in versions if version.feed is not None)


def named_workers(table: Table) -> Iterator[WorkerRoute]:
    """Every worker of the table."""
    for model in table.models.values():
        for version in model.versions.values():
            yield from version.workers


def version_keys(table: Table) -> set[tuple[str, int]]:
    """(model, version) of everything the table names, and (model, 0) of each model."""
    keys = {(name, int(number)) for name, model in table.models.items() for number in model.versions}
    return keys | {(name, 0) for name in table.models}


def scope_keys(table: Table) -> set[tuple[str, int]]:
    """(model, scope) of everything that is counted as evidence."""
    keys = {(name, model.scope) for name, model in table.models.items()}
    return keys | {(name, shadow.scope) for name, model in table.models.items() for shadow in model.shadows}


def make_routes(table: Table, pool: Pool, metrics: Metrics) -> Routes:
    """`table` made ready; `pool` must have been told of it before. Raises ValueError for a bad version."""
    models = {}
    for name, model in table.models.items():
        versions = {}
        for number, version in model.versions.items():
            workers = tuple(pool.workers[worker.id] for worker in version.workers)
            series = metrics.series(name, int(number))
            versions[number] = Version(name, int(number), version, workers, series)
        models[name] = made = Model(name, model, versions, metrics.series(name, 0))
        _count(made, metrics)
    return Routes(table, models)


def _count(model: Model, metrics: Metrics) -> None:
    """Say in which scopes the requests of stable and candidate count, and who gets copies of them."""
    name, routes = model.name, model.routes
    shadows = tuple(
        Shadow(shadow, metrics.scoped(name, shadow.version, shadow.scope, SHADOW))
        for shadow in routes.shadows
    )
    for version in (model.stable, model.candidate):
        if version is None:
            continue
        version.counts = tuple(
            metrics.scoped(name, version.number, scope, role)
            for scope, role in scopes_of(routes, version.number)
            if role != SHADOW
        )
        copied = shadows if version is model.stable else ()
        version.feed = make_feed(name, version.number, model.key, version.routes, version.series, copied)
