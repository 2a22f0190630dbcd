"""Where the version of a rollout has come up on a host, and where it fails: what a report says of both."""

from __future__ import annotations

import msgspec
import pytest

from mldeploy.core.host import (
    Bad,
    Bundle,
    Desired,
    Memory,
    Mirroring,
    ModelRoute,
    Observed,
    Wish,
    Worker,
)
from mldeploy.core.plan import table
from mldeploy.core.standing import come_up, failing, standings
from tests.core.hosts import NOW, wanted, worker

STABLE = ModelRoute(stable=1, workers={1: ("w1.0",)})
BOTH = ModelRoute(stable=1, candidate=2, share=1_000, workers={1: ("w1.0",), 2: ("w2.0",)})
CANDIDATE = msgspec.structs.replace(wanted(2), python="3.11", platform="linux-x86_64")
#: Version 2 is the candidate, or shadows, of the ramp whose step record 7 has set.
RAMP = Wish(stable=wanted(1), candidate=CANDIDATE, share=1_000, scope=7)
SHADOW = msgspec.structs.replace(CANDIDATE, idle=True)
SHADOWED = Wish(
    stable=wanted(1), shadows=(Mirroring(id="r", version=SHADOW, fraction=1_000, scope=7),), scope=7
)


def host(
    *workers: Worker, memory: int = 0, budget: int = 0, seen: int = 0, replicas: int = 1, **more: object
) -> Observed:
    """`memory`: bytes that a worker of each version states; `seen`: what version 2 took here before."""
    given: dict[str, object] = {
        "bundles": {f"m{n}": Bundle(environment="e", memory=memory, replicas=replicas) for n in (1, 2)},
        "environments": frozenset({"e"}),
        "zygotes": {"e": "ready"},
        "workers": (worker(1), *workers),
        "pythons": frozenset({"3.11"}),
        "platform": "linux-x86_64",
        "routes": {"m": STABLE},
        "memory": Memory(budget=budget, seen={"m2": seen} if seen else {}),
    }
    return Observed(**given | more)  # type: ignore[arg-type]


def bad(stage: str, attempts: int, until: float = NOW + 5, **more: object) -> dict[str, Bad]:
    said = Bad(digest="m2", stage=stage, reason="no", attempts=attempts, retry_at=until)
    return {"m@2": msgspec.structs.replace(said, **more)}


def said(observed: Observed, asked: Wish = RAMP) -> tuple[tuple[str, ...], tuple[str, ...]]:
    told = standings(Desired(models={"m": asked}), observed, NOW)
    return come_up(told), failing(told)


UP, FAILS, NEITHER = (("m@2",), ()), ((), ("m@2",)), ((), ())
ONLY_ONE = {"m1": Bundle(environment="e")}


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        pytest.param(host(worker(2)), UP, id="ready"),
        pytest.param(host(worker(2, state="loading")), NEITHER, id="loading"),
        pytest.param(host(bundles=ONLY_ONE), NEITHER, id="absent"),
        pytest.param(host(bundles=ONLY_ONE, bad=bad("fetch", 7)), NEITHER, id="the store is throttled"),
        pytest.param(host(bundles=ONLY_ONE, bad=bad("fetch", 7, NOW - 1)), NEITHER, id="fetched again"),
        pytest.param(host(bad=bad("load", 1)), NEITHER, id="failed once"),
        pytest.param(host(bad=bad("load", 2)), FAILS, id="failed twice"),
        pytest.param(host(bad=bad("load", 3, NOW - 1)), NEITHER, id="its backoff has just passed"),
        pytest.param(host(bad={"e": Bad(stage="install", attempts=2, retry_at=NOW + 5)}), FAILS, id="build"),
        pytest.param(host(bad={"e": Bad(stage="fetch", attempts=2, retry_at=NOW + 5)}), NEITHER, id="wheels"),
        pytest.param(host(pythons=frozenset()), FAILS, id="no interpreter"),
        pytest.param(host(platform="darwin-arm64"), FAILS, id="another platform"),
        pytest.param(host(memory=200, budget=100), FAILS, id="never fits"),
        pytest.param(host(memory=60, budget=100), NEITHER, id="waits for memory"),
        pytest.param(host(memory=60, budget=100, seen=60), NEITHER, id="waits, and has run here before"),
        pytest.param(host(worker(2), replicas=2), NEITHER, id="one replica of two"),
        pytest.param(
            host(
                worker(2),
                replicas=2,
                routes={"m": BOTH},
            ),
            UP,
            id="one replica of two, and routed",
        ),
        pytest.param(
            host(
                worker(2),
                replicas=2,
                routes={"m": BOTH},
                bad=bad("serve", 3, out=False),
            ),
            FAILS,
            id="its other replica dies again and again",
        ),
    ],
)
def test_what_a_host_says_of_a_candidate(observed: Observed, expected: tuple[object, object]) -> None:
    assert said(observed) == expected
    takes = table(Desired(models={"m": RAMP}), observed, NOW)["m"].candidate == 2
    assert takes == ("m@2" in expected[0]) or expected is FAILS


def test_at_a_shadow_step_it_is_the_shadow_that_counts() -> None:
    shadow = worker(2, ident="i2", idle=True)
    assert said(host(shadow), SHADOWED) == UP
    assert said(host(worker(2)), SHADOWED) == NEITHER, "that is no shadow's worker"
    assert said(host(shadow), RAMP) == NEITHER, "at the next step it serves by workers of its own"
    # it was stable before, and is on the disk for that: how that stands says nothing
    before = msgspec.structs.replace(SHADOWED, previous=wanted(2))
    assert said(host(shadow), before) == UP
    assert said(host(), before) == NEITHER
    assert said(host(bad=bad("load", 2)), before) == FAILS


def test_a_shadow_that_gave_its_memory_to_others_has_come_up() -> None:
    assert said(host(memory=60, budget=100), SHADOWED) == NEITHER, "it has not run yet"
    assert said(host(memory=60, budget=100, seen=60), SHADOWED) == UP


def test_what_takes_the_stable_share_here_and_sleeps_has_come_up() -> None:
    """The host still serves what was stable before, with nobody asking; that is a candidate again."""
    asleep = host(
        budget=100,
        seen=60,
        routes={"m": ModelRoute(stable=2, workers={2: ()})},
        workers=(worker(1, ident="other", model="o", digest="o1"),),
        bundles={name: Bundle(environment="e", memory=60) for name in ("m1", "m2", "o1")},
    )
    assert said(asleep) == UP


def test_only_the_version_of_a_rollout_is_said_to_have_come_up() -> None:
    both = host(worker(2))
    assert said(both, msgspec.structs.replace(RAMP, candidate=None, scope=0)) == NEITHER
    other = Mirroring(id="s", version=SHADOW, fraction=1_000, scope=6)
    shadow = host(worker(2, ident="i2", idle=True))
    assert said(shadow, Wish(stable=wanted(1), shadows=(other,))) == NEITHER
    assert said(both, msgspec.structs.replace(RAMP, stable=None)) == UP, "on some hosts, where nothing was"
