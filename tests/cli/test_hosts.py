"""which, host list, drain and forget, and promote --from, on a real folder store."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from mldeploy.client import Client
from mldeploy.core.records import Drain, Join, Leave, Promote
from mldeploy.core.routing import choose
from mldeploy.errors import NotAllowedError, NotFoundError
from mldeploy.store.reports import report_key

from .conftest import Ran, World

Cli = Callable[..., Ran]


@pytest.fixture
def ramping(world: World, cli: Cli) -> World:
    """churn@1 is stable, churn@2 takes 30 %."""
    world.publish()
    world.publish(content="2")
    cli("promote", "churn@1")
    assert cli("promote", "churn@2", "--to", "30%").code == 0
    return world


def test_which_is_the_split_of_the_fronts(ramping: World) -> None:
    client = Client(ramping.url)
    ramping.log.refresh()
    ramp = ramping.log.state.environments["production"]["churn"].ramp
    assert ramp is not None
    found = {f"user-{number}": client.which("churn", f"user-{number}") for number in range(40)}
    for key, told in found.items():
        assert told.version == (2 if choose(key, ramp.salt, 3_000) else 1)
        assert (told.share, told.salt) == (3_000, ramp.salt)
    assert {told.role for told in found.values()} == {"stable", "candidate"}


def test_which_tells_of_a_key_then_and_now(ramping: World, cli: Cli) -> None:
    key = next(f"u{n}" for n in range(100) if Client(ramping.url).which("churn", f"u{n}").version == 2)
    ran = cli("which", "churn", "--key", key)
    assert (ran.code, ran.out) == (0, "churn@2\n")
    assert "30% of the keys get churn@2, and this one is among them (request id)" in ran.err
    path = ramping.path
    for record in (path / "log").iterdir():
        seconds = 7_200 if int(record.stem) < 4 else 60
        stat = record.stat()
        os.utime(record, (stat.st_atime - seconds, stat.st_mtime - seconds))
    assert cli("which", "churn", "--key", key, "--at", "1h").out == "churn@1\n"
    document = cli("which", "churn", "--key", key, "--json").document
    assert (document["schema"], document["version"]) == ("mldeploy.which/1", 2)
    cli("rollback", "churn")
    assert "every key gets stable" in cli("which", "churn", "--key", key).err


def test_which_with_labels_differs_from_host_to_host(ramping: World, cli: Cli) -> None:
    ramping.append(
        Join(host="a1", hostname="a.example", labels={"zone": "a"}),
        Join(host="b1", hostname="b.example", labels={"zone": "b"}),
        Promote(model="churn", version=2, steps=(10_000,), on=("zone=a",), rollout="R1"),
    )
    rows = [line.split("\t") for line in cli("which", "churn", "--key", "k").out.splitlines()]
    assert rows == [
        ["churn@2"], ["a.example", "zone=a", "churn@2"], ["b.example", "zone=b", "churn@1"],
    ]  # fmt: skip


def test_which_names_the_shadows_that_get_a_copy(ramping: World, cli: Cli) -> None:
    cli("rollback", "churn")
    cli("shadow", "churn@2", "--where", "input.x[0] > 1")
    ran = cli("which", "churn", "--key", "k")
    assert ran.out == "churn@1\n"
    assert "churn@2 gets a copy, where input.x[0] > 1" in ran.err


def test_which_at_a_shadow_step_is_stable_with_a_copy(ramping: World, cli: Cli) -> None:
    cli("policy", "set", "shadow_fraction=100")
    assert cli("promote", "churn@2", "--steps", "shadow,10,100").code == 0
    ran = cli("which", "churn", "--key", "k")
    assert ran.out == "churn@1\n"
    assert "at its shadow step: every key gets stable" in ran.err
    assert "churn@2 gets a copy" in ran.err


def test_which_of_nothing_is_refused(world: World, cli: Cli) -> None:
    world.publish()
    assert cli("which", "churn", "--key", "k").code == 4
    assert cli("which", "chrun", "--key", "k").code == 1
    assert cli("which", "churn").code == 2


def test_hosts_are_listed_with_what_they_said(ramping: World, cli: Cli) -> None:
    cli("policy", "set", "hold=1m", "-e", "staging")
    none = cli("host", "list", "-e", "staging").err
    assert f"no host has joined yet; start one with `mldeployd --store {ramping.url} --state DIR" in none
    ramping.join("h1")
    ramping.append(Join(host="h2", hostname="h2.example", labels={"zone": "a"}))
    ramping.join("s1", environment="staging")
    ramping.report("h1", version="1.2.3", head=ramping.head() - 2, labels={"gpu": "1"})
    ramping.report("s1", environment="staging")
    rows = {row[0]: row for row in (line.split("\t") for line in cli("host", "list").out.splitlines())}
    assert set(rows) == {"h1.example", "h2.example", "s1.example"}
    assert rows["h1.example"][5] == f"{ramping.head() - 2}, 2 behind"
    assert rows["h1.example"][7] == "1.2.3"
    assert (rows["h2.example"][3], rows["h2.example"][6]) == ("never", "zone=a")
    document = cli("host", "list", "-e", "staging", "--json").document
    assert [host["hostname"] for host in document["hosts"]] == ["s1.example"]
    assert document["schema"] == "mldeploy.hosts/1"


def test_a_host_that_is_gone_is_forgotten_and_a_live_one_is_not(ramping: World, cli: Cli) -> None:
    ramping.join("h1")
    ramping.report("h1")
    ran = cli("host", "forget", "h1.example")
    assert ran.code == 4
    assert "it would join again" in ran.err
    path = ramping.path / report_key("production", "h1")
    stat = path.stat()
    os.utime(path, (stat.st_atime - 300, stat.st_mtime - 300))
    assert "would forget host h1" in cli("host", "forget", "h1", "--dry-run").err
    assert cli("host", "forget", "h1.example").code == 0
    ramping.log.refresh()
    assert "h1" not in ramping.log.state.hosts
    assert cli("host", "forget", "h1", "--json").document["already"]
    assert cli("host", "forget", "nobody").code == 1


def test_a_host_is_drained_and_takes_traffic_again(ramping: World, cli: Cli) -> None:
    for host in ("h1", "h2"):
        ramping.join(host)
        ramping.report(host)
    dry = cli("host", "drain", "h1", "--reason", "new disk", "--dry-run")
    assert "would drain host h1.example (h1): new disk" in dry.err
    done = cli("host", "drain", "h1.example", "--reason", "new disk", "--json")
    assert (done.code, done.document["schema"], done.document["warnings"]) == (0, "mldeploy.host-drain/1", [])
    for words in ((), ("--reason", "new disk")):
        assert cli("host", "drain", "h1", *words, "--json").document["already"]
    rows = {row[0]: row for row in (line.split("\t") for line in cli("host", "list").out.splitlines())}
    # it has not read the record yet: it still says that it is ready
    assert (rows["h1.example"][4], rows["h2.example"][4]) == ("draining: new disk", "yes")
    ramping.report("h1", ready=False)
    assert "drained: new disk" in cli("host", "list").out
    (entry,) = [each for each in cli("host", "list", "--json").document["hosts"] if each["host"] == "h1"]
    assert (entry["drained"], entry["ready"], entry["live"]) == ("new disk", False, True)
    status = cli("status", "--json").document
    assert {host["host"]: host["drained"] for host in status["hosts"]} == {"h1": "new disk", "h2": None}
    assert status["models"][0]["hosts"] == 1
    assert "host h1.example (h1) is drained: new disk" in cli("status").err
    assert ["drained", "new disk"] in [line.split("\t") for line in cli("why", "h1").out.splitlines()]
    assert "drain host h1.example (h1): new disk" in cli("history").out
    assert cli("host", "drain", "h1", "--undo").code == 0
    assert cli("host", "drain", "h1", "--undo", "--json").document["already"]
    assert "drained" not in cli("host", "list").out
    assert cli("status", "--json").document["models"][0]["hosts"] == 2


def test_what_cannot_be_drained_is_refused_with_what_to_do(ramping: World, cli: Cli) -> None:
    unknown = cli("host", "drain", "nobody")
    assert unknown.code == 1
    assert "no host 'nobody' has reported" in unknown.err
    assert "hint: " in unknown.err
    ramping.report("gone")
    stranger = cli("host", "drain", "gone")
    assert stranger.code == 4
    assert "gone.example is no member" in stranger.err
    assert cli("host", "drain", "gone", "--undo", "--reason", "x").code == 2
    ramping.join("h1")
    ramping.report("h1")
    alone = cli("host", "drain", "h1")
    assert alone.code == 0
    assert "no other host of production is ready to take its traffic" in alone.err


def test_wait_does_not_wait_for_a_drained_host_unless_all_are(world: World, cli: Cli) -> None:
    world.publish()
    for host in ("h1", "h2"):
        world.join(host)
    cli("promote", "churn@1")
    world.serve(1, "h1")
    world.serve(1, "h2", state="failed", stage="load", reason="broken disk")
    assert cli("wait", "churn", "--timeout", "5s").code == 6
    assert cli("host", "drain", "h2").code == 0
    seq = str(world.head() - 1)
    assert "1 of 1 live hosts arrived" in cli("wait", "churn", "--record", seq, "--timeout", "5s").err
    assert cli("host", "drain", "h1").code == 0
    assert cli("wait", "churn", "--record", seq, "--timeout", "5s").code == 6


def test_a_drained_host_that_is_gone_is_forgotten_whole(ramping: World, cli: Cli) -> None:
    ramping.append(Join(host="h9", hostname="h9.example"), Drain(host="h9", reason="sold"), Leave(host="h9"))
    rows = [line.split("\t") for line in cli("host", "list").out.splitlines()]
    assert rows[0][1] == "h9"
    assert rows[0][4] == "drained: sold"
    assert cli("host", "forget", "h9").code == 0
    ramping.log.refresh()
    assert ramping.log.state.drained == {}


def test_promote_from_another_environment(ramping: World, cli: Cli) -> None:
    cli("promote", "churn@2", "-e", "staging")
    ran = cli("promote", "churn", "--from", "staging", "--environment", "production", "--now")
    assert ran.code == 0
    assert "churn@2 has all traffic in production" in ran.err
    assert cli("promote", "churn", "--from", "staging", "--now", "--json").document["already"]
    cli("promote", "churn@1", "-e", "staging")
    cli("freeze", "churn", "--reason", "holidays")
    head = ramping.head()
    refused = cli("promote", "churn", "--from", "staging")
    assert refused.code == 4
    assert "churn is frozen in production: holidays" in refused.err
    assert ramping.head() == head


def test_a_drain_is_waited_for_until_the_host_says_so(world: World, cli: Cli) -> None:
    world.join()
    world.report("h1", ready=True)
    late = cli("host", "drain", "h1", "--wait", "--timeout", "1s")
    assert (late.code, "h1.example has read" in late.err) == (7, True)
    world.report("h1", ready=True, head=world.head())
    late = cli("host", "drain", "h1", "--wait", "--timeout", "1s")
    assert (late.code, "is still ready after 1 s" in late.err) == (7, True)
    assert "is drained already" in late.err
    change = cli("host", "drain", "h1", "--wait", "--timeout", "1s", "--json").document["change"]
    assert (change["host"], change["already"]) == ("h1", True)
    world.report("h1", ready=False, head=world.head())
    there = cli("host", "drain", "h1", "--wait")
    assert (there.code, "h1.example says that it is not ready any more" in there.err) == (0, True)
    document = cli("host", "drain", "h1", "--wait", "--json").document
    assert (document["schema"], document["host"]) == ("mldeploy.host-drain/1", "h1")
    assert (document["waited"]["drained"], document["waited"]["left"]) == (True, False)


def test_its_end_is_waited_for_too(world: World, cli: Cli) -> None:
    world.join()
    world.report("h1", ready=False, head=world.head())
    cli("host", "drain", "h1")
    late = cli("host", "drain", "h1", "--undo", "--wait", "--timeout", "1s")
    assert (late.code, "h1.example has read" in late.err) == (7, True)
    world.report("h1", ready=False, head=world.head())
    late = cli("host", "drain", "h1", "--undo", "--wait", "--timeout", "1s")
    assert (late.code, "h1.example is not ready after 1 s" in late.err) == (7, True)
    world.report("h1", ready=True, head=world.head())
    assert "says that it is ready" in cli("host", "drain", "h1", "--undo", "--wait").err


def test_what_cannot_be_waited_for_is_said(world: World, cli: Cli) -> None:
    world.join()
    silent = cli("host", "drain", "h1", "--wait", "--timeout", "1s")
    assert (silent.code, "has not reported" in silent.err) == (7, True)
    head = world.head()
    alone = cli("host", "drain", "h1", "--undo", "--timeout", "1s")
    assert (alone.code, "--timeout is of a wait" in alone.err) == (2, True)
    assert world.head() == head
    assert cli("host", "drain", "h1", "--undo", "--wait", "--dry-run").code == 0


def test_a_host_that_leaves_while_it_is_drained_takes_no_traffic(world: World, cli: Cli) -> None:
    world.join()
    world.report("h1", ready=True)
    assert cli("host", "drain", "h1").code == 0
    world.append(Leave(host="h1"))
    client = Client(world.url)
    assert client.wait_host("h1", drained=True, timeout=1).left
    with pytest.raises(NotFoundError, match="has left"):
        client.wait_host("h1", drained=False, timeout=1)
    gone = cli("host", "drain", "h1", "--undo", "--wait")
    assert (gone.code, "has left" in gone.err) == (1, True)


def test_a_drain_that_is_taken_back_meanwhile_is_no_success(world: World, cli: Cli) -> None:
    world.join()
    cli("host", "drain", "h1")
    cli("host", "drain", "h1", "--undo")
    world.report("h1", ready=True)
    with pytest.raises(NotAllowedError, match="takes traffic again: somebody wrote so meanwhile"):
        Client(world.url).wait_host("h1", drained=True, timeout=1)


def test_an_interrupted_wait_says_that_the_drain_is_written(
    world: World, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.join()

    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mldeploy.client.host_waiting.wait_for_host", interrupt)
    ran = cli("host", "drain", "h1", "--wait")
    assert (ran.code, f"record {world.head()} is written, and the host goes on" in ran.err) == (130, True)
