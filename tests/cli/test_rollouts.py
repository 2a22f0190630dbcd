"""status with rollouts, shadows and expiries, from a real log and reports that hosts would write."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mldeploy.cli.progress import Notes, Terminal
from mldeploy.core.evidence import Comparison, Evidence, GuardVerdict, Latency, Measure, Tally
from mldeploy.core.records import Advance, Complete, Halt
from mldeploy.progress import Standing
from mldeploy.store.reports import ModelReport, VersionReport
from mldeploy.store.tail import record_key

from .conftest import Ran, World

Cli = Callable[..., Ran]


def counted(requests: int, failures: int = 0) -> Tally:
    latency = Latency()
    latency.observe(0.01, requests)
    return Tally(requests=requests, failures=failures, latency=latency)


def older(world: World, seq: int, seconds: float) -> None:
    """A record was written so much earlier, by the store's clock."""
    path = Path(world.path) / record_key(seq)
    stat = path.stat()
    os.utime(path, (stat.st_atime - seconds, stat.st_mtime - seconds))


def ramp(world: World) -> Any:
    world.log.refresh()
    return world.log.state.environments["production"]["churn"].ramp


@pytest.fixture
def ramping(world: World, cli: Cli) -> World:
    """churn@1 is stable, churn@2 at 10 % of a ramp that asks for 200 requests a step."""
    world.publish()
    world.publish(content="2")
    world.join()
    assert cli("promote", "churn@1").code == 0
    words = ("--steps", "10,50,100", "--hold", "10m", "--guard", "error_rate < 2x", "--guard", "crashes < 1")
    assert cli("promote", "churn@2", *words).code == 0
    return world


def tell(world: World, *measures: Measure) -> None:
    """The host serves both versions and has counted so much."""
    ready = VersionReport(state="ready")
    model = ModelReport(stable=1, candidate=2, serving={1: ready, 2: ready})
    world.report(models={"churn": model}, measures=measures)


def measures(world: World, candidate: Tally, stable: Tally) -> tuple[Measure, Measure]:
    scope = ramp(world).seq
    return (
        Measure(model="churn", version=2, scope=scope, role="candidate", tally=candidate),
        Measure(model="churn", version=1, scope=scope, role="stable", tally=stable),
    )


def test_a_rollout_is_shown_with_its_step_and_what_it_waits_for(ramping: World, cli: Cli) -> None:
    tell(ramping, *measures(ramping, counted(40), counted(400)))
    ran = cli("status")
    assert ran.out.split("\t")[3] == "2 at 10%, step 1 of 3"
    assert "churn@2 in production, at 10%, step 1 of 3, waits: its hold ends in" in ran.err
    assert "40 of 200 requests of the candidate" in ran.err
    (model,) = cli("status", "--json").document["models"]
    found = model["candidate"]
    assert (found["step"], found["requests"], found["min_requests"], found["hold"]) == (0, 40, 200, 600)
    assert found["guarded"] == ["error_rate < 2x", "crashes < 1"]
    assert [each["guard"] for each in found["guards"]] == found["guarded"]


def test_what_the_hosts_are_about_to_do_is_said(ramping: World, cli: Cli) -> None:
    tell(ramping, *measures(ramping, counted(50_000), counted(450_000)))
    older(ramping, ramp(ramping).seq, 700)
    (model,) = cli("status", "--json").document["models"]
    assert (model["candidate"]["next"], model["candidate"]["waits"]) == ("advance", [])
    assert "the hosts are about to advance it" in cli("status").err
    tell(ramping, *measures(ramping, Tally(requests=500, crashes=2), counted(4_500)))
    (model,) = cli("status", "--json").document["models"]
    assert model["candidate"]["next"] == "halt"


def test_status_of_one_model_shows_steps_guards_and_shadows(ramping: World, cli: Cli) -> None:
    ramping.publish(content="3")
    assert cli("shadow", "churn@3", "--fraction", "20%", "--where", "input.x[0] > 1").code == 0
    ramping.log.refresh()
    (shadow,) = ramping.log.state.environments["production"]["churn"].shadows
    compared = Comparison(offered=120, dropped=20, pairs=100, agreed=90, within=96)
    ours = Measure(model="churn", version=3, scope=shadow.seq, role="shadow", comparison=compared)
    tell(ramping, *measures(ramping, counted(40, 1), counted(400, 4)), ours)
    rows = [line.split("\t") for line in cli("status", "churn").out.splitlines()]
    assert ["step 1", "10%", "here", "40 of 200"] in rows
    assert ["step 2", "50%", "ahead", "-"] in rows
    guard = next(row for row in rows if row[0] == "error_rate < 2x")
    assert guard[1] == "undecided"
    row = next(row for row in rows if row[0] == "churn@3" and "input.x" in row[2])
    assert (row[1], row[4], row[5], row[6]) == ("20%", "100", "96%", "20")
    assert "3 on 20%" in cli("status").out
    assert ["churn@3", "shadow (20%) in production"] in [[row[0], row[-1]] for row in rows]
    (shown,) = cli("status", "churn", "--json").document["environments"]
    assert (shown["shadows"][0]["agreement"], shown["shadows"][0]["pairs"]) == (0.96, 100)


