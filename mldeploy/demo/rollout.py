"""The demo of rollouts that steer themselves, on one machine with two real daemons and constant load.

    digits@1   pushed "two months ago" with an expiry of 30 days: past it, in use, and therefore kept
    digits@2   a good candidate: shadow, 1 %, 10 %, 50 %, 100 %, unattended; its launch report is shown
    digits@3   a bad one, which fails one request in five: halted at 1 %, and stable has the traffic again
    digits@1   used by nobody any more: retired by the hosts themselves

Rules: nothing here decides anything about traffic; it promotes, keeps the load up, waits for what the hosts
write into the log, and judges that. It succeeds only if all of it held, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mldeploy.bundle.scratch import Held
from mldeploy.demo import scene
from mldeploy.demo.load import Load, Tally
from mldeploy.demo.play import CONNECTIONS, PATH, DemoError
from mldeploy.demo.run import address_of, bundles, check_port, push, workspace
from mldeploy.demo.scene import MODEL
from mldeploy.errors import RolloutHaltedError

if TYPE_CHECKING:
    from mldeploy.client import Client
    from mldeploy.core.state import Ended, Serving, State
    from mldeploy.core.types import ModelRef
    from mldeploy.progress import Reporter

STEPS: tuple[str | int, ...] = ("shadow", 1, 10, 50, 100)
#: Of the bad candidate: a shadow step would find it out before anybody got an answer of it.
BARE_STEPS = STEPS[1:]
#: Hosts, each with a daemon, a state folder and clients of its own.
_HOSTS = 2
#: Absolute, since both models share two cores with the load: a candidate twice as slow is no accident here.
GUARDS = ("error_rate < 5%", "p99 < 2s")
AGREEMENT = "agreement > 85%"
_HOLD = 2
_MIN_REQUESTS = 100
#: Seconds between a client's requests: a host that is busy all the time has none left for a shadow.
_PAUSE = 0.05
#: A version nobody has asked for so long is unused: the least that a policy may say. Seconds.
_IDLE = 60
_AGE = timedelta(days=60)
#: Seconds that each act may take.
_PATIENCE = 600.0
_LOOK = 0.5


class Ramp(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollout came to, and what its clients saw meanwhile."""

    version: str
    outcome: str
    reason: str
    seconds: float
    shares: tuple[int, ...]  # hundredths of a percent, as they followed each other; 0 is the shadow step
    requests: int
    failed: int
    answers: dict[str, int]  # by version


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    store: str
    addresses: tuple[str, ...]  # of the daemons
    good: Ramp
    bad: Ramp
    retired: str
    retired_after: float  # seconds since the good one was complete
    report: str  # the launch report, as text
    history: tuple[str, ...]
    seconds: float


def run(*, store: str | None, listen: str, reporter: Reporter) -> dict[str, Any]:
    """Play it. `store`: a URL (default: a folder of the demo's own). `listen`: HOST:PORT of the first daemon.

    Raises what `mldeploy.demo.run.run` raises.
    """
    began = time.monotonic()
    check_port(listen)
    with ExitStack() as cleanup:
        result = _play(store, listen, workspace(cleanup), reporter, cleanup)
    took = msgspec.structs.replace(result, seconds=round(time.monotonic() - began, 1))
    reporter.info(f"all of it held, in {took.seconds} s")
    answer: dict[str, Any] = msgspec.to_builtins(took)
    return answer


