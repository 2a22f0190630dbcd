"""How many requests of a transfer run at once: as many as pay, and fewer when the store asks for fewer.

Rules: the number grows while what is done in a second grows with it, goes back where a growth brought
nothing, and is halved, at most once a window, when the store throttles or does not answer in time; what was
sent before the last halving says nothing of the pace since. After that it stays for a while before it tries
to grow again. `Pace` is a value and decides; `Gate` lets threads through by it, and holds the bytes that are
in memory for requests below a budget.
Left out: what a request is, and trying one again (`store/retry.py`).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

#: Requests at once: where it begins, and between which bounds it moves. It begins with many: most transfers
#: are over before it would have grown, and a store that cannot keep up says so.
START, LEAST, MOST = 32, 1, 64
#: Seconds that are measured before the number changes.
WINDOW = 0.5
#: Windows after a throttling in which it does not grow.
CALM = 20
#: What a request counts beside its bytes, so that many small objects are measured by their number.
REQUEST = 256 << 10
#: By how much the rate must have risen: less is noise.
BETTER = 1.05
#: Seconds without a request after which a window that was begun says nothing.
IDLE = 5.0
#: Windows after which one that stands still tries to grow again.
RETRY = 20


@dataclass(frozen=True, slots=True)
class Pace:
    """`limit` requests at once now; the rest is what was seen. Times in seconds, rates in bytes a second."""

    limit: int = START
    began: float = -IDLE  # of the present window
    work: float = 0.0  # done in it
    requests: int = 0  # that ended in it
    rate: float = 0.0  # of the window before the last change, 0: none yet
    grew: int = 0  # by so many at the end of the last window
    still: int = 0  # windows to stand still, whatever is measured
    slowed: float = -math.inf  # when it was halved last

    def done(self, count: int, now: float) -> Pace:
        """A request of `count` bytes has succeeded."""
        began, work, requests = self.began, self.work + count + REQUEST, self.requests + 1
        if not self.requests and not 0 <= now - began < IDLE:
            began, work = now, 0.0  # nothing was under way: begin to measure here
        # by its fields: `replace` takes twice as long, for every small file
        seen = Pace(self.limit, began, work, requests, self.rate, self.grew, self.still, self.slowed)
        if now - seen.began < WINDOW or seen.requests < seen.limit:
            return seen
        return seen._measured(seen.work / (now - seen.began), now)

    def throttled(self, now: float, sent: float = math.inf, inside: int = MOST) -> Pace:
        """The store has asked for fewer requests, or did not answer in time.

        `sent`: when the request was that says so. `inside`: how many there were at most, fewer than the limit
        where something else bounds them.
        """
        if sent < self.slowed or (self.still > CALM - 1 and now - self.began < WINDOW):
            return self  # what was under way at the last one is refused as well
        return Pace(max(min(self.limit, inside) // 2, LEAST), began=now, still=CALM, slowed=now)

    def _measured(self, rate: float, now: float) -> Pace:
        window = Pace(self.limit, began=now, rate=rate, slowed=self.slowed)
        if self.still > 1:
            return replace(window, still=self.still - 1)
        if self.still == 1 or rate > self.rate * BETTER:
            step = max(self.limit // 4, 1)
            # to the end in one, where less than a step would be left: so little could not be measured
            limit = self.limit + step if self.limit + 2 * step <= MOST else MOST
            return replace(window, limit=limit, grew=limit - self.limit)
        # it brought no more: back to what brought as much
        return replace(window, limit=self.limit - self.grew, still=RETRY)


class Gate:
    """Lets through as many requests as its pace says, with at most `budget` bytes of them in memory; one is
    let through always. For threads; `enter` and `leave` need not be called by the same one.
    """

    def __init__(
        self, budget: int, *, pace: Pace | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._budget = budget
        self._pace = pace or Pace()
        self._monotonic = monotonic
        self._inside, self._bytes = 0, 0
        self._peak = 1  # inside at once, since it was slowed last
        self._turn = threading.Condition()

    @property
    def pace(self) -> Pace:
        """As it stands."""
        return self._pace

    def enter(self, count: int) -> None:
        """Wait until a request that holds `count` bytes may begin."""
        with self._turn:
            self._turn.wait_for(lambda: self._room(count))
            self._let_in(count)

    def try_enter(self, count: int) -> bool:
        """The same without waiting: whether it may begin now."""
        with self._turn:
            if room := self._room(count):
                self._let_in(count)
            return room

    def leave(self, count: int) -> None:
        """The bytes of one that entered are in memory no more."""
        with self._turn:
            self._inside -= 1
            self._bytes -= count
            self._call()

    def done(self, count: int) -> None:
        """A request has moved `count` bytes."""
        with self._turn:
            before, self._pace = self._pace, self._pace.done(count, self._monotonic())
            if self._pace.limit > before.limit:
                self._call()

    def now(self) -> float:
        """Seconds by the clock that it measures with."""
        return self._monotonic()

    def throttled(self, sent: float | None = None) -> None:
        """The store has asked for fewer, or did not answer in time: a request that was sent then (`now`)."""
        with self._turn:
            now = self._monotonic()
            slower = self._pace.throttled(now, now if sent is None else sent, self._peak)
            if slower is not self._pace:
                self._pace, self._peak = slower, max(self._inside, 1)

    def _room(self, count: int) -> bool:
        return not self._inside or (self._inside < self._pace.limit and self._bytes + count <= self._budget)

    def _call(self) -> None:
        # no more than may come in: of many that wait, all would wake to find the door shut
        self._turn.notify(max(self._pace.limit - self._inside, 1))

    def _let_in(self, count: int) -> None:
        self._inside += 1
        self._peak = max(self._peak, self._inside)
        self._bytes += count
