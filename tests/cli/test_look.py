"""status, history, why and wait, from a real log and reports that hosts would write."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from mldeploy.client import Client, fleet
from mldeploy.client.connection import Connection
from mldeploy.core.records import Halt, Join, Leave, Promote, Record, Retire, encode
from mldeploy.errors import RolloutHaltedError, WaitTimeoutError
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import record_key
from mldeploy.store.reports import HostReport, report_key, write_report

from .conftest import Ran, World

Cli = Callable[..., Ran]


def age(world: World, host: str, seconds: float) -> None:
    """Make a report older by the store's clock."""
    path = world.path / report_key("production", host)
    stat = path.stat()
    os.utime(path, (stat.st_atime - seconds, stat.st_mtime - seconds))


@pytest.fixture
def promoted(world: World, cli: Cli) -> World:
    world.publish()
    world.join()
    assert cli("promote", "churn@1").code == 0
    return world


def test_an_empty_store_is_said_to_be_empty(world: World, cli: Cli) -> None:
    ran = cli("status")
    assert (ran.code, ran.out) == (0, "")
    assert f"no models in {world.url} yet" in ran.err
    assert cli("status", "--json").document["models"] == []
    assert cli("history").out == ""


def test_status_follows_a_host_until_it_serves(promoted: World, cli: Cli) -> None:
    def state() -> tuple[str, int, int]:
        (model,) = cli("status", "--json").document["models"]
        return model["state"], model["converged"], model["hosts"]

    assert state() == ("no hosts", 0, 0)
    promoted.report(head=1)
    assert state() == ("converging", 0, 1)
    assert "has read up to record 1 of 3" in cli("status").err
    promoted.report()
    assert "says nothing of churn yet" in cli("status").err
    promoted.serve(1, state="installing")
    assert "churn@1 is installing; next: load it" in cli("status").err
    promoted.serve(1, state="failed", reason="answers differ", stage="samples")
    assert state() == ("failing", 0, 1)
    assert "h1.example: churn@1 failed at samples: answers differ" in cli("status").err
    promoted.serve(1)
    assert state() == ("serving", 1, 1)
    assert cli("status").out.split("\t")[:3] == ["churn", "production", "1"]


def test_a_host_lives_by_the_clock_of_the_store(promoted: World, cli: Cli) -> None:
    promoted.serve(1)
    age(promoted, "h1", 50)
    assert cli("status", "--json").document["hosts"][0]["live"]
    age(promoted, "h1", 30)
    document = cli("status", "--json").document
    assert (document["hosts"][0]["live"], document["models"][0]["hosts"]) == (False, 0)
    assert "has not reported for 8" in cli("status").err
    age(promoted, "h1", 400)
    assert "h1.example (h1) has not reported for 8 min" in cli("status").err
    assert "8 min ago" in cli("host", "list").out
    promoted.serve(1)
    age(promoted, "h1", 80)
    # in a store of 2,000 each host reports every half a minute
    promoted.append(*(Join(host=f"s{number}", environment="staging") for number in range(2_000)))
    assert cli("status", "--json").document["hosts"][0]["live"]
    promoted.serve(1)
    promoted.append(Leave(host="h1"))
    assert cli("status", "--json").document["hosts"] == []  # no member any more
    assert cli("status").err.count("has not reported") == 0
    (gone,) = cli("host", "list", "-e", "production", "--json").document["hosts"]
    assert (gone["host"], gone["member"], gone["live"]) == ("h1", False, False)
    assert "s ago, no member" in cli("host", "list", "-e", "production").out
    assert ": no member" in cli("why", "h1").out
    assert cli("why", "h1.example", "--json").document["host"]["host"] == "h1"


