"""promote, rollback, retire, restore, extend, freeze, pause on a real folder store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mldeploy.core.records import Sweep
from mldeploy.store.ids import new_ulid

from .conftest import Ran, World

Cli = Callable[..., Ran]


def serving(world: World, environment: str = "production") -> Any:
    world.log.refresh()
    return world.log.state.environments[environment]["churn"]


def test_promote_makes_a_version_stable_and_says_so(world: World, cli: Cli) -> None:
    world.publish()
    ran = cli("promote", "churn@1")
    assert (ran.code, ran.out) == (0, "")
    assert "churn@1 has all traffic in production (record 2)" in ran.err
    assert serving(world).stable == 1


def test_doing_again_what_is_done_writes_nothing(world: World, cli: Cli) -> None:
    world.publish()
    world.publish(content="2")
    cli("promote", "churn@1")
    cli("promote", "churn@2")
    for call in (
        ("promote", "churn@2"),
        ("rollback", "churn"),
        ("retire", "churn@2"),
        ("extend", "churn@1", "2099-01-01"),
        ("freeze", "churn"),
        ("freeze", "--all"),
        ("unfreeze", "--all"),
        ("unfreeze", "churn"),
        ("restore", "churn@2"),
    ):
        first = cli(*call)
        assert first.code == 0, first.err
        head = world.head()
        again = cli(*call, "--json")
        assert (again.code, again.document["already"], again.document["seq"]) == (0, True, None)
        assert world.head() == head, call


def test_a_second_rollback_does_not_undo_the_first(world: World, cli: Cli) -> None:
    world.publish()
    world.publish(content="2")
    cli("promote", "churn@1")
    cli("promote", "churn@2")
    assert "churn@1 has the traffic" in cli("rollback", "churn").err
    again = cli("rollback", "churn")
    assert again.code == 0
    assert "already; nothing written" in again.err
    assert serving(world).stable == 1
    for command in (
        "freeze",
        "rollback",
        "unfreeze",
        "rollback",
    ):  # a freeze is no new traffic to go back from
        assert cli(command, "churn").code == 0
        assert serving(world).stable == 1
    assert cli("rollback", "churn", "--to", "2").code == 0
    assert serving(world).stable == 2


@pytest.mark.parametrize(
    ("call", "code", "error", "hint"),
    [
        (("promote", "churn"), 2, "'churn' does not name a version", "churn@7"),
        (("promote", "chrun@1"), 1, "no model 'chrun'", "did you mean 'churn'?"),
        (("promote", "churn@9"), 1, "there is no churn@9", "churn@2"),
        (("promote", "churn@2", "--to", "0"), 2, "a step is not a share", "more than 0 %"),
        (("promote", "churn@2", "--to", "200"), 2, "not a percentage", "0 to 100"),
        (("promote", "churn@2", "--steps", "50,10"), 2, "the steps do not grow", "larger"),
        (("promote", "churn@2", "--steps", ","), 2, "--steps names no percentage", "--steps 1,10,50,100"),
        (("promote", "churn@1", "--to", "25%"), 4, "churn@1 is stable in production", "promote the version"),
        (("promote", "churn@1", "--from", "staging"), 2, "names a version, and --from another", "alone"),
        (("promote", "churn", "--from", "staging"), 4, "no stable version in staging", "staging first"),
        (("promote", "churn@2", "--timeout", "soon"), 2, "'soon' is not a duration", "90d"),
        (("rollback", "churn"), 4, "no version came before churn@1", "--to"),
        (("rollback", "churn", "--to", "7"), 1, "there is no churn@7", "churn@2"),
        (("retire", "churn@1"), 4, "churn@1 is stable in production", "--force"),
        (("extend", "churn@1", "2020-01-01"), 2, "2020-01-01 lies in the past", "90d"),
        (("extend", "churn@1", "soon"), 2, "neither a date nor a duration", "2027-06-30"),
        (("pause", "churn"), 4, "no rollout of churn is under way", "status"),
        (("freeze",), 2, "name one model, or say --all", "freeze churn"),
        (("freeze", "churn", "--all"), 2, "name one model, or say --all", "freeze churn"),
        (("promote", "churn@2", "-e", "Not A Name"), 2, "not a valid environment name", "a-z"),
        (("push", "nowhere"), 1, "there is no nowhere", "model folder"),
        (("push", "nowhere", "--wait"), 2, "--wait goes with --promote", "add --promote"),
        (("push", "nowhere", "--hold", "1m", "--on", "a=b"), 2, "--hold and --on go with --promote", "add"),
        (("push", "nowhere", "--promote", "--hold", "soon"), 2, "'soon' is not a duration", "90d"),
        (("promote", "churn@2", "--on", "zone"), 2, "--on: 'zone' is no label", "zone=a"),
        (("promote", "churn@2", "--on", "a=1", "--on", "a=2"), 2, "'a' is 1 and 2 at once", "one value"),
        (("why", "nobody"), 1, "no host 'nobody' has reported", "mldeployd"),
        (("predict", "churn"), 1, "no live host of production", "--url"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_two_lines_and_a_code(
    world: World, cli: Cli, call: tuple[str, ...], code: int, error: str, hint: str
) -> None:
    world.publish()
    world.publish(content="2")
    cli("promote", "churn@1")
    head = world.head()
    ran = cli(*call)
    lines = ran.err.splitlines()
    assert (ran.code, ran.out, len(lines)) == (code, "", 2), ran
    assert lines[0].startswith("error: ")
    assert error in lines[0]
    assert lines[1].startswith("hint: ")
    assert hint in lines[1]
    told = cli(*call, "--json")
    assert told.err == ""
    assert told.document == {
        "schema": "mldeploy.error/1", "error": lines[0][7:], "hint": lines[1][6:], "code": code,
    }  # fmt: skip
    assert world.head() == head


def test_retire_names_what_breaks_and_force_does_it(world: World, cli: Cli) -> None:
    world.publish()
    world.publish(content="2")
    cli("promote", "churn@1", "-e", "staging")
    cli("promote", "churn@2")
    cli("promote", "churn@1", "--to", "25%")
    ran = cli("retire", "churn@1")
    assert ran.code == 4
    assert "churn@1 is candidate (25%) in production and stable in staging" in ran.err
    assert cli("retire", "churn@1", "--force", "--reason", "leaks").code == 0
    assert serving(world).ramp is None
    assert serving(world, "staging").stable is None


def test_retiring_stable_under_a_rollout_says_what_is_left(world: World, cli: Cli) -> None:
    world.publish()
    world.publish(content="2")
    cli("promote", "churn@1")
    cli("promote", "churn@2", "--to", "25%")
    said = (
        "nothing but churn@2, with its 25%, answers churn in production any more: `mldeploy promote churn@2"
    )
    assert said in cli("retire", "churn@1").err
    ran = cli("retire", "churn@1", "--force")
    assert ran.code == 0 and said in ran.err
    assert cli("promote", "churn@2", "--now").code == 0
    assert serving(world).stable == 2


def test_a_share_a_pause_and_the_way_to_all_of_it(world: World, cli: Cli) -> None:
    world.publish()
    world.publish(content="2")
    cli("promote", "churn@1")
    ran = cli("promote", "churn@2", "--to", "25%")
    assert "churn@2 takes 25% of the traffic in production" in ran.err
    assert serving(world).ramp.share == 2500
    assert "already" in cli("promote", "churn@2", "--to", "25").err
    assert cli("pause", "churn", "--reason", "lunch").code == 0
    assert serving(world).ramp.paused
    assert cli("resume", "churn").code == 0
    assert cli("promote", "churn@2", "--steps", "30,60").code == 0
    assert serving(world).ramp.steps == (3000, 6000)
    assert cli("promote", "churn@2", "--now").code == 0
    assert (serving(world).stable, serving(world).ramp) == (2, None)


def test_rollback_ends_a_rollout_and_may_freeze(world: World, cli: Cli) -> None:
    world.publish()
    world.publish(content="2")
    cli("promote", "churn@1")
    cli("promote", "churn@2", "--to", "25%")
    head = world.head()
    would = cli("rollback", "churn", "--dry-run", "--json").document
    assert would["version"] == 1
    assert cli("rollback", "churn", "--freeze", "--reason", "wrong").code == 0
    assert world.head() == head + 1  # one record
    assert (serving(world).stable, serving(world).ramp, serving(world).frozen) == (1, None, "wrong")
    ran = cli("promote", "churn@2")
    assert (ran.code, "churn is frozen in production: wrong" in ran.err) == (4, True)
    assert "mldeploy unfreeze churn" in ran.err


def test_a_dry_rollback_names_the_version_that_would_have_the_traffic(world: World, cli: Cli) -> None:
    for content in "123":
        world.publish(content=content)
    for call in (["1"], ["2"], ["3", "--to", "25%"]):
        cli("promote", f"churn@{call[0]}", *call[1:])
    assert cli("rollback", "churn", "--to", "1", "--dry-run", "--json").document["version"] == 1
    cli("rollback", "churn")
    cli("rollback", "churn", "--to", "1")
    cli("rollback", "churn")
    assert serving(world).stable == 2
    frozen = cli("rollback", "churn", "--freeze", "--dry-run", "--json").document
    assert (frozen["version"], len(frozen["actions"])) == (2, 1)  # it is rolled back: a freeze alone is left


def test_a_frozen_environment_refuses_every_model(world: World, cli: Cli) -> None:
    world.publish()
    assert cli("freeze", "--all", "--reason", "holidays", "--until", "7d").code == 0
    ran = cli("promote", "churn@1")
    assert (ran.code, "every model is frozen in production: holidays" in ran.err) == (4, True)
    assert cli("promote", "churn@1", "-e", "staging").code == 0
    assert cli("unfreeze", "churn").code == 4  # it is not churn that is frozen
    assert cli("unfreeze", "--all").code == 0
    assert cli("promote", "churn@1").code == 0


def test_an_expired_or_retired_version_is_not_promoted(world: World, cli: Cli) -> None:
    world.publish()
    assert cli("retire", "churn@1").code == 0
    ran = cli("promote", "churn@1")
    assert (ran.code, "mldeploy restore churn@1" in ran.err) == (4, True)
    assert cli("restore", "churn@1").code == 0
    from mldeploy.core.records import Extend

    world.append(Extend(model="churn", version=1, expires="2020-01-01"))
    ran = cli("promote", "churn@1")
    assert (ran.code, "churn@1 expired on 2020-01-01" in ran.err) == (4, True)
    ran = cli("extend", "churn@1", "2099-12-31")
    assert (ran.code, "churn@1 expires on 2099-12-31" in ran.err) == (0, True)
    assert cli("promote", "churn@1").code == 0


def test_restore_says_that_what_has_expired_will_go_again(world: World, cli: Cli) -> None:
    world.publish()
    assert cli("retire", "churn@1").code == 0
    assert "warning" not in cli("restore", "churn@1").err
    from mldeploy.core.records import Extend

    world.append(Extend(model="churn", version=1, expires="2020-01-01"))
    assert cli("retire", "churn@1").code == 0
    ran = cli("restore", "churn@1")
    assert (ran.code, "churn@1 expired on 2020-01-01" in ran.err) == (0, True)
    assert "warning" not in cli("restore", "churn@1").err  # it is there already


def test_a_collected_version_is_not_restored(world: World, cli: Cli) -> None:
    world.publish()
    cli("retire", "churn@1")
    blobs = world.log.state.models["churn"].versions[1].blobs
    world.append(Sweep(horizon=new_ulid(), blobs=blobs))
    ran = cli("restore", "churn@1")
    assert (ran.code, "push the bundle again" in ran.err) == (4, True)


def test_promote_from_takes_what_is_stable_there(world: World, cli: Cli) -> None:
    world.publish()
    world.publish(content="2")
    cli("promote", "churn@1", "--environment", "staging")
    ran = cli("promote", "churn", "--from", "staging", "--json")
    assert (ran.document["model"], ran.document["version"], ran.document["environment"]) == (
        "churn", 1, "production",
    )  # fmt: skip


def test_promote_follows_the_bundles_own_rollout(world: World, cli: Cli) -> None:
    from mldeploy.core.manifest import Rollout

    world.publish()
    world.publish(content="2", rollout=Rollout(steps=(100, 10_000), hold=60))
    cli("promote", "churn@1")
    assert "churn@2 takes traffic in production" in cli("promote", "churn@2").err  # 1 % is not all of it
    assert (serving(world).ramp.steps, serving(world).ramp.hold) == ((100, 10_000), 60)
    assert "promoted so in production already" in cli("promote", "churn@2").err


def test_promote_warns_where_no_host_can_run_it(world: World, cli: Cli) -> None:
    world.publish(python="3.12")
    assert "no live host in production" in cli("promote", "churn@1", "--dry-run").err
    world.join()
    world.report(pythons=("3.11",), platform="linux-other")
    ran = cli("promote", "churn@1")
    assert ran.code == 0
    assert "warning: churn@1 needs Python 3.12, which no live host in production has" in ran.err
    assert "which no live host in production is" in ran.err


@pytest.mark.parametrize(
    "call",
    [
        ("promote", "churn@2"),
        ("promote", "churn@2", "--to", "25%"),
        ("rollback", "churn", "--to", "2"),
        ("retire", "churn@2"),
        ("extend", "churn@1", "2099-01-01"),
        ("freeze", "churn"),
        ("freeze", "--all"),
    ],
)
def test_a_dry_run_says_what_it_would_do_and_writes_nothing(
    world: World, cli: Cli, call: tuple[str, ...]
) -> None:
    world.publish()
    world.publish(content="2")
    cli("promote", "churn@1")
    head = world.head()
    ran = cli(*call, "--dry-run")
    assert ran.code == 0, ran.err
    assert "would " in ran.err
    document = cli(*call, "--dry-run", "--json").document
    assert (document["dry_run"], document["seq"], len(document["actions"])) == (True, None, 1)
    assert world.head() == head


def test_a_dry_run_is_refused_as_the_thing_itself(world: World, cli: Cli) -> None:
    world.publish()
    cli("promote", "churn@1")
    assert cli("retire", "churn@1", "--dry-run").code == 4
    assert cli("promote", "churn@3", "--dry-run").code == 1


def test_a_promote_that_lost_the_race_says_so(
    world: World, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer freezes the model between our look and our write."""
    from mldeploy.core.records import Freeze
    from mldeploy.store.file import FileStore

    world.publish()
    create, raced = FileStore.create, []

    def racing(self: FileStore, key: str, data: bytes) -> bool:
        if not raced:
            raced.append(key)
            world.append(Freeze(model="churn", reason="first"))
        return create(self, key, data)

    monkeypatch.setattr(FileStore, "create", racing)
    ran = cli("promote", "churn@1")
    assert (ran.code, "another record came first" in ran.err) == (5, True), ran


