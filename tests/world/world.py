"""One world: from a seed to a verdict.

    storm   the actors work, and what can go wrong goes wrong
    calm    nothing new goes wrong; every actor starts again; all has to converge within a bounded time
    end     what was still on its way has arrived, and the whole history is judged

Everything is drawn from the seed: who there is, how fast, what goes wrong. The same seed gives the same
world, to the last step, on any machine and under any hash seed.
"""

from __future__ import annotations

import random
import re
import tempfile
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from ulid import ULID

from mldeploy.bundle.push import Pushed, push
from mldeploy.core.host import Action as HostAction
from mldeploy.core.host import Desired, Limits, Observed
from mldeploy.core.plan import plan
from mldeploy.core.records import Action
from mldeploy.core.types import ModelRef
from mldeploy.core.wish import without_lease
from mldeploy.store import checkpoints, fleet
from mldeploy.store.collect import Collection, collect
from mldeploy.store.fleet import Fleet
from mldeploy.store.log import Log
from mldeploy.store.objects import MARKER, Marker
from mldeploy_daemon.measures import Measures
from mldeploy_daemon.notifying import Notifying
from mldeploy_daemon.steering import Steering, still
from mldeploy_daemon.uses import Uses
from tests.world.actors import Actor, Process, WatchedLog
from tests.world.bucket import Bucket
from tests.world.bundles import scratch
from tests.world.clients import Clients
from tests.world.decoded import Decoded
from tests.world.faults import Weather
from tests.world.hosts import Host
from tests.world.monitor import Monitor
from tests.world.operators import Operator
from tests.world.scheduler import FailedError, Inline, Life, Scheduler, Task
from tests.world.writers import Collector, Janitor, Pusher, Vandal, Writer

#: Events kept for the story of a failure.
TAIL = 60
#: Seconds of calm within which everything has converged, and after which nothing is on its way any more.
CALM = 2700.0
#: Seconds more within which rollouts, notices and retirements have come to their ends.
PATIENCE = 7200.0
#: Seconds after the last record within which every host does what it says, and has reported it.
SETTLED = 180.0

_SHA256 = re.compile(r"[0-9a-f]{64}")

#: Records between two checkpoints.
INTERVAL = 12

Then = Callable[[ModelRef], Sequence[Action]]


def real_push(process: Process, folder: Path, log: Log, then: Then) -> Pushed:
    """The production push, with this process's ids, and threads that are none."""
    begun: list[str] = []

    def ids() -> str:
        begun.append(process.ids())
        return begun[-1]

    pushed = push(
        process.store, folder, log=log, actor=process.actor.name, now=process.now(), then=then,
        validate=False, ids=ids, journals=process.actor.journals, pool=Inline,
    )  # fmt: skip
    process.world.counts["pushes gone on with"] += pushed.new and not begun
    return pushed


def real_collect(process: Process, log: Log, now: datetime, grace: timedelta) -> Collection:
    """The production collection, in one thread."""
    return collect(process.store, log, now=now, actor=process.actor.name, grace=grace, threads=1)


@dataclass(frozen=True)
class Parts:
    """The code that the actors run: production's, or a variant that is broken on purpose."""

    log: Callable[..., Log] = WatchedLog
    push: Callable[[Process, Path, Log, Then], Pushed] = real_push
    collect: Callable[[Process, Log, datetime, timedelta], Collection] = real_collect
    plan: Callable[[Desired, Observed, float, Limits], tuple[HostAction, ...]] = plan
    lapsed: Callable[[Desired], Desired] = without_lease
    steering: Callable[..., Steering] = Steering
    still: Callable[..., Sequence[Action]] = still
    fleet: Callable[..., Fleet] = Fleet
    notifying: Callable[..., Notifying] = Notifying
    measures: Callable[..., Measures] = Measures
    uses: Callable[..., Uses] = Uses


