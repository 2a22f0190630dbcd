"""The agent's clock: what the one on the wall said when the process began, and steady from then on.

The clock on the wall is set now and then, by hours where a machine boots with a wrong one. By it a worker
that has just begun to load would be late, one that drains would be cut off, and what was used a moment ago
would have been used in the future. What fronts say by the clock on the wall is turned into this one's time,
and what reports say back. Left out: what is on the disk, which another run wrote by a clock of its own: who
reads it bounds it (`book.py`).
"""

from __future__ import annotations

import time

_BEGAN = time.time() - time.monotonic()


def now() -> float:
    """Seconds since 1970 that are never set."""
    return _BEGAN + time.monotonic()


def from_wall(moment: float) -> float:
    """A moment of the clock on the wall, as it is set now, by this one; never one to come."""
    return min(moment + (now() - time.time()), now())


def to_wall(moment: float) -> float:
    """A moment of this clock, as the clock on the wall has it now."""
    return moment + (time.time() - now())
