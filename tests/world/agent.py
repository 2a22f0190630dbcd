"""The control loop of a simulated host: look, plan, do, as the daemon's agent does it.

What the agent process does with asyncio and threads is here a task for the loop, one for the log
(`follower.py`), two for what hosts do for all (`duties.py`) and one more for each fetch. The decisions
(`wish`, `plan`), the bundles' way onto the disk, the book of failures, the evidence and the uses that are
counted and kept are the daemon's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mldeploy.core import host as core
from mldeploy.core.plan import references
from mldeploy.core.standing import come_up, failing, standings
from mldeploy.core.types import PRODUCTION
from mldeploy.core.wish import wish
from mldeploy.errors import MldeployError, StoreError
from mldeploy.store.blobs import fetch_blob
from mldeploy_daemon import fetch
from mldeploy_daemon.book import Book
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.follow import LEASE
from mldeploy_daemon.observe import _bundle as bundle_of
from mldeploy_daemon.table import scopes_in
from tests.world.actors import Process
from tests.world.bundles import PLATFORM, PYTHON
from tests.world.duties import Duties, Nap
from tests.world.follower import Follower
from tests.world.machine import LIMITS
from tests.world.scheduler import Threads

if TYPE_CHECKING:
    from tests.world.hosts import Host

#: Seconds: the longest the agent sleeps; between looks at the blobs.
LONGEST, COLLECT = 300.0, 300.0
#: Seconds until it looks, once something has happened.
SOON = 0.02


class Agent:
    """One run of the agent."""

    def __init__(self, host: Host, process: Process) -> None:
        self.host, self.process, self.machine = host, process, host.machine
        self.disk = Disk(host.folder)
        self.book = Book(self.disk, host.time)
        self.follower = Follower(host, process, self.disk, self.book, self._moved, self._said)
        self.duties = Duties(host, process, self.follower, self.disk)
        parts, clock = process.world.parts, self._clock
        self.measures = parts.measures(self.disk, host.time, clock)
        self.uses = parts.uses(self.disk, self.follower.live, clock)
        self.failed: tuple[str, ...] = ()
        self.up: tuple[str, ...] = ()
        self.looked = 0  # the head of which these two are
        self.desired: core.Desired | None = None  # as of the last look
        self.busy: set[core.Action] = set()
        self.unused: dict[str, float] = {}
        # by worker: the last generation that had it, and when it left
        self.left: dict[str, tuple[int, float]] = {}
        self.bundles: dict[str, core.Bundle] = {}
        self.collected = 0.0
        self.nap = Nap(process.world.scheduler)

    def run(self) -> None:
        host, machine = self.host, self.machine
        host.folder.mkdir(parents=True, exist_ok=True)
        self.disk.prepare()
        self.book.load()
        self.follower.load()
        self.measures.load()
        self.uses.load()
        self.duties.told.load()
        for ident in machine.workers:  # adopted: which front still has them is not known
            if not any(route.has(ident) for route in machine.routes.values()):
                self.left[ident] = (machine.generation - 1, host.time())
        self._read_bundles()
        machine.ring, machine.asked = self.nap.ring, self._hear
        self._hear()
        self.process.spawn("follow", self.follower.run)
        self.process.spawn("steer", self.duties.steer)
        self.process.spawn("notify", self.duties.notify)
        while True:
            self.nap.rung = False
            self.nap.sleep(self._tick())
            self.process.sleep(SOON)  # what happens together is looked at together

    def _clock(self) -> float:
        return self.process.world.scheduler.now

    def _moved(self) -> None:
        """The log has. Most records ask nothing new of a host, and looking at it all is not for nothing."""
        if self._wanted() != self.desired:
            self.nap.ring()
        elif self.follower.state is not None:
            self.looked = self.follower.state.head
        self.duties.moved()

    def _wanted(self) -> core.Desired:
        routes = self.machine.routes
        routed = {name: route.stable for name, route in routes.items() if route.stable is not None}
        assert self.follower.state is not None
        desired = wish(self.follower.state, PRODUCTION, self.host.labels, routed)
        return desired if self.follower.leased else self.process.world.parts.lapsed(desired)

    def _hear(self) -> None:
        """What the fronts and the mirror have counted."""
        machine = self.machine
        if self._clock() < self.host.stalled_until:
            return
        for front in machine.fronts:
            self.measures.heard(f"front {front.index}", front.instance, front.measures())
        self.measures.heard("mirror", machine.serving.mirror, tuple(machine.serving.copies.values()))
        self.uses.note(machine.serving.answers())
        self.measures.keep(machine.table)

    def _said(self, head: int) -> dict[str, object]:
        """For the report of that head."""
        return {
            "failed": self.failed,
            "up": self.up if self.looked == head else (),  # what was up at the last step may not be at this
            "watched": self.uses.watched,
            "uses": self.uses.since(),
            "told": self.duties.told.reached,
            "measures": self.measures.all(),
        }

    # --- looking, planning, doing

    def _tick(self) -> float:
        self._judge()
        if self.follower.state is None:
            return LONGEST
        now = self.host.time()
        desired = self.desired = self._wanted()
        head = self.follower.state.head
        self.book.keep(desired.refs)
        observed = self._look(desired, now)
        actions = self.process.world.parts.plan(desired, observed, now, LIMITS)
        for action in actions:
            self._do(action, desired)
            self.process.sleep(0)
        self._tell(desired, observed, now, head)
        if actions:
            return 0.0
        moments = [self.host.fresh + LEASE - self._clock()]
        moments += [bad.retry_at - now for bad in observed.bad.values()]
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

    def _tell(self, desired: core.Desired, observed: core.Observed, now: float, head: int) -> None:
        """What the report says of it, as the daemon's does; soon, if it is anything new."""
        before = self.failed, self.up, self.looked if self.up else head
        rising = any(asked.rising is not None for asked in desired.models.values())
        told = standings(desired, observed, now) if observed.bad or rising else {}
        self.failed, self.up, self.looked = failing(told), come_up(told), head
        if before != (self.failed, self.up, head):
            self.follower.tell()

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
                scopes = scopes_in(machine.table, worker.model, worker.version)
                self.measures.crashed(scopes, worker.model, worker.version, idle=worker.idle)
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
                machine.start_worker(action, self.bundles[action.digest])
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
        before = {worker for route in machine.routes.values() for worker in route.all_workers()}
        after = {worker for route in routes.values() for worker in route.all_workers()}
        for ident in before - after:
            self.left[ident] = (machine.generation, self.host.time())
        for ident in after:
            self.left.pop(ident, None)
        assert self.follower.state is not None
        machine.publish(routes, desired, self.follower.state)

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
            self.book.failed(key, digest, "fetch", str(error))
        else:
            self.book.came_up(key)
        self._read_bundles()
        self.busy.discard(action)
        self.nap.ring()

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
                    self.disk.sync_blobs([wheel.sha256])
        self.process.sleep(self.host.rng.uniform(1, 20))
        self.machine.environments.add(action.environment)

    def _source(self) -> fetch.Source:
        return fetch.Source(
            self.process.store,
            self.follower.state.blobs if self.follower.state else {},
            pool=lambda threads: Threads(self.process.world.scheduler, threads),
        )

    def _read_bundles(self) -> None:
        found = {digest: self.disk.manifest(digest) for digest in sorted(self.disk.bundles())}
        self.bundles = {
            digest: self.bundles.get(digest) or bundle_of(digest, manifest)
            for digest, manifest in found.items()
            if manifest is not None
        }
