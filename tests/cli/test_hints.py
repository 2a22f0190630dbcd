"""A command in a hint, run as it stands, acts in the environment that the one before it was about."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from mldeploy.cli.hinted import with_store
from mldeploy.client.hints import daemon
from mldeploy.core.fold import refusal
from mldeploy.core.records import Promote
from mldeploy.store.reports import ModelReport, VersionReport

from .conftest import Ran, World

Cli = Callable[..., Ran]
Monkey = pytest.MonkeyPatch


def commands(ran: Ran) -> list[list[str]]:
    """The commands of the hint, ready to run."""
    hint = ran.err.splitlines()[-1]
    assert hint.startswith("hint: "), ran.err
    return [shlex.split(found)[1:] for found in re.findall(r"`(mldeployd? [^`]*)`", hint)]


@pytest.fixture
def frozen(world: World, cli: Cli) -> World:
    """A model that is frozen in production and in staging."""
    world.publish()
    for environment in ("production", "staging"):
        cli("freeze", "churn", "-e", environment, "--reason", "audit")
    return world


def is_frozen(world: World) -> set[str]:
    world.log.refresh()
    found = world.log.state.environments
    return {name for name, models in found.items() if models["churn"].frozen is not None}


def test_what_unfreezes_staging_leaves_production_frozen(frozen: World, cli: Cli) -> None:
    (hint,) = commands(cli("promote", "churn@1", "-e", "staging"))
    assert cli(*hint).code == 0
    assert is_frozen(frozen) == {"production"}


def test_the_default_environment_is_not_named(frozen: World, cli: Cli) -> None:
    assert commands(cli("promote", "churn@1")) == [["unfreeze", "churn"]]


@pytest.mark.parametrize("by", ["variable", "file"])
def test_production_is_named_where_the_shell_means_another(
    frozen: World, cli: Cli, monkeypatch: Monkey, by: str
) -> None:
    if by == "variable":
        monkeypatch.setenv("MLDEPLOY_ENVIRONMENT", "staging")
    else:
        Path("mldeploy.toml").write_text('environment = "staging"')
    (hint,) = commands(cli("promote", "churn@1", "-e", "production"))
    assert hint == ["unfreeze", "churn", "--environment", "production"]
    assert commands(cli("promote", "churn@1")) == [["unfreeze", "churn"]]
    assert cli(*hint).code == 0
    assert is_frozen(frozen) == {"staging"}


def test_every_hint_that_acts_names_the_environment(world: World, cli: Cli) -> None:
    world.publish()
    world.publish(content="2")
    there = ("--environment", "staging")
    cli("freeze", "--all", *there)
    for call in (("promote", "churn@1"), ("unfreeze", "churn")):
        assert commands(cli(*call, *there)) == [["unfreeze", "--all", *there]], call
    cli("unfreeze", "--all", *there)
    cli("policy", "set", "hold=1m", *there)  # so that there is such an environment
    assert commands(cli("wait", "churn", *there)) == [["promote", "churn@N", *there]]
    assert commands(cli("which", "churn", "--key", "k", *there)) == [["promote", "churn@N", *there]]
    cli("promote", "churn@1", *there)
    late = cli("promote", "churn@2", "--wait", "--timeout", "1s", *there)
    start, again = commands(late)
    assert (late.code, start[-2:], again[-2:], again[:2]) == (7, list(there), list(there), ["wait", "churn"])
    cli("promote", "churn@1", "--steps", "shadow,100", *there)
    assert commands(cli("shadow", "churn@1", "--end", *there)) == [["rollback", "churn", *there]]


def test_a_version_that_fails_in_staging_is_rolled_back_there(world: World, cli: Cli) -> None:
    world.join(environment="staging")
    for content in "12":
        world.publish(content=content)
        cli("promote", f"churn@{content}", "-e", "staging")
    broken = {"churn": ModelReport(serving={2: VersionReport(state="failed", stage="load", reason="x")})}
    world.report(environment="staging", models=broken)
    why, back = commands(cli("wait", "churn", "-e", "staging", "--timeout", "5s"))
    assert why == ["why", "h1.example", "churn", "--environment", "staging"]
    assert back == ["rollback", "churn", "--environment", "staging"]


def test_a_rollback_is_hinted_at_only_where_it_would_do_something(world: World, cli: Cli) -> None:
    def failing(number: int) -> list[list[str]]:
        broken = {number: VersionReport(state="failed", stage="load", reason="x")}
        world.report(models={"churn": ModelReport(serving=broken)})
        ran = cli("wait", "churn", "--timeout", "5s")
        assert ran.code == 6, ran.err
        return commands(ran)

    why, back = ["why", "h1.example", "churn"], ["rollback", "churn"]
    world.join()
    for content in "12":
        world.publish(content=content)
    cli("promote", "churn@1")
    assert failing(1) == [why], "no version came before"
    cli("promote", "churn@2")
    assert failing(2) == [why, back]
    assert cli(*back).code == 0
    assert failing(1) == [why], "a second rollback changes nothing"


def test_a_wait_that_ran_out_names_a_record_only_where_one_was_asked_for(world: World, cli: Cli) -> None:
    world.publish()
    cli("promote", "churn@1")
    promoted = str(world.head())
    world.publish("fraud")
    world.join()
    cli("promote", "fraud@1")
    late = ("--timeout", "1s")
    (again,) = commands(cli("wait", "churn", *late))[-1:]
    assert again == ["wait", "churn"]
    assert cli(*again, *late).code == 7, "it is about churn"
    assert commands(cli("wait", "churn", "--record", promoted, *late))[-1] == [*again, "--record", promoted]
    assert commands(cli("promote", "churn@1", "--wait", *late))[-1] == again, "nothing was written"


def test_the_daemon_that_is_hinted_at_can_start(world: World, cli: Cli) -> None:
    world.publish()
    cli("promote", "churn@1")
    for ran in (cli("wait", "churn", "--timeout", "1s"), cli("predict", "churn")):
        assert ["--store", world.url, "--state", "DIR"] in commands(ran), ran.err
    assert daemon("/a b", "staging") == "`mldeployd --store '/a b' --state DIR --environment staging`"


def test_a_file_that_leaves_a_halted_version_alone_names_its_environment(world: World, cli: Cli) -> None:
    for content in "12":
        world.publish(content=content)
    there = ("-e", "staging")
    cli("promote", "churn@1", *there)
    cli("promote", "churn@2", "--to", "10", *there)
    cli("rollback", "churn", *there)
    file = Path("plan.yaml")
    file.write_text("staging: {churn: 2}")
    assert "`mldeploy promote churn@2 --environment staging` does it" in cli("plan", file).err


def test_the_fold_names_it_too(frozen: World, cli: Cli) -> None:
    """It has the last word, where a freeze came between."""
    cli("freeze", "--all", "-e", "production")
    for environment, said in (
        ("staging", "run `mldeploy unfreeze churn --environment staging` first"),
        ("production", "run `mldeploy unfreeze --all` first"),
    ):
        action = Promote(model="churn", version=1, environment=environment, steps=(10_000,), rollout="r")
        frozen.log.refresh()
        refused = refusal(frozen.log.state, [action])
        assert refused is not None
        assert refused.hint == said


def test_a_store_that_was_given_is_given_again(frozen: World, cli: Cli, monkeypatch: Monkey) -> None:
    monkeypatch.delenv("MLDEPLOY_STORE")
    for given in ("promote", "churn@1", "--store", frozen.url), ("--store", frozen.url, "promote", "churn@1"):
        (hint,) = commands(cli(*given))
        assert hint == ["unfreeze", "churn", "--store", frozen.url]
    assert cli(*hint).code == 0
    assert is_frozen(frozen) == {"staging"}
    told = cli("promote", "churn@1", "-e", "staging", "--store", frozen.url, "--json").document
    assert f"--store {frozen.url}`" in told["hint"]
    assert "--store" not in cli("promote", "--store", frozen.url).err  # `--help` needs none
    empty = frozen.root / "empty"
    cli("init", "--store", empty)
    assert f"`mldeploy push SOURCE --store {empty}`" in cli("status", "--store", empty).err, "a note"


def test_a_store_with_a_blank_is_quoted_and_one_that_is_named_stays() -> None:
    assert with_store("run `mldeploy gc`", "a b") == "run `mldeploy gc --store 'a b'`"
    for said in ("`mldeploy init --help` and `mldeployd --store x`", "`mldeploy gc --store x`", "a `word`"):
        assert with_store(said, r"s3://b/\1") == said
    assert with_store("`mldeploy gc`", "sftp://me:secret@host/x") == "`mldeploy gc`"
    assert with_store("`mldeploy gc`", r"s3://b/\1") == r"`mldeploy gc --store 's3://b/\1'`"
