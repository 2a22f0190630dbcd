"""The routing table as the fronts get it: written to run/routes.json, then told.

It keeps what was published, which the plan starts from, and by worker which generation had it last, so that
the agent knows when no front can send it anything. A table that cannot be written counts as published: it
goes to the fronts with the word, and is written when there is room. The next agent cannot know it, and learns
from the fronts that there was one (`overtaken`). Left out: the decision (`mldeploy.core.plan.table`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from mldeploy.core.baseline import BASELINE
from mldeploy.core.host import Desired, Front, Mirroring, ModelRoute, Worker
from mldeploy.core.manifest import Manifest
from mldeploy.core.standing import Standing, why_unserved
from mldeploy.errors import DiskError
from mldeploy_daemon.disk import REWRITE
from mldeploy_daemon.table import (
    ROUTES,
    ModelRoutes,
    Scopes,
    ShadowRoute,
    Table,
    VersionRoutes,
    WorkerRoute,
    read_table,
    scopes_in,
    write_table,
)
from mldeploy_daemon.worker_files import socket_of

#: What a former run of the keeper published; its fronts are gone.
LAST = Path("run/routes.last.json")


class Left(NamedTuple):
    """A worker that was in a table and is no more."""

    generation: int  # the last that had it
    when: float
    scopes: Scopes  # in which it had its part there


class Publisher:
    """What the fronts were told last."""

    def __init__(self, environment: str, host: str, now: Callable[[], float]) -> None:
        self.environment, self.host, self.now = environment, host, now
        self.table = Table()
        self.routes: dict[str, ModelRoute] = {}
        self.last: dict[str, int] = {}  # of models that are wanted
        self.left: dict[str, Left] = {}  # by worker
        self.slept: Counter[tuple[str, int]] = Counter()
        self.woken: Counter[tuple[str, int]] = Counter()
        self.own = False  # whether this run of the keeper published self.table
        self.unwritten: DiskError | None = None  # why self.table is not on the disk
        self._tried = 0.0  # when it was tried last, by the monotonic clock

    def load(self) -> None:
        """Go on from what is on the disk, if anything readable is."""
        for path, own in ((ROUTES, True), (LAST, False)):
            try:
                self.table = read_table(path)
            except (OSError, msgspec.MsgspecError):
                continue
            if self.table.environment != self.environment:
                # nobody promoted here what another environment served: only the count of tables goes on
                self.table = Table(generation=self.table.generation)
                return
            self.own = own
            models = self.table.models
            self.routes = {name: _route(model, keep_workers=own) for name, model in models.items()}
            served = {name: model.last or model.stable for name, model in models.items()}
            self.last = {name: version for name, version in served.items() if version is not None}
            return

    def adopted(self, workers: Iterable[Worker]) -> None:
        """Of workers of a former agent it is not known which front still has them: the table before had."""
        if self.own:
            for worker in workers:
                if not self._routes_to(worker):
                    scopes = scopes_in(self.table, worker.model, worker.version)
                    left = Left(self.table.generation - 1, self.now(), scopes)
                    self.left.setdefault(worker.id, left)

    def overtaken(self, fronts: Iterable[Front]) -> None:
        """A front knows a later table than this agent: one that a former agent could not write. It may name
        workers that this agent's table does not, until the fronts have a later one.
        """
        newest = max((front.generation for front in fronts), default=0)
        if newest > self.table.generation:
            self.table, self.own = msgspec.structs.replace(self.table, generation=newest), False
            self.left = {worker: Left(newest, self.now(), left.scopes) for worker, left in self.left.items()}

    def placed(self, worker: Worker, oldest_ms: float) -> Worker:
        """The worker with what the tables and the fronts say of it."""
        left = self.left.get(worker.id)
        generation, until = (left.generation, left.when) if left is not None else (None, 0.0)
        if self._routes_to(worker):
            generation = self.table.generation
        return msgspec.structs.replace(
            worker, routed_last=generation, routed_until=until, oldest_ms=oldest_ms
        )

    def _routes_to(self, worker: Worker) -> bool:
        return self.routes.get(worker.model, ModelRoute()).has(worker.id)

    def routed(self) -> dict[str, int]:
        """What each model's stable share went to last, over restarts, also while nothing serves."""
        return self.last

    def publish(
        self,
        routes: dict[str, ModelRoute],
        desired: Desired,
        standings: Mapping[str, tuple[Standing, ...]],
        manifests: Callable[[str], Manifest | None],
        ready: bool,
        drained: bool = False,
    ) -> bool:
        """Write the table if it says anything new; returns whether it does, and the fronts are to be told.

        With the disk full it is `unwritten`, and tried again from time to time.
        """
        slept, woken = self._counted(routes)
        last = {name: route.stable or self.last.get(name) for name, route in routes.items()}
        models = {
            name: msgspec.structs.replace(
                model_routes(route, desired, name, standings.get(name, ()), manifests, slept, woken),
                last=last[name],
            )
            for name, route in sorted(routes.items())
        }
        table = Table(
            generation=self.table.generation,
            ready=ready and not drained,
            drained=drained,
            environment=self.environment,
            host=self.host,
            models=models,
        )
        if table == self.table and self.own:
            self.routes = routes  # as read from the disk, they lack what fronts need not know: shadows
            if self.unwritten is not None and time.monotonic() - self._tried > REWRITE:
                self._write()
            return False
        self._note(routes)
        table = msgspec.structs.replace(table, generation=self.table.generation + 1)
        self.table, self.routes, self.own = table, routes, True
        self._write()
        self.last = {name: version for name, version in last.items() if version is not None}
        self.slept, self.woken = slept, woken
        return True

    def _write(self) -> None:
        self._tried = time.monotonic()
        try:
            write_table(self.table)
        except OSError as error:
            self.unwritten = DiskError(f"{ROUTES}: {error.strerror}", "make room on that disk")
        else:
            self.unwritten = None

    def _counted(
        self, routes: dict[str, ModelRoute]
    ) -> tuple[Counter[tuple[str, int]], Counter[tuple[str, int]]]:
        """How often each version fell asleep and woke, once these are the routes."""
        slept, woken = self.slept.copy(), self.woken.copy()
        for name, route in routes.items():
            before = self.routes.get(name, ModelRoute()).workers
            for version, workers in route.workers.items():
                was = before.get(version)
                slept[name, version] += int(not workers and bool(was))
                woken[name, version] += int(bool(workers) and was == ())
        return +slept, +woken

    def _note(self, routes: dict[str, ModelRoute]) -> None:
        after = {worker for route in routes.values() for worker in route.all_workers()}
        for name, route in self.routes.items():
            for version, worker in _pairs(route):
                if worker not in after:
                    scopes = scopes_in(self.table, name, version)
                    self.left[worker] = Left(self.table.generation, self.now(), scopes)
        for worker in after:
            self.left.pop(worker, None)

    def scopes(self, worker: str, model: str, version: int) -> Scopes:
        """Where what becomes of a worker is evidence: by the last table that had it, or could have it."""
        left = self.left.get(worker)
        return left.scopes if left is not None else scopes_in(self.table, model, version)

    def forget(self, worker: str) -> None:
        """It has ended."""
        self.left.pop(worker, None)


