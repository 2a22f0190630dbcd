"""The machine of a simulated host: its disk, and processes that outlive the agent (workers, zygotes,
fronts).

The disk is the daemon's own `Disk`, in a scratch folder. Workers, zygotes and fronts are values, changed
by events of the scheduler: a worker loads for a while, comes up or fails; a front takes a new table a
while after it was told; requests come and go. Here stands what a host must never do: route what is not
ready, stop what is routed or has requests in flight, leave a model that served without an answer.
Left out: deciding (`mldeploy.core.plan`, run in `agent.py`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mldeploy.core.host import Bundle, Desired, Front, Limits, ModelRoute, StartWorker, Worker
from mldeploy.core.state import State
from mldeploy_daemon.table import Table
from tests.world.clients import Clients
from tests.world.monitor import Monitor
from tests.world.scheduler import Scheduler
from tests.world.serving import Serving, SimFront, table_of

if TYPE_CHECKING:
    from tests.world.world import Cast

#: As the agent has them, with a shorter grace, so that things are removed within the life of a world.
LIMITS = Limits(grace=300.0)


class Ending(NamedTuple):
    """A worker that ended unasked. `lived`: seconds for which it was ready, None: it never was."""

    worker: Worker
    lived: float | None


class Machine:
    """`time` is its clock. `ring` is called whenever the agent ought to look again."""

    def __init__(
        self,
        name: str,
        folder: Path,
        scheduler: Scheduler,
        monitor: Monitor,
        rng: random.Random,
        time: Callable[[], float],
        *,
        cast: Cast,
        clients: Clients,
    ) -> None:
        self.name, self.folder = name, folder
        self.scheduler, self.monitor, self.rng, self.time = scheduler, monitor, rng, time
        self.cast, self.clients = cast, clients
        self.serving = Serving(
            name, clients, monitor.rollouts, monitor.telling, rng.getrandbits(64), self._live, self._crashed
        )
        self.allowed: Callable[[], float] = lambda: float("inf")  # see `Rollouts.routed`
        self.asked: Callable[[], None] = lambda: None  # called when the fronts have counted something
        self.ring: Callable[[], None] = lambda: None
        self.calm: Callable[[], bool] = lambda: False
        self.workers: dict[str, Worker] = {}
        self.zygotes: dict[str, str] = {}
        self.environments: set[str] = set()  # on the disk
        self.generation = 0
        self.routes: dict[str, ModelRoute] = {}  # as published last; on the disk, as the generation is
        self.table = Table()  # the same, as fronts have it
        self._processes = 0
        self.fronts = [self._front(0), self._front(1)]
        self._mirror()
        self.endings: list[Ending] = []
        self.came_up: list[Worker] = []
        self.failures: Counter[str] = Counter()  # by digest
        self.counts: Counter[str] = Counter()
        self._number = 0
        self.scheduler.at(self.rng.expovariate(1 / cast.requests), self._request)

    # --- what the agent has done to it

    def publish(self, routes: dict[str, ModelRoute], desired: Desired, state: State) -> None:
        """A new table, which the fronts take one by one. `state`: of the log, as this host knows it."""
        for name, route in routes.items():
            for idle, routed in ((False, route.workers), (True, route.idle)):
                for version, ident in ((version, ident) for version, ids in routed.items() for ident in ids):
                    worker = self.workers.get(ident)
                    fits = worker and (worker.state, worker.version, worker.idle) == ("ready", version, idle)
                    if not fits:
                        self._wrong(f"routes {name}@{version} to {ident}, which is not ready for it")
        for name, asked in desired.models.items():
            if self.serves(self.routes, name) and not self.serves(routes, name):
                if asked.stable is None or state.models[name].versions[self.routes[name].stable or 0].retired:
                    self.counts["models cut off by a retire"] += 1  # whoever retires it asks for that
                else:
                    self._wrong(f"takes away what serves {name}, and nothing follows")
        self.generation += 1
        self.routes, self.table = routes, table_of(self.generation, routes, desired)
        for front in self.fronts:
            delay = self.rng.choice([0.01, 0.01, 1.0, 40.0 if not self.calm() else 1.0]) * self.rng.random()
            self.scheduler.at(delay, lambda front=front: self._take(front))  # type: ignore[misc]

    def start_zygote(self, environment: str) -> None:
        """It imports for a while."""
        self.zygotes[environment] = "starting"

        def ready() -> None:
            if self.zygotes.get(environment) == "starting":
                self.zygotes[environment] = "ready"
                self.ring()

        self.scheduler.at(self.rng.uniform(0.5, 5), ready)

    def start_worker(self, asked: StartWorker, bundle: Bundle) -> None:
        """It loads, and then is ready or not."""
        place = (asked.version, asked.digest, asked.replica, asked.idle)
        there = [w for w in self.workers.values() if (w.version, w.digest, w.replica, w.idle) == place]
        if any(worker.state != "stopping" for worker in there):
            self._wrong(f"starts two workers of {asked.model}@{asked.version} in one place: {there}")
        self._number += 1
        worker = Worker(
            id=f"w{self._number}", model=asked.model, version=asked.version, digest=asked.digest,
            environment=bundle.environment, replica=asked.replica, idle=asked.idle, since=self.time(),
        )  # fmt: skip
        self.workers[worker.id] = worker
        if not self.calm() and self.rng.random() < 0.02:
            return  # it hangs, and is killed when its time is up
        loading = self.rng.choice([0.05, 2.0, 20.0]) * self.rng.random()
        self.scheduler.at(loading, lambda: self._loaded(worker.id))

    def stop_worker(self, ident: str, left: float) -> None:
        """It is asked to end, and does. `left`: when it left the table, by this machine's clock."""
        worker = self.workers.get(ident)
        if worker is None:
            return
        if any(route.has(ident) for route in self.routes.values()):
            self._wrong(f"stops worker {ident}, which is in the table")
        if self.time() < left + LIMITS.drain:
            for front in self.fronts:
                if front.inflight[ident]:
                    self._wrong(f"stops worker {ident} with {front.inflight[ident]} requests in flight")
                if any(route.has(ident) for route in front.routes.values()):
                    self._wrong(f"stops worker {ident}, which front {front.index} may send requests to")
        self.workers[ident] = msgspec.structs.replace(worker, state="stopping", since=self.time())
        self.scheduler.at(self.rng.uniform(0, 5), lambda: self._gone(ident))

    def kill_worker(self, ident: str) -> None:
        """It ends at once."""
        worker = self.workers.get(ident)
        if worker is not None:
            self._gone(ident)
            if worker.state == "loading":
                self.endings.append(Ending(worker, None))

    def power_cut(self) -> None:
        """Nothing but the disk is left. The table of before says what was routed, and no worker."""
        self.workers.clear()
        self.zygotes.clear()
        self.endings.clear()
        self.came_up.clear()
        self.routes = {
            name: msgspec.structs.replace(route, workers={}, idle={}) for name, route in self.routes.items()
        }
        self.fronts = [self._front(0), self._front(1)]
        self._mirror()
        for front in self.fronts:  # they start again, and take the table there is by then
            self.scheduler.at(self.rng.uniform(0, 5), lambda front=front: self._take(front))  # type: ignore[misc]

    # --- what is seen

    def front_values(self) -> tuple[Front, ...]:
        """The fronts, as they say what they have."""
        return tuple(
            Front(index=f.index, generation=f.generation, inflight=dict(+f.inflight)) for f in self.fronts
        )

    def arrived(self) -> bool:
        """Whether every front goes by the last table."""
        return all(front.generation == self.generation for front in self.fronts)

    def doomed(self, digest: str) -> bool:
        """Whether workers of this bundle never come up on this machine, or do not stay."""
        return self._trouble(digest) >= 1000 or self.clients.quality(digest).kind == "crashing"

    # --- events

    def _take(self, front: SimFront) -> None:
        if front not in self.fronts or front.generation == self.generation:
            return
        front.generation, front.routes, front.table = self.generation, self.routes, self.table.models
        self.ring()

    def _loaded(self, ident: str) -> None:
        worker = self.workers.get(ident)
        if worker is None or worker.state != "loading":
            return
        if self.failures[worker.digest] < self._trouble(worker.digest):
            self.failures[worker.digest] += 1
            self.counts["workers that failed to load"] += 1
            del self.workers[ident]
            self.endings.append(Ending(worker, None))
        else:
            self.workers[ident] = msgspec.structs.replace(worker, state="ready", since=self.time())
            self.came_up.append(self.workers[ident])
            self.monitor.rollouts.came_up(self.name, worker)
            if self.rng.random() < self.cast.deaths:
                self.scheduler.at(self.rng.expovariate(1 / 200), lambda: self._died(ident))
        self.ring()

    def _died(self, ident: str) -> None:
        """A worker's own fault: requests with it fail, and that is no deployment's doing."""
        worker = self.workers.get(ident)
        if worker is not None and worker.state == "ready" and not self.calm():
            self.counts["workers that died"] += 1
            self._crashed(ident)

    def _crashed(self, ident: str) -> None:
        worker = self.workers[ident]
        self._gone(ident)
        self.endings.append(Ending(worker, self.time() - worker.since))

    def _gone(self, ident: str) -> None:
        self.workers.pop(ident, None)
        for front in self.fronts:
            front.inflight.pop(ident, None)
        self.ring()

    def _request(self) -> None:
        """Clients ask each front for each model: one request that is watched, and many that are counted."""
        self.scheduler.at(self.rng.expovariate(1 / self.cast.requests), self._request)
        allowed, now = self.allowed(), self.scheduler.now
        for place, front in enumerate(self.fronts):
            for name, route in front.routes.items():
                for version in (route.stable, route.candidate if route.share else None):
                    self._watched(front, name, version, route.workers.get(version or 0, ()))
            self.serving.ask(front, now, allowed)
            if not self.calm() and self.rng.random() < 0.003:  # it dies, and the keeper starts another
                self.fronts[place] = self._front(place)
                self._take(self.fronts[place])
        if self.rng.random() < 0.05 and self.routes:
            self._pinned(*self.rng.choice(sorted(self.routes.items())))
        self.asked()

    def _watched(self, front: SimFront, name: str, version: int | None, ids: tuple[str, ...]) -> None:
        """One request to a version, or what a client would see."""
        if not ids:
            return  # it never served since this front started, or died: `publish` has seen to that
        ident = self.rng.choice(ids)
        worker = self.workers.get(ident)
        if worker is None:  # died by itself, or was stopped when a stuck front had been waited for
            self.counts["requests that met a dead worker"] += 1
            return
        if worker.state == "loading" or (worker.model, worker.version) != (name, version):
            self._wrong(f"front {front.index} sends a request for {name}@{version} to {worker}")
        self.counts["requests"] += 1
        front.inflight[ident] += 1
        length = self.rng.choice([0.01, 1.0, 20.0]) * self.rng.random()
        self.scheduler.at(length, lambda: self._answered(front, ident))

    def _pinned(self, name: str, route: ModelRoute) -> None:
        """One client asks for a version by its number."""
        version, ids = self.rng.choice(sorted(route.workers.items()) or [(0, ())])
        if self._live(ids) is not None and self.clients.ask(name, self.scheduler.now):
            self.serving.pinned(name, version)

    def _answered(self, front: SimFront, ident: str) -> None:
        if front.inflight.get(ident):
            front.inflight[ident] -= 1
            if not front.inflight[ident] and not any(route.has(ident) for route in self.routes.values()):
                self.ring()  # it is being waited for

    def serves(self, routes: dict[str, ModelRoute], name: str) -> bool:
        """Whether a worker that is ready answers for the model's stable share."""
        route = routes.get(name, ModelRoute())
        ids = route.workers.get(route.stable or 0, ())
        return any(ident in self.workers and self.workers[ident].state == "ready" for ident in ids)

    def _live(self, ids: tuple[str, ...]) -> Worker | None:
        """One of these workers that is ready."""
        ready = [w for w in map(self.workers.get, ids) if w is not None and w.state == "ready"]
        return ready[0] if ready else None

    def _front(self, index: int) -> SimFront:
        self._processes += 1
        return SimFront(index, f"{self._processes}")

    def _mirror(self) -> None:
        """The mirror has started, and counts from zero."""
        self._processes += 1
        self.serving.mirror, self.serving.copies = f"{self._processes}", {}

    def _trouble(self, digest: str) -> int:
        """How often workers of this bundle fail before one comes up. A few never work here, or anywhere."""
        if self.clients.quality(digest).kind == "broken":
            return 1000
        rng = random.Random(f"{self.name}/{digest}")
        return rng.choice([1, 2, 1000]) if rng.random() < self.cast.trouble else 0

    def _wrong(self, what: str) -> None:
        self.monitor.wrong(f"{self.name} {what}")
