"""The processes of a world: they start, run real code, die at any moment and start again.

An `Actor` is the program (a writer, a pusher, a collector, a host's agent): it has a name, a random
stream, a clock that may be hours off, and whatever its machine's disk keeps between two runs. A `Process`
is one run of it and gives the code under test what it asks for: a store, a log, the time, sleep and ids.
To add an actor, subclass `Actor`, write `main(process)`, and have it made in `world.py`.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ulid import ULID

from mldeploy.core.state import State
from mldeploy.errors import OutcomeUnknownError
from mldeploy.store.log import Appended, Intent, Log
from tests.world.bundles import scratch
from tests.world.scheduler import Life, Task, Threads
from tests.world.store import WorldStore

if TYPE_CHECKING:
    from tests.world.world import World

#: Seconds that clocks of machines may be off, in both directions.
SKEWS = [0.0, 0.0, 1.0, -1.0, 600.0, -600.0, 4 * 3600.0, -4 * 3600.0]


class Actor:
    """A program that runs on some machine of the world. `kind` is the first word of its name."""

    kind = "actor"
    #: Seconds after which it is started again when it has died; None: never.
    restarts: tuple[float, float] | None = (0.0, 120.0)

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.rng = random.Random(f"{world.seed}/{name}")
        self.skew = self.rng.choice(SKEWS)
        self.process: Process | None = None
        self.runs = 0
        self.started = 0.0  # when the present run began, seconds of the world
        self.ended: float | None = None  # when it was ended for good
        self.stalled_until = 0.0
        self.cut_off_until = 0.0
        self.last_id = 0
        self.folder = scratch() / f"{world.seed}-{id(world):x}" / name  # its machine's disk
        self.journals: Path | None = None  # of pushes, where it keeps any

    def main(self, process: Process) -> None:
        """What it does, from its start to its end. Killed at any point."""
        raise NotImplementedError

    def start(self) -> None:
        """A new run."""
        if self.ended is not None:
            return
        self.runs, self.started = self.runs + 1, self.world.scheduler.now
        life = Life(f"{self.name}.{self.runs}")
        self.process = Process(self, life)
        self.world.lives[life] = self
        self.world.trace(life.name, "starts")
        self.process.spawn("main", lambda: self._main(self._running()))

    def crash(self) -> None:
        """kill -9, and a new start later."""
        process = self._running()
        self.world.trace(process.life.name, "is killed")
        self.world.scheduler.kill(process.life)
        self.world.lives.pop(process.life, None)
        self.died()
        if self.restarts is not None:
            self.world.scheduler.at(self.rng.uniform(*self.restarts), self.start)

    def end(self) -> None:
        """kill -9, for good."""
        self.restarts, self.ended = None, self.world.scheduler.now
        if self.process is not None and self.process.life in self.world.lives:
            self.crash()

    def died(self) -> None:
        """What else ends with the process."""

    def settled(self) -> bool:
        """Whether it has done what it has to do. Default: it has come to its end."""
        return self.process is not None and self.process.life not in self.world.lives

    def check(self) -> None:
        """What must be so at the end. Default: it has settled."""
        if not self.settled():
            self.world.monitor.wrong(f"{self.name} has not come to its end")

    def remove(self) -> None:
        """Its disk, once the world is over."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _main(self, process: Process) -> None:
        self.main(process)
        self.world.scheduler.at(0.0, lambda: self._over(process.life))

    def _over(self, life: Life) -> None:
        """It has come to its end, and so have its threads."""
        self.world.scheduler.kill(life)
        self.world.lives.pop(life, None)

    def _running(self) -> Process:
        assert self.process is not None
        return self.process


class Process:
    """One run of an actor, and all that it may ask of the machine it runs on."""

    def __init__(self, actor: Actor, life: Life) -> None:
        self.actor, self.life, self.rng = actor, life, actor.rng
        self.world = world = actor.world
        self.store = WorldStore(
            world.bucket, world.scheduler, world.weather, actor.rng, life,
            cut_off=lambda: world.scheduler.now < actor.cut_off_until, trace=world.trace,
        )  # fmt: skip

    def spawn(self, name: str, work: Callable[[], object], after: float = 0.0) -> Task:
        """Another thread of this process."""
        return self.world.scheduler.spawn(self.life, f"{self.life.name} {name}", work, after)

    def sleep(self, seconds: float) -> None:
        """As time.sleep."""
        self.world.scheduler.pause(seconds)

    def monotonic(self) -> float:
        """As time.monotonic."""
        self.world.scheduler.pause()
        return self.world.scheduler.now

    def time(self) -> float:
        """As time.time: this machine's clock, which may be hours off."""
        return self.world.time() + self.actor.skew

    def now(self) -> datetime:
        """The same as a datetime."""
        return datetime.fromtimestamp(self.time(), UTC)

    def ids(self) -> str:
        """As new_ulid: by this machine's clock, and growing within the process."""
        fresh = (int(self.time() * 1000) << 80) | self.rng.getrandbits(80)
        self.actor.last_id = max(fresh, self.actor.last_id + 1)
        return str(ULID.from_int(self.actor.last_id)).lower()

    def log(self, state: State | None = None, **more: Any) -> Log:
        """A log of the kind this world is about, watched. `more`: as Log takes it."""
        return self.world.parts.log(self, state, **more)


class WatchedLog(Log):
    """The production log, with this process's clock; the monitor is told all that it says.

    Nothing of how it reads and writes is changed: it is handed what the callers of a real process leave to
    the defaults (the clocks, sleep and ids).
    """

    def __init__(self, process: Process, state: State | None = None, **more: Any) -> None:
        super().__init__(
            process.store, state=state, ahead=process.rng.choice([1, 4, 64]),
            pool=lambda threads: Threads(process.world.scheduler, threads), **more,
        )  # fmt: skip
        self.process = process
        self.world_monitor = process.world.monitor
        self.world_seen = self.state.head

    def refresh(self, limit: int | None = None) -> int:
        try:
            return super().refresh(limit)
        finally:
            self.world_looks()

    def append(self, intent: Intent, **given: Any) -> Appended | None:
        process = self.process
        record_id = process.ids()
        self.world_monitor.tries(record_id, process.life.name)
        given |= {"ids": lambda: record_id, "monotonic": process.monotonic, "sleep": process.sleep}
        try:
            appended = self.write(intent, **given)
        except OutcomeUnknownError:
            self.world_monitor.unknown(record_id)
            raise
        except Exception as error:  # whatever else it says: nothing was written
            self.world_monitor.refused(record_id, error)
            raise
        finally:
            self.world_looks()
        if appended is None:
            self.world_monitor.refused(record_id, None)
        else:
            self.world_monitor.acknowledged(record_id, appended.seq, appended.state)
        return appended

    def write(self, intent: Intent, **given: Any) -> Appended | None:
        """What is tested. Broken variants replace it."""
        return super().append(intent, **given)

    def world_looks(self) -> None:
        if not self.process.life.dead:
            self.world_monitor.reads(self.process.life.name, self.world_seen, self.state)
            if self.state.head and not self.world_seen:  # from a checkpoint, perhaps
                self.world_monitor.same(self.process.life.name, self.state)
            self.world_seen = max(self.world_seen, self.state.head)


def chosen(rng: random.Random, values: Sequence[Any]) -> Any:
    """One of them, or None if there are none."""
    return rng.choice(values) if values else None
