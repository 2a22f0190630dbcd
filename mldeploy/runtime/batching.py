"""When to call the model and with which requests: decisions alone, the clock is passed in.

Rules: everything queued goes into one call, in order, up to `max_rows`. With more requests in flight than
are queued it pays to wait for them: up to a fifth of what a call takes, never with one in flight, and not
where waiting has filled no batch lately. How many are in flight is estimated: those answered last, which
their clients are about to follow with the next, and those that came meanwhile.
Left out: calling, sockets, and requests that cannot share a call (the caller says so by `key`).
"""

from __future__ import annotations

from collections import deque
from typing import Protocol, TypeVar

#: Of the measured time of a call, the part that may be spent waiting for it to grow.
SHARE = 0.2
#: After so many waits in a row that brought nothing, none for REST calls.
MISSES = 8
REST = 64
_WEIGHT = 0.2  # of the newest call in the running mean


class Batchable(Protocol):
    """What the queue holds: a key that says with whom it may share a call, and its rows."""

    @property
    def key(self) -> object: ...

    @property
    def rows(self) -> int: ...


Item = TypeVar("Item", bound=Batchable)


class Batcher:
    """Says how long to wait before the next call. Times in seconds, on any steady clock."""

    def __init__(self, max_rows: int, call_seconds: float = 0.0) -> None:
        self.max_rows = max_rows
        self._call = call_seconds
        self._expected = 0
        self._until: float | None = None
        self._before = 0  # requests queued when the wait began
        self._misses = 0
        self._rest = 0

    def wait(self, now: float, requests: int, rows: int) -> float:
        """Seconds to wait for more than the `requests` queued; 0.0 is: call now."""
        if requests >= self._expected or rows >= self.max_rows or self._rest or self._expected < 2:
            return 0.0
        if self._until is None:
            self._until = now + self._call * SHARE
            self._before = requests
        return max(self._until - now, 0.0)

    def called(self, took: float, answered: int, queued: int, arrived: int | None = None) -> None:
        """A call of `took` seconds answered `answered` requests; `queued` are waiting now.

        `arrived` is how many were queued when the call began, `answered` unless given.
        """
        self._call = took if self._call == 0.0 else self._call + _WEIGHT * (took - self._call)
        self._expected = answered + queued
        if self._rest:
            self._rest -= 1
        elif self._until is not None:
            gained = (answered if arrived is None else arrived) > self._before
            self._misses = 0 if gained else self._misses + 1
            if self._misses >= MISSES:
                self._misses, self._rest = 0, REST
        self._until = None


def take(queue: deque[Item], max_rows: int) -> list[Item]:
    """Remove from `queue` what the next call answers: the first, and what may share its call, in order.

    The first is taken whatever its rows: `max_rows` bounds what is put together, not what a client sent.
    What may not share the call keeps its place.
    """
    if not queue:
        return []
    first = queue.popleft()
    batch, rows = [first], first.rows
    passed: list[Item] = []
    while queue:
        item = queue[0]
        if item.key != first.key:
            passed.append(queue.popleft())
            continue
        if rows + item.rows > max_rows:
            break
        rows += item.rows
        batch.append(queue.popleft())
    queue.extendleft(reversed(passed))
    return batch
