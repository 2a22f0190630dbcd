"""How a simulated host follows the log, is a member, and reports what it has counted.

It shares its log with the host's duties (`duties.py`), as the daemon's threads do: whoever appends lets the
others wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mldeploy.core.records import Action, Join, Leave
from mldeploy.core.state import State
from mldeploy.core.types import PRODUCTION
from mldeploy.errors import MldeployError
from mldeploy.store.log import Appended, Intent
from mldeploy.store.reports import HostReport, ModelReport, write_report
from mldeploy_daemon.book import Book
from mldeploy_daemon.desired import Kept
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.follow import APPEND_DEADLINE, JOIN_DEADLINE, LEASE, LEAVE_DEADLINE
from tests.world.actors import Process

if TYPE_CHECKING:
    from tests.world.hosts import Host

#: What goes into a report of this head, beside the routes: the agent knows.
Said = Callable[[int], dict[str, object]]


class Follower:
    """One run's. `changed` is called when the state is another."""

    def __init__(
        self, host: Host, process: Process, disk: Disk, book: Book, changed: Callable[[], None], said: Said
    ) -> None:
        self.host, self.process, self.book, self.changed, self.said = host, process, book, changed, said
        self.kept = Kept(disk)
        self.state: State | None = None
        self.unreachable = False
        self.read_head = False
        self._busy = False
        self._reported, self._told = -float("inf"), -1

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
                self.unreachable, self._told = True, -1
                process.world.trace(process.life.name, f"{type(error).__name__}: {error}")
            self._take(self.log.state)
            process.sleep(process.world.cast.poll * self.host.rng.uniform(0.8, 1.2))

    def live(self, ref: str) -> bool:
        """Whether `churn@7` is published and not retired, as far as is known."""
        name, _, number = ref.rpartition("@")
        model = self.state.models.get(name) if self.state else None
        version = model.versions.get(int(number)) if model else None
        return self.state is None or (version is not None and not version.retired)

    @property
    def leased(self) -> bool:
        """Whether the head is fresh enough for rollouts to have traffic. Survives the agent."""
        return self.host.world.scheduler.now - self.host.fresh <= LEASE

    def tell(self) -> None:
        """Something that is reported has changed."""
        self._told = -1

    # --- one look

    def _look(self) -> None:
        with self._alone():
            asked = self.host.world.scheduler.now
            self.log.refresh()
        self._take(self.log.state)
        self._fresh(asked)
        if self.host.rng.random() < 0.2 and self.log.checkpoint():
            self.host.world.counts["checkpoints written"] += 1
        if not self.host.world.calm and self.host.rng.random() < 0.01:
            self.append(self._leave, LEAVE_DEADLINE)  # it stops in good order, and is back at once
        elif self._joins(self.log.state):
            self.append(self._joins, JOIN_DEADLINE)
        if self.unreachable:
            fetched = ("fetch", "install")
            self.book.forget([key for key, bad in self.book.bad.items() if bad.stage in fetched])
        self.unreachable = False
        now = self.host.world.scheduler.now
        if now - self._reported > self.host.world.cast.report or self.log.state.head != self._told:
            self._reported, self._told = now, self.log.state.head
            self._report(self.log.state)

    def _fresh(self, asked: float) -> None:
        lapsed, self.host.fresh = not self.leased, asked
        self.read_head = True
        if lapsed and self.leased:
            self.changed()

    def append(self, intent: Intent, deadline: float = APPEND_DEADLINE) -> Appended | None:
        """Write what `intent` gives. Raises as Log.append."""
        try:
            with self._alone():
                now = self.process.now()
                return self.log.append(intent, actor=f"host:{self.host.name}", now=now, deadline=deadline)
        finally:
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
        report = HostReport(
            host=self.host.name, environment=PRODUCTION, head=state.head, models=models,
            **self.said(state.head),  # type: ignore[arg-type]
        )  # fmt: skip
        write_report(self.process.store, report)
