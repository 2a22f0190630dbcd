"""A world that goes on for days: what is in use is past its expiry, and every day somebody is warned."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from mldeploy.core import records
from mldeploy.core.records import Action
from mldeploy.core.state import State
from mldeploy.core.types import PRODUCTION
from tests.world.actors import Actor, Process
from tests.world.operators import SETTINGS
from tests.world.world import Cast, World

DAYS = 2
#: Few looks and reports a day: otherwise it takes as long as a hundred worlds.
WEEKEND = Cast(
    writers=0, pushers=1, collectors=0, vandals=0, hosts=2, storm=600.0, poll=300.0, report=600.0, asking=0
)


class Owner(Actor):
    """Whoever lets what is served expire."""

    kind = "operator"

    def main(self, process: Process) -> None:
        log, month = process.log(), 30 * 86_400
        said = {**SETTINGS, "idle": month, "host_ttl": month}
        log.append(
            lambda _: [records.Policy(environment=PRODUCTION, settings=said)],
            actor=self.name, now=process.now(), deadline=None,
        )  # fmt: skip
        log.append(self._expire, actor=self.name, now=process.now(), deadline=None)

    def _expire(self, state: State) -> Sequence[Action]:
        yesterday = datetime.fromtimestamp(self.world.time(), UTC).date() - timedelta(days=1)
        return [
            records.Extend(model=name, version=serving.stable, expires=yesterday.isoformat())
            for name, serving in state.environments.get(PRODUCTION, {}).items()
            if serving.stable is not None
        ]


def days(world: World) -> None:
    """The plot. The monitor looks whether each of the days has had its warning."""
    world.begin()
    world.go_on(world.cast.storm)
    world.becalm()
    world.go_on(600)
    Owner(world, "operator-1").start()
    world.go_on(DAYS * 86_400.0)
    left = world.monitor.telling.untold(world.monitor.head)
    if left:
        world.monitor.wrong(f"not done: {'; '.join(left)}")
