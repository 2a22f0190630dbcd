"""measures.json: the evidence of a host as its agent keeps it, for the next agent and for /metrics.

Left out: when it is written and what is forgotten (`measures.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from mldeploy.core.evidence import Measure, merge

#: Relative to the state folder.
MEASURES = Path("measures.json")
#: Seconds for which a scope is kept after its end.
KEPT = 3600.0


class Heard(msgspec.Struct):
    """The last word of one process; `instance` tells it from its successor."""

    instance: str
    measures: tuple[Measure, ...] = ()


class Kept(msgspec.Struct):
    """The file."""

    past: tuple[Measure, ...] = ()
    heard: dict[str, Heard] = {}  # by "front 0", "mirror"
    ended: dict[str, float] = {}  # "model scope" -> when it left the table, by the host's clock

    def over(self, now: float) -> set[str]:
        """The scopes that are kept no longer. Fronts and mirror tell of them until a new table comes."""
        return {key for key, when in self.ended.items() if now - when > KEPT}


def scope_key(model: str, scope: int) -> str:
    """As `Kept.ended` has it."""
    return f"{model} {scope}"


def without(measures: Iterable[Measure], over: set[str]) -> tuple[Measure, ...]:
    """Those of other scopes."""
    return tuple(measure for measure in measures if scope_key(measure.model, measure.scope) not in over)


def read_measures(path: Path) -> tuple[Measure, ...]:
    """What a measures.json says, added up; nothing where it cannot be read."""
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=Kept)
    except (OSError, msgspec.MsgspecError):
        return ()
    told = (*kept.past, *(measure for each in kept.heard.values() for measure in each.measures))
    return merge(without(told, kept.over(time.time())))