def test_where_the_store_comes_from(
    world: World, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish()
    monkeypatch.delenv("MLDEPLOY_STORE")
    folder = tmp_path / "project" / "deep"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    ran = cli("status")
    assert (ran.code, "named by the default" in ran.err) == (1, True)
    (folder.parent / "pyproject.toml").write_text(
        '[tool.mldeploy]\nstore = "../store"\nenvironment = "staging"\n'
    )
    document = cli("freeze", "churn", "--json").document
    assert (document["store"], document["environment"]) == (world.url, "staging")
    (folder / "mldeploy.toml").write_text('stor = "x"\n')
    ran = cli("status")
    assert (ran.code, "unknown key 'stor'" in ran.err, "did you mean 'store'?" in ran.err) == (2, True, True)
    assert cli("--store", str(world.path), "status").code == 2  # a broken file is never passed over
    (folder / "mldeploy.toml").write_text("store = 3\n")
    assert cli("status").code == 2
    (folder / "mldeploy.toml").write_text("store\n")
    assert cli("status").code == 2
    (folder / "mldeploy.toml").write_text('store = "elsewhere"\n')
    assert str(folder / "elsewhere") in cli("status").err
    monkeypatch.setenv("MLDEPLOY_STORE", str(world.path))
    monkeypatch.setenv("MLDEPLOY_ENVIRONMENT", "testing")
    assert cli("freeze", "churn", "--json").document["environment"] == "testing"
    assert cli("freeze", "churn", "--json", "-e", "other").document["environment"] == "other"


def test_retiring_what_a_rollback_goes_back_to_is_said(world: World, cli: Cli) -> None:
    for content in ("1", "2"):
        world.publish(content=content)
        cli("promote", f"churn@{content}")
    for words in (("--dry-run",), ()):
        ran = cli("retire", "churn@1", *words)
        said = "warning: a rollback of churn in production has no version to go back to any more"
        assert (ran.code, said in ran.err) == (0, True)
    assert "no version came before churn@2" in cli("rollback", "churn").err


def test_an_expiry_that_is_moved_forward_is_said(world: World, cli: Cli) -> None:
    world.publish()
    for words in (("--dry-run",), ()):
        ran = cli("extend", "churn@1", "1d", *words)
        assert (ran.code, "warning: churn@1 was to expire on 20" in ran.err) == (0, True)
        assert ": this is sooner" in ran.err
    assert cli("extend", "churn@1", "365d", "--json").document["warnings"] == []


def test_until_when_it_is_frozen_is_kept_and_shown(world: World, cli: Cli) -> None:
    world.publish()

    def reason() -> str:
        (model,) = cli("status", "--json").document["models"]
        return str(model["frozen"])

    ran = cli("freeze", "churn", "--until", "2020-01-01")
    assert (ran.code, "2020-01-01 lies in the past" in ran.err) == (2, True)
    cli("freeze", "churn", "--reason", "release week")
    assert cli("freeze", "churn", "--until", "2099-01-01", "--json").document["already"] is False
    assert reason() == "release week, until 2099-01-01"
    assert "churn in production is frozen: release week, until 2099-01-01" in cli("status").err
    assert "production: frozen: release week, until 2099-01-01" in cli("status", "churn").err
    assert "churn is frozen in production: release week, until 2099-01-01" in cli("promote", "churn@1").err
    assert cli("history", "-n", "1").out.endswith(
        "freeze churn in production: release week, until 2099-01-01\n"
    )
    cli("freeze", "churn", "--until", "2099-02-02")
    assert reason() == "release week, until 2099-02-02"
    for words in ((), ("--until", "2099-02-02"), ("--reason", "release week", "--until", "2099-02-02")):
        assert cli("freeze", "churn", *words, "--json").document["already"]
    cli("freeze", "churn", "--reason", "audit")
    assert reason() == "audit"
    cli("unfreeze", "churn")
    cli("freeze", "churn", "--until", "2099-01-01")
    assert reason() == "until 2099-01-01"


def test_a_dry_run_says_all_that_matters(world: World, cli: Cli) -> None:
    for content in ("1", "2", "3"):
        world.publish(content=content)
    cli("promote", "churn@1")
    cli("promote", "churn@2")
    ran = cli("promote", "churn@3", "--steps", "1,100", "--hold", "5m", "--guard", "p99 < 1s", "--dry-run")
    assert (
        "would promote churn@3 in production to 1% → 100%, hold 5m, guards p99 < 1s, "
        "200 requests at each step, deadline 1d" in ran.err
    )
    ran = cli(
        "promote", "churn@3", "--to", "25", "--guard", "none", "--deadline", "2h", "--hold", "0", "--dry-run"
    )
    assert "to 25%, hold 0s, no guards, 200 requests at each step, deadline 2h" in ran.err
    assert cli("promote", "churn@3", "--now", "--dry-run").err.endswith(
        "would promote churn@3 in production\n"
    )
    assert "would roll back churn in production, to churn@1\n" in cli("rollback", "churn", "--dry-run").err
    done = cli("promote", "churn@3", "--to", "25")
    assert "churn@3 takes 25% of the traffic in production (record" in done.err
    # a rollout under way ends, and stable is as it was
    assert "would roll back churn in production, to churn@2\n" in cli("rollback", "churn", "--dry-run").err
    assert (
        "churn@1 has all traffic in staging" in cli("promote", "churn@1", "--to", "25", "-e", "staging").err
    )


def test_a_timeout_without_a_wait_is_refused(world: World, cli: Cli, tmp_path: Path) -> None:
    world.publish()
    head = world.head()
    for words in (("promote", "churn@1"), ("rollback", "churn"), ("push", tmp_path, "--promote")):
        ran = cli(*words, "--timeout", "5s")
        assert (ran.code, "--timeout is of a wait" in ran.err) == (2, True)
    assert world.head() == head


def test_a_version_where_a_model_is_meant_says_what_to_leave_out(world: World, cli: Cli) -> None:
    world.publish()
    for words in (("pause", "churn@1"), ("freeze", "churn@1"), ("which", "churn@1", "--key", "a")):
        ran = cli(*words)
        assert (ran.code, "hint: leave out @1: churn" in ran.err) == (2, True), ran.err
    ran = cli("rollback", "churn@1")
    assert (ran.code, "hint: leave out @1, or say --to: churn --to 1" in ran.err) == (2, True)


def test_a_promote_says_whose_rollout_it_ends(
    world: World, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in "123":
        world.publish(content=content)
    cli("promote", "churn@1")
    assert "ends the rollout" not in cli("promote", "churn@2", "--to", "25%").err
    assert "ends the rollout" not in cli("promote", "churn@2", "--to", "50%").err
    said = "it ends the rollout of churn@2, which is at 50%"
    head = world.head()
    would = cli("promote", "churn@3", "--steps", "10,100", "--dry-run")
    assert (would.code, f"warning: {said}\n" in would.err, world.head()) == (0, True, head)
    monkeypatch.setattr("mldeploy.client.publishing._judge", lambda *_: None)  # no gate would pass it
    pushed = cli("push", world.bundle(content="4"), "--promote", "--dry-run", "--json").document
    assert pushed["warnings"] == [said]
    assert said in cli("promote", "churn@1", "--dry-run", "--json").document["warnings"]
    assert said in cli("promote", "churn@3", "--steps", "shadow,100", "--json").document["warnings"]
    assert "churn@3, which is as shadow" in cli("promote", "churn@2").err
    assert "ends the rollout" not in cli("promote", "churn@2").err


def test_an_interrupted_wait_says_what_stands_and_goes_on(
    world: World, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object, *args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mldeploy.client.Client.wait", interrupted)
    for content in "12":
        world.publish(content=content)
    first = cli("promote", "churn@1", "--wait")
    assert (first.code, "(record 3)" in first.err) == (130, True)
    assert "run it again" not in first.err
    assert first.err.splitlines()[-2:] == [
        "error: interrupted",
        "hint: record 3 is written, and the hosts go on: `mldeploy wait churn --record 3` follows it",
    ]
    assert "it was so already" in cli("promote", "churn@1", "--wait").err
    cli("promote", "churn@1", "-e", "staging")
    there = cli("promote", "churn@2", "--to", "20", "-e", "staging", "--wait", "--json").document
    assert (there["error"], there["code"]) == ("interrupted", 130)
    assert there["hint"].endswith(
        "`mldeploy wait churn --record 5 --environment staging` follows it, "
        "`mldeploy rollback churn --environment staging` undoes it"
    )
    assert (there["change"]["seq"], there["change"]["version"], there["change"]["steps"]) == (5, 2, [2_000])
    back = cli("rollback", "churn", "-e", "staging", "--wait").err
    assert back.splitlines()[-1].endswith("`mldeploy wait churn --record 6 --environment staging` follows it")


def test_what_was_written_before_an_error_stands_in_its_document(world: World, cli: Cli) -> None:
    world.publish()
    late = ("--wait", "--timeout", "1s", "--json")
    promoted = cli("promote", "churn@1", *late)
    assert (promoted.code, promoted.document["schema"]) == (7, "mldeploy.error/1")
    change = promoted.document["change"]
    assert (change["model"], change["version"], change["seq"], change["already"]) == ("churn", 1, 2, False)
    assert change["steps"] == [10_000]
    pushed = cli("push", world.root / "churn-1", "--promote", *late).document["change"]
    assert (pushed["version"], pushed["seq"], pushed["new"], pushed["already"]) == (1, None, False, True)
    assert "change" not in cli("wait", "churn", *late[1:]).document, "it writes nothing"
    assert "change" not in cli("promote", "churn@7", *late).document, "it wrote nothing"


def test_a_push_of_what_is_so_already_says_so(world: World, cli: Cli) -> None:
    world.publish()
    cli("promote", "churn@1")
    for words in (("--dry-run",), ()):
        ran = cli("push", world.root / "churn-1", "--promote", *words)
        assert (ran.code, ran.out) == (0, "churn@1\n")
        said = "published already, as churn@1 and promoted so in production; nothing written"
        assert ran.err.splitlines()[-1] == said
        assert "published already, as churn@1; nothing" in cli("push", world.root / "churn-1", *words).err


def test_the_end_of_a_freeze_of_every_model_is_not_that_of_each(world: World, cli: Cli) -> None:
    world.publish()
    cli("freeze", "churn")
    cli("freeze", "--all")
    assert "the freeze of every model in production is over (record" in cli("unfreeze", "--all").err
    assert "churn is frozen" in cli("promote", "churn@1").err


def test_an_expiry_that_is_so_already_is_said(world: World, cli: Cli) -> None:
    world.publish()
    done = cli("extend", "churn@1", "2099-01-01", "--json").document
    assert (done["expires"], done["already"]) == ("2099-01-01", False)
    assert "churn@1 expires on 2099-01-01 already" in cli("extend", "churn@1", "2099-01-01").err
