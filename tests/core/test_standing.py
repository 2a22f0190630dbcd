"""Telling how versions stand: what is said, and that a host with many models is looked over once."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from mldeploy.core.host import (
    Action,
    BuildEnvironment,
    Bundle,
    Desired,
    FetchBundle,
    ModelRoute,
    Observed,
    StartWorker,
    Wish,
    Worker,
)
from mldeploy.core.plan import plan
from mldeploy.core.standing import by_digest, next_step, standings
from tests.core.hosts import LIMITS, NOW, wanted, worker

MODELS = [f"m{number}-" for number in range(60)]
#: How often all of something may be gone through in one look.
FEW = 12


class Busy(frozenset[Action]):
    """Actions that count how often they are gone through."""

    looks = 0

    def __iter__(self) -> Iterator[Action]:
        self.looks += 1
        return super().__iter__()


class Crowd(tuple[Worker, ...]):
    """Workers that count how often they are gone through."""

    looks = 0

    def __iter__(self) -> Iterator[Worker]:
        self.looks += 1
        return super().__iter__()


def cold(built: bool) -> tuple[Desired, Observed, Busy, Crowd]:
    """A host that starts: everything is being fetched, or (`built`) loaded, half of it still being built."""
    asked = {name: Wish(stable=wanted(1, name), previous=wanted(2, name)) for name in MODELS}
    busy = Busy(FetchBundle(model=name, version=1, digest=f"{name}1") for name in MODELS)
    workers, seen = Crowd(), Observed(busy=busy)
    if built:
        bundles = {f"{name}{n}": Bundle(environment=f"e{name}") for name in MODELS for n in (1, 2)}
        busy = Busy(
            BuildEnvironment(environment=f"e{name}", model=name, version=1, digest=f"{name}1")
            for name in MODELS[::2]
        )
        workers = Crowd(
            worker(1, model=name, digest=f"{name}1", ident=name, state="loading") for name in MODELS[1::2]
        )
        environments = frozenset(f"e{name}" for name in MODELS[1::2])
        seen = Observed(bundles=bundles, environments=environments, workers=workers, busy=busy)
    return Desired(models=asked), seen, busy, workers


def test_a_cold_start_of_many_models_is_looked_over_a_few_times_and_not_once_for_each() -> None:
    for built, states in ((False, {"fetching"}), (True, {"installing", "loading"})):
        desired, observed, busy, workers = cold(built)
        found = standings(desired, observed, NOW)
        assert {each.state for told in found.values() for each in told if each.version == 1} == states
        plan(desired, observed, NOW, LIMITS)
        assert 0 < busy.looks <= FEW
        assert workers.looks <= FEW


def test_what_comes_next_is_told_of_a_models_own_versions_the_most_important_first() -> None:
    doing = by_digest(
        [
            FetchBundle(model="m", version=2, digest="m2"),
            FetchBundle(model="n", version=1, digest="n1"),
            StartWorker(model="m", version=1, digest="m1", replica=0, environment="e"),
            StartWorker(model="m", version=1, digest="m1", replica=1, environment="e"),
        ]
    )
    asked = Wish(stable=wanted(1), candidate=wanted(2), share=100)
    assert next_step(asked, ModelRoute(), doing, Observed(), NOW) == "start m@1, fetch m@2"
    # a version published again has the digest of the one that was retired
    again = msgspec.structs.replace(wanted(3), digest="m1")
    asked = Wish(stable=again, fallback=wanted(1))
    assert next_step(asked, ModelRoute(), doing, Observed(), NOW) == "start m@3"
    assert next_step(asked, ModelRoute(), {}, Observed(), NOW) == "wait until m@3 is ready"
