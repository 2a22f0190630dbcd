"""Real daemons steer real rollouts: nobody but the hosts writes what follows the promote."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from mldeploy.core import records
from mldeploy.core.baseline import Baseline, Bins
from mldeploy.core.evidence import Evidence
from mldeploy.core.records import Advance, Complete, Halt, Record, decode
from mldeploy.core.state import Serving, State
from mldeploy.core.types import ModelRef
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import Log, record_key
from tests.daemon.conftest import Place
from tests.support.daemons import Daemon, Load, until

#: The machine that runs the tests may be busy, and then shadows would rest.
NEVER = {"pause.pressure": 1e9, "pause.queue": 1e9, "pause.latency": 1e9, "limits.mirror_samples": 1e9}
STEPS = (1_000, 5_000, 10_000)
#: So many requests of a bad candidate that nothing but its guard ends a step: what goes wrong at some call
#: does so before, also where each call answers every connection of the load at once.
AMPLE = 5_000
CONNECTIONS = 4


def state(place: Place) -> State:
    log = Log(place.store)
    log.refresh()
    return log.state


def serving(place: Place) -> Serving:
    return state(place).environments["production"]["answer"]


def said(place: Place) -> list[Record]:
    """Every record of the log that can be read."""
    found = []
    for seq in range(1, state(place).head + 1):
        fetched = place.store.get(record_key(seq))
        assert fetched is not None
        found.append(decode(fetched.data, seq))
    return found


def hosts(place: Place, count: int = 2) -> list[Daemon]:
    """Daemons that look and report often, all members, and all serving. No shadow of theirs ever rests."""
    daemons = [place.daemon(f"host-{number}", poll=0.2, report=0.5, **NEVER) for number in range(count)]
    for daemon in daemons:
        daemon.start()
    for daemon in daemons:
        daemon.wait_ready()
    until(lambda: len(state(place).hosts) == count, "all have joined")
    return daemons


def ramp(
    place: Place,
    ref: ModelRef,
    guards: Sequence[str],
    steps: tuple[int, ...] = STEPS,
    min_requests: int = 100,
) -> str:
    """Begin a rollout; returns its id."""
    rollout = new_ulid()
    place.append(
        records.Promote(
            model=ref.name, version=ref.version, steps=steps, hold=1, guards=tuple(guards),
            min_requests=min_requests, rollout=rollout,
        )
    )  # fmt: skip
    return rollout


def ended(place: Place, rollout: str, seconds: float = 150.0) -> str:
    """How the rollout ended, once it has."""

    def look() -> str:
        now = serving(place).ended
        return now.outcome if now is not None and now.rollout == rollout else ""

    return until(look, "the rollout has ended", seconds, every=0.2)


def steps_of(place: Place, rollout: str) -> list[Advance | Complete | Halt]:
    actions: list[Any] = [action for record in said(place) for action in record.actions]
    return [
        action
        for action in actions
        if isinstance(action, Advance | Complete | Halt) and action.rollout == rollout
    ]


def evidence_of(action: Advance | Complete | Halt) -> Evidence:
    assert action.evidence is not None
    return action.evidence


def test_a_good_candidate_is_taken_to_stable_by_two_hosts_alone(place: Place) -> None:
    place.push(1.0)
    daemons = hosts(place)
    good = place.push(2.0, share=None)
    with ExitStack() as stack:
        loads = [stack.enter_context(Load(daemon)) for daemon in daemons]
        rollout = ramp(place, good, ["error_rate < 10%", "p50 < 30s", "crashes < 1"])
        assert ended(place, rollout) == "completed"
        for daemon in daemons:
            daemon.wait_answer(2.0)
    assert [load.failed for load in loads] == [[], []]
    assert serving(place).stable == good.version
    found = steps_of(place, rollout)
    # each step once, whoever was first; and who was, is a host
    assert [(type(action), action.step) for action in found if not isinstance(action, Halt)] == [
        (Advance, 0), (Advance, 1), (Complete, 2),
    ]  # fmt: skip
    members = state(place).hosts
    writers = {r.actor for r in said(place) if any(isinstance(a, Advance | Complete) for a in r.actions)}
    assert writers <= {f"host:{host}" for host in members}
    for share, action in zip(STEPS, found, strict=True):
        evidence = evidence_of(action)
        assert (evidence.hosts, evidence.members) == (2, 2)
        assert evidence.end - evidence.start >= 1.0
        assert {guard.verdict for guard in evidence.guards} == {"holds"}
        counted = {measure.role: measure.tally.requests for measure in evidence.measures}
        total, part = sum(counted.values()), share / 10_000
        assert counted["candidate"] >= 100
        error = math.sqrt(part * (1 - part) / total)
        # drawn with each request's id: exceeded by accident in about one of a million runs
        assert abs(counted["candidate"] / total - part) <= 5 * error


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("bad", "guards", "guard"),
    [
        # one request in fifty
        pytest.param({"errors": 50}, ["error_rate < 1%"], "error_rate", marks=pytest.mark.full),
        ({"crash": 60}, ["error_rate < 30%", "crashes < 1"], "crashes"),
        pytest.param(
            {"crash": 1_000}, ["error_rate < 30%", "crashes < 1"], "crashes", marks=pytest.mark.full
        ),
        # twice what stable takes
        pytest.param({"slow": 0.04}, ["p99 < 1.5x"], "p99", marks=pytest.mark.full),
        pytest.param({"leak": 1e6}, ["memory < 1.5x"], "memory", marks=pytest.mark.full),
    ],
)  # fmt: skip
def test_a_bad_candidate_is_halted_at_its_first_step(
    place: Place, bad: dict[str, float], guards: list[str], guard: str
) -> None:
    place.push(1.0, bad={"slow": bad.get("slow", 0.0) / 2})
    (daemon,) = hosts(place, 1)
    candidate = place.push(2.0, share=None, bad=bad)
    with Load(daemon, CONNECTIONS, x=5.0) as load:
        rollout = ramp(place, candidate, guards, (2_000, 10_000), AMPLE)
        assert ended(place, rollout, 400.0) == "halted"
        # stable has all the traffic again
        until(lambda: "candidate" not in daemon.get("/v2/models/answer")[1], "the route is gone")
        load.more(20)
    (halt,) = steps_of(place, rollout)
    assert isinstance(halt, Halt)
    assert halt.reason.startswith(guard)
    breached = [each.guard for each in evidence_of(halt).guards if each.verdict == "breached"]
    assert any(each.startswith(guard) for each in breached)
    assert serving(place).stable == 1
    harmed_by_the_candidate_alone(load, candidate, bad)


def harmed_by_the_candidate_alone(load: Load, candidate: ModelRef, bad: dict[str, float]) -> None:
    """Every failure is the candidate's own, and all that it took stays within its share of a fifth.

    That share is drawn with each request's id: five standard errors are exceeded by accident once in three
    million runs.
    """
    print(f"{len(load.failed)} failed, {load.answers} answered")
    assert set(load.blamed) <= {str(candidate)}, Counter(zip(load.blamed, load.failed, strict=True))
    answered = sum(count for (_, version), count in load.answers.items() if version == candidate.version)
    took, total = answered + len(load.failed), load.count + len(load.failed)
    assert took <= 0.2 * total + 5 * math.sqrt(0.2 * 0.8 * total)
    if "errors" in bad:
        # one call of so many fails, and has at most one request of each connection in it
        assert 0 < len(load.failed) <= CONNECTIONS * (took / bad["errors"] + 1)
    elif "crash" not in bad:
        assert load.failed == []


def test_a_version_that_does_not_come_up_is_halted_without_a_request(place: Place) -> None:
    place.push(1.0)
    (daemon,) = hosts(place, 1)
    broken = place.push(2.0, share=None, fail="no such luck")
    rollout = ramp(place, broken, ["error_rate < 10%"])
    assert ended(place, rollout) == "halted"
    (halt,) = steps_of(place, rollout)
    assert isinstance(halt, Halt)
    assert halt.reason == "it does not come up on 1 of 1 hosts"
    assert daemon.ask()[0] == 200


@pytest.mark.full
def test_drifted_inputs_halt_a_candidate(place: Place) -> None:
    place.push(1.0)
    (daemon,) = hosts(place, 1)
    column = Bins(name="x", side="inputs", tensor="x", edges=(2.0, 4.0), counts=(500, 500, 500))
    candidate = place.push(2.0, share=None, baseline=Baseline(rows=1_500, columns=(column,)))
    with Load(daemon, x=5.0) as load:
        rollout = ramp(place, candidate, ["drift(x) < 0.2"], (2_000, 10_000))
        assert ended(place, rollout) == "halted"
    (halt,) = steps_of(place, rollout)
    assert isinstance(halt, Halt)
    assert halt.reason.startswith("drift(x) < 0.2: ")
    assert load.failed == []


@pytest.mark.full
@pytest.mark.parametrize("agrees", [True, False])
def test_a_shadow_step_is_judged_by_answers(place: Place, agrees: bool) -> None:
    place.push(1.0)
    (daemon,) = hosts(place, 1)
    candidate = place.push(1.0 if agrees else 2.0, share=None, bad={"same": 1.0})
    guards = ["agreement > 90%", "error_rate < 10%"]
    with Load(daemon) as load:
        rollout = ramp(place, candidate, guards, (0, 5_000, 10_000))
        assert ended(place, rollout) == ("completed" if agrees else "halted")
    found = steps_of(place, rollout)
    shadowed = evidence_of(found[0])
    (shadow,) = [measure for measure in shadowed.measures if measure.role == "shadow"]
    assert shadow.comparison is not None
    assert shadow.comparison.pairs > 0
    assert len(found) == (3 if agrees else 1)
    assert load.failed == []
