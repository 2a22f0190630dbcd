"""The clients of a world: who asks for what, and what the versions are like that answer.

Every front is asked by the same clients, each of them equally often, so what a share of the keys takes is
known exactly; what becomes of the requests is drawn. A bundle's quality is drawn from the seed and its
digest: most are good, some err, are slow, crash, answer otherwise than the others do, or never come up.
Left out: which version a request goes to (`mldeploy.core.routing`), and who counts it (`machine.py`).
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mldeploy.core.evidence import LAST_BUCKET, bucket
from mldeploy.core.routing import Split
from tests.world.bundles import MODELS

#: The routing keys.
KEYS = tuple(f"client-{number}" for number in range(400))
#: What chance a request has to be lost, as a good version is, and as one that errs.
GOOD, ERRING = 0.002, 0.1
#: Requests between two crashes of one that crashes, on average.
CRASHES = 4_000
#: Seconds that half of the answers take at most, and so many times more by one that is slow.
MEDIAN, SLOW = 0.01, 3.0

_EDGES = tuple(MEDIAN * 1.05**step for step in range(-16, 17))


class Quality(NamedTuple):
    """What a version is like."""

    kind: str  # "good", "erring", "slow", "crashing", "other" or "broken"
    failing: float = GOOD
    slower: float = 1.0
    crashing: float = 0.0  # the chance that a request ends its worker
    agreeing: float = 0.995  # the chance that it answers as others do


KINDS = {
    "good": Quality("good"),
    "erring": Quality("erring", failing=ERRING),
    "slow": Quality("slow", slower=SLOW),
    "crashing": Quality("crashing", crashing=1 / CRASHES),
    "other": Quality("other", agreeing=0.5),
    "broken": Quality("broken"),
}


class Answers(NamedTuple):
    """What became of some requests to one version."""

    count: int
    failures: int
    latency: dict[int, int]  # by bucket
    crashes: int


@functools.lru_cache(4096)
def chosen(salt: str, share: int) -> frozenset[str]:
    """The keys that the production split gives to the candidate."""
    split = Split(salt, share)
    return frozenset(key for key in KEYS if split.takes(key))


@functools.cache
def _latencies(slower: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Buckets, and the chance of each: a hump around the median, with one request in a hundred far off."""
    weights: dict[int, float] = {}
    for step, seconds in enumerate(_EDGES):
        distance = (step - len(_EDGES) // 2) / 6
        index = bucket(seconds * slower)
        weights[index] = weights.get(index, 0.0) + 2.0 ** -(distance * distance)
    total = sum(weights.values())
    far = min(LAST_BUCKET, bucket(MEDIAN * slower * 5))
    chances = {index: 0.99 * weight / total for index, weight in weights.items()} | {far: 0.01}
    return tuple(chances), tuple(chances.values())


@dataclass(frozen=True)
class Clients:
    """Those of one world. `gone`: when (s) the clients of a model stop asking, where they do."""

    seed: int
    asking: int  # requests of each client at each front, each time
    gone: dict[str, float]

    @classmethod
    def drawn(cls, seed: int, storm: float, asking: int) -> Clients:
        """One model in four is given up by its clients at some moment of the storm."""
        rng = random.Random(f"clients {seed}")
        gone = {name: rng.uniform(0, storm) for name in MODELS if rng.random() < 0.25}
        return cls(seed, asking, gone)

    def ask(self, model: str, now: float) -> int:
        """Requests of each client for a model, at one front, at this moment."""
        return self.asking if now < self.gone.get(model, float("inf")) else 0

    def quality(self, digest: str) -> Quality:
        """What the versions with this bundle are like, everywhere in this world."""
        return _quality(self.seed, digest)


@functools.lru_cache(4096)
def _quality(seed: int, digest: str) -> Quality:
    return KINDS[random.Random(f"{seed} {digest}").choice(["good"] * 5 + [*KINDS][1:])]


def answered(quality: Quality, count: int, draw: np.random.Generator) -> Answers:
    """What becomes of so many requests."""
    buckets, chances = _latencies(quality.slower)
    spread = draw.multinomial(count, chances).tolist()
    return Answers(
        count=count,
        failures=int(draw.binomial(count, quality.failing)),
        latency={index: found for index, found in zip(buckets, spread, strict=True) if found},
        crashes=int(draw.binomial(count, quality.crashing)) if quality.crashing else 0,
    )


def agreeing(quality: Quality, count: int, draw: np.random.Generator) -> int:
    """How many of so many copies are answered as the primary answered."""
    return int(draw.binomial(count, quality.agreeing))
