"""The plan of a host: single decisions, and any history in a simulated world."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
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
    Limits,
    ModelRoute,
    Observed,
    PublishTable,
    RemoveBlob,
    RemoveBundle,
    RemoveEnvironment,
    StartWorker,
    StartZygote,
    StopWorker,
    StopZygote,
    Wanted,
    Wish,
    Worker,
    wish,
)
from mldeploy.core.plan import plan, references, settled, table
from mldeploy.core.standing import next_step, standings, why_unserved
from mldeploy.core.state import Host, Model, Ramp, Serving, State, Version

LIMITS = Limits(grace=100.0)
NOW = 1000.0


def wanted(version: int, model: str = "m") -> Wanted:
    return Wanted(model=model, version=version, digest=f"{model}{version}")


def worker(version: int, replica: int = 0, state: str = "ready", ident: str = "", **more: object) -> Worker:
    return msgspec.convert(
        {
            "id": ident or f"w{version}.{replica}",
            "model": "m",
            "version": version,
            "digest": f"m{version}",
            "environment": "e",
            "replica": replica,
            "state": state,
            "since": NOW,
            **more,
        },
        Worker,
    )


def host(*workers: Worker, replicas: int = 1, **more: object) -> Observed:
    base = Observed(
        bundles={f"m{n}": Bundle(environment="e", replicas=replicas) for n in range(1, 5)},
        environments=frozenset({"e"}),
        zygotes={"e": "ready"},
        workers=workers,
    )
    return msgspec.structs.replace(base, **more)


def routed(version: int, *workers: str, **more: object) -> dict[str, ModelRoute]:
    return {"m": msgspec.convert({"stable": version, "workers": {version: workers}, **more}, ModelRoute)}


def asks(stable: int | None, previous: int | None = None, fallback: int | None = None) -> Desired:
    return Desired(
        models={
            "m": Wish(
                stable=wanted(stable) if stable else None,
                previous=wanted(previous) if previous else None,
                fallback=wanted(fallback or previous) if fallback or previous else None,
            )
        }
    )


def only(kind: type[Action], actions: tuple[Action, ...]) -> list[Action]:
    return [action for action in actions if isinstance(action, kind)]


def test_from_nothing_it_fetches_builds_starts_and_routes() -> None:
    desired = asks(1)
    bare = Observed()
    assert only(FetchBundle, plan(desired, bare, NOW, LIMITS))
    fetched = Observed(bundles={"m1": Bundle(environment="e")})
    assert only(BuildEnvironment, plan(desired, fetched, NOW, LIMITS))
    built = msgspec.structs.replace(fetched, environments=frozenset({"e"}))
    assert only(StartZygote, plan(desired, built, NOW, LIMITS))
    assert not only(StartWorker, plan(desired, host(zygotes={"e": "starting"}), NOW, LIMITS))
    assert only(StartWorker, plan(desired, host(), NOW, LIMITS))
    assert table(desired, host(worker(1)), NOW)["m"].workers == {1: ("w1.0",)}


def test_the_old_version_serves_until_every_replica_of_the_new_one_is_ready() -> None:
    desired, routes = asks(2, previous=1), routed(1, "w1.0", "w1.1")
    old = (worker(1, 0), worker(1, 1))
    half = host(*old, worker(2, 0), worker(2, 1, "loading"), replicas=2, routes=routes)
    assert table(desired, half, NOW)["m"].stable == 1
    assert not only(StopWorker, plan(desired, half, NOW, LIMITS))
    whole = host(*old, worker(2, 0), worker(2, 1), replicas=2, routes=routes)
    assert table(desired, whole, NOW)["m"].stable == 2
    # the published table still has them
    assert not only(StopWorker, plan(desired, whole, NOW, LIMITS))


def test_a_worker_is_stopped_once_no_front_can_reach_it() -> None:
    desired, routes = asks(2, previous=1), routed(2, "w2.0", previous=1)
    old = worker(1, routed_last=6, routed_until=NOW - 1)

    def stopped(*fronts: Front, now: float = NOW) -> bool:
        seen = host(old, worker(2), routes=routes, fronts=fronts)
        return bool(only(StopWorker, plan(desired, seen, now, LIMITS)))

    assert not stopped(Front(index=0, generation=6))
    assert not stopped(Front(index=0, generation=7), Front(index=1, generation=6))
    assert not stopped(Front(index=0, generation=7, inflight={"w1.0": 1}))
    assert stopped(Front(index=0, generation=7), Front(index=1, generation=8, inflight={"w2.0": 3}))
    assert stopped(), "a front that is not alive has nothing in flight"
    assert stopped(Front(index=0, generation=7, inflight={"w1.0": 1}), now=NOW + LIMITS.drain)


def test_a_version_that_failed_waits_and_the_old_one_goes_on() -> None:
    desired, routes = asks(2, previous=1), routed(1, "w1.0")
    bad = {"m@2": Bad(digest="m2", reason="samples", retry_at=NOW + 5)}
    seen = host(worker(1), routes=routes, bad=bad)
    assert table(desired, seen, NOW)["m"].stable == 1
    assert plan(desired, msgspec.structs.replace(seen, routes=table(desired, seen, NOW)), NOW, LIMITS) == ()
    assert only(StartWorker, plan(desired, seen, NOW + 6, LIMITS))
    assert settled(desired, seen, NOW)
    assert not settled(desired, seen, NOW + 6)


def test_a_failure_of_another_bundle_under_the_same_number_is_not_held_against_it() -> None:
    bad = {"m@1": Bad(digest="other", retry_at=NOW + 5)}
    assert only(StartWorker, plan(asks(1), host(bad=bad), NOW, LIMITS))


def test_after_a_restart_with_a_bad_stable_the_fallback_is_woken() -> None:
    bad = {"m@3": Bad(digest="m3", retry_at=NOW + 5)}
    desired = asks(3, previous=2, fallback=1)
    started = only(StartWorker, plan(desired, host(bad=bad), NOW, LIMITS))
    assert [action.version for action in started] == [1]
    assert not settled(desired, host(bad=bad), NOW)
    assert settled(desired, host(worker(1), bad=bad), NOW)


def test_a_short_backoff_after_a_crash_keeps_the_other_replica_routed() -> None:
    crashed = {"m@1": Bad(digest="m1", stage="serve", retry_at=NOW + 2, out=False)}
    seen = host(worker(1, 0), replicas=2, routes=routed(1, "w1.0", "w1.1"), bad=crashed)
    assert table(asks(1, previous=2), seen, NOW)["m"].workers == {1: ("w1.0",)}
    assert not only(StartWorker, plan(asks(1, previous=2), seen, NOW, LIMITS))
    assert only(StartWorker, plan(asks(1, previous=2), seen, NOW + 3, LIMITS))


def test_out_of_rotation_gives_way_to_the_fallback() -> None:
    out = {"m@1": Bad(digest="m1", stage="serve", retry_at=NOW + 80)}
    alone = host(worker(1, 0), replicas=2, routes=routed(1, "w1.0"), bad=out)
    assert table(asks(1, previous=2), alone, NOW)["m"].stable == 1, "better than nothing"
    assert [a.version for a in only(StartWorker, plan(asks(1, previous=2), alone, NOW, LIMITS))] == [2, 2]
    both = host(worker(1, 0), worker(2, 0), worker(2, 1), replicas=2, routes=routed(1, "w1.0"), bad=out)
    assert table(asks(1, previous=2), both, NOW)["m"].stable == 2


def test_a_candidate_takes_its_share_only_while_it_can() -> None:
    ask = Wish(stable=wanted(1), candidate=wanted(2), share=1000, salt="r")
    desired = Desired(models={"m": ask})
    routes = table(desired, host(worker(1), worker(2)), NOW)["m"]
    assert (routes.candidate, routes.share, routes.salt) == (2, 1000, "r")
    failed = host(worker(1), bad={"m@2": Bad(digest="m2", retry_at=NOW + 5)})
    routes = table(desired, failed, NOW)["m"]
    assert (routes.stable, routes.candidate, routes.share, routes.salt) == (1, None, 0, "")
    loading = host(worker(1), worker(2, state="loading"))
    assert table(desired, loading, NOW)["m"].candidate is None


def test_surplus_and_stray_workers_go() -> None:
    seen = host(worker(1), worker(1, ident="x1"), worker(1, 5), worker(3), routes=routed(1, "w1.0"))
    stopped = {action.worker for action in only(StopWorker, plan(asks(1), seen, NOW, LIMITS))}
    assert stopped == {"x1", "w1.5", "w3.0"}


def test_what_does_not_answer_is_killed() -> None:
    late = NOW + LIMITS.load + 1
    seen = host(
        worker(1, oldest_ms=61_000), worker(2, state="loading"), worker(3, state="stopping"),
        worker(4, state="gone"),
    )  # fmt: skip
    killed = {action.worker for action in only(KillWorker, plan(asks(1), seen, late, LIMITS))}
    assert killed == {"w1.0", "w2.0", "w3.0"}


def test_a_host_without_the_interpreter_says_so_and_does_nothing() -> None:
    ask = Desired(models={"m": Wish(stable=msgspec.structs.replace(wanted(1), python="3.99"))})
    assert only(FetchBundle, plan(ask, Observed(), NOW, LIMITS)) == []
    seen = Observed(pythons=frozenset({"3.11"}))
    assert settled(ask, seen, NOW)
    (standing,) = standings(ask, seen, NOW)["m"]
    assert standing.state == "failed"
    assert "Python 3.99" in standing.reason
    assert "Python 3.99" in why_unserved(ask.models["m"], (standing,))
    assert next_step(ask.models["m"], ModelRoute(), (), seen, NOW).startswith("wait: Python 3.99")


def test_two_versions_with_one_lock_build_it_once_and_share_a_zygote() -> None:
    ask = Desired(models={"m": Wish(stable=wanted(1), candidate=wanted(2), share=100)})
    bundles = {f"m{n}": Bundle(environment="e") for n in (1, 2)}
    assert len(only(BuildEnvironment, plan(ask, Observed(bundles=bundles), NOW, LIMITS))) == 1
    building = frozenset({BuildEnvironment(environment="e", model="m", version=1, digest="m1")})
    assert (
        plan(ask, Observed(bundles=bundles, busy=building, routes=table(ask, Observed(), NOW)), NOW, LIMITS)
        == ()
    )
    built = Observed(bundles=bundles, environments=frozenset({"e"}))
    assert len(only(StartZygote, plan(ask, built, NOW, LIMITS))) == 1


def test_retired_models_lose_routes_then_workers_then_files() -> None:
    nothing = Desired()
    seen = host(worker(1), routes=routed(1, "w1.0"))
    assert plan(nothing, seen, NOW, LIMITS) == (PublishTable(routes=()),)
    unrouted = host(worker(1, routed_last=3, routed_until=NOW), fronts=(Front(index=0, generation=4),))
    assert StopWorker(worker="w1.0") in plan(nothing, unrouted, NOW, LIMITS)
    unused = {"m1": NOW, "e": NOW, "zygote e": NOW, "blob b": NOW}
    idle = host(unused=unused, blobs=frozenset({"b"}))
    assert plan(nothing, idle, NOW + 1, LIMITS) == ()
    later = plan(nothing, idle, NOW + LIMITS.grace, LIMITS)
    assert RemoveBundle(digest="m1") in later
    assert RemoveBlob(sha256="b") in later
    assert StopZygote(environment="e") in later
    assert not only(RemoveEnvironment, later), "its zygote goes first"
    later = plan(nothing, msgspec.structs.replace(idle, zygotes={}), NOW + LIMITS.grace, LIMITS)
    assert RemoveEnvironment(environment="e") in later


def test_files_of_the_previous_version_are_kept_and_fetched() -> None:
    desired = asks(2, previous=1)
    needed = references(desired, host(worker(2)), NOW)
    assert {"m1", "m2", "e", "zygote e"} <= needed
    missing = msgspec.structs.replace(host(worker(2)), bundles={"m2": Bundle(environment="e")})
    assert only(FetchBundle, plan(desired, missing, NOW, LIMITS)) == [
        FetchBundle(model="m", version=1, digest="m1")
    ]


@pytest.mark.parametrize(("labels", "candidate"), [({"zone": "a"}, 2), ({"zone": "b"}, None), ({}, None)])
def test_a_rollout_for_some_hosts_is_for_those_alone(labels: dict[str, str], candidate: int | None) -> None:
    ramp = Ramp(rollout="r", version=2, steps=(1000,), step=0, seq=3, on=("zone=a",))
    found = wish(_state(Serving(stable=1, ramp=ramp)), "production", labels, {}).models["m"]
    assert (found.candidate.version if found.candidate else None) == candidate
    assert found.share == (1000 if candidate else 0)


def test_a_retired_version_is_never_a_fallback() -> None:
    found = wish(_state(Serving(stable=2, previous=1), retired=3), "production", {}, {"m": 3}).models["m"]
    assert found.fallback is not None
    assert found.fallback.version == 1
    assert wish(_state(Serving(stable=2, previous=1)), "production", {}, {"m": 3}).models["m"].fallback == (
        Wanted(model="m", version=3, digest="m3")
    )
    assert wish(_state(Serving(stable=2)), "staging", {}, {}).models == {}


def _state(serving: Serving, retired: int = 0) -> State:
    versions = {
        n: Version(
            version=n, digest=f"m{n}", push="", blobs=(), size=0, owner="", expires="", python="", platform="",
            actor="", published="", seq=n, retired="2026-01-01T00:00:00Z" if n == retired else "",
        )
        for n in (1, 2, 3)
    }  # fmt: skip
    return State(
        models={"m": Model(name="m", versions=versions)},
        environments={"production": {"m": serving}},
        hosts={"h": Host(id="h", environment="production", hostname="", labels={}, seq=1, joined="")},
    )


# A simulated world: everything the plan asks for is done, in any order and with faults; fronts lag.

VERSIONS = (1, 2, 3)


@dataclass
class World:
    replicas: int
    observed: Observed
    failing: frozenset[int]  # versions whose workers never come up
    now: float = NOW
    generation: int = 5
    number: int = 0
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


def _with_fallback(desired: Desired, routes: dict[str, ModelRoute]) -> Desired:
    """As `wish` does: the version routed last, else the previous one."""
    models = {}
    for name, asked in desired.models.items():
        last = routes[name].stable if name in routes else None
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
            _step(world, desired, data)
    desired = changes[-1]
    for _ in range(60):
        _settle(world, desired)
    _is_as_asked(world, desired)


def _step(world: World, desired: Desired, data: st.DataObject) -> None:
    """One tick, part of whose actions are done, and then something happens."""
    asked = _with_fallback(desired, world.observed.routes)
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
    served = any(w in alive for w in before.workers.get(before.stable or 0, ()))
    world.do(action)
    after = world.observed.routes.get("m", ModelRoute())
    if isinstance(action, PublishTable) and served and "m" in asked.models:
        assert after.workers.get(after.stable or 0), "what served was routed away with no successor"


def _settle(world: World, desired: Desired) -> None:
    """Do everything, let everything happen, for twenty seconds."""
    asked = _with_fallback(desired, world.observed.routes)
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