def test_status_of_the_past_shows_the_rollout_by_the_log_alone(ramping: World, cli: Cli) -> None:
    for seq in range(1, ramping.head() + 1):
        older(ramping, seq, 7_200)
    (model,) = cli("status", "--at", "1h", "--json").document["models"]
    found = model["candidate"]
    assert (found["share"], found["waits"], found["guards"]) == (1_000, [], [])


def test_expiries_are_counted_in_days(world: World, cli: Cli) -> None:
    world.publish(expires="5d")
    world.publish("later", expires="200d")
    world.publish("soon", expires="20d")
    cli("promote", "churn@1")
    (model,) = cli("status", "--json").document["models"]
    assert model["days"] == 5
    assert "(in 5 d)" in cli("status").out
    document = cli("status", "--expiring", "30d", "--json").document
    assert document["schema"] == "mldeploy.expiring/1"
    assert [(each["model"], each["days"]) for each in document["versions"]] == [("churn", 5), ("soon", 20)]
    assert document["versions"][0]["roles"] == ["stable in production"]
    assert [line.split("\t")[0] for line in cli("status", "--expiring", "10d").out.splitlines()] == [
        "churn@1"
    ]
    cli("retire", "soon@1")
    assert len(cli("status", "--expiring", "30d", "--json").document["versions"]) == 1
    assert "nothing expires within 2 days" in cli("status", "--expiring", "2d").err
    assert "nothing expires within 1 day\n" in cli("status", "--expiring", "12h").err
    assert cli("status", "churn", "--expiring", "2d").code == 2


def test_wait_follows_a_rollout_to_its_end(ramping: World, cli: Cli) -> None:
    tell(ramping, *measures(ramping, counted(40), counted(400)))
    rollout = ramp(ramping).rollout

    def goes_on() -> None:
        other = World(ramping.root)
        for step in (0, 1):
            other.append(Advance(rollout=rollout, step=step))
        other.append(Complete(rollout=rollout, step=2))
        ready = VersionReport(state="ready")
        other.report(models={"churn": ModelReport(stable=2, serving={2: ready})})

    later = threading.Timer(1.0, goes_on)
    later.start()
    try:
        ran = cli("wait", "churn", "--timeout", "60s")
    finally:
        later.join()
    assert ran.code == 0
    assert "churn@2 at 10%, step 1 of 3: 40 requests; error_rate < 2x undecided (" in ran.err
    assert "40 of 200 requests of the candidate" in ran.err
    assert "1 of 1 live hosts arrived" in ran.err


def test_promote_and_wait_end_with_the_halt_and_its_numbers(ramping: World, cli: Cli) -> None:
    tell(ramping, *measures(ramping, counted(40), counted(400)))
    halt = Halt(rollout=ramp(ramping).rollout, reason="p99 < 1.2x: 80 ms, stable 20 ms, limit 24 ms")
    later = threading.Timer(1.0, lambda: World(ramping.root).append(halt))
    later.start()
    words = ("--steps", "10,50,100", "--hold", "10m", "--guard", "error_rate < 2x", "--guard", "crashes < 1")
    try:
        ran = cli("promote", "churn@2", *words, "--wait", "--timeout", "60s")
    finally:
        later.join()
    assert ran.code == 6
    assert "churn@2 in production was halted: p99 < 1.2x: 80 ms, stable 20 ms, limit 24 ms" in ran.err
    assert "traffic is with churn@1; `mldeploy report churn@2` says more" in ran.err


def test_a_rollout_that_was_over_before_the_first_look_is_not_taken_for_done(
    ramping: World, cli: Cli
) -> None:
    begun = ramp(ramping).seq
    cli("rollback", "churn", "--reason", "wrong model")
    ready = VersionReport(state="ready")
    ramping.report(models={"churn": ModelReport(stable=1, serving={1: ready})})
    ran = cli("wait", "churn", "--record", str(begun), "--timeout", "30s")
    assert ran.code == 6
    assert "churn@2 in production was rolled back: wrong model" in ran.err
    assert cli("wait", "churn", "--timeout", "30s").code == 0  # what is, is so everywhere


