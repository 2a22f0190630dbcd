"""What must be so of rollouts: their steps, the evidence of each, and the traffic they take.

Told of every record that takes effect, of every report as it comes to stand in the store, and of every time
that clients ask a front. It counts by itself: what was really asked, and which reports were really there.
Left out: retirement and notices (`telling.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from mldeploy.core.controller import freshness, on_duty
from mldeploy.core.evidence import Evidence, Measure, tallied
from mldeploy.core.host import Worker
from mldeploy.core.policy import settings
from mldeploy.core.records import Advance, Complete, Halt, Record
from mldeploy.core.rollout import QUORUM, deadline_of, guards_of
from mldeploy.core.state import Ramp, State
from mldeploy.core.types import PRODUCTION
from mldeploy.core.wish import meant
from mldeploy.store import fleet
from mldeploy_daemon.table import ModelRoutes
from tests.world.clients import Clients
from tests.world.guarding import unheld

#: Seconds that a rollout may go on after its deadline: looks, places of watchers, a store out of reach.
SLACK = 900.0
#: One whose deadline is further ahead than that is not waited for.
AHEAD = 3600.0


class Step(NamedTuple):
    """What the record that set a step of a model says of traffic."""

    rollout: str
    version: int
    share: int
    salt: str


class _Word(NamedTuple):
    """Of a report: when it came to stand there, its head, and what has come up."""

    at: float
    head: int
    up: tuple[str, ...]


class Rollouts:
    """`wrong` is called with what is broken; `now` is the store's time."""

    def __init__(
        self, wrong: Callable[[str], None], now: Callable[[], float], truth: list[State], clients: Clients
    ) -> None:
        self.wrong, self.now, self.truth, self.clients = wrong, now, truth, clients
        self.counts: Counter[str] = Counter()
        self.times: dict[int, float] = {}  # record -> when it came to stand there
        self.steps: dict[tuple[str, int], Step] = {}  # by model and scope
        self.over: dict[str, float] = {}  # rollout -> when it ended
        self.taken: dict[tuple[str, int], int] = {}  # (rollout, step) -> the record that ended the step
        self.heads: dict[str, list[_Word]] = {}  # host -> its reports
        self.came: dict[tuple[str, int, bool], set[str]] = {}  # (model, version, idle) -> where it came up
        self.told: dict[tuple[str, tuple[str, int, int, str]], int] = {}  # (host, measure) -> most requests
        self.asked: Counter[tuple[str, int, int, str]] = Counter()  # measure -> requests there really were
        self.keys: dict[tuple[str, int, str], frozenset[str]] = {}  # (host, front, rollout) -> of candidate

    # --- records

    def record(self, before: State, after: State, record: Record) -> None:
        """It has taken effect."""
        seq = after.head
        self.times[seq] = self.now()
        for action in record.actions:
            if isinstance(action, Advance | Complete):
                self._decided(before, action, seq)
                if record.actor.startswith("host:"):
                    self._evident(before, action, seq)
            elif isinstance(action, Halt) and record.actor.startswith("host:"):
                self._halted(before, action)
        for where, models in after.environments.items():
            for model, serving in models.items():
                known = before.environments.get(where, {}).get(model)
                if serving is not known:
                    self._moved(where, model, known.ramp if known else None, serving.ramp, record)

    def _moved(self, where: str, model: str, was: Ramp | None, now: Ramp | None, record: Record) -> None:
        if was is not None and (now is None or now.rollout != was.rollout):
            self.over[was.rollout] = self.now()
        if now is None:
            return
        if was is not None and was.rollout == now.rollout:
            advanced = any(isinstance(a, Advance) and a.rollout == now.rollout for a in record.actions)
            if now.step - was.step > int(advanced):
                self.wrong(f"the rollout {now.rollout} of {model} went from step {was.step} to {now.step}")
            if now.share < was.share or now.step < was.step:
                self.wrong(f"the share of {model}@{now.version} went down, and nobody has halted it")
        if where == PRODUCTION and (was is None or was.seq != now.seq):
            self.steps[model, now.seq] = Step(now.rollout, now.version, now.share, now.salt or now.rollout)

    def _decided(self, before: State, action: Advance | Complete, seq: int) -> None:
        name = type(action).__name__.lower()
        first = self.taken.setdefault((action.rollout, action.step), seq)
        if first != seq:
            self.wrong(
                f"record {seq} ends step {action.step} of {action.rollout}, as record {first} has done"
            )
        found = _ramp(before, action.rollout)
        if found is None or found[1].step != action.step:
            self.wrong(f"record {seq} ends a step at which {action.rollout} does not stand")
        elif name == "complete" and found[1].step + 1 < len(found[1].steps):
            self.wrong(f"record {seq} completes {action.rollout} before its last step")

    def _evident(self, before: State, action: Advance | Complete, seq: int) -> None:
        """A host has ended a step: what it says to have seen was there, and was enough."""
        self.counts[f"{type(action).__name__.lower()} by a host"] += 1
        found = _ramp(before, action.rollout)
        assert found is not None  # _decided has looked
        model, ramp = found
        ref, told = f"{model}@{ramp.version} at step {ramp.step}", action.evidence
        if told is None:
            self.wrong(f"no evidence: record {seq} ends {ref} without any")
            return
        if not told.end <= self.now() or self.now() < self.times[ramp.seq] + ramp.hold:
            self.wrong(f"no evidence: record {seq} ends {ref} before its hold of {ramp.hold} s is over")
        self._attended(model, ramp, told, seq)
        role = "candidate" if ramp.share else "shadow"
        mine = tallied(told.measures, ramp.version, ramp.seq, role)
        claimed = _answered(mine) if mine else 0
        key = (model, ramp.version, ramp.seq, role)
        reported = sum(most for (_, measure), most in self.told.items() if measure == key)
        if claimed < ramp.min_requests or claimed > reported or reported > self.asked[key]:
            self.wrong(
                f"no evidence: record {seq} ends {ref} after {claimed} requests of {ramp.min_requests}; "
                f"{reported} were reported, and {self.asked[key]} there were"
            )
        fault = unheld(guards_of(ramp, settings(before, PRODUCTION)), told, mine, ramp.seq)
        if fault:
            self.wrong(f"no evidence: record {seq} ends {ref} {fault}")
        if isinstance(action, Complete):
            self._completed(before, model, ramp)

    def _attended(self, model: str, ramp: Ramp, told: Evidence, seq: int) -> None:
        """Enough of the members a rollout is for had really reported that they are at the step, and that the
        candidate is up there; and it had come up, by workers of the kind that the step asks for.
        """
        ref = f"{model}@{ramp.version}"
        fault = f"had reported that {ref} is at step {ramp.step}, and they had not"
        came = self.came.get((model, ramp.version, not ramp.share), set())
        for state in self.truth[ramp.seq : seq]:
            asked = {host.id for host in on_duty(state, PRODUCTION) if meant(ramp, host.labels)}
            oldest = told.end - freshness(len(state.hosts))
            words = {host: self._words(host, ramp.seq, oldest, told.end) for host in asked}
            there = sum(any(words[host]) for host in asked)
            if len(asked) == told.members and told.hosts <= there and there >= QUORUM * len(asked) > 0:
                up = {host for host in came & asked if any(ref in word.up for word in words[host])}
                if len(up) >= QUORUM * len(asked):
                    return
                fault = f"had {ref} at step {ramp.step}: it had come up on {len(up)}"
        self.wrong(f"no evidence: record {seq} says that {told.hosts} of {told.members} hosts {fault}")

    def _words(self, host: str, scope: int, oldest: float, newest: float) -> list[_Word]:
        """Its reports of that time that are at the step."""
        said = self.heads.get(host, ())
        return [word for word in said if oldest <= word.at <= newest and word.head >= scope]

    def _kinds(self, state: State, model: str, ramp: Ramp) -> tuple[str, str]:
        """The true quality of candidate and stable."""
        versions = state.models[model].versions
        stable = state.environments[PRODUCTION][model].stable
        of = self.clients.quality
        return of(versions[ramp.version].digest).kind, of(versions[stable].digest).kind if stable else ""

    def _completed(self, before: State, model: str, ramp: Ramp) -> None:
        candidate, stable = self._kinds(before, model, ramp)
        self.counts[f"completed: {candidate}"] += 1
        self._chances(candidate, stable, ramp)
        guards = guards_of(ramp, settings(before, PRODUCTION))
        forbids = any(guard.measure == "error_rate" for guard in guards)
        # twice the limit and more, shown over tens of thousands of requests: no chance that anybody has
        if candidate == "erring" and stable == "good" and forbids:
            self.wrong(f"{model}@{ramp.version} fails one request in ten, and was completed")

    def _chances(self, candidate: str, stable: str, ramp: Ramp) -> None:
        """How often a false alarm may have come: once in a rollout, and (at the most) once more for each time
        that a pause or a resume of it has begun the counts anew.
        """
        if candidate == stable == "good":
            paused = len(ramp.trail) - 1 - ramp.step  # its promote and its steps are the others
            self.counts["chances of a false alarm"] += 1 + max(0, paused)

    def _halted(self, before: State, action: Halt) -> None:
        found = _ramp(before, action.rollout)
        if found is None:
            return
        candidate, stable = self._kinds(before, *found)
        why = "late" if action.reason.startswith("not enough evidence") else "a guard"
        if action.reason.startswith("it does not come up"):
            why = "not coming up"
        self.counts[f"halted by {why}: {candidate}"] += 1
        self._chances(candidate, stable, found[1])
        if why == "a guard" and candidate == stable == "good" and not action.reason.startswith("crashes"):
            self.counts["false alarms"] += 1

    # --- reports and traffic

    def reported(self, data: bytes) -> None:
        """A host's report has come to stand in the store."""
        word = fleet._REPORT.decode(data)  # as those who steer do
        self.heads.setdefault(word.host, []).append(_Word(self.now(), word.head, word.up or ()))
        for measure in word.measures:
            key = (word.host, measure.key)
            self.told[key] = max(self.told.get(key, 0), _answered(measure))

    def came_up(self, host: str, worker: Worker) -> None:
        """A worker of a host is ready."""
        self.came.setdefault((worker.model, worker.version, worker.idle), set()).add(host)

    def counted(self, key: tuple[str, int, int, str], count: int) -> None:
        """So many requests, or copies, were answered by a version in a scope."""
        self.asked[key] += count

    def routed(
        self, host: str, front: int, model: str, routes: ModelRoutes, keys: frozenset[str], allowed: float
    ) -> None:
        """A front gives these keys of a model to the candidate. `allowed`: seconds for which it may go on
        with a rollout that has ended.
        """
        step = self.steps.get((model, routes.scope))
        said = routes.candidate, routes.share, routes.salt
        if step is None or (step.version, step.share, step.salt) != said:
            self.wrong(
                f"{host} gives {routes.share} of {model} to {routes.candidate}: no record says so: {step}"
            )
            return
        late = self.now() - self.over.get(step.rollout, math.inf)
        if late > allowed and routes.stable is not None:  # else there is nothing that it could go back to
            self.wrong(f"{host} gives traffic to {model}@{step.version} {late:.0f} s after its rollout ended")
        mine = (host, front, step.rollout)
        before = self.keys.get(mine, frozenset())
        if before is not keys:
            if not before <= keys:
                back = min(before - keys)
                self.wrong(f"{host} gives {back} back to stable of {model}, while {step.rollout} goes on")
            self.keys[mine] = keys

    # --- at the end

    def under_way(self, state: State) -> list[str]:
        """The rollouts that are to end by themselves and have not, in words; the late ones first."""
        late, others = [], []
        said = settings(state, PRODUCTION)
        for model, serving in state.environments.get(PRODUCTION, {}).items():
            ramp = serving.ramp
            if ramp is None or ramp.paused or (ramp.last and ramp.stays):
                continue
            over = self.now() - self.times[ramp.begun] - deadline_of(ramp, said)
            if over < -AHEAD:
                continue
            found = others if over < SLACK else late
            found.append(
                f"{model}@{ramp.version} stands at step {ramp.step}, {over:.0f} s after its deadline"
            )
        return [*late, *others]


def _ramp(state: State, rollout: str) -> tuple[str, Ramp] | None:
    for models in state.environments.values():
        for model, serving in models.items():
            if serving.ramp is not None and serving.ramp.rollout == rollout:
                return model, serving.ramp
    return None


def _answered(measure: Measure) -> int:
    if measure.role == "shadow":
        return measure.comparison.pairs if measure.comparison else 0
    return measure.tally.requests
