"""The tables of the configuration file: which keys they have, and of which kind.

Standard library only, like the keeper that reads them; so the keys are said here once more than where they
are used (`front/config.py`, `core/pausing.py`), and a test holds the two together.
Left out: what the keys mean, and their defaults.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

_BOUND = 1e18
#: Table -> key -> the kind of its value.
TABLES: dict[str, dict[str, type]] = {
    "limits": {
        **dict.fromkeys(
            (
                "connections", "header_bytes", "header_count", "body_bytes", "body_rate", "pipeline",
                "buffered_bytes", "worker_inflight", "waiting", "worker_buffer", "key_bytes", "mirror_buffer",
                "mirror_body",
            ),
            int,
        ),
        **dict.fromkeys(
            (
                "header_seconds", "body_seconds", "idle_seconds", "write_seconds", "linger_seconds",
                "request_seconds", "mirror_samples", "stop_seconds", "stats_seconds",
            ),
            float,
        ),
    },
    "pause": {"pressure": float, "queue": float, "latency": float},
}  # fmt: skip


def unknown(name: str, known: list[str]) -> str:
    """What to say of a name that is none of these."""
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}?" if near else f"the names are {', '.join(sorted(known))}"


def table_problem(table: str, values: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is wrong with a table of the file, as (message, hint); None if nothing."""
    if table == "labels":
        wrong = [key for key, value in values.items() if not isinstance(value, str) or not value]
        return (f"labels: {wrong[0]} is not a text", 'write for example zone = "a"') if wrong else None
    kinds = TABLES.get(table, {})
    for key, value in values.items():
        kind = kinds.get(key)
        if kind is None:
            return f"{table}: unknown key {key!r}", unknown(key, list(kinds))
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (kind is int and not isinstance(value, int)) or not 0 <= value < _BOUND:
            what = "whole number" if kind is int else "number"
            return f"{table}: {key} is not a {what} from 0 up", f"it is {value!r}"
    return None