def test_time_runs_out_with_what_the_rollout_waits_for(ramping: World, cli: Cli) -> None:
    tell(ramping, *measures(ramping, counted(40), counted(400)))
    ran = cli("wait", "churn", "--timeout", "1s")
    assert ran.code == 7
    assert "churn@2 at 10%, step 1 of 3 after 1 s: its hold ends in" in ran.err
    assert "`mldeploy wait churn` goes on waiting" in ran.err


def test_a_last_step_below_all_of_it_is_where_a_rollout_stays(ramping: World, cli: Cli) -> None:
    assert cli("promote", "churn@2", "--to", "25%").code == 0
    tell(ramping)
    assert cli("wait", "churn", "--timeout", "30s").code == 0


def test_a_line_is_said_for_every_change_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Notes()
    for line, change in (("a", 1), ("a again", 1), ("b", 2), ("a", 1)):
        reporter.standing(Standing(line=line, change=change))
    assert capsys.readouterr().err.splitlines() == ["a", "b", "a"]


def test_a_table_is_drawn_anew_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes what is captured for a terminal then
    monkeypatch.setenv("TERM", "xterm-256color")
    with Terminal() as reporter:
        reporter.step("starting")
        rows = (("p99 < 1.2x", "holds"),)
        reporter.standing(Standing("not drawn", 1, "churn@2 at 10%", ("GUARD", "VERDICT"), rows))
        reporter.standing(Standing("churn@2 at 50%", 2))
        reporter.info("done")
    shown = capsys.readouterr().err
    assert [text in shown for text in ("at 10%", "GUARD", "p99 < 1.2x", "at 50%", "done")] == [True] * 5
    assert "not drawn" not in shown
    assert shown.index("p99 < 1.2x") < shown.index("at 50%") < shown.index("done")


def test_the_table_that_is_drawn_anew_breaks_no_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm-256color"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    guard = "drift(customer_lifetime_value_in_the_last_year) < 0.2"
    with Terminal() as reporter:
        columns = ("GUARD", "VERDICT", "CANDIDATE", "STABLE", "LIMIT", "WHY")
        why = "about 1,200 more requests of the candidate are missing for a verdict"
        reporter.standing(
            Standing("", 1, "churn@2 at 10%", columns, ((guard, "undecided", "", "", "0.2", why),))
        )
    shown = capsys.readouterr().err
    assert "drift(customer_lifetime_value_in_the_last_year)" in shown
    assert "CANDIDATE" not in shown, "as in every table, a column that says nothing is left out"


def test_history_tells_what_a_verdict_rested_on(ramping: World, cli: Cli) -> None:
    found = measures(ramping, counted(5_000), counted(45_000))
    verdict = GuardVerdict(guard="p99 < 1.2x", verdict="holds", value=0.024, stable=0.022, limit=0.0264)
    evidence = Evidence(hosts=3, members=3, measures=found, guards=(verdict,))
    rollout = ramp(ramping).rollout
    ramping.append(Advance(rollout=rollout, step=0, evidence=evidence))
    ramping.append(Halt(rollout=rollout, reason="crashes < 1: 2, limit 1", evidence=evidence))
    halted, advanced, promoted = (line.split("\t")[3] for line in cli("history", "-n", "3").out.splitlines())
    assert promoted.startswith("promote churn@2 in production to 10% → 50% → 100%")
    assert advanced == (
        "advance churn@2 in production from step 1; 5,000 requests, 3 of 3 hosts heard; "
        "p99 < 1.2x holds: 24.0 ms, stable 22.0 ms, limit 26.4 ms"
    )
    assert halted == "halt churn@2 in production: crashes < 1: 2, limit 1; 5,000 requests, 3 of 3 hosts heard"
    assert rollout not in cli("history", "churn").out


def test_retire_names_what_it_ends_and_who_asks_for_it(ramping: World, cli: Cli) -> None:
    ramping.publish(content="3")
    cli("shadow", "churn@3")
    ramping.report(uses={"churn@1": 4.0})
    refused = cli("retire", "churn@1")
    assert refused.code == 4
    assert "nothing but churn@2, with its 10%, answers churn in production any more" in refused.err
    assert "gives it the rest; the shadow churn@3 there ends" in refused.err
    candidate = cli("retire", "churn@2")
    assert "its rollout in production ends, with the traffic back at churn@1" in candidate.err
    dry = cli("retire", "churn@1", "--force", "--dry-run")
    assert "churn@1 was last asked for" in dry.err
    assert "on h1.example" in dry.err
    done = cli("retire", "churn@3", "--json")  # a shadow's answers are nobody's
    assert (done.code, done.document["warnings"]) == (0, ["its shadow in production ends"])
    assert cli("retire", "churn@1", "--force").code == 0
    assert cli("retire", "churn@1", "--json").document["already"]


