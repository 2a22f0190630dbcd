"""How a simulated host follows the log, reports, and steers with the daemon's own `Steering`.

Two tasks that share one log, as the daemon's threads do: whoever appends lets the other wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from mldeploy.core.records import Action, Join, Leave
from mldeploy.core.state import State
from mldeploy.core.types import PRODUCTION
from mldeploy.errors import MldeployError
from mldeploy.store.fleet import Fleet
from mldeploy.store.log import Intent
from mldeploy.store.reports import HostReport, ModelReport, write_report
from mldeploy_daemon.book import Book
from mldeploy_daemon.desired import Kept
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.steering import Steering, still
from tests.world.actors import Process
from tests.world.scheduler import Threads

if TYPE_CHECKING:
    from tests.world.hosts import Host

#: Seconds between reports, unless the head has moved; and until it steers again after a failure.
REPORT, AGAIN = 120.0, 10.0


class Follower:
    """One run's. `changed` is called when the state is another."""

    def __init__(
        self, host: Host, process: Process, disk: Disk, book: Book, changed: Callable[[], None]
    ) -> None:
        self.host, self.process, self.book, self.changed = host, process, book, changed
        self.kept = Kept(disk)
        self.state: State | None = None
        self.unreachable = False
        self._busy = False
        self._reported, self._said = -REPORT, -1

    def load(self) -> None:
        """Go on from the disk, on which nothing may have been lost."""
        self.state = self.kept.load()
        if (self.state.head if self.state else 0) < self.host.head:
            self.host.world.monitor.wrong(f"{self.host.name} has lost what it knew up to {self.host.head}")
        seen = self.state.head if self.state else 0
        self.log = self.process.log(self.state, seen=seen, taken=self.kept.took)

    def run(self) -> None:
        """Follow the log, for ever."""
        process = self.process
        while True:
            try:
                self._look()
            except MldeployError as error:
                self.unreachable, self._said = True, -1
                process.world.trace(process.life.name, f"{type(error).__name__}: {error}")
            self._take(self.log.state)
            process.sleep(process.world.cast.poll * self.host.rng.uniform(0.8, 1.2))

    def steer(self) -> None:
        """Look at what all hosts say, and append what that asks for; for ever."""
        process = self.process
        fleet = Fleet(process.store, lambda threads: Threads(process.world.scheduler, threads))
        steering = Steering(PRODUCTION, self.host.name, fleet, REPORT, process.monotonic)
        while True:
            pause = AGAIN
            state = self.state
            try:
                if state is not None and not self.unreachable:
                    turn = steering.look(state)
                    for action in turn.actions:
                        process.world.counts[f"steered: {type(action).__name__.lower()}"] += 1
                        self._append(partial(still, proposed=action, seen=state), 10.0)
                    pause = turn.pause
            except MldeployError as error:
                process.world.trace(process.life.name, f"steering: {type(error).__name__}: {error}")
            process.sleep(pause)

    # --- one look

    def _look(self) -> None:
        with self._alone():
            self.log.refresh()
        self._take(self.log.state)
        if self.host.rng.random() < 0.2 and self.log.checkpoint():
            self.host.world.counts["checkpoints written"] += 1
        if not self.host.world.calm and self.host.rng.random() < 0.01:
            self._append(self._leave, 2.0)  # it stops in good order, and is back at once
        elif self._joins(self.log.state):
            self._append(self._joins, 10.0)
        if self.unreachable:
            fetched = ("fetch", "install")
            self.book.forget([key for key, bad in self.book.bad.items() if bad.stage in fetched])
        self.unreachable = False
        now = self.host.world.scheduler.now
        if now - self._reported > REPORT or self.log.state.head != self._said:
            self._reported, self._said = now, self.log.state.head
            self._report(self.log.state)

    def _append(self, intent: Intent, deadline: float) -> None:
        with self._alone():
            self.log.append(intent, actor=f"host:{self.host.name}", now=self.process.now(), deadline=deadline)
        self._take(self.log.state)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        while self._busy:
            self.process.sleep(0.05)
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _take(self, state: State) -> None:
        if self.state is None or state.head > self.state.head:
            self.kept.save(state)
            self.host.head = state.head
            self.state = state
            self.changed()

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
            for name, route in self.host.machine.routes.items()
        }
        write_report(
            self.process.store,
            HostReport(host=self.host.name, environment=PRODUCTION, head=state.head, models=models),
        )
