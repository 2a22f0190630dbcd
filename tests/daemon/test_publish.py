"""What the agent knows of the tables it published: over its own restarts, and of workers that left them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mldeploy.core.host import (
    Action,
    Bundle,
    Desired,
    Mirroring,
    Observed,
    PublishTable,
    Wanted,
    Wish,
    Worker,
)
from mldeploy.core.plan import plan
from mldeploy.core.standing import standings
from mldeploy_daemon.publish import Publisher
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
