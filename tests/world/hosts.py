"""A host: its agent's control loop and its follower of the log, with the production core, log, fetch and
book.

What the agent process does with asyncio and threads is here two tasks and one more for each fetch; the
decisions (`wish`, `plan`), the log, the bundles' way onto the disk and the book of failures are the
daemon's own. The agent may be killed at any point, alone (workers and fronts go on) or with its machine
(only the disk is left).
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import msgspec

from mldeploy.core import host as core
from mldeploy.core.plan import references
from mldeploy.core.records import Action, Join, Leave
from mldeploy.core.state import State
from mldeploy.core.types import PRODUCTION
from mldeploy.errors import MldeployError, StoreError
from mldeploy.store.blobs import fetch_blob
from mldeploy.store.reports import HostReport, ModelReport, report_key, write_report
from mldeploy_daemon import fetch
from mldeploy_daemon.book import Book
from mldeploy_daemon.desired import Kept
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.observe import _bundle as bundle_of
from tests.world.actors import Actor, Process
from tests.world.bundles import PLATFORM, PYTHON, scratch
from tests.world.machine import LIMITS, Machine
from tests.world.scheduler import Task, Threads

if TYPE_CHECKING:
    from tests.world.world import World

#: Seconds: the longest the agent sleeps; between looks at the blobs; between reports.
LONGEST, COLLECT, REPORT = 300.0, 300.0, 120.0


class Host(Actor):
    """A machine of the world's one environment."""

    kind = "host"

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.folder = scratch() / f"{world.seed}-{id(world):x}" / name
        self.labels = {"zone": self.rng.choice("ab")}
        self.machine = Machine(
            name, self.folder, world.scheduler, world.monitor, self.rng, self.time,
            requests=world.cast.requests,
        )  # fmt: skip
        self.machine.calm = lambda: world.calm
        self.head = 0  # that it has on its disk

    def time(self) -> float:
        """By its own clock."""
        return self.world.time() + self.skew

    def main(self, process: Process) -> None:
        Agent(self, process).run()

    def serving(self) -> dict[str, int]:
        """The version that answers for each model, where one does."""
        machine = self.machine
        return {
            name: route.stable
            for name, route in machine.routes.items()
            if route.stable is not None and machine.serves(machine.routes, name)
        }

    def died(self) -> None:
        self.machine.ring = lambda: None
        self.machine.endings.clear()
        self.machine.came_up.clear()
        if self.rng.random() < 0.3:
            self.world.trace(self.name, "loses power")
            self.world.counts["hosts that lost power"] += 1
            self.machine.power_cut()

    def check(self) -> None:
        """At the end it does what the log asks, and nothing else."""
        machine, wrong = self.machine, self.world.monitor.wrong
        self.world.counts.update(machine.counts)
        state = Kept(Disk(self.folder)).load()
        if state is None or state != self.world.monitor.head:
            wrong(f"{self.name} has not come to the head of the log: {state.head if state else None}")
            return
        if self.name not in state.hosts:
            wrong(f"{self.name} is no member")
        desired = core.wish(state, PRODUCTION, self.labels, {})
        if set(machine.routes) != set(desired.models):
            wrong(f"{self.name} routes {sorted(machine.routes)} and not {sorted(desired.models)}")
        for name, asked in desired.models.items():
            route = machine.routes[name]
            for role, version in (("stable", asked.stable), ("candidate", asked.candidate)):
                if version is None or machine.doomed(version.digest):
                    continue
                if role == "candidate" and asked.candidate == asked.stable:
                    continue
                routed = {route.stable} if role == "stable" else {route.candidate, route.stable}
                if version.version not in routed or not route.workers.get(version.version):
                    wrong(f"{self.name} does not serve {version.ref} as {role}: {route}")
        if not machine.arrived():
            wrong(f"{self.name}: a front has not taken the last table")
        found = self.world.bucket.objects.get(report_key(PRODUCTION, self.name))
        if found is None or msgspec.json.decode(found.data, type=HostReport).head != state.head:
            wrong(f"{self.name} has not reported that it is at the head")

    def remove(self) -> None:
        """Its disk, once the world is over."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Agent:
    """One run of the agent."""

    def __init__(self, host: Host, process: Process) -> None:
        self.host, self.process, self.machine = host, process, host.machine
        self.disk = Disk(host.folder)
        self.kept = Kept(self.disk)
        self.book = Book(self.disk, host.time)
        self.state: State | None = None
        self.unreachable = False
        self.busy: set[core.Action] = set()
        self.unused: dict[str, float] = {}
        self.left: dict[
            str, tuple[int, float]
        ] = {}  # worker -> last generation that had it, and when it left
        self.bundles: dict[str, core.Bundle] = {}
        self.collected = 0.0
        self.rung = False
        self.task: Task | None = None

    def run(self) -> None:
        host, machine = self.host, self.machine
        host.folder.mkdir(parents=True, exist_ok=True)
        self.disk.prepare()
        self.book.load()
        self.state = self.kept.load()
        if (self.state.head if self.state else 0) < host.head:
            host.world.monitor.wrong(f"{host.name} has lost what it knew up to record {host.head}")
        for ident in machine.workers:  # adopted: which front still has them is not known
            if not any(route.has(ident) for route in machine.routes.values()):
                self.left[ident] = (machine.generation - 1, host.time())
        self._read_bundles()
        self.task = host.world.scheduler.current
        machine.ring = self._ring
        self.process.spawn("follow", self._follow)
        while True:
            self._sleep(self._tick())

    # --- looking, planning, doing

    def _tick(self) -> float:
        self._judge()
        if self.state is None:
            return LONGEST
        now, machine = self.host.time(), self.machine
        routed = {name: route.stable for name, route in machine.routes.items() if route.stable is not None}
        desired = core.wish(self.state, PRODUCTION, self.host.labels, routed)
        self.book.keep(desired.refs)
        observed = self._look(desired, now)
        actions = self.process.world.parts.plan(desired, observed, now, LIMITS)
        for action in actions:
            self._do(action, desired)
            self.process.sleep(0)
        if actions:
            return 0.01
        moments = [bad.retry_at - now for bad in observed.bad.values()]
        moments += [since + LIMITS.grace - now for since in observed.unused.values()]
        moments += [until + LIMITS.drain - now for _, until in self.left.values()]
        return min([LONGEST, *(moment + 0.01 for moment in moments if moment > 0)])

    def _look(self, desired: core.Desired, now: float) -> core.Observed:
        machine = self.machine
        blobs: frozenset[str] = frozenset()
        if now - self.collected > COLLECT:
            self.collected, blobs = now, self.disk.blobs()
        observed = core.Observed(
            bundles=self.bundles,
            environments=frozenset(machine.environments),
            zygotes=dict(machine.zygotes),
            workers=tuple(self._placed(worker) for worker in machine.workers.values()),
            fronts=machine.front_values(),
            routes=machine.routes,
            bad=self.book.bad,
            busy=frozenset(self.busy),
            pythons=frozenset({PYTHON}),
            platform=PLATFORM,
            blobs=blobs,
        )
        there = {*observed.bundles, *observed.environments, *(f"blob {sha256}" for sha256 in blobs)}
        there |= {f"zygote {name}" for name in observed.zygotes}
        if not blobs:
            there |= {key for key in self.unused if key.startswith("blob ")}
        needed = references(desired, observed, now)
        self.unused = {key: self.unused.get(key, now) for key in sorted(there - needed)}
        return msgspec.structs.replace(observed, unused=self.unused)

    def _placed(self, worker: core.Worker) -> core.Worker:
        generation, until = self.left.get(worker.id, (None, 0.0))
        if any(route.has(worker.id) for route in self.machine.routes.values()):
            generation = self.machine.generation
        return msgspec.structs.replace(worker, routed_last=generation, routed_until=until)

    def _judge(self) -> None:
        """What came up and what ended goes into the book."""
        machine = self.machine
        for worker in machine.came_up:
            self.book.came_up(f"{worker.model}@{worker.version}")
        for worker, lived in machine.endings:
            self.left.pop(worker.id, None)
            if lived is None:
                self.book.failed(f"{worker.model}@{worker.version}", worker.digest, "load", "it failed")
            else:
                self.book.died(f"{worker.model}@{worker.version}", worker.digest, lived, "it died")
        machine.came_up.clear()
        machine.endings.clear()
        self.left = {ident: left for ident, left in self.left.items() if ident in machine.workers}

    def _do(self, action: core.Action, desired: core.Desired) -> None:
        machine = self.machine
        self.process.world.counts[f"host {type(action).__name__}"] += 1
        match action:
            case core.PublishTable():
                self._publish(dict(action.routes), desired)
            case core.StopWorker():
                machine.stop_worker(action.worker, self.left.get(action.worker, (0, 0.0))[1])
            case core.KillWorker():
                machine.kill_worker(action.worker)
            case core.StartZygote():
                machine.start_zygote(action.environment)
            case core.StopZygote():
                machine.zygotes.pop(action.environment, None)
            case core.StartWorker():
                machine.start_worker(
                    action.model, action.version, action.digest, action.replica, self.bundles[action.digest]
                )
            case core.RemoveBundle():
                self.disk.remove_bundle(action.digest)
                self._read_bundles()
            case core.RemoveEnvironment():
                machine.environments.discard(action.environment)
            case core.RemoveBlob():
                self.disk.remove(f"blobs/sha256/{action.sha256[:2]}/{action.sha256}")
            case core.FetchBundle() | core.BuildEnvironment():
                self.busy.add(action)
                self.process.spawn("work", lambda: self._work(action))

    def _publish(self, routes: dict[str, core.ModelRoute], desired: core.Desired) -> None:
        machine = self.machine
        before = {w for route in machine.routes.values() for ids in route.workers.values() for w in ids}
        after = {w for route in routes.values() for ids in route.workers.values() for w in ids}
        for ident in before - after:
            self.left[ident] = (machine.generation, self.host.time())
        for ident in after:
            self.left.pop(ident, None)
        assert self.state is not None
        machine.publish(routes, desired, self.state)

    def _work(self, action: core.FetchBundle | core.BuildEnvironment) -> None:
        """In a thread of its own: from the store onto the disk."""
        key, digest = f"{action.model}@{action.version}", action.digest
        try:
            if isinstance(action, core.FetchBundle):
                fetch.fetch_bundle(self._source(), self.disk, model=action.model, digest=digest)
            else:
                key, digest = action.environment, ""
                self._build(action)
        except MldeployError as error:
            self.process.world.counts["fetches that failed"] += 1
            self.book.failed(key, digest, "fetch" if digest else "install", str(error))
        else:
            self.book.came_up(key)
        self._read_bundles()
        self.busy.discard(action)
        self._ring()

    def _build(self, action: core.BuildEnvironment) -> None:
        """The wheels from the store; and instead of installing them, a while."""
        manifest = self.disk.manifest(action.digest)
        if manifest is None:
            return
        source = self._source()
        assert source.store is not None
        for wheel in manifest.wheels:
            blob = source.blobs.get(wheel.sha256)
            if blob is None:
                raise StoreError(f"{wheel.name} is not live", "push it again")
            if not self.disk.has_blob(wheel.sha256, wheel.size):
                with self.disk.staged() as folder:
                    staged = folder / wheel.name
                    fetch_blob(source.store, wheel.sha256, blob.push, staged, size=wheel.size)
                    self.disk.put_blob(staged, wheel.sha256)
        self.process.sleep(self.host.rng.uniform(1, 20))
        self.machine.environments.add(action.environment)

    def _source(self) -> fetch.Source:
        return fetch.Source(
            self.process.store,
            self.state.blobs if self.state else {},
            pool=lambda threads: Threads(self.process.world.scheduler, threads),
        )

    def _read_bundles(self) -> None:
        found = {digest: self.disk.manifest(digest) for digest in sorted(self.disk.bundles())}
        self.bundles = {
            digest: self.bundles.get(digest) or bundle_of(digest, manifest)
            for digest, manifest in found.items()
            if manifest is not None
        }

    # --- the log

    def _follow(self) -> None:
        host, process = self.host, self.process
        log = process.log(self.state)
        log._taken = self.kept.took
        reported = -REPORT
        said = -1
        while True:
            try:
                log.refresh()
                self._take(log.state)
                if self.leaves():
                    log.append(self._leave, actor=f"host:{host.name}", now=process.now(), deadline=2.0)
                    self._take(log.state)
                elif self._joins(log.state):
                    log.append(self._joins, actor=f"host:{host.name}", now=process.now(), deadline=10.0)
                    self._take(log.state)
                if self.unreachable:
                    self.book.forget(
                        [key for key, bad in self.book.bad.items() if bad.stage in ("fetch", "install")]
                    )
                self.unreachable = False
                now = process.world.scheduler.now
                if now - reported > REPORT or log.state.head != said:
                    reported, said = now, log.state.head
                    self._report(log.state)
            except MldeployError as error:
                self._take(log.state)
                self.unreachable = True
                said = -1
                process.world.trace(process.life.name, f"{type(error).__name__}: {error}")
            process.sleep(process.world.cast.poll * host.rng.uniform(0.8, 1.2))

    def _take(self, state: State) -> None:
        if self.state is None or state.head != self.state.head:
            self.kept.save(state)
            self.host.head = state.head
            self.state = state
            self._ring()

    def leaves(self) -> bool:
        """Now and then it stops in good order, and so is no member until it is back."""
        return not self.host.world.calm and self.host.rng.random() < 0.01

    def _leave(self, state: State) -> list[Action]:
        return [Leave(host=self.host.name)] if self.host.name in state.hosts else []

    def _joins(self, state: State) -> list[Action]:
        there = state.hosts.get(self.host.name)
        if there is not None and (there.environment, there.labels) == (PRODUCTION, self.host.labels):
            return []
        return [Join(host=self.host.name, environment=PRODUCTION, labels=self.host.labels)]

    def _report(self, state: State) -> None:
        models = {
            name: ModelReport(stable=route.stable, candidate=route.candidate, previous=route.previous)
            for name, route in self.machine.routes.items()
        }
        write_report(
            self.process.store,
            HostReport(host=self.host.name, environment=PRODUCTION, head=state.head, models=models),
        )

    # --- sleeping

    def _ring(self) -> None:
        self.rung = True
        if self.task is not None:
            self.host.world.scheduler.wake(self.task)

    def _sleep(self, seconds: float) -> None:
        if not self.rung:
            self.process.sleep(seconds)
        self.rung = False
