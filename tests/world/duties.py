"""What the hosts of a world do for all: steering, and telling people, with the daemon's own `Steering` and
`Notifying`.

Two tasks beside the one that follows the log; each is rung when the log has moved. A host may die right after
its record has won, and right after (or before) a message has arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from mldeploy.core.records import Notified
from mldeploy.core.state import Notice, State
from mldeploy.core.types import PRODUCTION
from mldeploy.errors import MldeployError, NotificationError, StoreError
from mldeploy.reporting.deliver import Sent
from mldeploy.reporting.message import Message
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.duties import RETRY
from mldeploy_daemon.told import Tellings
from tests.world.actors import Process
from tests.world.scheduler import Scheduler, Task, Threads

if TYPE_CHECKING:
    from tests.world.follower import Follower
    from tests.world.hosts import Host


class Nap:
    """A sleep that can be ended, by `ring`; one that is rung before it begins does not begin."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.rung = False
        self._task: Task | None = None

    def ring(self) -> None:
        """Something has happened."""
        self.rung = True
        if self._task is not None:
            self.scheduler.wake(self._task)

    def sleep(self, seconds: float) -> None:
        """For so long, or until it is rung."""
        if not self.rung:
            self._task = self.scheduler.check()
            try:
                self.scheduler.pause(seconds)
            finally:
                self._task = None
        self.rung = False


class Duties:
    """One run's."""

    def __init__(self, host: Host, process: Process, follower: Follower, disk: Disk) -> None:
        self.host, self.process, self.follower = host, process, follower
        world = process.world
        self.naps = Nap(world.scheduler), Nap(world.scheduler)
        parts = world.parts
        fleet = parts.fleet(process.store, lambda threads: Threads(world.scheduler, threads))
        self.steering = parts.steering(
            PRODUCTION, host.name, fleet, world.cast.report, lambda: world.scheduler.now
        )
        self.told = Tellings(disk)
        self.notifying = parts.notifying(
            PRODUCTION, host.name, process.store, self._deliver, process.time, self.told
        )
        self._looked = 0.0

    def moved(self) -> None:
        """The log has."""
        for nap in self.naps:
            nap.ring()

    def steer(self) -> None:
        """For ever."""
        while True:
            self.naps[0].sleep(self._safely(self._steer))

    def notify(self) -> None:
        """For ever."""
        while True:
            self.naps[1].sleep(self._safely(self._notify))

    def _safely(self, look: Callable[[State], float]) -> float:
        state = self.follower.state
        if state is None or not self.follower.read_head:
            return RETRY
        try:
            return look(state)
        except MldeployError as error:
            self.process.world.trace(self.process.life.name, f"{type(error).__name__}: {error}")
            return RETRY

    # --- steering

    def _steer(self, state: State) -> float:
        world = self.process.world
        turn = self.steering.look(state)
        pause = turn.pause
        for action in turn.actions:
            world.counts[f"steered: {type(action).__name__.lower()}"] += 1
            try:
                won = self.follower.append(partial(world.parts.still, proposed=action, seen=state))
            except StoreError:
                raise
            except MldeployError as error:
                self.process.world.trace(self.process.life.name, f"{type(error).__name__}: {error}")
                pause = min(pause, RETRY)
                continue
            if won is not None:
                self._perhaps_die("right after it has won")
        return pause

    # --- telling

    def _notify(self, state: State) -> float:
        plan = self.notifying.plan(state)
        trouble: MldeployError | None = None
        for notice, turn in plan.due:
            self._looked = self.process.world.time()
            fresh = self._fresh()
            if fresh is None or not self.notifying.pending(fresh, notice):
                continue
            try:
                outcome = self.notifying.send(fresh, notice, turn)
            except MldeployError as error:
                trouble = error
                continue
            self.follower.tell()
            if outcome.closing is not None:
                self._close(notice, outcome.closing)
        if trouble is not None:
            raise trouble
        return plan.pause

    def _fresh(self) -> State | None:
        self.follower.append(lambda _: ())
        return self.follower.state

    def _close(self, notice: Notice, closing: Notified) -> None:
        self.follower.append(lambda state: (closing,) if self.notifying.pending(state, notice) else ())

    def _deliver(self, made: Message, targets: Mapping[str, str], owner_at: str) -> Sent:
        """In place of servers: they take a while, and now and then they are not there."""
        world, rng = self.process.world, self.host.rng
        self.process.sleep(rng.uniform(0, 3))
        down = set() if world.calm else {name for name in sorted(targets) if rng.random() < 0.15}
        up = tuple(name for name in sorted(targets) if name not in down)
        self._perhaps_die("right before a message leaves")
        if up:
            world.monitor.telling.delivered(self.host.name, made.identity, up, self._looked)
            self._perhaps_die("right after a message has arrived")
        world.counts["targets that were down"] += len(down)
        return Sent(reached=up, failed={name: NotificationError("it is down", "") for name in sorted(down)})

    def _perhaps_die(self, when: str) -> None:
        world, life = self.process.world, self.process.life
        if world.calm or self.host.rng.random() >= 0.08:
            return
        world.counts[f"hosts that died {when}"] += 1
        world.scheduler.at(0.0, lambda: self.host.crash() if not life.dead else None)
        self.process.sleep(1.0)
