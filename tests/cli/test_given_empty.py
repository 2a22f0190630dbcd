"""What is given empty, as by a script whose variable is unset, is refused and never means a default."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mldeploy import Client
from mldeploy.errors import UsageError

from .conftest import Ran, World

Cli = Callable[..., Ran]


def test_no_model_is_not_every_model(world: World, cli: Cli) -> None:
    world.publish()
    cli("freeze", "--all", "--reason", "audit")
    head = world.head()
    for call in (("unfreeze", ""), ("freeze", ""), ("freeze", " "), ("unfreeze", "", "--all")):
        assert cli(*call).code == 2, call
    client = Client(world.url)
    for method in (client.freeze, client.unfreeze):
        with pytest.raises(UsageError):
            method("")
    assert world.head() == head


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (("promote", "churn@1", "-e", ""), "--environment"),
        (("-e", "", "promote", "churn@1"), "--environment"),
        (("promote", "churn@1", "--environment="), "--environment"),
        (("promote", "churn@1", "--store", ""), "--store"),
        (("--store", " ", "status"), "--store"),
        (("policy", "-e", "", "set", "hold=20m"), "--environment"),
        (("policy", "set", "hold=20m", "-e", ""), "--environment"),
        (("policy", "unset", ""), "KEY…"),
        (("init", ""), "DIR"),
        (("pack", ""), "SOURCE"),
        (("push", "", "--promote"), "SOURCE"),
        (("shadow", "churn@1", "--where", ""), "--where"),
        (("history", ""), "MODEL"),
        (("history", "--actor", ""), "--actor"),
        (("status", ""), "MODEL"),
        (("status", "--at", ""), "--at"),
        (("why", "", "churn"), "HOST"),
        (("host", "drain", ""), "HOST"),
        (("plan", ""), "FILE"),
        (("promote", "churn", "--from", ""), "--from"),
        (("promote", "churn@1", "--on", "zone=a", "--on", ""), "--on"),
        (("freeze", "churn", "--until", ""), "--until"),
    ],
)
def test_what_is_given_empty_is_refused(world: World, cli: Cli, call: tuple[str, ...], name: str) -> None:
    world.publish()
    head = world.head()
    ran = cli(*call)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[0] == f"error: {name} is given empty"
    assert world.head() == head
    assert not list(world.root.joinpath("work").iterdir())


def test_no_reason_is_none(world: World, cli: Cli) -> None:
    world.publish()
    assert cli("freeze", "churn", "--reason", "").code == 0


def test_variables_that_are_set_to_nothing_count_as_unset(
    world: World, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish()
    monkeypatch.setenv("MLDEPLOY_ENVIRONMENT", "")
    assert "in production" in cli("promote", "churn@1").err


def test_from_python_and_from_a_file(world: World, cli: Cli) -> None:
    world.publish()
    for make in (lambda: Client("").store, lambda: Client(world.url, environment="").environment):
        with pytest.raises(UsageError):
            make()
    for call in (lambda: Client(world.url).history(""), lambda: Client(world.url).hosts("")):
        with pytest.raises(UsageError):
            call()
    world.root.joinpath("work", "mldeploy.toml").write_text('environment = ""')
    assert cli("promote", "churn@1").code == 2


def test_what_means_nothing_to_a_command_is_refused(world: World, cli: Cli) -> None:
    for call, said in (
        (("push", "nowhere", "-e", "staging"), "--environment goes with --promote"),
        (("serve", "nowhere", "--store", world.url), "--store: this command makes its own"),
        (("serve", "nowhere", "-e", "x", "--store", world.url), "--store and --environment: this command"),
        (("demo", "-e", "staging"), "--environment: this command makes its own"),
    ):
        ran = cli(*call)
        assert (ran.code, said in ran.err) == (2, True), ran.err
