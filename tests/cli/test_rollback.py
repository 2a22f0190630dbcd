"""`rollback` while hosts and others write: the version it was meant for loses its traffic, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mldeploy.client import Client
from mldeploy.client.connection import Connection
from mldeploy.core.records import Action, Halt, Promote, Shadow
from mldeploy.core.state import State
from mldeploy.errors import RaceLostError
from mldeploy.store.ids import new_ulid

from .conftest import Ran, World

Cli = Callable[..., Ran]
Racing = Callable[..., Client]


def serving(world: World) -> Any:
    world.log.refresh()
    return world.log.state.environments["production"]["churn"]


@pytest.fixture
def three(world: World, cli: Cli) -> World:
    """churn@1 is previous, churn@2 stable, churn@3 the candidate."""
    for content in "123":
        world.publish(content=content)
    cli("promote", "churn@1")
    cli("promote", "churn@2")
    cli("promote", "churn@3", "--steps", "50,100")
    return world


@pytest.fixture
def racing(three: World, monkeypatch: pytest.MonkeyPatch) -> Racing:
    """A client to whose first change another record comes first."""

    def client(*first: Action) -> Client:
        left, change = [*first], Connection.change

        def raced(self: Connection, intent: Any, *, dry_run: bool) -> Any:
            def late(state: State) -> Any:
                actions = intent(state)
                if left:
                    three.append(*left)
                    left.clear()
                return actions

            return change(self, late, dry_run=dry_run)

        monkeypatch.setattr(Connection, "change", raced)
        return Client(three.url)

    return client


def ramp(world: World) -> str:
    return str(serving(world).ramp.rollout)


def test_a_halt_that_comes_first_leaves_nothing_to_do(three: World, racing: Racing) -> None:
    change = racing(Halt(rollout=ramp(three), reason="error_rate < 1.5x")).rollback("churn")
    assert (change.already, change.version) == (True, 2)
    assert (serving(three).stable, serving(three).previous, serving(three).ramp) == (2, 1, None)


def test_with_a_freeze_the_freeze_is_left(three: World, racing: Racing) -> None:
    racing(Halt(rollout=ramp(three), reason="p99")).rollback("churn", freeze=True)
    assert (serving(three).stable, serving(three).frozen) == (2, "rolled back")


def test_one_that_became_stable_first_is_taken_back(three: World, racing: Racing) -> None:
    racing(Promote(model="churn", version=3, rollout=new_ulid())).rollback("churn")
    assert (serving(three).stable, serving(three).ramp) == (2, None)


def test_the_rollout_of_another_version_that_came_first_goes_on(three: World, racing: Racing) -> None:
    other = Promote(model="churn", version=1, steps=(5_000, 10_000), rollout=new_ulid())
    assert racing(other).rollback("churn").already
    assert (serving(three).stable, serving(three).ramp.version) == (2, 1)


def test_stable_that_was_replaced_first_does_not_come_back(three: World, racing: Racing) -> None:
    three.append(Halt(rollout=ramp(three), reason=""), Promote(model="churn", version=1, rollout=new_ulid()))
    assert racing(Promote(model="churn", version=3, rollout=new_ulid())).rollback("churn").already
    assert (serving(three).stable, serving(three).previous) == (3, 1)


def test_a_rollout_that_began_meanwhile_is_not_ended_in_stables_place(three: World, racing: Racing) -> None:
    three.append(Halt(rollout=ramp(three), reason=""), Promote(model="churn", version=1, rollout=new_ulid()))
    begun = Promote(model="churn", version=3, steps=(100, 10_000), rollout=new_ulid())
    with pytest.raises(RaceLostError, match="a rollout of churn@3 has begun"):
        racing(begun).rollback("churn")
    assert (serving(three).stable, serving(three).ramp.version) == (1, 3)


def test_after_a_halt_stable_is_rolled_back_by_name_alone(three: World, cli: Cli) -> None:
    three.append(Halt(rollout=ramp(three), reason="p99"))
    ran = cli("rollback", "churn")
    assert ran.code == 4
    assert "the rollout of churn@3 in production was halted: churn@2 has its traffic" in ran.err
    assert "`mldeploy rollback churn --to 1`" in ran.err
    # a copy of its traffic, or a freeze, does not make it older
    three.append(Shadow(model="churn", version=1, shadow=new_ulid()))
    cli("freeze", "churn")
    assert cli("rollback", "churn").code == 4 and serving(three).stable == 2
    assert cli("rollback", "churn", "--to", "1").code == 0 and serving(three).stable == 1


def test_a_promote_after_the_halt_is_what_is_rolled_back(three: World, cli: Cli) -> None:
    three.append(Halt(rollout=ramp(three), reason="p99"))
    cli("promote", "churn@3")
    assert cli("rollback", "churn").code == 0 and serving(three).stable == 2