def _pairs(route: ModelRoute) -> Iterator[tuple[int, str]]:
    """Every version with each of its workers, those of shadows too."""
    for part in (route.workers, route.idle):
        yield from ((version, worker) for version, workers in part.items() for worker in workers)


def _route(model: ModelRoutes, *, keep_workers: bool) -> ModelRoute:
    served = {model.stable, model.candidate, model.previous} - {None}
    workers = {
        int(number): tuple(worker.id for worker in version.workers) if keep_workers else ()
        for number, version in model.versions.items()
        if int(number) in served and ((keep_workers and version.workers) or version.wakes)
    }
    idle = {shadow.version: tuple(worker.id for worker in shadow.workers) for shadow in model.shadows}
    return ModelRoute(
        stable=model.stable,
        candidate=model.candidate,
        previous=model.previous,
        share=model.share,
        salt=model.salt,
        scope=model.scope,
        workers=workers,
        idle=idle if keep_workers else {},
    )


def model_routes(
    route: ModelRoute,
    desired: Desired,
    name: str,
    standings: tuple[Standing, ...],
    manifests: Callable[[str], Manifest | None],
    slept: Counter[tuple[str, int]],
    woken: Counter[tuple[str, int]],
) -> ModelRoutes:
    """What the fronts are told of one model: its route, and how each of its versions stands here."""
    asked = desired.models.get(name)
    versions = {}
    for standing in standings:
        manifest = manifests(standing.digest)
        workers = route.workers.get(standing.version, ())
        copies = "copies for a shadow alone go to it" if route.idle.get(standing.version) else ""
        versions[str(standing.version)] = VersionRoutes(
            workers=_sockets(workers),
            inputs=manifest.signature.inputs if manifest else (),
            outputs=manifest.signature.outputs if manifest else (),
            baseline=_baseline(standing.digest, manifest),
            state="ready" if workers else standing.state,
            reason="" if workers else standing.reason or copies,
            wakes=not workers and standing.version in route.workers,
            sleeps=slept[name, standing.version],
            woken=woken[name, standing.version],
        )
    return ModelRoutes(
        stable=route.stable,
        candidate=route.candidate,
        previous=route.previous,
        share=route.share,
        salt=route.salt,
        key=_key(route, standings, manifests),
        scope=route.scope,
        shadows=tuple(_shadow(shadow, route, manifests) for shadow in route.shadows),
        versions=versions,
        reason=why_unserved(asked, standings) if asked is not None and route.stable is None else "",
    )


def _sockets(workers: Iterable[str]) -> tuple[WorkerRoute, ...]:
    return tuple(WorkerRoute(id=worker, socket=socket_of(worker)) for worker in workers)


def _shadow(shadow: Mirroring, route: ModelRoute, manifests: Callable[[str], Manifest | None]) -> ShadowRoute:
    version = shadow.version.version
    manifest = manifests(shadow.version.digest)
    samples = manifest.samples if manifest else ()
    return ShadowRoute(
        id=shadow.id,
        version=version,
        fraction=shadow.fraction,
        where=shadow.where,
        salt=shadow.salt,
        scope=shadow.scope,
        keep=shadow.keep,
        rtol=max((sample.rtol for sample in samples), default=1e-5),
        atol=max((sample.atol for sample in samples), default=1e-8),
        workers=_sockets(route.idle.get(version, ())),
    )


def _key(
    route: ModelRoute, standings: tuple[Standing, ...], manifests: Callable[[str], Manifest | None]
) -> str:
    """The routing key of the version that is being rolled out, else of the one that serves."""
    digests = {standing.version: standing.digest for standing in standings}
    version = route.stable if route.candidate is None else route.candidate
    manifest = manifests(digests[version]) if version in digests else None
    return manifest.routing.key if manifest else ""


def _baseline(digest: str, manifest: Manifest | None) -> str:
    listed = manifest is not None and any(file.path == BASELINE for file in manifest.files)
    return f"bundles/{digest}/{BASELINE}" if listed else ""
