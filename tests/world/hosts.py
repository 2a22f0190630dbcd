"""A host: a machine with an agent, and what must be so of it in the end.

The agent may be killed at any point, alone (workers and fronts go on: `machine.py`) or with its machine
(only the disk is left). Left out: what the agent does (`agent.py`, `follower.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mldeploy.core.types import PRODUCTION
from mldeploy.core.wish import wish
from mldeploy.store.reports import HostReport, report_key
from mldeploy_daemon.desired import Kept
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.follow import LEASE
from tests.world.actors import Actor, Process
from tests.world.agent import Agent
from tests.world.machine import Machine
from tests.world.operators import HOST_TTL

if TYPE_CHECKING:
    from tests.world.world import World


#: Seconds: between a look and what follows from it on the fronts; and what a slow front takes longer.
AT_ONCE, SLOW_FRONT = 20.0, 40.0
#: Seconds after which one that has gone for good is no member any more, where the policy says `host_ttl`.
FORGOTTEN = HOST_TTL + 1200.0


class Host(Actor):
    """A machine of the world's one environment."""

    kind = "host"

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.labels = {"zone": self.rng.choice("ab")}
        self.machine = Machine(
            name, self.folder, world.scheduler, world.monitor, self.rng, self.time,
            cast=world.cast, clients=world.clients,
        )  # fmt: skip
        self.machine.calm = lambda: world.calm
        self.machine.allowed = self._allowed
        self.head = 0  # that it has on its disk
        self.fresh = -float("inf")  # when it has read the log to its end, seconds of the world

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

    def _allowed(self) -> float:
        """Seconds for which a front may give traffic to a rollout that has ended: see `Rollouts.routed`.

        An agent that is dead, stands still or has just begun to go on cannot know; in the storm it may be cut
        off, and learn of nothing until its lease is over.
        """
        world = self.world
        now = world.scheduler.now
        poll = world.cast.poll * 1.2
        bound = poll + AT_ONCE if world.calm else LEASE + poll + SLOW_FRONT + AT_ONCE
        alive = max(self.started, self.stalled_until, world.calm_since + 120 if world.calm else 0.0)
        dead = self.process is None or self.process.life not in world.lives
        return float("inf") if dead or now - alive <= bound else bound

    def died(self) -> None:
        self.machine.ring = self.machine.asked = lambda: None
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
        if self.ended is not None:
            if (
                self.name in self.world.monitor.head.hosts
                and self.world.scheduler.now - self.ended > FORGOTTEN
            ):
                wrong(f"{self.name} is gone for good, and still a member")
            return
        state = Kept(Disk(self.folder)).load()
        if state is None or state != self.world.monitor.head:
            wrong(f"{self.name} has not come to the head of the log: {state.head if state else None}")
            return
        if self.name not in state.hosts:
            wrong(f"{self.name} is no member")
        desired = wish(state, PRODUCTION, self.labels, {})
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
                elif role == "candidate" and route.candidate and route.share != asked.share:
                    wrong(f"{self.name} gives {route.share} to {version.ref}, and not {asked.share}")
        if not machine.arrived():
            wrong(f"{self.name}: a front has not taken the last table")
        if not self.reported():
            wrong(f"{self.name} has not reported that it is at the head")

    def settled(self) -> bool:
        return self.ended is not None or (self.reported() and self.machine.arrived())

    def reported(self) -> bool:
        """Whether the store has its word that it is at the head. (What it sent in the storm may still arrive
        and stand there, until its next report.)
        """
        found = self.world.bucket.objects.get(report_key(PRODUCTION, self.name))
        head = self.world.monitor.head.head
        return found is not None and msgspec.json.decode(found.data, type=HostReport).head == head