def _play(store: str | None, listen: str, held: Held, reporter: Reporter, cleanup: ExitStack) -> Result:
    from mldeploy.client import Client
    from mldeploy.client.connection import utc_now
    from mldeploy.reporting import text

    folder = held.path
    client = Client(store or str(folder / "store"))
    past = Client(client.store, now=lambda: utc_now() - _AGE)
    (first, second), held_out = bundles(folder, client, reporter)
    old = _ref(push(past, first, reporter))
    reporter.info(f"{old} says that it was pushed {_AGE.days} days ago, for 30 days")
    good = _ref(push(client, second, reporter))
    bad = _ref(push(client, _bad_bundle(client, folder, held_out, reporter), reporter))
    held_out = msgspec.structs.replace(
        held_out.renumbered({1: old.version, 2: good.version}),
        answers={
            old.version: held_out.answers[1],
            good.version: held_out.answers[2],
            bad.version: held_out.answers[1],
        },
    )
    client.set_policy({"idle": f"{_IDLE}s"}, environment=client.environment)

    reporter.step(f"starting mldeployd on {_HOSTS} hosts, which are this machine")
    addresses = _start(client, held, listen, cleanup)
    past.promote(str(old), now=True)
    client.wait(MODEL, timeout=120)
    reporter.info(f"{old} is past its expiry and serves on {' and '.join(addresses)}")

    watched = _Watched(client, addresses, held_out, reporter)
    launched = watched.roll_out(good, STEPS, (*GUARDS, AGREEMENT))
    _judge_good(launched)
    complete = time.monotonic()
    report = text.render(client.report(str(good)))
    for line in report.splitlines():
        reporter.info(f"report: {line}")

    halted = watched.roll_out(bad, BARE_STEPS, GUARDS)
    _judge_bad(halted, good, client.state)

    reporter.step(f"waiting until nobody has asked for {old} for {_IDLE} s")
    until(lambda: bool(client.state.models[MODEL].versions[old.version].retired), f"{old} is retired")
    retired_after = round(time.monotonic() - complete, 1)
    history = tuple(
        f"{event.seq:>3} {event.actor}: {'; '.join(event.actions)}"
        for event in reversed(client.history().events)
    )
    for line in history:
        reporter.info(f"history: {line}")
    return Result(
        store=client.store,
        addresses=addresses,
        good=launched,
        bad=halted,
        retired=str(old),
        retired_after=retired_after,
        report=report,
        history=history,
        seconds=0.0,
    )


def _start(client: Client, held: Held, listen: str, cleanup: ExitStack) -> tuple[str, ...]:
    """Start the daemons, the first at `listen`; their URLs once all are members."""
    from mldeploy.client.daemon import LocalDaemon

    addresses = []
    for number in range(_HOSTS):
        daemon = LocalDaemon(
            store=client.store,
            state=held.path / f"host-{number + 1}",
            listen=listen if number == 0 else "127.0.0.1:0",
            environment=client.environment,
            holds=(held.lock,),
        )
        daemon.start()
        cleanup.callback(daemon.stop)
        addresses.append(daemon.address)
    until(lambda: len(client.state.hosts) == _HOSTS, "all hosts have joined")
    return tuple(addresses)


class _Watched:
    """Rollouts of some daemons under load, followed through the log."""

    def __init__(
        self, client: Client, addresses: Sequence[str], held_out: scene.HeldOut, reporter: Reporter
    ) -> None:
        self.client, self.addresses, self.held_out = client, addresses, held_out
        self.reporter = reporter

    def _loads(self) -> list[Load]:
        """One for each host; together as many connections as the other demo has."""
        bodies, check = self.held_out.bodies(), self.held_out.check()
        each = CONNECTIONS // len(self.addresses)
        return [Load(*address_of(url), PATH, bodies, check, each, _PAUSE) for url in self.addresses]

    def roll_out(self, ref: ModelRef, steps: Sequence[str | int], guards: Sequence[str]) -> Ramp:
        """Promote it by steps, and keep the load up until the log says how that ended."""
        loads = self._loads()
        for load in loads:
            load.start()
        began = time.monotonic()
        try:
            self.reporter.step(f"promoting {ref} under load: {', '.join(map(_percent, steps))}")
            self.client.promote(str(ref), steps=steps, hold=_HOLD, guards=guards, min_requests=_MIN_REQUESTS)
            shares: list[int] = []
            ended = until(lambda: self._follow(ref, shares), f"the rollout of {ref} is over")
            seconds = time.monotonic() - began
            _settled(self.client)
        finally:
            tallies = [load.stop() for load in loads]
        return _ramp(ref, ended, shares, tallies, seconds)

    def _follow(self, ref: ModelRef, shares: list[int]) -> Ended | None:
        """How the rollout ended, once it has; its share is noted and told whenever it has changed."""
        now = serving(self.client.state, self.client.environment)
        if now.ramp is not None and now.ramp.version == ref.version:
            if not shares or shares[-1] != now.ramp.share:
                shares.append(now.ramp.share)
                at = f"takes {_percent(now.ramp.share / 100)}" if now.ramp.share else "is shadowed"
                self.reporter.info(f"{ref} {at}")
            return None
        if now.ended is not None and now.ended.version == ref.version:
            because = f": {now.ended.reason}" if now.ended.reason else ""
            self.reporter.info(f"the rollout of {ref} was {now.ended.outcome}{because}")
            return now.ended
        return None


