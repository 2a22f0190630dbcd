"""What the agent knows of the tables it published: over its own restarts, and of workers that left them."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from mldeploy.core.host import (
    Action,
    Bundle,
    Desired,
    Mirroring,
    ModelRoute,
    Observed,
    PublishTable,
    Wanted,
    Wish,
    Worker,
)
from mldeploy.core.plan import plan
from mldeploy.core.standing import standings
from mldeploy_daemon.book import Book
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.fates import Fates
from mldeploy_daemon.measures import Measures
from mldeploy_daemon.publish import Publisher
from mldeploy_daemon.workers import Ending, Live, Workers
from tests.core.hosts import LIMITS, NOW, wanted, worker

IDLE = msgspec.structs.replace(wanted(2), idle=True)
SHADOWED = Wish(stable=wanted(1), shadows=(Mirroring(id="s", version=IDLE, fraction=2_000, scope=7),))


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()


def publisher_of() -> Publisher:
    made = Publisher("production", "h", lambda: NOW)
    made.load()
    return made


def look(publisher: Publisher, asked: Wish, *workers: Worker) -> tuple[Action, ...]:
    """A look of the agent, as far as the table goes: what the plan asked for."""
    desired = Desired(models={"m": asked})
    versions: tuple[Wanted, ...] = asked.versions
    observed = Observed(
        bundles={version.digest: Bundle(environment="e") for version in versions},
        environments=frozenset({"e"}),
        zygotes={"e": "ready"},
        workers=tuple(publisher.placed(each, 0.0) for each in workers),
        routes=publisher.routes,
    )
    actions = plan(desired, observed, NOW, LIMITS)
    told = standings(desired, observed, NOW)
    for action in actions:
        if isinstance(action, PublishTable):
            publisher.publish(dict(action.routes), desired, told, lambda _: None, True)
    return actions


def test_an_agent_that_is_started_again_while_a_shadow_runs_has_nothing_to_do_for_long() -> None:
    there = worker(1), worker(2, ident="i2", idle=True)
    first = publisher_of()
    assert look(first, SHADOWED, *there) and not look(first, SHADOWED, *there)
    second = publisher_of()
    look(second, SHADOWED, *there)
    assert second.table == first.table, "nothing new for the fronts"
    assert not look(second, SHADOWED, *there)


def test_requests_do_not_reach_the_workers_of_a_shadow() -> None:
    there = worker(1), worker(2, ident="i2", idle=True)
    publisher = publisher_of()
    look(publisher, SHADOWED, *there)
    routes = publisher.table.models["m"]
    assert [each.id for each in routes.shadows[0].workers] == ["i2"]
    shadow = routes.versions["2"]
    assert (shadow.workers, shadow.state, shadow.wakes) == ((), "ready", False)
    assert shadow.reason == "copies for a shadow alone go to it"


def test_a_previous_version_that_is_a_shadow_too_is_woken_for_requests() -> None:
    asked = msgspec.structs.replace(SHADOWED, previous=wanted(2))
    publisher = publisher_of()
    look(publisher, asked, worker(1), worker(2, ident="i2", idle=True))
    previous = publisher.table.models["m"].versions["2"]
    assert (previous.workers, previous.wakes) == ((), True)


class Unscanned(dict[str, ModelRoute]):
    """A table of which no more than one model at a time is looked at."""

    def values(self) -> NoReturn:
        raise AssertionError("all models for one worker")

    __iter__ = items = values  # type: ignore[assignment]


def test_where_a_worker_is_routed_is_looked_up_by_its_model() -> None:
    publisher = publisher_of()
    look(publisher, Wish(stable=wanted(1)), worker(1))
    routes = publisher.routes = Unscanned(publisher.routes)
    routed, left = worker(1), worker(2, ident="w2")
    publisher.adopted([routed, left])
    assert publisher.left.keys() == {"w2"}
    there = tuple(publisher.placed(each, 0.0) for each in (routed, left))
    assert [each.routed_last for each in there] == [1, 0]
    assert Observed(workers=there, routes=routes).draining
    assert not Observed(workers=there[:1], routes=routes).draining


RAMPED = Wish(stable=wanted(1), candidate=wanted(2), share=1_000, scope=5)


@pytest.mark.parametrize("told", [True, False], ids=["fronts told first", "last words first"])
@pytest.mark.parametrize(
    ("asked", "version", "counted"),
    [
        (RAMPED, 2, {(2, 5, "candidate"): 1}),
        (RAMPED, 1, {(1, 5, "stable"): 1}),
        (SHADOWED, 2, {(2, 7, "shadow"): 1}),
        (Wish(stable=wanted(1), previous=wanted(2)), 1, {}),
    ],
)
def test_a_crash_counts_where_the_worker_had_its_part_whenever_its_last_words_come(
    asked: Wish, version: int, counted: dict[tuple[int, int, str], int], told: bool, tmp_path: Path
) -> None:
    idle = asked is SHADOWED
    there = worker(1), worker(2, idle=idle)
    publisher = publisher_of()
    look(publisher, asked, *there)
    if told:
        gone = [msgspec.structs.replace(w, state="gone") if w.version == version else w for w in there]
        assert any(isinstance(action, PublishTable) for action in look(publisher, asked, *gone))
    disk = Disk(tmp_path)
    disk.prepare()
    workers, measures = Workers(lambda: None), Measures(disk, lambda: NOW)
    live = Live(
        id=f"w{version}.0", model="m", version=version, digest=f"m{version}", environment="e", replica=0,
        state="gone", since=NOW, idle=idle and version == 2, ready_at=NOW,
    )  # fmt: skip
    workers.endings.append(Ending(worker=live, lived=9.0, asked=False, stage="serve", reason="", log_tail=""))
    Fates(workers, publisher, Book(disk, lambda: NOW), measures, lambda: NOW).note()
    found = {(each.version, each.scope, each.role): each.tally.crashes for each in measures.all()}
    assert found == counted
    assert workers.endings == [] and live.id not in publisher.left
