"""The plan in a simulated world: everything it asks for is done, in any order and with faults; fronts lag.

Whatever is seen at first, and whatever is asked for on the way, the host ends as asked, and what serves is
never lost on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from mldeploy.core.host import (
    Action,
    Bad,
    BuildEnvironment,
    Bundle,
    Desired,
    FetchBundle,
    Front,
    KillWorker,
    ModelRoute,
    Observed,
    PublishTable,
    RemoveBundle,
    RemoveEnvironment,
    StartWorker,
    StartZygote,
    StopWorker,
    StopZygote,
    Wish,
)
from mldeploy.core.plan import plan, references
from mldeploy.core.state import Serving
from mldeploy.core.wish import wish
from tests.core.hosts import LIMITS, NOW, served, wanted, worker

VERSIONS = (1, 2, 3)


@dataclass
class World:
    replicas: int
    observed: Observed
    failing: frozenset[int]  # versions whose workers never come up
    now: float = NOW
    generation: int = 5
    number: int = 0
    last: dict[str, int] = field(default_factory=dict)  # what was stable last
    acknowledged: dict[int, dict[str, ModelRoute]] = field(default_factory=dict)

    def set(self, **changes: object) -> None:
        self.observed = msgspec.structs.replace(self.observed, **changes)

    def do(self, action: Action) -> None:
        seen = self.observed
        match action:
            case FetchBundle():
                bundle = Bundle(environment="e", replicas=self.replicas)
                self.set(bundles={**seen.bundles, action.digest: bundle})
            case BuildEnvironment():
                self.set(environments=seen.environments | {action.environment})
            case StartZygote():
                self.set(zygotes={**seen.zygotes, action.environment: "ready"})
            case StartWorker():
                self.start(action)
            case StopWorker() | KillWorker():
                self.may_stop(action.worker)
                self.set(workers=tuple(w for w in seen.workers if w.id != action.worker))
            case PublishTable():
                self.publish(dict(action.routes))
            case StopZygote():
                self.set(zygotes={k: v for k, v in seen.zygotes.items() if k != action.environment})
            case RemoveBundle():
                self.set(bundles={k: v for k, v in seen.bundles.items() if k != action.digest})
            case RemoveEnvironment():
                self.set(environments=seen.environments - {action.environment})

    def start(self, action: StartWorker) -> None:
        taken = [w for w in self.observed.workers if (w.digest, w.replica) == (action.digest, action.replica)]
        assert all(w.state == "stopping" for w in taken), "two workers in one place"
        if action.version in self.failing:
            ref = f"m@{action.version}"
            attempts = self.observed.bad[ref].attempts + 1 if ref in self.observed.bad else 1
            bad = Bad(digest=action.digest, attempts=attempts, retry_at=self.now + 5.0 * 2**attempts)
            self.set(bad={**self.observed.bad, ref: bad})
            return
        self.number += 1
        new = worker(action.version, action.replica, "loading", f"n{self.number}", since=self.now)
        self.set(workers=(*self.observed.workers, new))

    def may_stop(self, ident: str) -> None:
        for front in self.observed.fronts:
            routes = self.acknowledged.get(front.index, {})
            waited = self.now >= self.left(ident) + LIMITS.drain
            assert waited or not any(route.has(ident) for route in routes.values()), "stopped while routed"
            assert waited or not front.inflight.get(ident), "stopped with requests in flight"
        assert not any(route.has(ident) for route in self.observed.routes.values())

    def left(self, ident: str) -> float:
        return next(w.routed_until for w in self.observed.workers if w.id == ident)

    def publish(self, routes: dict[str, ModelRoute]) -> None:
        ready = {w.id for w in self.observed.workers if w.state == "ready"}
        assert {w for route in routes.values() for ids in route.workers.values() for w in ids} <= ready
        workers = tuple(
            msgspec.structs.replace(w, routed_last=self.generation, routed_until=self.now)
            if _has(self.observed.routes, w.id)
            else w
            for w in self.observed.workers
        )
        self.generation += 1
        last = {name: route.stable or self.last.get(name) for name, route in routes.items()}
        self.last = {name: version for name, version in last.items() if version}
        self.set(routes=routes, workers=workers)

    def acknowledge(self, index: int) -> None:
        fronts = tuple(
            msgspec.structs.replace(front, generation=self.generation, inflight={})
            if front.index == index
            else front
            for front in self.observed.fronts
        )
        self.acknowledged[index] = self.observed.routes
        self.set(fronts=fronts)

    def load_one(self) -> None:
        for w in self.observed.workers:
            if w.state == "loading":
                ready = msgspec.structs.replace(w, state="ready", since=self.now)
                self.set(workers=tuple(ready if each is w else each for each in self.observed.workers))
                return

    def age(self, desired: Desired) -> None:
        needed = references(desired, self.observed, self.now)
        there = {*self.observed.bundles, *self.observed.environments}
        there |= {f"zygote {name}" for name in self.observed.zygotes}
        self.set(unused={key: self.observed.unused.get(key, self.now) for key in there - needed})

    def crash(self) -> None:
        """One ready worker is gone; the table still names it."""
        ready = [w.id for w in self.observed.workers if w.state == "ready"]
        self.set(workers=tuple(w for w in self.observed.workers if w.id not in ready[:1]))


def _has(routes: dict[str, ModelRoute], ident: str) -> bool:
    return any(route.has(ident) for route in routes.values())


@st.composite
def worlds(draw: st.DrawFn) -> tuple[World, list[Desired]]:
    replicas = draw(st.integers(1, 2))
    workers = tuple(
        worker(version, replica, draw(st.sampled_from(["loading", "ready"])), f"o{n}")
        for n, (version, replica) in enumerate(
            draw(st.lists(st.tuples(st.sampled_from(VERSIONS), st.integers(0, 1)), max_size=4))
        )
    )
    ready = [w for w in workers if w.state == "ready"]
    routes: dict[str, ModelRoute] = {}
    if ready and draw(st.booleans()):
        version = ready[0].version
        ids = tuple(w.id for w in ready if w.version == version)
        routes = {"m": ModelRoute(stable=version, workers={version: ids})}
    bundles = draw(st.sets(st.sampled_from(VERSIONS)))
    observed = Observed(
        bundles={f"m{n}": Bundle(environment="e", replicas=replicas) for n in bundles},
        environments=frozenset({"e"} if draw(st.booleans()) else ()),
        zygotes={"e": "ready"} if draw(st.booleans()) else {},
        workers=workers,
        routes=routes,
        fronts=tuple(
            Front(index=n, generation=draw(st.integers(0, 5))) for n in range(draw(st.integers(0, 2)))
        ),
    )
    world = World(replicas, observed, frozenset(draw(st.sets(st.sampled_from(VERSIONS), max_size=1))))
    world.last = {name: route.stable for name, route in routes.items() if route.stable}
    for front in observed.fronts:
        world.acknowledged[front.index] = routes
    changes = draw(st.lists(_asked(), min_size=1, max_size=3))
    return world, changes


@st.composite
def _asked(draw: st.DrawFn) -> Desired:
    stable, candidate = draw(st.sampled_from(VERSIONS)), draw(st.sampled_from([None, *VERSIONS]))
    if draw(st.integers(0, 9)) == 0:
        return Desired()
    previous = draw(st.sampled_from([None, *VERSIONS]))
    return Desired(
        models={
            "m": Wish(
                stable=wanted(stable),
                candidate=wanted(candidate) if candidate not in (None, stable) else None,
                previous=wanted(previous) if previous not in (None, stable) else None,
                share=500 if candidate not in (None, stable) else 0,
            )
        }
    )


def _with_fallback(desired: Desired, served: dict[str, int]) -> Desired:
    """As `wish` does: the version routed last, else the previous one."""
    models = {}
    for name, asked in desired.models.items():
        last = served.get(name)
        spare = wanted(last) if last and asked.stable and last != asked.stable.version else asked.previous
        models[name] = msgspec.structs.replace(asked, fallback=spare)
    return Desired(models=models)


@settings(max_examples=60, deadline=None, report_multiple_bugs=False)
@given(worlds(), st.data())
def test_any_world_converges_and_never_loses_what_serves(
    made: tuple[World, list[Desired]], data: st.DataObject
) -> None:
    world, changes = made
    for desired in changes:
        for _ in range(data.draw(st.integers(0, 12))):
            _step(world, _with_fallback(desired, world.last), data)
    desired = changes[-1]
    for _ in range(60):
        _settle(world, _with_fallback(desired, world.last))
    _is_as_asked(world, desired)


@settings(max_examples=60, deadline=None, report_multiple_bugs=False)
@given(worlds(), st.data())
def test_a_retired_version_serves_until_its_successor_does(
    made: tuple[World, list[Desired]], data: st.DataObject
) -> None:
    world, _ = made

    def asked() -> Desired:
        return wish(served(serving, *retired), "production", {}, world.last)

    for _ in range(data.draw(st.integers(1, 3))):
        stable = data.draw(st.sampled_from(VERSIONS))
        others = st.sampled_from([version for version in VERSIONS if version != stable])
        serving, retired = Serving(stable=stable), data.draw(st.sets(others))
        for _ in range(data.draw(st.integers(0, 12))):
            _step(world, asked(), data)
            if data.draw(st.integers(0, 9)) == 0:
                world.crash()
    for _ in range(60):
        _settle(world, asked())
    _is_as_asked(world, asked())
    last = world.last.get("m")
    if stable in world.failing and last is not None and last not in world.failing:
        route = world.observed.routes["m"]
        assert (route.stable, len(route.workers[last])) == (last, world.replicas)
    elif stable not in world.failing:
        assert {w.version for w in world.observed.workers} == {stable}
        assert set(world.observed.bundles) == {f"m{stable}"}, "what was retired goes"


def _step(world: World, asked: Desired, data: st.DataObject) -> None:
    """One tick, part of whose actions are done, and then something happens."""
    world.age(asked)
    actions = plan(asked, world.observed, world.now, LIMITS)
    assert plan(asked, world.observed, world.now, LIMITS) == actions
    again = msgspec.structs.replace(world.observed, busy=frozenset(actions))
    assert plan(asked, again, world.now, LIMITS) == ()
    for action in actions[: data.draw(st.integers(0, len(actions)))]:
        _do(world, asked, action)
    match data.draw(st.sampled_from(["ack", "load", "time", "use"])):
        case "ack" if world.observed.fronts:
            world.acknowledge(data.draw(st.sampled_from([f.index for f in world.observed.fronts])))
        case "load":
            world.load_one()
        case "time":
            world.now += data.draw(st.sampled_from([1.0, 5.0, 40.0]))
        case "use" if world.observed.fronts:
            _use(world)


def _use(world: World) -> None:
    """A front has requests with whatever its table names."""
    front = world.observed.fronts[0]
    routes = world.acknowledged[front.index]
    inflight = {w.id: 1 for w in world.observed.workers if _has(routes, w.id)}
    busy = msgspec.structs.replace(front, inflight=inflight)
    world.set(fronts=(busy, *world.observed.fronts[1:]))


def _do(world: World, asked: Desired, action: Action) -> None:
    before = world.observed.routes.get("m", ModelRoute())
    alive = {w.id for w in world.observed.workers if w.state == "ready"}
    answered = any(w in alive for w in before.workers.get(before.stable or 0, ()))
    world.do(action)
    after = world.observed.routes.get("m", ModelRoute())
    if isinstance(action, PublishTable) and answered and "m" in asked.models:
        assert after.workers.get(after.stable or 0), "what served was routed away with no successor"


def _settle(world: World, asked: Desired) -> None:
    """Do everything, let everything happen, for twenty seconds."""
    world.age(asked)
    actions = plan(asked, world.observed, world.now, LIMITS)
    for action in actions:
        _do(world, asked, action)
    for front in world.observed.fronts:
        world.acknowledge(front.index)
    world.load_one()
    world.now += 20.0


def _is_as_asked(world: World, desired: Desired) -> None:
    seen = world.observed
    if not desired.models:
        assert seen.workers == ()
        assert seen.routes == {}
        assert (seen.bundles, seen.environments, seen.zygotes) == ({}, frozenset(), {})
        return
    asked = desired.models["m"]
    assert asked.stable is not None
    route = seen.routes["m"]
    if asked.stable.version not in world.failing:
        assert route.stable == asked.stable.version
        assert len(route.workers[asked.stable.version]) == world.replicas
    else:
        adopted = any(w.version == asked.stable.version for w in seen.workers)
        assert adopted or route.stable != asked.stable.version
    if asked.candidate is not None and asked.candidate.version not in world.failing:
        assert route.candidate == asked.candidate.version or route.stable == asked.candidate.version
    assert {w.version for w in seen.workers} <= set(route.workers) | world.failing
    assert all(
        w.id in {i for ids in route.workers.values() for i in ids} or w.version in world.failing
        for w in seen.workers
    )
