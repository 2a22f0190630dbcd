"""What goes wrong, and how often: drawn from the seed once for each world, and then for each call.

A world has its own weather: some of the kinds below at rates of its own, some not at all. From the moment
`calm` is set nothing new goes wrong, so that one can demand that all converges. What was sent before and
is still on its way arrives in the calm, too.

To add a fault: a line in READS, WRITES, CREATES or LISTS with what it does, its branch in `store.py` (or,
for something that happens to a process, in `actors.py`), and its name in `tests/world/test_worlds.py`,
which asserts that it happens.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

#: Faults of every call. In each case but "slow" the caller gets an error.
READS = {
    "slow": "the answer takes up to a minute",
    "lost": "the request never arrives",
    "dropped": "it arrives, and the answer is lost",
    "refused": "the connection is refused",
    "throttled": "503: certainly not done",
    "broken": "500: done or not",
}
#: Faults of create, put, upload and delete.
WRITES = READS | {
    "late": "the caller gives up waiting, and the request arrives minutes or hours later",
}
#: Faults of create alone. The caller is told something that is not the truth.
CREATES = WRITES | {
    "conflict": "409: not written, told as taken or as unknown",
    "taken": "written, and told as taken: the driver retried its own success",
}
#: Faults of listings. No error: a listing is never the truth.
LISTS = READS | {
    "empty": "nothing is listed",
    "lagging": "what was there some time ago",
    "partial": "some keys are left out",
}
#: What happens to a process: it dies, stands still, or cannot reach the store for a while.
HAPPENINGS = {
    "crash": "kill -9, and a new start later",
    "stall": "stands still for a while, as a laptop that is closed",
    "partition": "is cut off from the store",
}
KINDS = {"get": READS, "list": LISTS, "create": CREATES, "put": WRITES, "upload": WRITES, "download": READS,
         "delete": WRITES}  # fmt: skip


@dataclass
class Weather:
    """The rates of one world, and what has happened in it."""

    rates: dict[str, float] = field(default_factory=dict)  # by kind: chance for each call
    happenings: dict[str, float] = field(default_factory=dict)  # by kind: chance for each step
    latency: float = 0.02  # seconds one way, on average
    timeout: float = 10.0  # seconds until a caller gives up
    calm: bool = False
    counts: Counter[str] = field(default_factory=Counter)  # "verb fault"
    _choices: dict[str, tuple[list[str], list[float], float]] = field(default_factory=dict)
    _total: float = -1.0

    @classmethod
    def drawn(cls, rng: random.Random, happening: float = 1.0) -> Weather:
        """The weather of a world. Four kinds of fault in five are there, each at its own rate.

        `happening`: so much of what happens to processes does.
        """
        kinds = sorted({kind for kinds in KINDS.values() for kind in kinds})
        severity = rng.choice([0.3, 1.0, 1.0, 3.0])
        rates = {kind: severity * rng.choice([0.002, 0.01, 0.03]) for kind in kinds if rng.random() < 0.8}
        happenings = {
            kind: happening * severity * rng.choice([0.0003, 0.001, 0.003])
            for kind in HAPPENINGS
            if rng.random() < 0.8
        }
        return cls(rates, happenings, rng.choice([0.001, 0.02, 0.2]), rng.choice([2.0, 10.0, 30.0]))

    @classmethod
    def all_of_it(cls) -> Weather:
        """Every fault of every verb, and everything that can happen to a process."""
        kinds = sorted({kind for kinds in KINDS.values() for kind in kinds})
        return cls(dict.fromkeys(kinds, 0.03), dict.fromkeys(HAPPENINGS, 0.0004))

    def draw(self, verb: str, rng: random.Random) -> str:
        """The fault of this call; mostly "" for none."""
        if self.calm:
            return ""
        names, weights, total = self._choices.get(verb) or self._weigh(verb)
        if rng.random() >= total:
            return ""
        fault = rng.choices(names, weights)[0]
        self.counts[f"{verb} {fault}"] += 1
        return fault

    def happens(self, rng: random.Random) -> str:
        """What happens to a process at this step; mostly ""."""
        if self.calm:
            return ""
        chance = rng.random()
        if chance >= self._happening():
            return ""
        for kind, rate in self.happenings.items():
            if chance < rate:
                return kind
            chance -= rate
        return ""

    def _happening(self) -> float:
        """The chance that anything does."""
        if self._total < 0:
            self._total = sum(self.happenings.values())
        return self._total

    def _weigh(self, verb: str) -> tuple[list[str], list[float], float]:
        names = [kind for kind in KINDS[verb] if self.rates.get(kind)]
        # a log is read record by record: at the rates of the other verbs nobody would ever reach its end
        weights = [self.rates[kind] * (0.1 if verb == "get" else 1.0) for kind in names]
        self._choices[verb] = (names, weights, min(1.0, sum(weights)))
        return self._choices[verb]
