"""ULIDs in lower case: 26 characters that sort by the time they were made.

Rules: within a process each is greater than the one before, whatever its clock does; processes, forked ones
included, share no randomness. Nothing decides by the time inside except the horizon of a sweep, which
compares whole ids.
"""

from __future__ import annotations

import os
import threading
import time


class _Last:
    lock = threading.Lock()
    pid = 0
    value = 0


def new_ulid() -> str:
    """A new id, for example 01k9zq3v5w8x7c2m4n6b8d0f1g."""
    from ulid import ULID  # reads the metadata of installed packages, which takes long

    fresh = int.from_bytes((time.time_ns() // 1_000_000).to_bytes(6) + os.urandom(10))
    with _Last.lock:
        # a child of fork must not count on from its parent's last id: its sister would do the same
        if _Last.pid == os.getpid() and fresh <= _Last.value:
            fresh = _Last.value + 1
        _Last.pid, _Last.value = os.getpid(), fresh
    return str(ULID.from_int(fresh)).lower()
