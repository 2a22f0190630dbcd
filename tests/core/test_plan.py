"""The plan of a host: single decisions, and any history in a simulated world."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

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
)
from mldeploy.core.plan import plan, references, settled, table
from mldeploy.core.standing import next_step, standings, why_unserved
from mldeploy.core.state import Ramp, Serving
from mldeploy.core.wish import wish, without_lease
from tests.core.hosts import LIMITS, NOW, served, wanted, worker


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
    assert table(asks(1, previous=2), seen, NOW)["m"].workers == {1: ("w1.0",), 2: ()}
    assert not only(StartWorker, plan(asks(1, previous=2), seen, NOW, LIMITS))
    assert only(StartWorker, plan(asks(1, previous=2), seen, NOW + 3, LIMITS))


def test_what_served_before_a_restart_is_named_until_it_serves_again() -> None:
    """The next plan starts from the table of this one: one that names nobody would forget the fallback."""
    bad = {"m@3": Bad(digest="m3", attempts=3, retry_at=NOW + 60)}
    after = host(bad=bad, routes=routed(2))
    (told,) = only(PublishTable, plan(asks(3, fallback=2), after, NOW, LIMITS)) or [None]
    routes = dict(told.routes) if told is not None else after.routes
    assert (routes["m"].stable, routes["m"].workers) == (2, {})
    again = host(bad=bad, routes=routes)
    started = only(StartWorker, plan(asks(3, fallback=2), again, NOW, LIMITS))
    assert [start.version for start in started] == [2]
    assert not settled(asks(3, fallback=2), again, NOW)
    # what did not serve here last is not named for that
    other = host(bad=bad, routes=routed(1))
    assert table(asks(3, fallback=2), other, NOW)["m"].stable is None


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


def test_what_stable_answers_is_evidence_only_while_the_candidate_takes_its_share() -> None:
    ask = Wish(stable=wanted(1), candidate=wanted(2), share=1000, salt="r", scope=7)
    desired = Desired(models={"m": ask})
    loading = host(worker(1), worker(2, state="loading"))
    ready = host(worker(1), worker(2))
    assert table(desired, loading, NOW)["m"].scope == 0
    assert table(desired, ready, NOW)["m"].scope == 7
    # nobody can say that the ramp goes on: its share is with stable, and is no evidence of a split
    assert table(without_lease(desired), ready, NOW)["m"].scope == 0


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
    assert next_step(ask.models["m"], ModelRoute(), {}, seen, NOW).startswith("wait: Python 3.99")


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


@pytest.mark.parametrize(
    ("desired", "more", "made"),
    [
        (asks(5), {}, FetchBundle(model="m", version=5, digest="m5")),
        (asks(1), {"environments": frozenset(), "zygotes": {}},
         BuildEnvironment(environment="e", model="m", version=1, digest="m1")),
    ],
)  # fmt: skip
def test_a_blob_is_not_removed_while_something_may_be_made_of_it(
    desired: Desired, more: dict[str, Any], made: Action
) -> None:
    """Version 5 may share it, and would find it in place before it goes."""
    unused = {"blob b": NOW - LIMITS.grace}
    observed = host(unused=unused, blobs=frozenset({"b"}), **more)
    both = FetchBundle | BuildEnvironment | RemoveBlob

    def given(*busy: Action) -> list[Action]:
        actions = plan(desired, msgspec.structs.replace(observed, busy=frozenset(busy)), NOW, LIMITS)
        return [action for action in actions if isinstance(action, both)]

    assert given() == [made]
    assert given(made) == []
    assert given(RemoveBlob(sha256="other")) == [RemoveBlob(sha256="b")]
    assert plan(asks(None), observed, NOW, LIMITS)[-1] == RemoveBlob(sha256="b")


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
    found = wish(served(Serving(stable=1, ramp=ramp)), "production", labels, {}).models["m"]
    assert (found.candidate.version if found.candidate else None) == candidate
    assert found.share == (1000 if candidate else 0)


def test_a_first_version_on_some_hosts_alone_is_all_that_they_serve() -> None:
    ramp = Ramp(rollout="r", version=2, steps=(10_000,), step=0, seq=3, on=("zone=a",))
    state = served(Serving(ramp=ramp))
    assert wish(state, "production", {"zone": "b"}, {}).models == {}
    desired = wish(state, "production", {"zone": "a"}, {})
    loading, ready = host(worker(2, state="loading")), host(worker(2))
    assert not settled(desired, loading, NOW), "a load balancer sends nothing before it is there"
    assert settled(desired, ready, NOW)
    route = table(desired, ready, NOW)["m"]
    assert (route.stable, route.candidate, route.share) == (None, 2, 10_000)
    told = standings(desired, loading, NOW)["m"]
    assert why_unserved(desired.models["m"], told) == "m@2 is loading"
    bad = {"m@2": Bad(digest="m2", reason="no such luck", retry_at=NOW + 5)}
    assert settled(desired, host(bad=bad), NOW)


def test_a_retired_version_is_the_fallback_where_it_was_routed_last() -> None:
    def fallback(*retired: int, last: int = 3, cut: int = 0) -> Wanted | None:
        state = served(Serving(stable=2, previous=1), *retired, cut=cut)
        return wish(state, "production", {}, {"m": last}).models["m"].fallback

    assert fallback(3) == wanted(3)
    assert fallback(cut=3) == wanted(1)
    assert fallback(1) == wanted(3)
    assert fallback(1, last=2) is None, "its successor has served here"
    assert fallback(last=2) == wanted(1)
    gone = served(Serving(), 1)
    assert wish(gone, "production", {}, {"m": 1}).models == {}, "there is no successor to wait for"
    assert wish(served(Serving(stable=2, previous=1)), "production", {}, {"m": 3}).models["m"].fallback == (
        Wanted(model="m", version=3, digest="m3")
    )
    assert wish(served(Serving(stable=2)), "staging", {}, {}).models == {}