def serving(state: State, environment: str) -> Serving:
    """What the model does there."""
    from mldeploy.core.state import Serving

    return state.environments.get(environment, {}).get(MODEL, Serving())


def until(look: Callable[[], Any], what: str) -> Any:
    """The first value of `look` that is true. Raises DemoError with `what` when patience ends."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise DemoError(
                f"not within {_PATIENCE:.0f} s: {what}", "run it again when the machine is less busy"
            )
        time.sleep(_LOOK)


def _settled(client: Client) -> None:
    """Wait until every host does what the log says; that a rollout was halted is no failure here."""
    with contextlib.suppress(RolloutHaltedError):
        client.wait(MODEL, timeout=120)


def _bad_bundle(client: Client, folder: Path, held_out: scene.HeldOut, reporter: Reporter) -> Path:
    """The first model again, in a class that fails now and then: its samples pass, its requests do not."""
    reporter.step("packing version 3, which will fail one request in five")
    source = scene.write_bad_source(folder / "source-3", folder / "source-1", held_out)
    packed = client.pack(source, out=folder / "bundle-3", reporter=reporter)
    reporter.info("packed and validated: no sample shows what is wrong with it")
    return Path(packed.folder)


def _ramp(ref: ModelRef, ended: Ended, shares: list[int], tallies: Sequence[Tally], seconds: float) -> Ramp:
    disagreed = [each for tally in tallies for each in tally.disagreements]
    if disagreed:
        raise DemoError(f"{len(disagreed)} answers disagreed; the first: {disagreed[0]}")
    answers = sum((tally.answers for tally in tallies), Counter[str]())
    return Ramp(
        version=str(ref),
        outcome=ended.outcome,
        reason=ended.reason,
        seconds=round(seconds, 1),
        shares=tuple(shares),
        requests=sum(tally.total for tally in tallies),
        failed=sum(len(tally.failures) for tally in tallies),
        answers=dict(sorted(answers.items())),
    )


def _judge_good(seen: Ramp) -> None:
    if seen.outcome != "completed":
        raise DemoError(f"the good candidate was {seen.outcome}: {seen.reason}")
    if seen.failed:
        raise DemoError(f"{seen.failed} of {seen.requests} requests failed while the good candidate came")


def _judge_bad(seen: Ramp, stable: ModelRef, state: State) -> None:
    if seen.outcome != "halted" or "error_rate" not in seen.reason:
        raise DemoError(f"the bad candidate was {seen.outcome}: {seen.reason or 'without a reason'}")
    if max(seen.shares) > 100:
        raise DemoError(f"the bad candidate got as far as {max(seen.shares) / 100:g} % of the traffic")
    # three standard errors above its share of 1 %, were every one of its requests to fail
    most = 0.01 * seen.requests + 3 * (0.01 * seen.requests) ** 0.5
    if seen.failed > most:
        raise DemoError(f"{seen.failed} of {seen.requests} requests failed, more than its share of 1 %")
    found = [models[MODEL].stable for models in state.environments.values() if MODEL in models]
    if found != [stable.version]:
        raise DemoError(f"{stable} should be stable still, but the log says {found}")


def _ref(pushed: Any) -> ModelRef:
    ref: ModelRef | None = pushed.ref
    assert ref is not None  # only a dry run leaves the version open
    return ref


def _percent(step: object) -> str:
    return f"{step:g} %" if isinstance(step, int | float) else str(step)
