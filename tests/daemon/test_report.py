"""What a host says of its models and their workers."""

from __future__ import annotations

import os
from collections.abc import ValuesView

import pytest

from mldeploy.core.host import Action, Desired, FetchBundle, Observed, Wish
from mldeploy.core.standing import standings
from mldeploy_daemon import report
from mldeploy_daemon.config import Config
from mldeploy_daemon.report import Reporter, Seen
from mldeploy_daemon.workers import Live, Workers
from tests.core.hosts import NOW, wanted

MODELS = [f"m{number}-" for number in range(50)]


class Counted(dict[str, Live]):
    """Workers that count how often they are gone through."""

    looks = 0

    def values(self) -> ValuesView[Live]:
        self.looks += 1
        return super().values()


def live(model: str, pid: int) -> Live:
    return Live(
        id=f"w-{model}", model=model, version=1, digest=f"{model}1", environment="e", replica=0,
        state="ready", since=NOW, pid=pid,
    )  # fmt: skip


def seen(*actions: Action) -> Seen:
    desired = Desired(models={name: Wish(stable=wanted(1, name)) for name in MODELS})
    observed = Observed()
    told = standings(desired, observed, NOW)
    return Seen(
        desired=desired, observed=observed, actions=actions, standings=told, head=1, ready=True, errors=(),
        totals={},
    )  # fmt: skip


def test_a_worker_is_reported_with_what_the_budget_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {os.getpid(): (300, 200), 7: (30, 20)}
    monkeypatch.setattr(report, "weight", weights.__getitem__)
    workers = Workers(lambda: None)
    workers.live = there = Counted({"a": live("m0-", os.getpid()), "b": live("m1-", 7), "c": live("m2-", 0)})
    reporter = Reporter(Config(store="", state=""), "h", workers, lambda: None, lambda: None, lambda _: None)
    fetch = FetchBundle(model="m3-", version=1, digest="m3-1")
    models = reporter._build(seen(fetch)).models
    found = {
        name: [(w.pid, w.pss_bytes, w.private_bytes) for w in told.serving[1].workers]
        for name, told in models.items()
        if told.serving[1].workers
    }
    assert found == {"m0-": [(os.getpid(), 300, 200)], "m1-": [(7, 30, 20)]}
    assert {name: told.next for name, told in models.items() if "fetch" in told.next} == {
        "m3-": "fetch m3-@1"
    }
    assert there.looks == 1, "once for all models"
