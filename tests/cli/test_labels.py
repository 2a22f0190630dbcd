"""promote --on: a rollout on some hosts alone, from the command to its place in status, plan and history."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mldeploy.client import Client
from mldeploy.core.records import Join
from mldeploy.store.reports import ModelReport, VersionReport

from .conftest import Ran, World

Cli = Callable[..., Ran]
ON = ("--on", "zone=a")


@pytest.fixture
def zones(world: World, cli: Cli) -> World:
    """churn@1 is stable on a host in zone a and one in zone b; churn@2 is published."""
    world.publish()
    world.publish(content="2")
    for zone in ("a", "b"):
        world.append(Join(host=f"h{zone}", hostname=f"h{zone}.example", labels={"zone": zone}))
    assert cli("promote", "churn@1").code == 0
    report(world, "a", None)
    report(world, "b", None)
    return world


def report(world: World, zone: str, candidate: int | None) -> None:
    ready = VersionReport(state="ready")
    serving = {1: ready} if candidate is None else {1: ready, candidate: ready}
    model = ModelReport(stable=1, candidate=candidate, serving=serving)
    world.report(f"h{zone}", labels={"zone": zone}, models={"churn": model})


def ramp(world: World) -> Any:
    world.log.refresh()
    return world.log.state.environments["production"]["churn"].ramp


def test_it_is_told_of_wherever_the_rollout_is(zones: World, cli: Cli) -> None:
    words = ("promote", "churn@2", "--steps", "10,100", "--hold", "5m", *ON)
    assert "would promote churn@2 in production to 10% → 100% on zone=a" in cli(*words, "--dry-run").err
    ran = cli(*words)
    assert (ran.code, ramp(zones).on, ramp(zones).hold) == (0, ("zone=a",), 300)
    assert "churn@2 takes traffic in production on hosts with zone=a" in ran.err
    assert cli(*words, "--json").document["already"]
    assert cli("status").out.split("\t")[3] == "2 at 10% on zone=a, step 1 of 2"
    (model,) = cli("status", "--json").document["models"]
    assert model["candidate"]["on"] == ["zone=a"]
    assert "candidate (10% on zone=a) in production" in cli("status", "churn").out
    assert "promote churn@2 in production to 10% → 100% on zone=a" in cli("history").out
    assert "of 1 hosts have reported" in cli("status").err, "nobody else is waited for"
    # other labels are another rollout
    assert not cli(*words, "--on", "gpu=1", "--json").document["already"]
    assert ramp(zones).on == ("zone=a", "gpu=1")


def test_at_its_last_step_it_is_done_for_those_hosts_and_for_no_others(zones: World, cli: Cli) -> None:
    some = cli("promote", "churn@2", "--to", "25%", *ON)
    assert "churn@2 takes 25% of the traffic in production on hosts with zone=a" in some.err
    ran = cli("promote", "churn@2", "--now", *ON)
    assert "churn@2 has all traffic in production on hosts with zone=a" in ran.err
    assert (ramp(zones).steps, ramp(zones).on) == ((10_000,), ("zone=a",))
    report(zones, "b", None)
    assert cli("wait", "churn", "--timeout", "1s").code == 7
    report(zones, "a", 2)
    waited = cli("wait", "churn", "--timeout", "30s")
    assert waited.code == 0, waited.err
    assert "2 of 2 live hosts arrived" in waited.err
    assert Client(zones.url).status().models[0].state == "serving"
    assert cli("promote", "churn@2", "--now", *ON, "--json").document["already"]
    # everywhere
    assert "has all traffic in production" in cli("promote", "churn@2", "--now").err
    assert (ramp(zones), zones.log.state.environments["production"]["churn"].stable) == (None, 2)


def test_why_says_what_is_asked_of_the_host_itself(zones: World, cli: Cli) -> None:
    def wants(zone: str) -> tuple[object, ...]:
        (model,) = cli("why", f"h{zone}", "--json").document["models"]
        return tuple(model[f"desired_{name}"] for name in ("stable", "candidate", "shadows"))

    cli("promote", "churn@2", "--steps", "10,100", *ON)
    assert (wants("a"), wants("b")) == ((1, 2, []), (1, None, []))
    assert "churn: wants churn@1 and churn@2 as candidate, routes churn@1" in cli("why", "ha").out
    assert "churn: wants churn@1, routes churn@1" in cli("why", "hb").out
    cli("promote", "churn@2", "--steps", "shadow,100", *ON)
    assert (wants("a"), wants("b")) == ((1, None, [2]), (1, None, []))
    assert "churn: wants churn@1 and churn@2 as shadow, routes churn@1" in cli("why", "ha").out


def test_reports_and_refusals_name_the_hosts(zones: World, cli: Cli) -> None:
    cli("promote", "churn@2", "--to", "25%", *ON)
    found = cli("report", "churn@2", "--json").document
    assert (found["title"], found["on"]) == ("churn@2 takes 25% in production on zone=a", ["zone=a"])
    assert "\non: zone=a\n" in cli("report", "churn@2").out
    refused = cli("retire", "churn@1").err
    assert "nothing but churn@2, with its 25% on zone=a, answers churn in production" in refused
    cli("rollback", "churn")
    over = cli("report", "churn@2", "--json").document
    assert over["title"].startswith("churn@2 was rolled back in production on zone=a")


def test_a_first_version_on_some_hosts(world: World, cli: Cli) -> None:
    world.publish()
    words = ("promote", "churn@1", "--steps", "1,10,100", *ON)
    ran = cli(*words)
    assert "no version of churn is stable in production: churn@1 takes all its traffic" in ran.err
    assert ramp(world).steps == (10_000,)
    assert cli(*words, "--json").document["already"]


def test_labels_that_no_host_has_are_warned_of(zones: World, cli: Cli) -> None:
    assert "no live host in production has zone=c" in cli("promote", "churn@2", "--on", "zone=c").err


def test_a_file_names_them_too(zones: World, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    # `on` is a truth in YAML 1.1
    file.write_text(
        "production:\n  churn:\n    version: 2\n    rollout:\n      steps: [10, 100]\n      on: [zone=a]\n"
    )
    (change,) = cli("plan", file, "--json").document["changes"]
    assert change["what"].startswith("1 → 2 by 10%, 100% on zone=a, hold 10m, guards error_rate < 1.5x and ")
    assert cli("apply", file).code == 0
    assert ramp(zones).on == ("zone=a",)
    assert cli("plan", file, "--exit-code").code == 0
    file.write_text(file.read_text().replace("[zone=a]", "[zone]"))
    refused = cli("plan", file)
    assert refused.code == 2
    assert "production.churn.rollout.on: 'zone' is no label" in refused.err


def test_push_takes_every_option_of_promote(world: World, cli: Cli) -> None:
    world.publish()
    assert cli("promote", "churn@1").code == 0
    world.publish(content="2")
    words = ("--steps", "shadow,10,100", "--hold", "5m", "--guard", "p99 < 2x", "--guard", "agreement > 90%")
    words += ("--min-requests", "70", "--deadline", "3d", *ON)
    # published already, so that no gate has to run
    ran = cli("push", world.root / "churn-2", "--promote", *words)
    assert ran.code == 0, ran.err
    found = ramp(world)
    assert (found.version, found.steps, found.hold, found.on) == (2, (0, 1_000, 10_000), 300, ("zone=a",))
    assert (found.guards, found.min_requests, found.deadline) == (
        ("p99 < 2x", "agreement > 90%"), 70, 259_200,
    )  # fmt: skip
    assert cli("promote", "churn@2", *words, "--json").document["already"], "they are the same options"
    now = Client(world.url).push(world.root / "churn-2", promote=True, to=30, on=["gpu=1"])
    assert now.promoted
    assert (ramp(world).steps, ramp(world).on) == ((3_000,), ("gpu=1",))


def test_a_wait_for_labels_that_no_host_has_is_no_success(zones: World, cli: Cli) -> None:
    ran = cli("promote", "churn@2", "--now", "--on", "zone=c", "--wait", "--timeout", "1s")
    assert ran.code == 7
    assert "no live host of production with zone=c has reported within 1 s" in ran.err
    assert "hint: `mldeploy host list` shows the labels; it may still happen: `mldeploy wait" in ran.err
    zones.append(Join(host="hc", hostname="hc.example", labels={"zone": "c"}))
    for zone, candidate in (("a", None), ("b", None), ("c", 2)):
        report(zones, zone, candidate)
    waited = cli("wait", "churn", "--timeout", "30s", "--json").document
    assert (waited["version"], len(waited["hosts"])) == (2, 3), "the one that was promoted, not stable"
    cli("host", "drain", "hc")
    for zone, candidate in (("a", None), ("b", None), ("c", None)):
        report(zones, zone, candidate)
    late = cli("wait", "churn", "--timeout", "1s")
    assert (late.code, "1 of 3 hosts had not arrived" in late.err) == (7, True), "all it is for are drained"
    report(zones, "c", 2)
    assert cli("wait", "churn", "--timeout", "30s").code == 0
