"""Memory of a host: who starts, who sleeps, who wakes; single decisions, and any history of requests."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mldeploy.core.host import (
    Action,
    Bundle,
    Desired,
    Front,
    Memory,
    ModelRoute,
    Observed,
    PublishTable,
    StartWorker,
    StopWorker,
    Wish,
    Worker,
)
from mldeploy.core.memory import resting
from mldeploy.core.placing import size
from mldeploy.core.plan import plan, settled, table
from mldeploy.core.standing import standings, why_unserved
from tests.core.hosts import LIMITS, NOW, wanted

BUDGET, AWAKE, IDLE = 100, 10.0, 60.0


def worker(version: int, model: str, ident: str = "", **more: object) -> Worker:
    base = {
        "id": ident or f"{model}{version}", "model": model, "version": version, "environment": "e",
        "digest": f"{model}{version}", "state": "ready", "since": NOW - 100,
    }  # fmt: skip
    return msgspec.convert({**base, **more}, Worker)


def host(sizes: dict[str, int], *awake: str, asleep: tuple[str, ...] = (), **more: object) -> Observed:
    """Version 1 of every model is here and takes `sizes`; those `awake` are routed."""
    routes = {name: ModelRoute(stable=1, workers={1: (f"{name}1",)}) for name in awake}
    routes |= {name: ModelRoute(stable=1, workers={1: ()}) for name in asleep}
    memory = {"budget": BUDGET, "awake": AWAKE, "idle": IDLE, "seen": {f"{name}1": 1 for name in sizes}}
    memory |= more.pop("memory", {})  # type: ignore[operator]
    base = Observed(
        bundles={
            f"{name}{n}": Bundle(environment="e", memory=taken)
            for name, taken in sizes.items()
            for n in (1, 2)
        },
        environments=frozenset({"e"}),
        zygotes={"e": "ready"},
        workers=tuple(worker(1, name) for name in awake),
        routes=routes,
        memory=msgspec.convert(memory, Memory),
    )
    return msgspec.structs.replace(base, **more)


def asks(*models: str) -> Desired:
    return Desired(models={name: Wish(stable=wanted(1, name)) for name in models})


def started(actions: tuple[Action, ...]) -> list[str]:
    return [action.model for action in actions if isinstance(action, StartWorker)]


def sleepers(desired: Desired, seen: Observed) -> set[str]:
    return {version.ref for version in resting(desired, seen, NOW).asleep}


def test_without_a_budget_everything_runs() -> None:
    seen = host({"a": 80, "b": 80}, memory={"budget": 0})
    assert started(plan(asks("a", "b"), seen, NOW, LIMITS)) == ["a", "b"]


def test_only_what_fits_is_started_and_the_rest_sleeps() -> None:
    seen = host({"a": 60, "b": 60}, "a", asleep=("b",))
    assert started(plan(asks("a", "b"), seen, NOW, LIMITS)) == []
    told = {name: each.state for name, (each,) in standings(asks("a", "b"), seen, NOW).items()}
    assert told == {"a": "ready", "b": "sleeping"}
    assert settled(asks("a", "b"), seen, NOW)
    assert table(asks("a", "b"), seen, NOW) == seen.routes, "nothing to say"


def test_a_request_wakes_and_the_least_recently_used_makes_room() -> None:
    desired = asks("a", "b", "c")
    memory = {"used": {"a@1": NOW - 20, "b@1": NOW - 30}, "woken": {"c@1": NOW}}
    seen = host({"a": 40, "b": 40, "c": 40}, "a", "b", asleep=("c",), memory=memory)
    actions = plan(desired, seen, NOW, LIMITS)
    assert started(actions) == [], "not before the room is free"
    (published,) = (action for action in actions if isinstance(action, PublishTable))
    assert dict(published.routes)["b"] == ModelRoute(stable=1, workers={1: ()})
    # it is drained, as any worker that leaves the table, and counts until it is gone
    leaving = worker(1, "b", routed_last=3, routed_until=NOW, state="stopping", since=NOW)
    later = msgspec.structs.replace(seen, routes=dict(published.routes), workers=(worker(1, "a"), leaving))
    assert plan(desired, later, NOW, LIMITS) == ()
    gone = msgspec.structs.replace(later, workers=(worker(1, "a"),))
    assert started(plan(desired, gone, NOW, LIMITS)) == ["c"]


@pytest.mark.parametrize(
    ("more", "memory"),
    [
        ({"fronts": (Front(index=0, generation=1, inflight={"a1": 1}),)}, {}),
        ({}, {"used": {"a@1": NOW - AWAKE + 1}}),
        ({"workers": (worker(1, "a", since=NOW - 1),)}, {}),
        ({}, {"woken": {}}),
    ],
)
def test_what_is_in_use_or_asked_for_in_vain_is_not_put_to_sleep(
    more: dict[str, object], memory: dict[str, object]
) -> None:
    seen = host({"a": 60, "b": 60}, "a", asleep=("b",), memory={"woken": {"b@1": NOW}, **memory}, **more)
    assert sleepers(asks("a", "b"), seen) == set()


def test_nobody_is_put_to_sleep_in_vain() -> None:
    """c would need both, and b is busy."""
    busy = (Front(index=0, generation=1, inflight={"b1": 1}),)
    seen = host(
        {"a": 40, "b": 40, "c": 90}, "a", "b", asleep=("c",), fronts=busy, memory={"woken": {"c@1": NOW}}
    )
    assert sleepers(asks("a", "b", "c"), seen) == set()


def test_shared_pages_are_not_counted_as_gained() -> None:
    workers = tuple(worker(1, name, memory=45, private=5) for name in "ab")
    seen = host(
        {"a": 0, "b": 0, "c": 15}, "a", "b", asleep=("c",), memory={"woken": {"c@1": NOW}}, workers=workers
    )
    assert sleepers(asks("a", "b", "c"), seen) == {"a@1"}
    seen = host(
        {"a": 0, "b": 0, "c": 25}, "a", "b", asleep=("c",), memory={"woken": {"c@1": NOW}}, workers=workers
    )
    assert sleepers(asks("a", "b", "c"), seen) == set(), "both would not be enough"


def test_what_grows_beyond_the_budget_makes_others_sleep_but_runs_alone() -> None:
    grown = (worker(1, "a", memory=70, private=70), worker(1, "b", memory=50, private=50))
    used = {"used": {"a@1": NOW - 50, "b@1": NOW - 40}}
    assert sleepers(asks("a", "b"), host({"a": 0, "b": 0}, "a", "b", workers=grown, memory=used)) == {"a@1"}
    alone = (worker(1, "a", memory=170, private=170),)
    assert sleepers(asks("a"), host({"a": 0}, "a", workers=alone)) == set()


def test_what_can_never_fit_has_failed_and_the_old_version_goes_on() -> None:
    desired = Desired(models={"a": Wish(stable=wanted(2, "a"), fallback=wanted(1, "a"))})
    seen = host({"a": 40}, "a")
    seen = msgspec.structs.replace(seen, bundles={**seen.bundles, "a2": Bundle(environment="e", memory=101)})
    assert plan(desired, seen, NOW, LIMITS) == ()
    one, two = standings(desired, seen, NOW)["a"]
    assert (one.state, two.state, two.stage) == ("ready", "failed", "memory")
    assert two.reason == "needs 101 bytes of memory; the budget of this host is 100 bytes"
    assert settled(desired, seen, NOW)


def test_a_new_version_that_does_not_fit_beside_the_old_one_waits_and_says_so() -> None:
    desired = Desired(models={"a": Wish(stable=wanted(2, "a"), fallback=wanted(1, "a"))})
    seen = host({"a": 60}, "a")
    assert plan(desired, seen, NOW, LIMITS) == ()
    _, two = standings(desired, seen, NOW)["a"]
    assert two.state == "loading"
    assert "beside a@1, which serves" in two.reason
    assert settled(desired, seen, NOW)


def test_a_new_model_on_a_full_host_is_loaded_once_and_does_not_count_before() -> None:
    desired = asks("a", "b")
    seen = host({"a": 60, "b": 60}, "a", memory={"seen": {}})
    assert sleepers(desired, seen) == {"a@1"}
    (told,) = standings(desired, seen, NOW)["b"]
    assert told.state == "loading"
    assert "waits for memory" in why_unserved(desired.models["b"], (told,))
    assert table(desired, seen, NOW)["b"].workers == {1: ()}, "its requests wait"


def test_a_previous_version_runs_while_it_is_named() -> None:
    desired = Desired(
        models={"a": Wish(stable=wanted(2, "a"), previous=wanted(1, "a"), fallback=wanted(1, "a"))}
    )
    two, one = worker(2, "a"), worker(1, "a")
    asleep = {"a": ModelRoute(stable=2, previous=1, workers={2: ("a2",), 1: ()})}
    named = {"woken": {"a@1": NOW}}
    rests = host({"a": 10}, routes=asleep, workers=(two,))
    assert plan(desired, rests, NOW, LIMITS) == ()
    assert table(desired, rests, NOW) == asleep
    assert started(
        plan(desired, host({"a": 10}, routes=asleep, workers=(two,), memory=named), NOW, LIMITS)
    ) == ["a"]
    up = host({"a": 10}, routes=asleep, workers=(two, one))
    awake = table(desired, up, NOW)
    assert awake["a"].workers == {2: ("a2",), 1: ("a1",)}
    still = msgspec.structs.replace(up, routes=awake, memory=Memory(idle=IDLE, used={"a@1": NOW - IDLE + 1}))
    assert table(desired, still, NOW) == awake
    assert table(desired, still, NOW + 2) == asleep


def test_a_version_just_replaced_is_not_kept_for_its_requests() -> None:
    desired = Desired(
        models={"a": Wish(stable=wanted(2, "a"), previous=wanted(1, "a"), fallback=wanted(1, "a"))}
    )
    seen = host({"a": 10}, "a", workers=(worker(2, "a"), worker(1, "a")), memory={"used": {"a@1": NOW}})
    assert table(desired, seen, NOW)["a"].workers == {2: ("a2",), 1: ()}


@pytest.mark.parametrize(("count", "text"), [(5, "5 bytes"), (300 << 20, "300 MiB"), (3 << 29, "1.5 GiB")])
def test_sizes_are_said_for_people(count: int, text: str) -> None:
    assert size(count) == text


# Any history: everything is done as asked, workers take a tick to stop, requests come and go.


@dataclass
class World:
    sizes: dict[str, int]
    now: float = NOW
    workers: dict[str, Worker] = field(default_factory=dict)
    routes: dict[str, ModelRoute] = field(default_factory=dict)
    generation: int = 1
    number: int = 0
    used: dict[str, float] = field(default_factory=dict)
    woken: dict[str, float] = field(default_factory=dict)
    inflight: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    @property
    def desired(self) -> Desired:
        return asks(*self.sizes)

    def observed(self) -> Observed:
        awake = {f"{name}@1" for name, route in self.routes.items() if route.workers.get(1)}
        self.woken = {ref: at for ref, at in self.woken.items() if ref not in awake}
        memory = Memory(
            budget=BUDGET,
            awake=AWAKE,
            idle=IDLE,
            seen=dict(self.seen),
            used=dict(self.used),
            woken=dict(self.woken),
        )
        return msgspec.structs.replace(
            host(self.sizes),
            workers=tuple(self.workers.values()),
            routes=self.routes,
            fronts=(Front(index=0, generation=self.generation, inflight=dict(self.inflight)),),
            memory=memory,
        )

    def ask(self, name: str, *, hold: bool) -> None:
        workers = self.routes.get(name, ModelRoute()).workers.get(1)
        if workers:
            self.used[f"{name}@1"] = self.now
            self.inflight[workers[0]] = int(hold)
        else:
            self.woken[f"{name}@1"] = self.now

    def tick(self) -> int:
        """Do what the plan says; returns how much that was."""
        self.workers = {key: each for key, each in self.workers.items() if each.state != "stopping"}
        self.workers = {
            key: msgspec.structs.replace(each, state="ready", since=self.now)
            if each.state == "loading"
            else each
            for key, each in self.workers.items()
        }
        self.seen |= {each.digest: self.sizes[each.model] for each in self.workers.values()}
        seen = self.observed()
        self.judge(seen)
        actions = plan(self.desired, seen, self.now, LIMITS)
        assert plan(self.desired, seen, self.now, LIMITS) == actions
        for action in actions:
            match action:
                case StartWorker():
                    self.number += 1
                    new = worker(1, action.model, f"w{self.number}", state="loading", since=self.now)
                    self.workers[new.id] = new
                case StopWorker():
                    assert not self.inflight.get(action.worker), "stopped with a request in flight"
                    old = self.workers[action.worker]
                    self.workers[old.id] = msgspec.structs.replace(old, state="stopping", since=self.now)
                case PublishTable():
                    self.publish(dict(action.routes))
        taken = sum(self.sizes[each.model] for each in self.workers.values())
        assert taken <= BUDGET, "over the budget"
        return len(actions)

    def judge(self, seen: Observed) -> None:
        """Nobody is put to sleep in use, too soon, or before somebody used less recently."""
        last = {}
        for name in self.sizes:
            ids = self.routes.get(name, ModelRoute()).workers.get(1) or ()
            for ident in ids:
                each = self.workers[ident]
                last[name] = max(self.used.get(f"{name}@1", 0.0), each.since), self.inflight.get(ident, 0)
        put = {version.model for version in resting(self.desired, seen, self.now).asleep} & last.keys()
        for name in put:
            since, busy = last[name]
            assert not busy
            assert self.now - since >= AWAKE
            others = [other for other in last.keys() - put if not last[other][1]]
            assert all(last[other][0] >= since for other in others), "somebody was used less recently"

    def publish(self, routes: dict[str, ModelRoute]) -> None:
        for ident, each in self.workers.items():
            if any(route.has(ident) for route in self.routes.values()):
                self.workers[ident] = msgspec.structs.replace(
                    each, routed_last=self.generation, routed_until=self.now
                )
        self.routes, self.generation = routes, self.generation + 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(5, BUDGET), min_size=1, max_size=4), st.data())
def test_any_history_of_requests_stays_within_the_budget_and_is_answered(
    sizes: list[int], data: st.DataObject
) -> None:
    world = World(dict(zip("abcd", sizes, strict=False)))
    for _ in range(data.draw(st.integers(0, 25))):
        name = data.draw(st.sampled_from([*world.sizes, ""]))
        if name:
            world.ask(name, hold=data.draw(st.booleans()))
        world.now += data.draw(st.sampled_from([0.0, 0.5, 4.0, AWAKE]))
        world.tick()
    world.inflight.clear()
    name = data.draw(st.sampled_from(list(world.sizes)))
    for _ in range(60):  # its request waits: it is answered however full the host is
        world.ask(name, hold=False)
        if f"{name}@1" not in world.woken:
            break
        world.now += 2.0
        world.tick()
    else:
        pytest.fail("it never woke")
    for _ in range(80):
        world.now += 5.0
        world.tick()
    assert world.tick() == 0, "it comes to rest"
    assert set(world.seen) == {f"{name}1" for name in world.sizes}, "everything has been loaded once"
    assert settled(world.desired, world.observed(), world.now)
    assert all(route.stable == 1 for route in world.routes.values())
