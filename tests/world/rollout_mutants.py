"""Variants of the code that steers and serves which break one rule each: see `mutants.py`.

Left out: those of retirement and notices (`telling_mutants.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import msgspec

from mldeploy.core import fold, records, rollout, traffic
from mldeploy.core.controller import Reports
from mldeploy.core.draft import Draft
from mldeploy.core.evidence import GuardVerdict, Measure
from mldeploy.core.guards import Guard, parse_all
from mldeploy.core.host import Action as HostAction
from mldeploy.core.host import Desired, Limits, Observed, PublishTable
from mldeploy.core.judge import judge
from mldeploy.core.lifecycle import Context
from mldeploy.core.plan import plan
from mldeploy.core.records import Action
from mldeploy.core.retirement import Heard
from mldeploy.core.state import State
from mldeploy.core.verdicts import BREACHED, HOLDS, Doubt, Step
from mldeploy.store.fleet import Fleet
from mldeploy_daemon.measures import Measures
from tests.world.clients import chosen
from tests.world.faults import Weather
from tests.world.world import Cast, Parts, World

Patch = Callable[[], AbstractContextManager[Any]]


def patched(target: str, with_: Any) -> Patch:
    """One name of the product, for the length of a world."""
    return lambda: mock.patch(target, with_)


# --- the fold


def _advancing(by: int) -> Patch:
    """An advance goes on by so many steps."""

    def advance(draft: Draft, action: records.Advance, told: Context) -> None:
        where = draft.under_way(action.rollout)
        traffic.advance(draft, action, told)
        assert where is not None
        serving = draft.serving(*where)
        ramp = serving.ramp
        assert ramp is not None
        step = ramp.step - 1 + by
        if 0 <= step < len(ramp.steps):
            ramp = msgspec.structs.replace(ramp, step=step)
            draft.put_serving(*where, msgspec.structs.replace(serving, ramp=ramp))

    return lambda: mock.patch.dict(fold._APPLY, {records.Advance: advance})


# --- steering


def still_anyway(state: State, proposed: Action, seen: State) -> tuple[Action, ...]:
    """What was proposed is written, whatever has happened meanwhile."""
    return (proposed,) if fold.refusal(state, [proposed]) is None else ()


class Credulous(Fleet):
    """Every member counts as heard, at whatever step it is."""

    def read(
        self, state: State, environment: str, *, everyone: bool = False, scopes: Collection[int] = ()
    ) -> tuple[Reports, float]:
        reports, now = super().read(state, environment, everyone=everyone, scopes=scopes)
        heard = tuple(msgspec.structs.replace(each, head=state.head, at=now) for each in reports.heard)
        return msgspec.structs.replace(reports, heard=heard), now


def _not_waiting(*for_: str) -> Patch:
    """A rollout does not wait for some of what it ought to."""
    real = rollout._waits

    def waits(*given: Any) -> tuple[str, ...]:
        return tuple(text for text in real(*given) if not any(word in text for word in for_))

    return patched("mldeploy.core.rollout._waits", waits)


def _unless_it_failed(ref: str, heard: Collection[Heard], *_: Any) -> int:
    """Nor is it asked whether a version has come up."""
    return sum(ref not in each.failed for each in heard)


def _lenient(guard: Guard, step: Step, doubt: Doubt) -> GuardVerdict:
    """What is breached holds."""
    found = judge(guard, step, doubt)
    return msgspec.structs.replace(found, verdict=HOLDS) if found.verdict == BREACHED else found


class Forgiving(Measures):
    """Of what failed nothing is said."""

    def heard(self, who: str, instance: str, measures: tuple[Measure, ...]) -> None:
        super().heard(who, instance, tuple(_forgiven(measure) for measure in measures))


def _forgiven(measure: Measure) -> Measure:
    compared = measure.comparison
    if compared is not None:
        compared = msgspec.structs.replace(compared, failed=0, within=compared.pairs)
    tally = msgspec.structs.replace(measure.tally, failures=0)
    return msgspec.structs.replace(measure, tally=tally, comparison=compared)


class Twice(Measures):
    """What a front says is added to what it said before."""

    def heard(self, who: str, instance: str, measures: tuple[Measure, ...]) -> None:
        before = self.kept.heard.get(who)
        super().heard(who, f"{before.instance}'" if before else instance, measures)


# --- serving


def clinging(desired: Desired, observed: Observed, now: float, limits: Limits) -> tuple[HostAction, ...]:
    """A candidate keeps its traffic until there is another."""
    kept = set(desired.models) == set(observed.routes) and any(
        asked.candidate is None and observed.routes[name].share for name, asked in desired.models.items()
    )
    actions = plan(desired, observed, now, limits)
    return tuple(action for action in actions if not kept or not isinstance(action, PublishTable))


def generous(desired: Desired, observed: Observed, now: float, limits: Limits) -> tuple[HostAction, ...]:
    """The candidate takes twice its share."""
    models = {
        name: msgspec.structs.replace(asked, share=min(10_000, asked.share * 2))
        for name, asked in desired.models.items()
    }
    return plan(msgspec.structs.replace(desired, models=models), observed, now, limits)


#: Few hosts, for which things go on quickly.
FEW = replace(
    Cast.fleet(4),
    lost=0,
    late=0,
    asking=4000,
    poll=10.0,
    report=20.0,
    requests=20.0,
    storm=900.0,
    collectors=0,
)


def mild() -> Weather:
    """A little of the worst."""
    return Weather({"lost": 0.005, "late": 0.002}, {"crash": 0.0002}, latency=0.02)


def cut_off() -> Weather:
    """Hosts are cut off now and then, and nothing else goes wrong."""
    return Weather({}, {"partition": 0.0003}, latency=0.02)


def slow() -> Weather:
    """Answers that take long, so that much happens between a look and what follows from it."""
    return Weather({"lost": 0.03, "late": 0.03}, {"crash": 0.0002}, latency=1.0)


@dataclass(frozen=True)
class RolloutMutant:
    """As `mutants.Mutant`, with patches of the product."""

    finds: str
    parts: Parts = field(default_factory=Parts)
    patches: Sequence[Patch] = ()
    cast: Cast = FEW
    weather: Callable[[], Weather] = mild
    seeds: int = 40


ROLLOUT_MUTANTS: Mapping[str, RolloutMutant] = {
    "a step ends twice": RolloutMutant(
        "ends step|before its hold", Parts(still=still_anyway),
        (patched("mldeploy.core.traffic._check_step", lambda ramp, step: None),),
    ),
    "a step is left out": RolloutMutant("went from step", patches=(_advancing(2),)),
    "a step goes back": RolloutMutant("went down", patches=(_advancing(-1),)),
    "whoever is silent agrees": RolloutMutant("no evidence: .* hosts had reported", Parts(fleet=Credulous)),
    "what has not failed has come up": RolloutMutant(
        "no evidence: .* hosts had .*: it had come up on",
        patches=(patched("mldeploy.core.controller._up", _unless_it_failed),),
    ),
    "no step is held": RolloutMutant("no evidence: .* before its hold", patches=(_not_waiting("hold"),)),
    "no requests are needed": RolloutMutant(
        "no evidence: .* requests", patches=(_not_waiting("requests", "answers", "holds"),)
    ),
    "a guard that is undecided holds": RolloutMutant(
        "no evidence: .* a guard does not hold", patches=(_not_waiting("needed"),)
    ),
    "what is breached holds": RolloutMutant(
        "no evidence: .* does not hold by its own counts",
        patches=(patched("mldeploy.core.rollout.judge", _lenient),),
    ),
    "the policy's guards are forgotten": RolloutMutant(
        "no evidence: .* which are not the ones that count",
        patches=(patched("mldeploy.core.rollout.guards_of", lambda ramp, said: parse_all(ramp.guards)),),
    ),
    "failures are not told": RolloutMutant(
        "fails one request in ten, and was completed", Parts(measures=Forgiving)
    ),
    "what is told is counted twice": RolloutMutant("no evidence: .* there were", Parts(measures=Twice)),
    "a candidate that is halted goes on": RolloutMutant("after its rollout ended", Parts(plan=clinging)),
    "a rollout needs no lease": RolloutMutant(
        "after its rollout ended", Parts(lapsed=lambda desired: desired), weather=cut_off,
        cast=replace(FEW, storm=3600.0),
    ),
    "twice the share": RolloutMutant("no record says so", Parts(plan=generous)),
    "another split at every step": RolloutMutant(
        "back to stable", patches=(patched("tests.world.serving.chosen", lambda s, n: chosen(f"{s}{n}", n)),)
    ),
    "no rollout is ever late": RolloutMutant(
        "not done: .* after its deadline", patches=(patched("mldeploy.core.rollout._late", lambda *_: None),)
    ),
    "who is gone is not forgotten": RolloutMutant(
        "still a member|not done",
        patches=(patched("mldeploy.core.controller._silent", lambda *_: iter(())),),
        cast=replace(FEW, lost=1),
    ),
}  # fmt: skip

#: Those that take many worlds.
SLOW = {
    "a step ends twice", "a step is left out", "a step goes back", "no step is held",
    "a guard that is undecided holds", "a candidate that is halted goes on", "a rollout needs no lease",
    "no rollout is ever late", "failures are not told",
}  # fmt: skip


def outcome(mutant: RolloutMutant, seed: int) -> str:
    """What is found of it in the world of that seed; "" for nothing."""
    with ExitStack() as stack:
        for patch in mutant.patches:
            stack.enter_context(patch())
        world = World(seed, parts=mutant.parts, cast=mutant.cast, weather=mutant.weather())
        return world.run().error
