"""One timer for many deadlines.

A timer for each request costs more than the rest of its bookkeeping, and nearly all of them are cancelled.
So there is one, armed for the soonest deadline it was told of; when it rings, all items are looked at.
Items may move their deadlines at will: only an earlier one needs to be told.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar


class Expiring(Protocol):
    """Something with a deadline in monotonic seconds; `math.inf` for none."""

    deadline: float


Item = TypeVar("Item", bound=Expiring)


class Deadlines(Generic[Item]):
    """Calls `expire(item, now)` for each of `items()` whose deadline has passed, at most `slack` s late."""

    def __init__(
        self, items: Callable[[], Iterable[Item]], expire: Callable[[Item, float], None], slack: float
    ) -> None:
        self._items = items
        self._expire = expire
        self._slack = slack
        self._armed = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def at(self, when: float) -> None:
        """Some item's deadline is now `when`."""
        if when < self._armed:
            self._arm(when)

    def close(self) -> None:
        """Never ring again."""
        if self._timer:
            self._timer.cancel()
        self._armed = -math.inf

    def _arm(self, when: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._armed = when
        delay = max(0.0, when - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        now = time.monotonic()
        self._timer, self._armed = None, math.inf
        due = [item for item in self._items() if item.deadline <= now]
        for item in sorted(due, key=lambda item: item.deadline):
            self._expire(item, now)
        soonest = min((item.deadline for item in self._items()), default=math.inf)
        if soonest < math.inf:
            # many deadlines close together are one ring
            self.at(max(soonest, now) + self._slack)
