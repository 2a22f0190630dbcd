"""Variants of the code that steers and serves which break one rule each: see `variants.py`.

Left out: those of retirement and notices (`telling_mutants.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
from mldeploy.core.lifecycle import Context, refuse
from mldeploy.core.plan import plan
from mldeploy.core.records import Action
from mldeploy.core.retirement import Heard
from mldeploy.core.routing import Split
from mldeploy.core.state import Ramp, State
from mldeploy.core.verdicts import BREACHED, HOLDS, Doubt, Step
from mldeploy.store.fleet import Fleet
from mldeploy_daemon import steering
from mldeploy_daemon.measures import Measures
from tests.world.clients import chosen
from tests.world.faults import Weather
from tests.world.variants import Mutant, Patch, patched
from tests.world.world import Cast, Parts

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


def still_at_any_step(state: State, proposed: Action, seen: State) -> Sequence[Action]:
    """What was proposed at a step is written at the next one as well; but not where it has begun anew."""
    if isinstance(proposed, records.Advance | records.Complete):
        now, then = steering._ramp(state, proposed.rollout), steering._ramp(seen, proposed.rollout)
        if now is not None and then is not None and not now.paused and now.begun == then.begun:
            return (proposed,) if fold.refusal(state, [proposed]) is None else ()
    return steering.still(state, proposed, seen)


def _any_step(ramp: Ramp, step: int) -> None:
    """Whatever step is named."""
    if ramp.paused:
        refuse("the rollout is paused", "resume it first")


def _advance(**given: Any) -> records.Advance:
    """The step that is named is the next one."""
    return records.Advance(**{**given, "step": given["step"] + 1})


def _without_evidence(**given: Any) -> records.Advance:
    return records.Advance(**{**given, "evidence": None})


def _complete_anywhere(draft: Draft, action: records.Complete, told: Context) -> None:
    """A rollout may be completed at any of its steps."""
    where = draft.under_way(action.rollout)
    assert where is not None
    serving = draft.serving(*where)
    ramp = serving.ramp
    assert ramp is not None
    last = len(ramp.steps) - 1
    ramp = msgspec.structs.replace(ramp, step=last)
    draft.put_serving(*where, msgspec.structs.replace(serving, ramp=ramp))
    traffic.complete(draft, msgspec.structs.replace(action, step=last), told)


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


@contextmanager
def _split_anew() -> Iterator[None]:
    """The share is a part of the salt."""

    def made(split: Split, salt: str, share: int) -> None:
        begin(split, f"{salt}{share}", share)

    begin = Split.__init__
    chosen.cache_clear()
    try:
        with mock.patch.object(Split, "__init__", made):
            yield
    finally:
        chosen.cache_clear()


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


def fleet(
    finds: str,
    parts: Parts | None = None,
    patches: Sequence[Patch] = (),
    cast: Cast = FEW,
    weather: Callable[[], Weather] = mild,
) -> Mutant:
    """One that few hosts show."""
    return Mutant(finds, parts or Parts(), patches, cast, weather)


ROLLOUT_MUTANTS: Mapping[str, Mutant] = {
    "a step ends twice": fleet(
        "ends step", Parts(still=still_at_any_step),
        (
            patched("mldeploy.core.traffic._check_step", _any_step),
            patched("mldeploy_daemon.steering.delay", lambda rank: 0.0),  # all act at once
        ),
    ),
    "another step is named": fleet(
        "ends a step at which .* does not stand",
        patches=(
            patched("mldeploy.core.traffic._check_step", _any_step),
            patched("mldeploy.core.rollout.Advance", _advance),
        ),
    ),
    "completed at any step": fleet(
        "before its last step",
        patches=(
            patched("mldeploy.core.rollout.Advance", records.Complete),
            lambda: mock.patch.dict(fold._APPLY, {records.Complete: _complete_anywhere}),
        ),
    ),
    "nobody says why": fleet(
        "no evidence: .* without any",
        patches=(patched("mldeploy.core.rollout.Advance", _without_evidence),),
    ),
    "a step is left out": fleet("went from step", patches=(_advancing(2),)),
    "a step goes back": fleet("went down", patches=(_advancing(-1),)),
    "whoever is silent agrees": fleet("no evidence: .* hosts had reported", Parts(fleet=Credulous)),
    "what has not failed has come up": fleet(
        "no evidence: .* hosts had .*: it had come up on",
        patches=(patched("mldeploy.core.controller._up", _unless_it_failed),),
    ),
    "no step is held": fleet("no evidence: .* before its hold", patches=(_not_waiting("hold"),)),
    "no requests are needed": fleet(
        "no evidence: .* requests", patches=(_not_waiting("requests", "answers", "holds"),)
    ),
    "a guard that is undecided holds": fleet(
        "no evidence: .* a guard does not hold", patches=(_not_waiting("needed"),)
    ),
    "what is breached holds": fleet(
        "no evidence: .* does not hold by its own counts",
        patches=(patched("mldeploy.core.rollout.judge", _lenient),),
    ),
    "the policy's guards are forgotten": fleet(
        "no evidence: .* which are not the ones that count",
        patches=(patched("mldeploy.core.rollout.guards_of", lambda ramp, said: parse_all(ramp.guards)),),
    ),
    "failures are not told": fleet(
        "fails one request in ten, and was completed", Parts(measures=Forgiving)
    ),
    "what is told is counted twice": fleet("no evidence: .* there were", Parts(measures=Twice)),
    "a candidate that is halted goes on": fleet("after its rollout ended", Parts(plan=clinging)),
    "a rollout needs no lease": fleet(
        "after its rollout ended", Parts(lapsed=lambda desired: desired), weather=cut_off,
        cast=replace(FEW, storm=3600.0),
    ),
    "twice the share": fleet("no record says so", Parts(plan=generous)),
    "another split at every step": fleet(
        "back to stable", patches=(_split_anew,)
    ),
    "no rollout is ever late": fleet(
        "not done: .* after its deadline", patches=(patched("mldeploy.core.rollout._late", lambda *_: None),)
    ),
    "who is gone is not forgotten": fleet(
        "still a member",
        patches=(patched("mldeploy.core.controller._silent", lambda *_: iter(())),),
        cast=replace(FEW, lost=1),
    ),
}  # fmt: skip

#: Those that take many worlds.
SLOW_ROLLOUTS = {
    "a step is left out", "a step goes back", "no step is held",
    "a guard that is undecided holds", "a candidate that is halted goes on", "a rollout needs no lease",
    "no rollout is ever late", "failures are not told",
}  # fmt: skip
