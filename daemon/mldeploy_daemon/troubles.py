"""What has gone wrong on this host lately, for its report.

Rules: an error is told for as long as it is met again, and for an hour after that; one that is met again
keeps its place, so that some that take turns are no news. Left out: the daemon's own log, which has them all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds for which an error is told after it was met last.
LATELY = 3600.0
#: So many are told, those that were met last; and so many are known.
TOLD, KNOWN = 5, 50


class Troubles:
    """One host's. Any thread may note one."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.monotonic = monotonic
        self._met: dict[str, float] = {}  # when last, in the order in which they came up
        self._lock = threading.Lock()

    def note(self, error: Exception) -> None:
        """It was met now."""
        with self._lock:
            self._forget()
            self._met[str(error)] = self.monotonic()
            if len(self._met) > KNOWN:
                del self._met[min(self._met, key=self._met.__getitem__)]

    def told(self) -> tuple[str, ...]:
        """Those that were met last, in the order in which they came up."""
        with self._lock:
            self._forget()
            lately = set(sorted(self._met, key=self._met.__getitem__)[-TOLD:])
            return tuple(text for text in self._met if text in lately)

    def _forget(self) -> None:
        now = self.monotonic()
        self._met = {text: met for text, met in self._met.items() if now - met < LATELY}
