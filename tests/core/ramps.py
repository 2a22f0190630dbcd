"""A rollout in numbers: traffic drawn by chance, counted in Measures, and the decisions on them.

Nothing of the machine: whole ramps are played through `core/rollout.decide` in a fraction of a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mldeploy.core.evidence import LAST_BUCKET, Latency, Measure, Tally, edge
from mldeploy.core.policy import Settings
from mldeploy.core.records import Advance, Complete, Halt
from mldeploy.core.rollout import Decision, Watch, decide
from mldeploy.core.state import Ramp, Serving, Version
from mldeploy.core.types import FULL_SHARE

STEPS = (100, 1_000, 5_000, 10_000)
STABLE, CANDIDATE = 1, 2


def version(number: int, **metrics: float) -> Version:
    return Version(
        version=number, digest="", push="", blobs=(), size=0, owner="o", expires="2030-01-01", python="3.11",
        platform="linux-x86_64", actor="", published="", seq=number, metrics=metrics,
    )  # fmt: skip


def serving(steps: tuple[int, ...] = STEPS, step: int = 0, **fields: object) -> Serving:
    given: dict[str, object] = {
        "rollout": "r", "version": CANDIDATE, "steps": steps, "step": step, "seq": 10 + step, "begun": 10,
    }  # fmt: skip
    return Serving(stable=STABLE, ramp=Ramp(**given | fields))  # type: ignore[arg-type]


@dataclass
class Behaviour:
    """How a version answers: the share of failures, and latencies as lognormal around `median` seconds."""

    errors: float = 0.0
    median: float = 0.010
    sigma: float = 0.4
    _shares: list[float] = field(default_factory=list)

    def shares(self) -> list[float]:
        """The chance of each latency bucket."""
        if not self._shares:
            below = [
                0.5 * (1 + math.erf(math.log(edge(i) / self.median) / self.sigma / math.sqrt(2)))
                for i in range(LAST_BUCKET)
            ]
            self._shares = list(np.diff([0.0, *below, 1.0]))
        return self._shares


class Counter:
    """What one version has answered in one scope."""

    def __init__(self, behaviour: Behaviour, chance: np.random.Generator) -> None:
        self.behaviour, self.chance = behaviour, chance
        self.requests = self.failures = 0
        self.latency = np.zeros(LAST_BUCKET + 1, dtype=np.int64)

    def answer(self, requests: int) -> None:
        """So many more, by chance."""
        self.requests += requests
        self.failures += int(self.chance.binomial(requests, self.behaviour.errors))
        self.latency += self.chance.multinomial(requests, self.behaviour.shares())

    def tally(self) -> Tally:
        counts = {index: int(count) for index, count in enumerate(self.latency) if count}
        return Tally(requests=self.requests, failures=self.failures, latency=Latency(counts))


def measure(number: int, scope: int, role: str, tally: Tally, **more: Any) -> Measure:
    return Measure(model="m", version=number, scope=scope, role=role, tally=tally, **more)


def play(
    stable: Behaviour,
    candidate: Behaviour,
    seed: int,
    guards: tuple[str, ...] = (),
    steps: tuple[int, ...] = STEPS,
    most: int = 60_000,
) -> str:
    """How a ramp ends: "completed", "halted", or "late" (by its deadline).

    There is a look after about each fifth more of the candidate's requests, until it has had `most`.
    """
    chance = np.random.default_rng(seed)
    versions = {STABLE: version(STABLE), CANDIDATE: version(CANDIDATE)}
    for step, share in enumerate(steps):
        now = serving(steps, step, guards=guards, min_requests=200)
        ours, theirs = Counter(candidate, chance), Counter(stable, chance)
        while ours.requests < most:
            batch = int(max(60, ours.requests / 5) / (share / FULL_SHARE))
            routed = int(chance.binomial(batch, share / FULL_SHARE))
            ours.answer(routed)
            theirs.answer(batch - routed)
            decision = decide(now, versions, Settings(), watch(step, ours, theirs))
            assert isinstance(decision, Decision)
            if isinstance(decision.action, Halt):
                return "halted"
            if isinstance(decision.action, Complete):
                return "completed"
            if isinstance(decision.action, Advance):
                break
        else:
            return "late"
    raise AssertionError("the last step ends in an action")


def watch(step: int, ours: Counter, theirs: Counter) -> Watch:
    measures = (
        measure(STABLE, 10 + step, "stable", theirs.tally()),
        measure(CANDIDATE, 10 + step, "candidate", ours.tally()),
    )
    return Watch(now=1_000.0, since=0.0, begun=0.0, members=1, heard=1, up=1, failed=0, measures=measures)
