"""measures.json: the evidence of a host as its agent keeps it, for the next agent and for /metrics.

Left out: when it is written and what is forgotten (`measures.py`).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mldeploy.core.evidence import Measure, merge

#: Relative to the state folder.
MEASURES = Path("measures.json")


class Heard(msgspec.Struct):
    """The last word of one process; `instance` tells it from its successor."""

    instance: str
    measures: tuple[Measure, ...] = ()


class Kept(msgspec.Struct):
    """The file."""

    past: tuple[Measure, ...] = ()
    heard: dict[str, Heard] = {}  # by "front 0", "mirror"
    ended: dict[str, float] = {}  # "model scope" -> when it left the table, by the host's clock


def read_measures(path: Path) -> tuple[Measure, ...]:
    """What a measures.json says, added up; nothing where it cannot be read."""
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=Kept)
    except (OSError, msgspec.MsgspecError):
        return ()
    return merge((*kept.past, *(measure for each in kept.heard.values() for measure in each.measures)))
