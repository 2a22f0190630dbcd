"""Shadows on a host: wanted and loaded like others, by workers of their own, and never at anybody's cost."""

from __future__ import annotations

import msgspec

from mldeploy.core.host import (
    Bad,
    Bundle,
    Desired,
    Front,
    Memory,
    Mirroring,
    ModelRoute,
    Observed,
    PublishTable,
    StartWorker,
    StopWorker,
    Wanted,
    Wish,
)
from mldeploy.core.memory import resting
from mldeploy.core.plan import plan, table
from mldeploy.core.standing import standings
from mldeploy.core.state import Ramp, Serving, Shadowing
from mldeploy.core.wish import wish, without_lease
from tests.core.hosts import LIMITS, NOW, served, wanted, worker


def idle(version: int) -> Wanted:
    return msgspec.structs.replace(wanted(version), idle=True)


def mirroring(version: int, **more: object) -> Mirroring:
    return Mirroring(id=f"s{version}", version=idle(version), fraction=2_000, scope=7, **more)


def asks(*shadows: Mirroring, candidate: int | None = None) -> Desired:
    chosen = wanted(candidate) if candidate else None
    return Desired(models={"m": Wish(stable=wanted(1), candidate=chosen, shadows=shadows)})


def host(*workers, memory: int = 0, budget: int = 0, **more: object) -> Observed:
    base = Observed(
        bundles={f"m{n}": Bundle(environment="e", memory=memory) for n in range(1, 5)},
        environments=frozenset({"e"}),
        zygotes={"e": "ready"},
        workers=workers,
        memory=Memory(budget=budget, seen={"m1": 1, "m2": 1}),
    )
    return msgspec.structs.replace(base, **more)


def shadow_worker(version: int, **more: object):
    return worker(version, ident=f"i{version}", idle=True, **more)


def test_a_shadow_gets_an_idle_worker_and_takes_no_traffic() -> None:
    asked = asks(mirroring(2))
    assert [
        (a.version, a.idle) for a in plan(asked, host(worker(1)), NOW, LIMITS) if isinstance(a, StartWorker)
    ] == [(2, True)]
    route = table(asked, host(worker(1), shadow_worker(2, state="loading")), NOW)["m"]
    assert (route.shadows, route.idle) == ((), {})
    route = table(asked, host(worker(1), shadow_worker(2)), NOW)["m"]
    assert (route.stable, route.candidate, route.share) == (1, None, 0)
    assert route.workers == {1: ("w1.0",)}
    assert route.idle == {2: ("i2",)}
    assert [shadow.id for shadow in route.shadows] == ["s2"]
    assert route.has("i2")


def test_a_shadows_worker_fills_no_place_of_a_candidate_nor_the_other_way() -> None:
    started = plan(asks(candidate=2), host(worker(1), shadow_worker(2)), NOW, LIMITS)
    assert [(a.version, a.idle) for a in started if isinstance(a, StartWorker)] == [(2, False)]
    assert [a.worker for a in started if isinstance(a, StopWorker)] == ["i2"]
    started = plan(asks(mirroring(2)), host(worker(1), worker(2)), NOW, LIMITS)
    assert [(a.version, a.idle) for a in started if isinstance(a, StartWorker)] == [(2, True)]
    both = table(asks(mirroring(2), candidate=2), host(worker(1), worker(2), shadow_worker(2)), NOW)["m"]
    assert both.workers == {1: ("w1.0",), 2: ("w2.0",)}
    assert both.idle == {2: ("i2",)}


def test_two_shadows_of_one_version_share_its_workers() -> None:
    asked = asks(mirroring(2), msgspec.structs.replace(mirroring(2), id="other", scope=8), mirroring(3))
    started = [a.version for a in plan(asked, host(worker(1)), NOW, LIMITS) if isinstance(a, StartWorker)]
    assert started == [2, 3]
    route = table(asked, host(worker(1), shadow_worker(2), shadow_worker(3)), NOW)["m"]
    assert route.idle == {2: ("i2",), 3: ("i3",)}
    assert [shadow.id for shadow in route.shadows] == ["s2", "other", "s3"]


def test_a_shadow_that_fails_is_reported_and_harms_nothing() -> None:
    bad = {"m@2": Bad(digest="m2", reason="its samples differ", stage="samples", retry_at=NOW + 60)}
    seen = host(worker(1), bad=bad)
    with_, without = table(asks(mirroring(2)), seen, NOW), table(asks(), seen, NOW)
    assert with_ == without
    assert not [a for a in plan(asks(mirroring(2)), seen, NOW, LIMITS) if isinstance(a, StartWorker)]
    told = {each.version: (each.state, each.reason) for each in standings(asks(mirroring(2)), seen, NOW)["m"]}
    assert told == {1: ("ready", ""), 2: ("failed", "its samples differ")}