def test_those_that_are_gone_cost_no_look_anything(promoted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    promoted.serve(1)
    for number in range(50):
        report = HostReport(host=f"gone-{number}", environment="production", hostname="h1.example")
        write_report(promoted.store, report)
    asked: list[str] = []
    at = Connection(promoted.url)
    at.refresh()
    get, listing = at.store.get, at.store.list
    monkeypatch.setattr(at.store, "get", lambda key: (asked.append(key), get(key))[1])
    monkeypatch.setattr(at.store, "list", lambda key: (asked.append(f"list {key}"), listing(key))[1])
    assert [host.report.host for host in fleet.hosts(at, "production")] == ["h1"]
    assert fleet.find_host(at, "h1.example").report.host == "h1"
    assert [each for each in asked if "hosts/" in each] == [report_key("production", "h1")] * 2
    assert len(fleet.hosts(at, "production", everyone=True)) == 51


def test_status_of_one_model_shows_its_versions(promoted: World, cli: Cli) -> None:
    promoted.publish(content="2")
    cli("promote", "churn@2", "--to", "25%")
    cli("freeze", "churn", "--reason", "look")
    document = cli("status", "churn", "--json").document
    assert [version["roles"] for version in document["versions"]] == [
        ["candidate (25%) in production"], ["stable in production"],
    ]  # fmt: skip
    (shown,) = document["environments"]
    assert (shown["candidate"]["share"], shown["frozen"]) == (2500, "look")
    ran = cli("status", "churn")
    assert "2 at 25%" in ran.out
    assert "no hosts, frozen" in ran.out
    assert cli("status", "chrun").code == 1


def test_status_names_what_was_never_promoted(world: World, cli: Cli) -> None:
    world.publish()
    assert "churn was pushed and never promoted" in cli("status").err


def test_history_tells_what_was_done_newest_first(promoted: World, cli: Cli) -> None:
    promoted.publish("other")
    cli("freeze", "--all", "--reason", "holidays")
    rows = [line.split("\t") for line in cli("history").out.splitlines()]
    assert [row[0] for row in rows] == ["5", "4", "3", "2", "1"]
    assert [row[2] for row in rows] == ["tester", "setup", "tester", "setup", "setup"]
    assert rows[2][3] == "promote churn@1 in production"
    assert rows[4][3].startswith("publish churn@1 (")
    told = [event["actions"][0] for event in cli("history", "churn", "--json").document["events"]]
    assert [text.split()[0] for text in told] == ["freeze", "promote", "publish"]
    ran = cli("history", "--limit", "2")
    assert (len(ran.out.splitlines()), "--limit 20" in ran.err) == (2, True)
    assert cli("history", "nothing").code == 1


def test_history_shows_void_and_unreadable_records(
    promoted: World, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert promoted.store.create(record_key(4), b"not a record")
    promoted.append(Promote(model="churn", version=1, environment="staging", rollout=new_ulid()))
    events = cli("history", "--json").document["events"]
    assert [(event["seq"], event["void"]) for event in events] == [
        (5, False), (4, True), (3, False), (2, False), (1, False),
    ]  # fmt: skip
    # nor does a long log make a void record look as if it had done something
    evil = Retire(model="churn", version=1, force=True)
    torn = Record(
        seq=6, id=new_ulid(), prev="0" * 64, time="2026-01-01T00:00:00Z", actor="e", actions=(evil,)
    )
    assert promoted.store.create(record_key(6), encode(torn))
    monkeypatch.setattr("mldeploy.client.past.MAX_SCAN", 2)
    told = cli("history", "--json").document
    assert [(event["seq"], event["void"]) for event in told["events"]] == [(6, True), (5, False)]
    assert told["more"]


def test_why_tells_a_hosts_story(promoted: World, cli: Cli) -> None:
    promoted.serve(
        1,
        state="failed",
        reason="no such file",
        stage="load",
        attempts=3,
        log_tail=("Traceback", "OSError\x1b[2J"),
        retry_at=1_793_000_000.0,
    )
    for name in ("h1", "h1.example", "H"):
        ran = cli("why", name)
        assert ran.code == 0, ran.err
        assert "churn: wants churn@1, routes nothing" in ran.out
        assert "churn@1: failed; load: no such file; 3 attempts; not tried again before 2026-10-26" in ran.out
        assert "    | OSError\ufffd[2J\n" in ran.out
    document = cli("why", "h1", "churn", "--json").document
    assert (document["head"], document["models"][0]["versions"][0]["log_tail"]) == (
        3,
        ["Traceback", "OSError\x1b[2J"],
    )
    assert document["models"][0]["versions"][0]["retry_at"] == "2026-10-26T07:33:20.000Z"
    promoted.join("h2")
    promoted.report("h2")
    ran = cli("why", "h")
    assert (ran.code, "2 hosts are called 'h'" in ran.err) == (1, True)
    assert cli("why", "h1", "nothing").code == 1


def test_wait_ends_when_every_live_host_has_arrived(promoted: World, cli: Cli) -> None:
    promoted.join("h2")
    promoted.serve(1)
    promoted.report("h2")
    arrive = threading.Timer(0.3, lambda: World(promoted.root).serve(1, "h2"))
    arrive.start()
    try:
        document = cli("wait", "churn", "--timeout", "30s", "--json").document
    finally:
        arrive.join()
    assert (document["version"], [host["arrived"] for host in document["hosts"]]) == (1, [True, True])


def test_wait_runs_out_of_time_naming_who_is_late(promoted: World, cli: Cli) -> None:
    ran = cli("wait", "churn", "--timeout", "1s")
    assert (ran.code, "no live host of production has reported within 1 s" in ran.err) == (7, True)
    promoted.serve(1, state="loading")
    ran = cli("wait", "churn", "--timeout", "1s")
    assert (ran.code, "h1.example (churn@1 is loading" in ran.err) == (7, True)
    assert "`mldeploy wait churn` goes on waiting" in ran.err
    cli("policy", "set", "hold=1m", "-e", "staging")
    ran = cli("wait", "churn", "--timeout", "1s", "-e", "staging")
    assert (ran.code, "churn was never promoted in staging" in ran.err) == (1, True)


def test_wait_ends_at_once_where_a_version_failed(promoted: World, cli: Cli) -> None:
    promoted.serve(1, state="failed", reason="answers differ", stage="samples")
    ran = cli("wait", "churn", "--timeout", "60s")
    assert ran.code == 6
    assert "error: churn@1 failed at samples: answers differ (on host h1.example)" in ran.err
    document = cli("wait", "churn", "--timeout", "60s", "--json").document
    assert (document["schema"], document["code"]) == ("mldeploy.error/1", 6)


def test_wait_ends_where_the_rollout_was_halted(promoted: World, cli: Cli) -> None:
    promoted.publish(content="2")
    cli("promote", "churn@2", "--to", "10%")
    promoted.serve(1)
    promoted.log.refresh()
    ramp = promoted.log.state.environments["production"]["churn"].ramp
    assert ramp is not None
    halt = Halt(rollout=ramp.rollout, reason="latency")
    stop = threading.Timer(0.3, lambda: World(promoted.root).append(halt))
    stop.start()
    try:
        with pytest.raises(RolloutHaltedError, match="churn@2 in production was halted: latency"):
            Client(promoted.url).wait("churn", timeout=30)
    finally:
        stop.join()


def test_promote_and_wait_in_one_call(promoted: World, cli: Cli) -> None:
    promoted.publish(content="2")
    promoted.serve(1)
    ran = cli("promote", "churn@2", "--wait", "--timeout", "1s")
    assert ran.code == 7
    assert "churn@2 has all traffic in production (record 5)" in ran.err  # it was done nevertheless
    promoted.serve(2)
    ran = cli("promote", "churn@2", "--wait", "--timeout", "10s")
    assert (ran.code, "1 of 1 live hosts arrived" in ran.err) == (0, True)


def test_the_client_says_the_same_as_types(promoted: World) -> None:
    client = Client(promoted.url, actor="python")
    assert client.state.head == 3
    assert client.promote("churn@1").already
    with pytest.raises(WaitTimeoutError):
        client.wait("churn", timeout=0.1)
    assert client.history("churn").events[0].actor == "tester"
