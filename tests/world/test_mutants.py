"""Variants that break one rule each are found, and nothing is in the same worlds without them."""

from __future__ import annotations

import re

import pytest

from tests.world.mutants import MUTANTS, SLOW
from tests.world.variants import outcome, sound

_SLOW = [pytest.mark.full, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=_SLOW if name in SLOW else []) for name in MUTANTS]
)
def test_a_broken_rule_is_found(name: str) -> None:
    mutant = MUTANTS[name]
    for seed in range(1, mutant.seeds + 1):
        error = outcome(mutant, seed)
        if error:
            assert re.search(mutant.finds, error), f"seed {seed}: {error}"
            assert sound(mutant.cast, mutant.weather, mutant.plot, seed) == ""
            return
    raise AssertionError(f"{mutant.seeds} worlds, and nobody noticed")
