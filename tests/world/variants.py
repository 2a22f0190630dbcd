"""What a variant is that breaks a rule on purpose, and a world of it.

The world has to find every one of them within a bounded number of seeds (`test_mutants.py`): a rule whose
absence nobody notices is not checked. And it has to find nothing in the same world without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from tests.world.faults import Weather
from tests.world.world import Cast, Parts, Plot, World, storm_and_calm

Patch = Callable[[], AbstractContextManager[Any]]


def patched(target: str, with_: Any) -> Patch:
    """One name of the product, for the length of a world."""
    return lambda: mock.patch(target, with_)


@dataclass(frozen=True)
class Mutant:
    """What must be found, the broken code, and the worlds in which to look."""

    finds: str
    parts: Parts = field(default_factory=Parts)
    patches: Sequence[Patch] = ()
    cast: Cast | None = None
    weather: Callable[[], Weather] | None = None  # None: drawn from the seed
    seeds: int = 40
    plot: Plot = storm_and_calm


def outcome(mutant: Mutant, seed: int) -> str:
    """What is found of it in the world of that seed; "" for nothing."""
    weather = mutant.weather() if mutant.weather is not None else None
    with ExitStack() as stack:
        for patch in mutant.patches:
            stack.enter_context(patch())
        return (
            World(seed, parts=mutant.parts, cast=mutant.cast, weather=weather, plot=mutant.plot).run().error
        )


@functools.cache
def sound(cast: Cast | None, weather: Callable[[], Weather] | None, plot: Plot, seed: int) -> str:
    """What is found in the same world of the code as it is."""
    return outcome(Mutant("", cast=cast, weather=weather, plot=plot), seed)
