"""A clock on the wall that is set while the agent runs, by hours: nothing is late for it, nor early."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mldeploy.core.host import Bad, Desired, Limits, Observed, Wish
from mldeploy.core.plan import plan
from mldeploy.core.standing import standings
from mldeploy_daemon import clock
from mldeploy_daemon.agent import Agent
from mldeploy_daemon.config import Config
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.fronts import Fronts, _Counter
from mldeploy_daemon.ledger import Ledger
from mldeploy_daemon.report import Reporter, Seen
from mldeploy_daemon.workers import Live, Workers
from tests.core.hosts import wanted

HOURS = 2 * 3600.0
CONFIG = Config(store="", state="")


@pytest.fixture(params=[HOURS, -HOURS], ids=["forward", "back"])
def set_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Sets the clock on the wall, for this process."""
    real, ahead = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])
    return lambda: ahead.append(ahead.pop() + request.param)


def test_what_loads_and_what_stops_is_not_killed_when_the_clock_is_set(
    set_clock: Callable[[], None],
) -> None:
    agent = Agent(CONFIG)
    workers = Workers(lambda: None, agent.now)
    for state in ("loading", "stopping"):
        workers.live[state] = Live(
            id=state, model="m", version=1, digest="m1", environment="e", replica=0, state=state,
            since=agent.now(),
        )  # fmt: skip
    set_clock()
    (loading, stopping) = workers.seen()
    assert abs(agent.now() - loading.since) < 60 and abs(agent.now() - stopping.since) < 60
    wish = Desired(models={"m": Wish(stable=wanted(1, "m"))})
    planned = plan(wish, Observed(workers=workers.seen()), agent.now(), Limits())
    assert [type(action).__name__ for action in planned if hasattr(action, "worker")] == []


def test_when_a_version_was_used_is_told_by_fronts_with_the_clock_on_the_wall(
    tmp_path: Path, set_clock: Callable[[], None]
) -> None:
    ledger = Ledger(CONFIG, Disk(tmp_path), clock.now, lambda: None)
    fronts = Fronts(1, lambda: None)
    counters = [_Counter(model="m", version=1, last_used=time.time() - 100.0), _Counter(model="m", version=2)]
    fronts.lines[0]._counted("front", counters)  # before: what it said stays what it meant
    set_clock()
    fronts.lines[1]._counted("next", [_Counter(model="m", version=3, last_used=time.time() - 100.0)])
    used = ledger.view(fronts.totals(), {}, ()).used
    assert 99.0 < clock.now() - used["m@3"] < 160.0
    assert 99.0 < clock.now() - used["m@1"] < 160.0 and used["m@2"] == 0.0


def test_a_report_says_by_the_clock_on_the_wall_when_what_failed_is_tried_again(
    set_clock: Callable[[], None],
) -> None:
    desired = Desired(models={"m": Wish(stable=wanted(1, "m"))})
    bad = Bad(digest="m1", reason="it broke", stage="load", attempts=1, retry_at=clock.now() + 100.0)
    observed = Observed(bad={"m@1": bad})
    seen = Seen(
        desired=desired, observed=observed, actions=(), standings=standings(desired, observed, clock.now()),
        head=1, ready=True, errors=(), totals={},
    )  # fmt: skip
    reporter = Reporter(CONFIG, "h", Workers(lambda: None), lambda: None, lambda: None, lambda _: None)
    set_clock()
    told = reporter._build(seen).models["m"]
    assert 30.0 < told.serving[1].retry_at - time.time() < 101.0
    assert "again in" in told.next and "again in 7" not in told.next
