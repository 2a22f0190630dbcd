"""The routing table made ready for use: names resolved, workers looked up, header lines encoded.

Made once for every new table, and never changed: a request in progress keeps what it was given.
"""

from __future__ import annotations

from collections.abc import Iterator

from mldeploy.core.routing import Key, parse_key
from mldeploy.errors import UsageError
from mldeploy_daemon.front.metrics import Metrics, Series
from mldeploy_daemon.front.upstream import Pool, Worker
from mldeploy_daemon.table import ModelRoutes, Table, VersionRoutes, WorkerRoute


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
        key = _key(routes.key)
        self.header = key.name.encode() if key.source == "header" else None
        self.input = key.name if key.source == "input" else None

    def _part(self, number: int | None) -> Version | None:
        return None if number is None else self.versions.get(str(number))


class Routes:
    """A whole table."""

    def __init__(self, table: Table, models: dict[str, Model]) -> None:
        self.table = table
        self.models = models


def _key(text: str) -> Key:
    try:
        return parse_key(text)
    except UsageError:  # of a newer agent: the request id serves until this front is replaced too
        return Key()


def named_workers(table: Table) -> Iterator[WorkerRoute]:
    """Every worker of the table."""
    for model in table.models.values():
        for version in model.versions.values():
            yield from version.workers


def version_keys(table: Table) -> set[tuple[str, int]]:
    """(model, version) of everything the table names, and (model, 0) of each model."""
    keys = {(name, int(number)) for name, model in table.models.items() for number in model.versions}
    return keys | {(name, 0) for name in table.models}


def make_routes(table: Table, pool: Pool, metrics: Metrics) -> Routes:
    """`table` made ready; `pool` must have been told of it before. Raises ValueError for a bad version."""
    models = {}
    for name, model in table.models.items():
        versions = {}
        for number, version in model.versions.items():
            workers = tuple(pool.workers[worker.id] for worker in version.workers)
            series = metrics.series(name, int(number))
            versions[number] = Version(name, int(number), version, workers, series)
        models[name] = Model(name, model, versions, metrics.series(name, 0))
    return Routes(table, models)
