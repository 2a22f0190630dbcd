"""Shadows on a real host, from the record in the log to the figures in the report."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import datetime

from mldeploy.core.baseline import Baseline, Bins
from mldeploy.core.evidence import Measure, merge
from mldeploy.core.records import Promote, Shadow, Unshadow
from mldeploy.store.ids import new_ulid
from tests.daemon.conftest import Place
from tests.support.daemons import Daemon, until

#: The machine that runs the tests may be busy: then every shadow would rest, and rightly.
NEVER = {"pause.pressure": 1e9, "pause.queue": 1e9, "pause.latency": 1e9}


def started(place: Place) -> Daemon:
    return place.daemon(report=0.5, **NEVER).start()


def shadow(place: Place, version: int, **more: object) -> str:
    ident = new_ulid()
    place.append(Shadow(model="answer", version=version, shadow=ident, **more))
    return ident


def measures(daemon: Daemon) -> dict[tuple[int, str], Measure]:
    report = daemon.report()
    return {(each.version, each.role): each for each in merge(report.measures)} if report else {}


def mirrored(daemon: Daemon, version: int) -> bool:
    """Whether the front has the shadow of that version in its table."""
    return any(worker["version"] == version and worker["state"] == "ready" for worker in daemon.workers())


def at_rest(daemon: Daemon, count: Callable[[], int]) -> int:
    """What `count` says once it has said the same for as long as counts may be on their way."""

    def said() -> datetime:
        report = daemon.report()
        assert report is not None
        return datetime.fromisoformat(report.time)

    while True:
        found, since = count(), said()
        until(lambda since=since: (said() - since).total_seconds() >= 5, "the host goes on reporting")
        if count() == found:
            return found


def test_shadows_answer_copies_and_nothing_else(place: Place) -> None:
    place.push(1.0)
    same, other = place.push(1.0, share=None, memory=1 << 20), place.push(3.0, share=None)
    daemon = started(place)
    daemon.wait_answer(1.0)
    first, second = shadow(place, same.version), shadow(place, other.version, where="input.x > 5")
    until(lambda: mirrored(daemon, 2) and mirrored(daemon, 3), "both shadows are ready")
    idle = [worker for worker in daemon.workers() if worker["version"] in (2, 3)]
    assert all(os.getpriority(os.PRIO_PROCESS, worker["pid"]) == 19 for worker in idle)

    def offered(version: int) -> int:
        found = measures(daemon).get((version, "shadow"))
        return found.comparison.offered if found and found.comparison else 0

    def arrived() -> bool:
        # front and mirror hear of a shadow each in its own time
        return daemon.ask(6.0) == (200, (1.0, 1)) and offered(2) > 0 and offered(3) > 0

    until(arrived, "copies are offered", every=0.1)
    before = at_rest(daemon, lambda: offered(3))
    for x in (1.0, 4.0, 6.0, 9.0, 7.0):
        assert daemon.ask(x) == (200, (1.0, 1))
    until(lambda: offered(3) >= before + 3, "three requests were over five")
    assert at_rest(daemon, lambda: offered(3)) == before + 3

    def settled() -> bool:
        found = measures(daemon)
        both = [found[version, "shadow"].comparison for version in (2, 3)]
        return all(each and each.pairs + each.dropped == each.offered for each in both)

    until(settled, "every copy has its end")
    found = measures(daemon)
    alike, unlike = found[2, "shadow"].comparison, found[3, "shadow"].comparison
    assert alike and unlike
    assert alike.pairs == alike.agreed == alike.within > 0
    assert (unlike.pairs, unlike.agreed, unlike.failed) == (before + 3 - unlike.dropped, 0, 0)
    assert alike.latency.total == alike.pairs
    place.append(Unshadow(shadow=first), Unshadow(shadow=second))
    until(lambda: {worker["version"] for worker in daemon.workers()} == {1}, "their workers end")
    assert daemon.ask(1.0) == (200, (1.0, 1))
    report = daemon.report()
    assert report is not None
    assert {each.version for each in report.measures if each.role == "shadow"} == {2, 3}


def test_a_shadow_that_fails_is_reported_and_stable_serves(place: Place) -> None:
    place.push(1.0)
    place.push(2.0, share=None, fail="no such file")
    daemon = started(place)
    daemon.wait_answer(1.0)
    shadow(place, 2)

    def failed() -> bool:
        report = daemon.report()
        serving = report.models["answer"].serving if report else {}
        return 2 in serving and serving[2].state == "failed"

    until(failed, "the report says that it failed")
    for _ in range(20):
        assert daemon.ask() == (200, (1.0, 1))


def test_the_shadow_step_of_a_ramp_and_the_death_of_the_mirror(place: Place) -> None:
    place.push(1.0)
    place.push(2.0, share=None)
    daemon = started(place)
    daemon.wait_answer(1.0)
    place.append(Promote(model="answer", version=2, steps=(0, 10_000), fraction=10_000, rollout=new_ulid()))
    until(lambda: mirrored(daemon, 2), "the candidate is loaded as a shadow")

    def pairs() -> int:
        assert daemon.ask() == (200, (1.0, 1))
        found = measures(daemon).get((2, "shadow"))
        return found.comparison.pairs if found and found.comparison else 0

    until(lambda: pairs() > 0, "pairs are compared")
    (mirror,) = daemon.processes("mldeploy_daemon.mirror")
    os.kill(mirror, signal.SIGKILL)
    before = pairs()
    until(lambda: daemon.processes("mldeploy_daemon.mirror") not in ([], [mirror]), "it is started again")
    until(lambda: pairs() > before + 3, "and goes on, with what it had counted")


def test_a_candidates_drift_is_in_the_report(place: Place) -> None:
    column = Bins(name="x", side="inputs", tensor="x", edges=(2.0, 4.0), counts=(50, 50, 50))
    place.push(1.0)
    place.push(2.0, share=None, baseline=Baseline(rows=150, columns=(column,)))
    daemon = place.daemon(report=0.5, **NEVER, **{"limits.mirror_samples": 1e9}).start()
    daemon.wait_answer(1.0)
    steps = (9_999, 10_000)
    place.append(Promote(model="answer", version=2, steps=steps, hold=3_600, rollout=new_ulid()))
    daemon.wait_answer(2.0)

    def counted() -> tuple[int, ...]:
        assert daemon.ask(9.0)[0] == 200
        found = measures(daemon).get((2, "candidate"))
        return found.drift.columns["x"].live if found and found.drift else ()

    live = until(lambda: len(found := counted()) == 3 and found[2] > 20 and found, "drift is reported")
    assert live[1] == 0
    drift = measures(daemon)[2, "candidate"].drift
    assert drift is not None
    assert drift.psi()["x"] > 0.25