@dataclass(frozen=True)
class Cast:
    """How many of each actor, for how long (seconds), and how often each thing happens."""

    writers: int
    pushers: int
    collectors: int
    vandals: int
    hosts: int
    storm: float
    poll: float = 5.0  # seconds between a host's looks at the log
    requests: float = 120.0  # seconds between the times that clients ask a front
    asking: int = 100  # requests of each of them, each time
    operators: int = 0
    lost: int = 0  # hosts that die for good, some time in the storm
    late: int = 0  # hosts that come some time in the storm
    report: float = 60.0  # seconds between the reports of a host
    deaths: float = 0.1  # the chance that a worker that came up dies by itself
    trouble: float = 0.3  # the chance that a bundle does not come up at once on a host, or never
    happening: float = 1.0  # how much of what happens to processes happens: many hosts live through more
    calm: float = CALM

    @classmethod
    def drawn(cls, rng: random.Random) -> Cast:
        """A small world; most faults of a protocol need few actors."""
        return cls(
            writers=rng.randint(1, 4), pushers=rng.randint(1, 3),
            collectors=rng.randint(0, 2), vandals=int(rng.random() < 0.2),
            hosts=rng.choice([0, 1, 1, 2, 2, 3]), storm=rng.choice([200.0, 600.0, 1800.0]),
            poll=rng.choice([3.0, 10.0, 30.0]),
        )  # fmt: skip

    @classmethod
    def fleet(cls, hosts: int) -> Cast:
        """Many hosts, among which rollouts of every kind go on; they die, and some for good."""
        return cls(
            writers=0, pushers=1, collectors=1, vandals=0, hosts=hosts, storm=900.0, poll=30.0, requests=60.0,
            asking=400, operators=1, lost=hosts // 20, late=hosts // 10, deaths=0.002, trouble=0.004,
            happening=0.1, calm=300.0,
        )  # fmt: skip


@dataclass
class Outcome:
    """What happened in one world."""

    seed: int
    error: str = ""  # what was wrong; "" if nothing was
    tail: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    seconds: float = 0.0  # of virtual time

    def add(self, other: Outcome) -> None:
        """Count another world in."""
        self.counts += other.counts
        self.faults += other.faults
        self.steps += other.steps
        self.seconds += other.seconds


