"""plan and apply: what a file says, in one record, and nothing where it is so already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mldeploy.core.records import Halt

from .conftest import Ran, World

Cli = Callable[..., Ran]


@pytest.fixture
def three(world: World) -> World:
    """churn@1 to churn@3 and fraud@1, none promoted."""
    for content in ("1", "2", "3"):
        world.publish(content=content)
    world.publish("fraud")
    return world


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    """A file of that text."""

    def write(text: str) -> Path:
        path = tmp_path / "fleet.yaml"
        path.write_text(text)
        return path

    return write


def serving(world: World, model: str = "churn", environment: str = "production") -> Any:
    world.log.refresh()
    return world.log.state.environments[environment][model]


def rows(ran: Ran) -> list[list[str]]:
    return [line.split("\t") for line in ran.out.splitlines()]


FIRST = "production:\n  churn: 1\n  fraud: {version: fraud@1}\nstaging:\n  churn: 2\n"


def test_everything_in_one_record_and_again_nothing(
    three: World, cli: Cli, written: Callable[[str], Path]
) -> None:
    file = written(FIRST)
    planned = cli("plan", file, "--exit-code")
    assert (planned.code, three.head()) == (10, 4)
    assert rows(planned) == [
        ["+", "production", "churn", "1"], ["+", "production", "fraud", "1"], ["+", "staging", "churn", "2"],
    ]  # fmt: skip
    assert "3 changes pending: compared with record 4" in planned.err
    dry = cli("apply", file, "--dry-run")
    assert "would promote churn@1 in production" in dry.err
    applied = cli("apply", file)
    assert rows(applied) == rows(planned)
    assert "is applied (record 5)" in applied.err
    assert (serving(three).stable, serving(three, "fraud").stable) == (1, 1)
    assert serving(three, environment="staging").stable == 2
    again = cli("apply", file, "--json").document
    assert (again["schema"], again["already"], again["changes"]) == ("mldeploy.apply/1", True, [])
    after = cli("plan", file, "--exit-code")
    assert (after.code, after.out, three.head()) == (0, "", 5)
    assert "nothing would change" in after.err


def test_a_rollout_with_its_terms_shadows_and_a_freeze(
    three: World, cli: Cli, written: Callable[[str], Path]
) -> None:
    cli("promote", "churn@1")
    file = written(
        "production:\n"
        "  churn:\n"
        "    version: 2\n"
        "    rollout: {steps: [shadow, 1, 10%, 100], hold: 30m, guards: ['agreement > 95%'],\n"
        "              min_requests: 7}\n"
        "    shadows:\n"
        "      - {version: 3, fraction: 20%, where: 'input.x[0] > 1', for: 7d}\n"
        "    frozen: the audit\n"
    )
    document = cli("plan", file, "--json").document
    assert document["schema"] == "mldeploy.plan/1"
    assert [(each["sign"], each["what"]) for each in document["changes"]] == [
        (
            "~",
            "1 → 2 by shadow, 1%, 10%, 100%, hold 30m, guards agreement > 95%, "
            "7 requests at each step, deadline 1d",
        ),
        ("+", "shadow 3 on 20% where input.x[0] > 1"),
        ("+", "freeze: the audit"),
    ]
    head = three.head()
    assert cli("apply", file).code == 0
    now = serving(three)
    assert three.head() == head + 1
    assert (now.ramp.version, now.ramp.steps, now.ramp.hold, now.ramp.min_requests) == (
        2, (0, 100, 1_000, 10_000), 1_800, 7,
    )  # fmt: skip
    assert (now.shadows[0].version, now.shadows[0].lasts, now.frozen) == (3, 604_800, "the audit")
    # on the way it is as the file says
    assert cli("plan", file, "--exit-code").code == 0
    # a file that no longer names the shadow ends it; other terms begin it anew
    written("production: {churn: {shadows: [{version: 3, fraction: 50}], frozen: false}}")
    assert rows(cli("plan", file)) == [
        ["~", "production", "churn", "unfreeze"], ["~", "production", "churn", "shadow 3 on 50%"],
    ]  # fmt: skip
    cli("apply", file)
    written("production: {churn: {shadows: []}}")
    assert rows(cli("apply", file)) == [["-", "production", "churn", "shadow 3"]]
    assert serving(three).shadows == ()


def test_unfreezing_and_promoting_go_together_and_frozen_refuses(
    three: World, cli: Cli, written: Callable[[str], Path]
) -> None:
    cli("promote", "churn@1")
    cli("freeze", "churn", "--reason", "holidays")
    head = three.head()
    file = written("production: {churn: 2}\nstaging: {fraud: 1}")
    for command in ("plan", "apply"):
        ran = cli(command, file)
        assert ran.code == 4
        assert "churn is frozen in production: holidays" in ran.err
    assert three.head() == head  # nothing of it, fraud neither
    written("production: {churn: {version: 2, frozen: false}}")
    assert cli("apply", file).code == 0
    assert (serving(three).stable, serving(three).frozen) == (2, None)


def test_a_halted_version_is_not_begun_again_by_a_file(
    three: World, cli: Cli, written: Callable[[str], Path]
) -> None:
    cli("promote", "churn@1")
    file = written("production: {churn: {version: 2, rollout: {steps: [10, 100]}}}")
    cli("apply", file)
    three.append(Halt(rollout=serving(three).ramp.rollout, reason="p99 doubled"))
    ran = cli("apply", file)
    assert ran.code == 0
    assert "churn@2 was halted in production: p99 doubled; it is not begun again by a file" in ran.err
    assert serving(three).ramp is None
    assert cli("promote", "churn@2", "--steps", "10,100").code == 0
    assert cli("plan", file, "--exit-code").code == 0


def test_a_shadow_that_is_promoted_by_the_file_ends_before_it(
    three: World, cli: Cli, written: Callable[[str], Path]
) -> None:
    cli("promote", "churn@1")
    cli("shadow", "churn@2")
    file = written("production: {churn: {version: 2, shadows: [{version: 3}]}}")
    assert [row[3] for row in rows(cli("apply", file))] == ["shadow 2", "1 → 2", "shadow 3 on 100%"]
    assert (serving(three).stable, serving(three).shadows[0].version) == (2, 3)


def test_naming_the_stable_version_ends_the_rollout_of_another(
    three: World, cli: Cli, written: Callable[[str], Path]
) -> None:
    cli("promote", "churn@1")
    cli("promote", "churn@2", "--to", "10")
    file = written("production: {churn: 1}")
    assert rows(cli("apply", file)) == [["~", "production", "churn", "end the rollout of 2"]]
    assert (serving(three).stable, serving(three).ramp) == (1, None)


def test_prune_takes_out_what_the_file_does_not_name(
    three: World, cli: Cli, written: Callable[[str], Path]
) -> None:
    for call in (("churn@1",), ("churn@2", "--to", "10"), ("fraud@1",), ("fraud@1", "-e", "staging")):
        cli("promote", *call)
    file = written("production: {fraud: 1}")
    assert rows(cli("plan", file)) == []
    ran = cli("plan", file, "--prune")
    assert rows(ran) == [
        ["-", "production", "churn", "rollout of 2"],
        ["-", "production", "churn", "1 is retired, nothing serves"],
    ]
    assert cli("apply", file, "--prune").code == 0
    assert (serving(three).stable, serving(three).ramp) == (None, None)
    assert cli("plan", file, "--prune", "--exit-code").code == 0
    # what another environment needs is not retired from under it
    written("production: {churn: 3}")
    refused = cli("apply", file, "--prune")
    assert refused.code == 4
    assert "fraud@1 takes traffic in staging as well" in refused.err
    assert serving(three).stable is None


def test_prune_says_what_it_ends_where_the_file_does_not_reach(
    three: World, cli: Cli, written: Callable[[str], Path]
) -> None:
    for call in (("churn@1",), ("churn@2", "-e", "staging"), ("fraud@1",)):
        assert cli("promote", *call).code == 0
    assert cli("shadow", "churn@1", "-e", "staging").code == 0
    file = written("production: {fraud: 1}")
    said = ["churn@1 is retired: its shadow in staging ends"]
    assert cli("plan", file, "--prune", "--json").document["warnings"] == said
    assert cli("apply", file, "--prune", "--json").document["warnings"] == said


def test_prune_of_two_environments_retires_once_and_after_all_else(
    three: World, cli: Cli, written: Callable[[str], Path]
) -> None:
    for call in (("churn@1",), ("churn@2",), ("churn@2", "-e", "staging"), ("fraud@1",)):
        assert cli("promote", *call).code == 0
    cli("promote", "churn@3", "--to", "10", "-e", "staging")
    cli("shadow", "churn@1", "-e", "staging")
    assert cli("promote", "fraud@1", "-e", "staging").code == 0
    file = written("production: {fraud: 1}\nstaging: {fraud: 1}")
    head = three.head()
    ran = cli("apply", file, "--prune")
    assert ran.code == 0, ran.err
    assert three.head() == head + 1
    for environment in ("production", "staging"):
        now = serving(three, environment=environment)
        assert (now.stable, now.ramp, now.shadows) == (None, None, ())
    assert three.log.state.models["churn"].versions[2].retired
    assert not three.log.state.models["churn"].versions[1].retired
    assert cli("plan", file, "--prune", "--exit-code").code == 0


@pytest.mark.parametrize(
    ("text", "code", "error", "hint"),
    [
        ("", 2, "names no environment", "production: {churn: 7}"),
        ("production: 7", 2, "production: names no models", "production: {churn: 7}"),
        ("production: {churn: {verison: 2}}", 2, "production.churn.verison: unknown key", "'version'"),
        ("production: {churn: {version: 1, rollout: {step: [1]}}}", 2, "rollout.step: unknown", "'steps'"),
        ("production: {churn: {shadows: [{versoin: 1}]}}", 2, "shadows[0].versoin: unknown key", "'version'"),
        ("production: {churn: {version: 1.5}}", 2, "production.churn.version", "docs/rollouts.md"),
        ("production: {churn: 3.0}", 2, "fleet.yaml: production.churn: 3.0 is no version", "churn: 7"),
        ("production: {churn: }", 2, "production.churn: nothing is no version", "churn: 7"),
        ("production: {churn: latest}", 2, "production.churn.version: 'latest' is no version", "churn: 7"),
        ("production: {Churn: 1}", 2, "production: 'Churn' is not a valid model name", "a-z"),
        ("production: {churn: {version: 1, rollout: {guards: 'p99 < 1x'}}}", 2,
         "rollout.guards: expected a list, got a text", "write it as a list"),
        ("production: {churn: {version: 1, rollout: {steps: [1, 100], guards: ['p99 <']}}}", 2,
         "production.churn.rollout.guards: not a number, at character 6", "p99 < 80ms"),
        ("production: {churn: {version: 1, rollout: {min_requests: -1}}}", 2,
         "production.churn.rollout.min_requests: -1 is out of range", "requests"),
        ("production: {churn: {version: 1, rollout: {hold: 10}}}", 2,
         "rollout.hold: 10 is not a duration", "10s or 10m"),
        ("production: {churn: {shadows: [{version: 2, for: 7}]}}", 2,
         "shadows[0].for: 7 is not a duration", "7s or 7m"),
        ("production: [", 2, "not YAML: line 1", "hint: mend the line\n"),
        ("production: {churn: {version: fraud@1}}", 2, "a version of another model", "churn@1"),
        ("production: {churn: {rollout: {steps: [1]}}}", 2, "rollout: of no version", "version: 7"),
        ("production: {churn: {version: 1, rollout: {steps: [50, 1]}}}", 2, "steps do not grow", "larger"),
        ("production: {churn: {shadows: [{version: 2, where: 'a'}]}}", 2, "shadows[0]: expected", "write"),
        ("production: {churn: 1, churn: 2}", 2, "stands twice", ""),
        ("Prod: {churn: 1}", 2, "not a valid environment name", "a-z"),
        ("production: {chrun: 1}", 1, "no model 'chrun'", "did you mean 'churn'?"),
        ("production: {churn: 9}", 1, "there is no churn@9", "churn@3"),
    ],
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_refused(
    three: World, cli: Cli, written: Callable[[str], Path], text: str, code: int, error: str, hint: str
) -> None:
    head = three.head()
    ran = cli("apply", written(text))
    assert ran.code == code, ran.err
    assert error in ran.err
    assert hint in ran.err
    assert three.head() == head


def test_a_file_that_is_not_there(three: World, cli: Cli) -> None:
    ran = cli("plan", "nowhere.yaml")
    assert (ran.code, "there is no nowhere.yaml" in ran.err) == (1, True), "as a folder that is not there"


def test_a_file_from_standard_input(three: World, process: Cli) -> None:
    ran = process("plan", "-", "--exit-code", stdin=FIRST)
    assert (ran.code, len(rows(ran))) == (10, 3)
    assert three.head() == 4
    ran = process("apply", "-", stdin=FIRST)
    assert (ran.code, three.head()) == (0, 5)
    assert "standard input is applied" in ran.err
    assert "everything is as standard input says already" in process("apply", "-", stdin=FIRST).err
    ran = process("plan", "-", stdin="production: [")
    assert (ran.code, "error: standard input: not YAML: line 1" in ran.err) == (2, True)


def test_an_environment_without_models_is_pruned_of_all_of_them(
    three: World, cli: Cli, written: Callable[[str], Path]
) -> None:
    assert cli("promote", "churn@1").code == 0
    for version, share in (("churn@2", "100"), ("churn@3", "10")):
        assert cli("promote", version, "--to", share, "-e", "staging").code == 0
    file = written("production: {churn: 1}\nstaging: {}")
    assert cli("plan", file, "--exit-code").code == 0
    found = cli("plan", file, "--prune", "--json").document
    assert [(each["environment"], each["sign"], each["what"]) for each in found["changes"]] == [
        ("staging", "-", "rollout of 3"),
        ("staging", "-", "2 is retired, nothing serves"),
    ]
    assert cli("apply", file, "--prune").code == 0
    assert serving(three, environment="staging").stable is None
    assert serving(three).stable == 1
    mistyped = cli("plan", written("prodution: {}"), "--prune")
    assert (mistyped.code, "did you mean production?" in mistyped.err) == (0, True)
