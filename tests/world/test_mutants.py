"""Variants that break one rule each are found."""

from __future__ import annotations

import re

import pytest

from tests.world.mutants import MUTANTS, SOUND, Mutant
from tests.world.rollout_mutants import ROLLOUT_MUTANTS, SLOW, outcome
from tests.world.telling_mutants import SLOW_TO_TELL, TELLING_MUTANTS
from tests.world.world import World

FLEET_MUTANTS = {**ROLLOUT_MUTANTS, **TELLING_MUTANTS}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_found(name: str) -> None:
    mutant = MUTANTS[name]
    for seed in range(1, mutant.seeds + 1):
        error = World(seed, parts=mutant.parts, cast=mutant.cast).run().error
        if error:
            assert re.search(mutant.finds, error), f"seed {seed}: {error}"
            return
    raise AssertionError(f"{mutant.seeds} worlds, and nobody noticed")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.full] * (name in SLOW | SLOW_TO_TELL)) for name in FLEET_MUTANTS],
)
def test_a_broken_rule_of_rollouts_is_found(name: str) -> None:
    mutant = FLEET_MUTANTS[name]
    for seed in range(1, mutant.seeds + 1):
        error = outcome(mutant, seed)
        if error:
            assert re.search(mutant.finds, error), f"seed {seed}: {error}"
            return
    raise AssertionError(f"{mutant.seeds} worlds, and nobody noticed")


@pytest.mark.parametrize("mutant", SOUND, ids=["log", "pushes", "hosts", "rollouts"])
def test_nothing_is_found_where_nothing_is_broken(mutant: Mutant) -> None:
    for seed in range(1, 3):
        assert World(seed, cast=mutant.cast).run().error == ""