class World:
    """One world. `run` once. `plot`: what happens in it, one after the other."""

    def __init__(
        self,
        seed: int,
        *,
        parts: Parts | None = None,
        cast: Cast | None = None,
        weather: Weather | None = None,
        plot: Plot | None = None,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        rng = self.rng = random.Random(f"world {seed}")
        self.seed, self.parts = seed, parts or Parts()
        drawn, weather_drawn = Cast.drawn(rng), Weather.drawn(rng, cast.happening if cast else 1.0)
        self.cast, self.weather = cast or drawn, weather or weather_drawn
        self.scheduler = Scheduler(random.Random(f"order {seed}"))
        self.scheduler.before = self._before
        self.counts: Counter[str] = Counter()
        self.tail: deque[tuple[float, str, str]] = deque(maxlen=TAIL)
        self._trace, self._plot = trace, plot or storm_and_calm
        self.bucket = Bucket(lambda: self.scheduler.now)
        marker = Marker(id=str(ULID.from_int(seed % 2**128)).lower(), created="2026-09-21T13:33:20Z")
        self.bucket.create(MARKER, msgspec.json.encode(marker), "init")
        self.clients = Clients.drawn(seed, self.cast.storm, self.cast.asking)
        self.monitor = Monitor(self.bucket, self.trace, self.clients, marker.id)
        self.calm_since = float("inf")
        self._still: list[tuple[Task, int]] = []  # tasks that stand still, and in which of their waits
        self.lives: dict[Life, Actor] = {}
        self.actors: list[Actor] = self._people()

    def time(self) -> float:
        """The true time, seconds since the epoch."""
        return self.bucket.now()

    @property
    def calm(self) -> bool:
        """Whether nothing new goes wrong any more."""
        return self.weather.calm

    def trace(self, who: str, what: str) -> None:
        """One event of the story."""
        self.tail.append((self.scheduler.now, who, what))
        if self._trace is not None:
            self._trace(_line(self.scheduler.now, who, what))

    def run(self) -> Outcome:
        """Live through it. An outcome with an `error` names what was wrong first."""
        error = ""
        before = tempfile.tempdir, checkpoints.INTERVAL, fleet._REPORT
        # a push makes a folder each time; and a log of a world is short
        tempfile.tempdir, checkpoints.INTERVAL = str(scratch()), INTERVAL
        fleet._REPORT = Decoded(before[2])  # type: ignore[assignment]
        try:
            self._plot(self)
        except FailedError as broken:
            error = str(broken)
        except Exception as broken:  # noqa: BLE001 - whatever it is, its seed has to be told
            error = "".join(traceback.format_exception(broken))
        finally:
            self._end()
            tempfile.tempdir, checkpoints.INTERVAL, fleet._REPORT = before
        monitor = self.monitor
        counts = self.counts + monitor.counts + monitor.rollouts.counts + monitor.telling.counts
        return Outcome(
            self.seed, error, [_line(*event) for event in self.tail], counts, self.weather.counts,
            self.scheduler.steps, self.scheduler.now,
        )  # fmt: skip

    # --- what a plot is made of

    def begin(self) -> None:
        """Everyone starts, within the first seconds; but some hosts come late, and some go for good."""
        hosts = [actor for actor in self.actors if isinstance(actor, Host)]
        late = hosts[: self.cast.late]
        for actor in self.actors:
            soon = 10.0 if actor not in late else self.cast.storm
            self.scheduler.at(self.rng.uniform(0, soon), actor.start)
        for host in hosts[len(hosts) - self.cast.lost :]:
            self.scheduler.at(self.rng.uniform(60, self.cast.storm), host.end)

    def go_on(self, seconds: float) -> None:
        """Let so much time pass."""
        self.scheduler.run(self.scheduler.now + seconds)

    def becalm(self) -> None:
        """Nothing new goes wrong from now on."""
        self.trace("world", "is calm from now on")
        self.weather.calm, self.calm_since = True, self.scheduler.now
        for actor in self.actors:
            actor.cut_off_until = actor.stalled_until = 0.0
        for task, turn in self._still:
            if task.turn == turn:
                self.scheduler.wake(task)

    def wait_for_ends(self) -> None:
        """What has its own time is given it: rollouts their deadlines, notices their turns."""
        monitor, until = self.monitor, self.scheduler.now + PATIENCE
        head, moved = monitor.head.head, self.scheduler.now
        while self.scheduler.now < until and (
            monitor.unfinished()
            or self.scheduler.now < moved + SETTLED
            or not all(actor.settled() for actor in self.actors)
        ):
            self.go_on(30)
            if monitor.head.head != head:
                head, moved = monitor.head.head, self.scheduler.now

    def judge(self) -> None:
        """Everyone is where they should be, nothing is left that nobody needs, and the history is whole."""
        for actor in self.actors:
            actor.check()
        janitor = Janitor(self, "janitor")
        janitor.start()
        self.go_on(600)
        janitor.check()
        if self.monitor.unfinished():  # what came due while the janitor was at work is given its time as well
            self.wait_for_ends()
        self.monitor.finish()

    # --- inside

    def _people(self) -> list[Actor]:
        made: list[tuple[type[Actor], int]] = [
            (Writer, self.cast.writers), (Pusher, self.cast.pushers),
            (Collector, self.cast.collectors), (Vandal, self.cast.vandals), (Host, self.cast.hosts),
            (Operator, self.cast.operators),
        ]  # fmt: skip
        return [kind(self, f"{kind.kind}-{number + 1}") for kind, count in made for number in range(count)]

    def _end(self) -> None:
        """Unwind what is still waiting, so that nothing of this world is left."""
        for life in list(self.lives):
            self.scheduler.kill(life)
        self.lives.clear()
        for actor in self.actors:
            actor.remove()

    def _before(self, task: Task) -> float:
        """What happens to a process before its next step. Returns the seconds it stands still."""
        actor = self.lives[task.life]
        now = self.scheduler.now
        if now < actor.stalled_until:
            self._still.append((task, task.turn))
            return actor.stalled_until - now
        what = self.weather.happens(self.rng)
        if not what:
            return 0.0
        self.weather.counts[what] += 1
        match what:
            case "crash":
                actor.crash()
            case "stall":
                actor.stalled_until = now + self.rng.choice([5.0, 60.0, 1200.0]) * self.rng.random()
                self.trace(task.life.name, f"stands still until {actor.stalled_until:.1f}")
            case "partition":
                actor.cut_off_until = now + self.rng.choice([5.0, 60.0, 900.0]) * self.rng.random()
                self.trace(task.life.name, f"is cut off until {actor.cut_off_until:.1f}")
        if actor.stalled_until > now:
            self._still.append((task, task.turn))
        return max(0.0, actor.stalled_until - now)


def _line(moment: float, who: str, what: str) -> str:
    return f"{moment:12.3f}  {who:<14} {_SHA256.sub(_short, what)}"


def _short(found: re.Match[str]) -> str:
    return found[0][:8]


Plot = Callable[[World], None]


def storm_and_calm(world: World) -> None:
    """What happens in a world unless it is told otherwise."""
    world.begin()
    world.go_on(world.cast.storm)
    world.becalm()
    world.go_on(world.cast.calm)
    world.wait_for_ends()
    world.judge()