def test_retire_says_who_goes_on_with_the_version(world: World, cli: Cli) -> None:
    world.publish()
    world.publish(content="2")
    world.join()
    cli("promote", "churn@1")
    cli("promote", "churn@2")
    failed = VersionReport(state="failed")
    world.report(
        models={"churn": ModelReport(stable=1, serving={1: VersionReport(state="ready"), 2: failed})}
    )
    dry = cli("retire", "churn@1", "--dry-run")
    assert "h1.example goes on with churn@1 until churn@2 is ready there" in dry.err
    assert cli("retire", "churn@1").code == 0
    assert cli("retire", "churn@1", "--json").document["already"]
    forced = cli("retire", "churn@1", "--force", "--json").document
    assert forced["warnings"] == [
        "h1.example stops answering with churn@1, though churn@2 is not ready there"
    ]
    assert not forced["already"]
    assert cli("retire", "churn@1", "--force", "--json").document["already"]


def test_what_each_step_rested_on_is_told_at_the_end(ramping: World, cli: Cli) -> None:
    begun, rollout = ramp(ramping).seq, ramp(ramping).rollout
    verdict = GuardVerdict(guard="p99 < 1.2x", verdict="holds", value=0.024, stable=0.022, limit=0.0264)
    found = measures(ramping, counted(5_000), counted(45_000))
    evidence = Evidence(hosts=3, members=3, measures=found, guards=(verdict,))
    ramping.append(Advance(rollout=rollout, step=0, evidence=evidence))
    ramping.append(Advance(rollout=rollout, step=1))  # one that gives none
    ramping.append(Complete(rollout=rollout, step=2))
    ready = VersionReport(state="ready")
    ramping.report(models={"churn": ModelReport(stable=2, serving={2: ready})})
    words = ("wait", "churn", "--record", str(begun), "--timeout", "30s")
    ran = cli(*words)
    assert ran.code == 0
    assert ran.err.splitlines()[0] == (
        "step 1 at 10%: 5,000 requests, 3 of 3 hosts heard; "
        "p99 < 1.2x holds (24.0 ms, stable 22.0 ms, limit 26.4 ms)"
    )
    (step,) = cli(*words, "--json").document["steps"]
    assert (step["step"], step["share"], step["requests"], step["hosts"]) == (0, 1_000, 5_000, 3)
    assert step["guards"][0]["value"] == 0.024
    assert cli("wait", "churn", "--timeout", "30s", "--json").document["steps"] == [], "it follows nothing"


def test_at_a_shadow_step_a_host_has_arrived_that_has_the_candidate_ready(world: World, cli: Cli) -> None:
    for content in ("1", "2"):
        world.publish(content=content)
    world.join()
    cli("promote", "churn@1")
    cli("promote", "churn@2", "--steps", "shadow,50,100", "--min-requests", "20")

    def told(state: str, **compared: int) -> dict[str, Any]:
        versions = {1: VersionReport(state="ready"), 2: VersionReport(state=state, reason="no room")}
        shadow = Measure(
            model="churn", version=2, scope=ramp(world).seq, role="shadow", comparison=Comparison(**compared)
        )
        world.report(models={"churn": ModelReport(stable=1, serving=versions)}, measures=(shadow,))
        (model,) = cli("status", "--json").document["models"]
        return dict(model)

    loading = told("loading")
    assert (loading["state"], loading["converged"]) == ("converging", 0)
    assert "churn@2 is loading: no room" in loading["reason"]
    assert told("failed")["state"] == "failing"
    ready = told("ready")
    assert (ready["state"], ready["converged"], ready["reason"]) == ("serving", 1, "")
    assert not any("paused" in each for each in ready["candidate"]["waits"])
    paused = told("ready", paused_ms=90_000, dropped=1_200, pauses=1, offered=1_200)
    assert "busy hosts have paused shadows for 1m30s (1,200 copies dropped)" in paused["candidate"]["waits"]
    assert "busy hosts have paused shadows for 1m30s" in cli("status").err
    ran = cli("wait", "churn", "--timeout", "1s")
    assert (ran.code, "had not arrived" in ran.err) == (7, False)
