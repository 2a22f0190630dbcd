"""--environment where several are told of: it chooses one, and one that there is not is said so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mldeploy.client import Client

from .conftest import Ran, World

Cli = Callable[..., Ran]


@pytest.fixture
def two(world: World, cli: Cli) -> World:
    """churn is promoted in production and staging, fraud in staging; a host called the same in each."""
    world.publish()
    world.publish("fraud")
    cli("promote", "churn@1")
    cli("promote", "churn@1", "-e", "staging")
    cli("promote", "fraud@1", "-e", "staging")
    cli("freeze", "--all", "-e", "staging")
    for host, environment in (("aa1", "production"), ("bb2", "staging")):
        world.join(host, environment)
        world.report(host, environment=environment, hostname="vm")
    return world


def test_status_of_one_environment(two: World, cli: Cli) -> None:
    everything = cli("status", "--json").document
    assert (len(everything["models"]), len(everything["hosts"])) == (3, 2)
    found = cli("status", "-e", "production", "--json").document
    assert [(model["model"], model["environment"]) for model in found["models"]] == [("churn", "production")]
    assert ([host["host"] for host in found["hosts"]], found["frozen"]) == (["aa1"], {})
    assert [host["host"] for host in cli("status", "-e", "staging", "--json").document["hosts"]] == ["bb2"]
    assert "staging" not in cli("status", "-e", "production").out
    detail = cli("status", "churn", "-e", "staging", "--json").document
    assert [each["environment"] for each in detail["environments"]] == ["staging"]
    past = cli("status", "-e", "staging", "--at", datetime.now(UTC).isoformat(), "--json")
    assert {model["environment"] for model in past.document["models"]} == {"staging"}
    two.join("cc3", "empty")
    assert "no model was promoted in empty" in cli("status", "-e", "empty").err
    expiring = cli("status", "--expiring", "30d", "-e", "staging")
    assert (expiring.code, "--expiring is about every model everywhere" in expiring.err) == (2, True)


def test_what_the_shell_names_hides_nothing(two: World, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLDEPLOY_ENVIRONMENT", "staging")
    assert len(cli("status", "--json").document["models"]) == 3


def test_a_host_of_one_environment(two: World, cli: Cli) -> None:
    several = cli("why", "vm")
    assert (several.code, "2 hosts are called 'vm'" in several.err) == (1, True)
    assert "give its --environment" in several.err
    assert cli("why", "vm", "churn", "-e", "staging", "--json").document["host"]["host"] == "bb2"
    assert cli("host", "drain", "vm").code == 1
    assert cli("host", "drain", "vm", "-e", "production").code == 0
    two.log.refresh()
    assert set(two.log.state.drained) == {"aa1"}
    assert cli("host", "drain", "aa1", "-e", "staging", "--undo").code == 1
    assert cli("host", "drain", "vm", "-e", "production", "--undo").code == 0
    two.log.refresh()
    assert not two.log.state.drained
    assert cli("host", "forget", "aa1", "-e", "staging").code == 1


@pytest.mark.parametrize(
    "call",
    [
        ("status",),
        ("status", "churn"),
        ("why", "vm"),
        ("host", "drain", "vm"),
        ("host", "list"),
        ("policy", "show"),
        ("which", "churn", "--key", "k"),
        ("report", "churn@1"),
        ("predict", "churn"),
        ("pause", "churn"),
        ("resume", "churn"),
        ("wait", "churn"),
    ],
)
def test_an_environment_that_there_is_not(two: World, cli: Cli, call: tuple[str, ...]) -> None:
    ran = cli(*call, "-e", "prodution")
    assert ran.code == 1
    assert "there is no environment 'prodution' in this store" in ran.err
    assert "did you mean 'production'?" in ran.err
    assert "environments here: production, staging" in cli(*call, "-e", "x").err


def test_production_is_always_there(world: World, cli: Cli) -> None:
    world.publish()
    assert cli("status", "-e", "production").code == 0


@pytest.mark.parametrize("by", ["MLDEPLOY_ENVIRONMENT", "mldeploy.toml"])
def test_a_policy_is_for_all_or_for_one_and_never_by_guess(
    world: World, cli: Cli, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    if by == "mldeploy.toml":
        Path(by).write_text('environment = "staging"')
    else:
        monkeypatch.setenv(by, "staging")
    head = world.head()
    for call in (("set", "hold=20m"), ("unset", "hold")):
        ran = cli("policy", *call)
        assert (ran.code, world.head()) == (2, head)
        assert "for every environment, or for staging alone" in ran.err
        assert by in ran.err
        assert "hint: say --all, or --environment staging" in ran.err
    assert cli("policy", "set", "hold=20m", "--all", "-e", "staging").code == 2
    assert cli("policy", "set", "hold=20m", "--all").code == 0
    assert cli("policy", "set", "hold=5m", "-e", "staging").code == 0
    world.log.refresh()
    assert {name: dict(said) for name, said in world.log.state.policy.items()} == {
        "": {"hold": 1200}, "staging": {"hold": 300},
    }  # fmt: skip
    Client(world.url).unset_policy(["hold"])


def test_a_policy_is_for_all_where_nothing_names_one(world: World, cli: Cli) -> None:
    assert "for every environment" in cli("policy", "set", "hold=20m").err


NEW = "no host, model or setting is in {} yet"


@pytest.mark.parametrize(
    "call",
    [
        ("promote", "churn@1"),
        ("freeze", "churn"),
        ("freeze", "--all"),
        ("unfreeze", "churn"),
        ("policy", "set", "hold=20m"),
    ],
)
def test_what_names_a_new_environment_is_warned_of(two: World, cli: Cli, call: tuple[str, ...]) -> None:
    would = cli(*call, "-e", "prodution", "--dry-run", "--json")
    assert would.document["warnings"][0] == f"{NEW.format('prodution')}: did you mean production?"
    ran = cli(*call, "-e", "prodution")
    assert (ran.code, f"warning: {NEW.format('prodution')}: did you mean production?" in ran.err) == (0, True)
    for there in ("production", "staging", "prodution"):
        said = cli(*call, "-e", there, "--json").document.get("warnings", ())
        assert not any("setting is in" in warning for warning in said) or call[0] == "unfreeze", there


def test_one_that_is_like_none_is_warned_of_too(two: World, cli: Cli) -> None:
    assert f"warning: {NEW.format('nowhere')}\n" in cli("freeze", "churn", "-e", "nowhere").err


def test_the_first_promote_of_a_store_is_not_warned_of(world: World, cli: Cli) -> None:
    world.publish()
    assert "setting is in" not in cli("promote", "churn@1").err
    assert "did you mean production?" in cli("promote", "churn@1", "-e", "producton").err


def test_a_file_that_names_a_new_environment_is_warned_of(two: World, cli: Cli) -> None:
    file = Path("plan.yaml")
    file.write_text("production: {churn: 1}\nproduktion: {churn: 1}\nnew: {churn: 1, fraud: 1}")
    said = [f"{NEW.format('produktion')}: did you mean production?", NEW.format("new")]
    assert cli("plan", file, "--json").document["warnings"] == said
    assert cli("apply", file, "--json", "--dry-run").document["warnings"] == said
    assert cli("apply", file, "--json").document["warnings"] == said
    assert cli("plan", file, "--json").document["warnings"] == []


def test_a_mistyped_freeze_leaves_nothing_once_it_is_undone(two: World, cli: Cli) -> None:
    cli("freeze", "fraud", "-e", "nowhere")
    assert "nowhere" in cli("status").out
    cli("unfreeze", "fraud", "-e", "nowhere")
    assert "nowhere" not in cli("status").out
    assert "nowhere" not in cli("status", "fraud").out
    assert cli("status", "-e", "nowhere").code == 1


def test_the_history_of_one_environment(world: World, cli: Cli) -> None:
    def told(*call: str) -> list[int]:
        return [event["seq"] for event in cli("history", *call, "--json").document["events"]]

    for content in "12":
        world.publish(content=content)  # 1, 2
    world.publish("fraud")  # 3
    cli("promote", "churn@1")  # 4
    cli("promote", "churn@1", "-e", "staging")  # 5
    cli("promote", "churn@2", "--to", "10", "-e", "staging")  # 6
    cli("promote", "churn@2", "--to", "10")  # 7
    cli("pause", "churn", "-e", "staging")  # 8
    cli("pause", "churn")  # 9
    cli("freeze", "--all", "-e", "staging")  # 10
    world.join("aa1", "staging")  # 11
    cli("policy", "set", "hold=20m")  # 12
    cli("rollback", "churn", "-e", "staging")  # 13
    cli("promote", "fraud@1")  # 14
    assert told() == list(range(14, 0, -1))
    assert told("-e", "staging") == [13, 12, 11, 10, 8, 6, 5, 3, 2, 1]
    assert told("-e", "production") == [14, 12, 9, 7, 4, 3, 2, 1]
    assert told("churn", "-e", "staging") == [13, 10, 8, 6, 5, 2, 1]
    assert told("churn", "-e", "production") == [9, 7, 4, 2, 1]
    assert told("fraud", "-e", "staging") == [10, 3]
    # a rollout that the state has forgotten is known by its promote
    for _ in range(40):
        cli("promote", "churn@2", "--to", "10", "-e", "production")
        cli("rollback", "churn")
    head = world.head()
    assert told("-e", "staging", "--limit", "99") == [13, 12, 11, 10, 8, 6, 5, 3, 2, 1]
    assert 9 in told("-e", "production", "--limit", str(head))
    assert cli("history", "-e", "prodution").code == 1


@pytest.mark.parametrize("words", ["retire churn@1 --force", "restore churn@1", "extend churn@1 90d", "gc"])
def test_what_is_done_in_every_environment_is_not_done_where_one_is_named(
    two: World, cli: Cli, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    head = two.head()
    refused = cli(*words.split(), "-e", "staging")
    assert (refused.code, "in every environment of the store" in refused.err) == (2, True)
    assert two.head() == head
    monkeypatch.setenv("MLDEPLOY_ENVIRONMENT", "staging")  # of a shell, for all it does
    first, *rest = words.split()
    if first == "restore":
        cli("retire", "churn@1", "--force")
    assert cli(first, *rest).code == 0
