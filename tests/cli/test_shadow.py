"""`mldeploy shadow`: what it writes, what it refuses with a caret; doing it again changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mldeploy.client import Client
from mldeploy.core.state import Shadowing
from mldeploy.errors import NotAllowedError, UsageError
from mldeploy.store.blobs import blob_key

from .conftest import Ran, World

Cli = Callable[..., Ran]


@pytest.fixture
def shadowed(world: World, cli: Cli) -> World:
    """churn@1 is stable, churn@2 is pushed."""
    world.publish()
    world.publish(content="2")
    assert cli("promote", "churn@1").code == 0
    return world


def shadows(world: World) -> tuple[Shadowing, ...]:
    world.log.refresh()
    return world.log.state.environments["production"]["churn"].shadows


def test_a_shadow_begins_on_its_terms_and_again_changes_nothing(shadowed: World, cli: Cli) -> None:
    words = ("shadow", "churn@2", "--fraction", "20%", "--where", "header.country in [NL, BE]", "--for", "7d",
             "--keep", "50")  # fmt: skip
    dry = cli(*words, "--dry-run")
    assert "would shadow churn@2 in production on 20% where header.country in [NL, BE]" in dry.err
    assert shadows(shadowed) == ()
    ran = cli(*words)
    assert ran.code == 0
    assert "copy of 20% of the requests where header.country in [NL, BE], for 7d (record 4)" in ran.err
    (found,) = shadows(shadowed)
    assert (found.version, found.fraction, found.where, found.lasts, found.keep) == (
        2, 2_000, "header.country in [NL, BE]", 604_800, 50,
    )  # fmt: skip
    again = cli(*words, "--json").document
    assert (again["schema"], again["already"], again["seq"]) == ("mldeploy.shadow/1", True, None)
    assert (again["shadow"], again["fraction"], again["lasts"]) == (found.shadow, 2_000, 604_800)
    assert shadows(shadowed) == (found,)


def test_other_terms_begin_it_anew_in_one_record(shadowed: World, cli: Cli) -> None:
    cli("shadow", "churn@2", "--fraction", "20")
    (before,) = shadows(shadowed)
    head = shadowed.head()
    assert cli("shadow", "churn@2", "--fraction", "50%").code == 0
    (after,) = shadows(shadowed)
    assert (after.fraction, shadowed.head()) == (5_000, head + 1)
    assert after.shadow != before.shadow
    assert after.seq > before.seq


def test_it_ends_and_ending_it_again_is_no_error(shadowed: World, cli: Cli) -> None:
    cli("shadow", "churn@2")
    ran = cli("shadow", "churn@2", "--end", "--reason", "seen enough")
    assert (ran.code, shadows(shadowed)) == (0, ())
    assert "the shadow churn@2 is over in production" in ran.err
    assert "seen enough" in cli("history").out
    again = cli("shadow", "churn@2", "--end", "--json").document
    assert (again["already"], again["shadow"]) == (True, None)


@pytest.mark.parametrize(
    ("where", "message", "place"),
    [
        ("header.country im [NL]", "expected a comparison", "im [NL]"),
        ("input.X[0] > 1", "the model has no input 'X'", "X[0]"),
        ("input.x > 1", "input 'x' has more than one value", "> 1"),
    ],
)
def test_a_bad_criterion_is_pointed_to(
    shadowed: World, cli: Cli, where: str, message: str, place: str
) -> None:
    head = shadowed.head()
    ran = cli("shadow", "churn@2", "--where", where)
    assert ran.code == 2
    error, shown, caret, hint = ran.err.splitlines()
    assert error.startswith(f"error: {message}")
    assert shown.strip() == where
    assert shown[caret.index("^") :].startswith(place)
    assert hint.startswith("hint: ")
    assert shadowed.head() == head


def test_names_are_not_held_against_a_manifest_that_is_gone(shadowed: World, cli: Cli) -> None:
    shadowed.log.refresh()
    version = shadowed.log.state.models["churn"].versions[2]
    shadowed.store.delete(blob_key(version.digest, version.push))
    assert cli("shadow", "churn@2", "--where", "input.amount > 1").code == 0


@pytest.mark.parametrize(
    ("call", "code", "error"),
    [
        (("shadow", "churn@1"), 4, "churn@1 takes traffic in production"),
        (("shadow", "churn@9"), 1, "there is no churn@9"),
        (("shadow", "churn@2", "-e", "staging"), 4, "churn has no stable version in staging"),
        (("shadow", "churn@2", "--fraction", "0"), 2, "a shadow of 0 % copies nothing"),
        (("shadow", "churn@2", "--fraction", "200"), 2, "not a percentage"),
        (("shadow", "churn@2", "--for", "soon"), 2, "'soon' is not a duration"),
        (("shadow", "churn@2", "--end", "--keep", "4"), 2, "--end takes no terms"),
        (("shadow", "churn@2", "--reason", "why"), 2, "--reason goes with --end"),
        (("shadow", "churn@9", "--end"), 1, "there is no churn@9"),
    ],
)
def test_what_cannot_be_shadowed_is_told(
    shadowed: World, cli: Cli, call: tuple[str, ...], code: int, error: str
) -> None:
    head = shadowed.head()
    ran = cli(*call)
    assert (ran.code, ran.out) == (code, "")
    assert error in ran.err.splitlines()[0]
    assert shadowed.head() == head


def test_a_retired_or_expired_version_is_no_shadow(shadowed: World, cli: Cli) -> None:
    cli("retire", "churn@2")
    assert "`mldeploy restore churn@2`" in cli("shadow", "churn@2").err
    shadowed.publish(content="3", expires="1d")
    later = Client(shadowed.url, now=lambda: datetime.now(UTC) + timedelta(days=3))
    with pytest.raises(NotAllowedError, match="churn@3 expired on"):
        later.shadow("churn@3")


def test_the_shadow_step_of_a_rollout_is_ended_with_it(shadowed: World, cli: Cli) -> None:
    cli("promote", "churn@2", "--steps", "shadow,10,100")
    ran = cli("shadow", "churn@2", "--end")
    assert ran.code == 4
    assert "`mldeploy rollback churn`" in ran.err


def test_from_python(shadowed: World) -> None:
    client = Client(shadowed.url)
    begun: Any = client.shadow("churn@2", fraction=12.5, lasts="1h")
    assert (begun.fraction, begun.lasts, begun.already) == (1_250, 3_600, False)
    assert client.unshadow("churn@2").shadow is None
    with pytest.raises(UsageError, match="less than nothing"):
        client.shadow("churn@2", keep=-1)
