"""`report`: of what is under way, of what is over, and in each of its forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mldeploy.core import records
from mldeploy.core.evidence import Latency, Measure, Tally, bucket, edge
from mldeploy.reporting import words
from mldeploy.store.ids import new_ulid
from mldeploy.store.reports import read_reports, write_report

from .conftest import Ran, World

Cli = Callable[..., Ran]


@pytest.fixture
def ramping(world: World, cli: Cli) -> World:
    """churn@2 takes 10 % beside churn@1, and one host has counted."""
    world.publish()
    world.join()
    assert cli("promote", "churn@1").code == 0
    world.publish(content="2")
    assert cli("promote", "churn@2", "--steps", "10,100").code == 0
    world.serve(1)
    count(world, failures=0)
    return world


def count(world: World, failures: int) -> None:
    ramp = world.log.state.environments["production"]["churn"].ramp if world.head() else None
    assert ramp is not None
    latency = Latency()
    latency.observe(0.012, 300)
    measures = tuple(
        Measure(
            model="churn", version=version, scope=ramp.seq, role=role,
            tally=Tally(requests=300, failures=failed, latency=latency),
        )
        for version, role, failed in ((1, "stable", 0), (2, "candidate", failures))
    )  # fmt: skip
    ((report, _),) = read_reports(world.store, "production")
    write_report(world.store, msgspec.structs.replace(report, measures=measures))


def test_one_under_way_shows_what_the_hosts_measure_now(ramping: World, cli: Cli) -> None:
    document = cli("report", "churn@2", "--json").document
    assert document["schema"] == "mldeploy.report/1"
    assert (document["outcome"], document["version"], document["beside"]) == ("under way", 2, 1)
    (step,) = document["steps"]
    assert (step["share"], step["candidate"]["requests"], step["hosts"], step["members"]) == (
        1_000,
        300,
        1,
        1,
    )
    assert {guard["verdict"] for guard in step["guards"]} <= {"holds", "undecided", "rests"}
    assert document["waits"]
    assert document["promoted_by"] == "tester"
    (change,) = document["difference"]["files"]
    assert change["what"] == "model.pkl"
    ran = cli("report", "churn@2")
    assert ran.code == 0 and ran.out.startswith("churn@2 takes 10% in production\n")
    assert "waits for:" in ran.out and words.latency(edge(bucket(0.012))) in ran.out
    count(ramping, failures=150)
    (step,) = cli("report", "churn@2", "--json").document["steps"]
    assert "breached" in {guard["verdict"] for guard in step["guards"]}


def test_one_that_is_over_is_told_from_the_log(ramping: World, cli: Cli) -> None:
    assert cli("rollback", "churn", "--reason", "too slow").code == 0
    document = cli("report", "churn@2", "--json").document
    assert (document["outcome"], document["reason"]) == ("rolled back", "too slow")
    assert document["ended_by"] == "tester"
    assert cli("report", "churn@1", "--json").document["outcome"] == "launched"


def test_a_shadow_under_way_and_over(ramping: World, cli: Cli) -> None:
    ramping.publish(content="3")
    name = new_ulid()
    ramping.append(records.Shadow(model="churn", version=3, shadow=name, fraction=2_000))
    document = cli("report", "churn@3", "--json").document
    assert (document["kind"], document["outcome"]) == ("shadow", "under way")
    ramping.append(records.Unshadow(shadow=name, reason="seen enough"))
    assert cli("report", "churn@3", "--json").document["outcome"] == "ended"


def test_a_page_goes_to_a_file(ramping: World, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "churn.html"
    ran = cli("report", "churn@2", "--out", out)
    assert ran.code == 0 and ran.out == "" and f"wrote {out}" in ran.err
    assert out.read_text().startswith("<!doctype html>") and "<svg" in out.read_text()
    document = cli("report", "churn@2", "--out", out, "--json").document
    assert document["schema"] == "mldeploy.report/1" and "<svg" in out.read_text()
    assert cli("report", "churn@2", "--format", "html").out.startswith("<!doctype html>")
    other = tmp_path / "churn.json"
    assert cli("report", "churn@2", "--out", other).code == 0
    assert json.loads(other.read_text())["schema"] == "mldeploy.report/1"
    assert cli("report", "churn@2", "--format", "text", "--out", tmp_path / "no" / "such").code == 1
    both = cli("report", "churn@2", "--format", "html", "--json")
    assert (both.code, both.document["error"]) == (2, "--json prints no html")


def test_what_has_no_rollout_is_said(world: World, cli: Cli) -> None:
    world.publish()
    assert "there is no churn@9" in cli("report", "churn@9").err
    ran = cli("report", "churn@1")
    assert ran.code == 1 and "has had no rollout in production" in ran.err and "hint:" in ran.err
    assert cli("report", "churn").code == 2
