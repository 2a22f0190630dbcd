"""`wait --record N`: only for a record that is there and says something of the model, here."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from mldeploy.core.records import Advance
from mldeploy.store.log import record_key

from .conftest import Ran, World

Cli = Callable[..., Ran]


@pytest.fixture
def two(world: World, cli: Cli) -> World:
    """churn serves in production and staging, and so does fraud; a host that has read everything."""
    world.publish()  # 1
    world.publish("fraud")  # 2
    cli("promote", "churn@1")  # 3
    cli("promote", "churn@1", "-e", "staging")  # 4
    cli("freeze", "--all", "-e", "staging")  # 5
    cli("policy", "set", "hold=10m")  # 6
    world.join()  # 7
    cli("promote", "fraud@1")  # 8
    world.serve(1)
    return world


@pytest.mark.parametrize(
    ("record", "code", "error", "hint"),
    [
        (99, 1, "there is no record 99", "the last one is record 8; `mldeploy history churn`"),
        (2, 2, "record 2 is about fraud", "`mldeploy wait churn` waits for all"),
        (8, 2, "record 8 is about fraud in production", "`mldeploy wait churn` waits for all"),
        (
            4,
            2,
            "record 4 is about churn in staging",
            "`mldeploy wait churn --record 4 --environment staging`",
        ),
        (5, 2, "record 5 is about every model in staging", "`mldeploy wait churn` waits for all"),
    ],
)
def test_a_record_about_something_else_is_no_success(
    two: World, cli: Cli, record: int, code: int, error: str, hint: str
) -> None:
    began = time.monotonic()
    ran = cli("wait", "churn", "--record", str(record), "--timeout", "30s")
    assert (ran.code, time.monotonic() - began < 10) == (code, True)
    assert f"error: {error}\nhint: {hint}" in ran.err


@pytest.mark.parametrize("record", [1, 3, 6, 7])
def test_its_own_and_those_about_everything_are_waited_for(two: World, cli: Cli, record: int) -> None:
    assert cli("wait", "churn", "--record", str(record), "--timeout", "5s").code == 0


def test_a_step_is_about_the_model_that_is_rolled_out(two: World, cli: Cli) -> None:
    two.publish("fraud", "f2")
    cli("promote", "fraud@2", "--steps", "10,100")
    two.log.refresh()
    ramp = two.log.state.environments["production"]["fraud"].ramp
    assert ramp is not None
    two.append(Advance(rollout=ramp.rollout, step=0))
    ran = cli("wait", "churn", "--record", str(two.head()))
    assert (ran.code, "is about fraud in production" in ran.err) == (2, True)


def test_a_void_record_proves_nothing(two: World, cli: Cli) -> None:
    head = two.head()
    two.store.put(record_key(head + 1), b"no record")
    ran = cli("wait", "churn", "--record", str(head + 1), "--timeout", "5s")
    assert (ran.code, f"record {head + 1} is void: it changed nothing" in ran.err) == (2, True)