def test_a_shadow_ends_drained_like_any_version() -> None:
    asked = asks(mirroring(2))
    seen = host(worker(1), shadow_worker(2))
    seen = msgspec.structs.replace(seen, routes=table(asked, seen, NOW))
    first = plan(asks(), seen, NOW, LIMITS)
    assert any(isinstance(action, PublishTable) for action in first)
    assert not [action for action in first if isinstance(action, StopWorker)]


def test_without_stable_there_is_nothing_to_copy() -> None:
    seen = host(shadow_worker(2))
    assert table(asks(mirroring(2)), seen, NOW)["m"].shadows == ()


def test_where_memory_is_short_shadows_sleep_first_and_wait_last() -> None:
    seen = host(worker(1), shadow_worker(2), memory=40, budget=100)
    seen = msgspec.structs.replace(seen, routes=table(asks(mirroring(2)), seen, NOW))
    assert not resting(asks(mirroring(2)), seen, NOW).asleep  # both fit
    rest = resting(asks(mirroring(2), candidate=3), seen, NOW)
    assert rest.asleep == {idle(2)}
    # and the table goes on without it
    route = table(asks(mirroring(2), candidate=3), seen, NOW)["m"]
    assert (route.shadows, route.workers) == ((), {1: ("w1.0",)})
    told = {each.version: each.state for each in standings(asks(mirroring(2), candidate=3), seen, NOW)["m"]}
    assert told[2] == "sleeping"


def test_a_shadow_never_makes_another_version_sleep() -> None:
    old = worker(1, since=NOW - 10_000)
    seen = host(old, memory=60, budget=100, routes={"m": ModelRoute(stable=1, workers={1: ("w1.0",)})})
    rest = resting(asks(mirroring(2)), seen, NOW)
    assert rest.asleep == frozenset()
    assert "waits for memory" in rest.waiting[idle(2)]


def test_what_the_log_asks_for() -> None:
    shadow = Shadowing(shadow="01S", version=2, seq=9, fraction=2_000, where="header.a == b", keep=5)
    found = wish(served(Serving(stable=1, shadows=(shadow,))), "production", {}, {}).models["m"]
    assert found.shadows == (
        Mirroring(
            id="01S", version=idle(2), fraction=2_000, where="header.a == b", salt="01S", scope=9, keep=5
        ),
    )
    assert (found.candidate, found.scope) == (None, 0)
    gone = wish(served(Serving(stable=1, shadows=(shadow,)), 2), "production", {}, {}).models["m"]
    assert gone.shadows == ()


def test_the_shadow_step_of_a_ramp_is_a_shadow_of_its_candidate() -> None:
    ramp = Ramp(rollout="r", version=2, steps=(0, 1_000), step=0, seq=3, fraction=500)
    found = wish(served(Serving(stable=1, ramp=ramp)), "production", {}, {}).models["m"]
    assert found.candidate is None
    assert [(s.id, s.version, s.fraction, s.scope) for s in found.shadows] == [("r", idle(2), 500, 3)]
    by_policy = wish(
        served(Serving(stable=1, ramp=msgspec.structs.replace(ramp, fraction=0))), "production", {}, {}
    ).models["m"]
    assert by_policy.shadows[0].fraction == 1_000
    later = msgspec.structs.replace(ramp, step=1, seq=4)
    found = wish(served(Serving(stable=1, ramp=later)), "production", {}, {}).models["m"]
    assert (found.candidate, found.share, found.scope, found.shadows) == (wanted(2), 1_000, 4, ())


def test_nobody_but_a_shadow_waits_for_the_mirror() -> None:
    fronts = (Front(index=0, generation=6), Front(index=1, idle=True, generation=3))
    old = worker(2, routed_last=5, routed_until=NOW)
    assert StopWorker(worker="w2.0") in plan(asks(), host(worker(1), old, fronts=fronts), NOW, LIMITS)
    former = shadow_worker(3, routed_last=5, routed_until=NOW)
    assert StopWorker(worker="i3") not in plan(asks(), host(worker(1), former, fronts=fronts), NOW, LIMITS)
    caught_up = (fronts[0], Front(index=1, idle=True, generation=6, inflight={"i3": 1}))
    assert StopWorker(worker="i3") not in plan(asks(), host(worker(1), former, fronts=caught_up), NOW, LIMITS)
    done = (fronts[0], Front(index=1, idle=True, generation=6))
    assert StopWorker(worker="i3") in plan(asks(), host(worker(1), former, fronts=done), NOW, LIMITS)


def test_without_a_lease_nothing_is_copied_and_the_shadow_stays_loaded() -> None:
    asked = without_lease(asks(mirroring(2)))
    route = table(asked, host(worker(1), shadow_worker(2)), NOW)["m"]
    assert [(shadow.id, shadow.fraction) for shadow in route.shadows] == [("s2", 0)]
    assert route.idle == {2: ("i2",)}
