"""Short objects from S3: the requests for the next ones are sent while the present one comes.

A thread that asks, waits, writes and asks again leaves its connection idle most of the time; more threads
instead do what they do in Python by turns, and the turns cost more than the work (docs/adr/0007).
Rules: what is asked for early is let through the gate as everything is; where the gate is shut nothing is
asked for early, and nothing after it until it had its turn: who waits at the gate holds nothing of it. One
that fails has its turn as if it had not been asked for.
Left out: receiving, and trying again (`store/s3_download.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable

from mldeploy.store.objects import Wanted, check_key
from mldeploy.store.s3_answer import Answer
from mldeploy.store.s3_heard import Failed
from mldeploy.store.s3_http import Asked
from mldeploy.store.s3_requests import answered_well
from mldeploy.store.s3_transfer import Wire

#: Requests on their way for each thread, the present one among them; and after how many answers there is one
#: more, on a connection that has to be made: to make all at the beginning would keep the first one waiting.
DEPTH, GROWS = 8, 2


class Early:
    """A request for a whole object that was sent before its turn. `end` it."""

    def __init__(self, wire: Wire, size: int) -> None:
        self._wire, self._size = wire, size
        self._asked: Asked | None = None
        self._inside = False
        self._sent = 0.0

    def ask(self, key: str) -> bool:
        """Whether it was sent: not where the gate is shut, where there is no connection, or for nothing."""
        self._inside = self._size > 0 and self._wire.gate.try_enter(self._size)
        if self._inside:
            self._sent = self._wire.gate.now()
            try:
                self._asked = self._wire.requests.begin(key)
            except Failed as error:
                self._wire.judge(error, self._sent)
                self.end()
            except BaseException:
                self.end()
                raise
        return self._inside

    def answer(self) -> Answer | None:
        """The answer, once; then None. Raises Failed."""
        asked, self._asked = self._asked, None
        try:
            return answered_well(asked) if asked is not None else None
        except Failed as error:
            error.sent = self._sent
            raise

    def end(self) -> None:
        """It had its turn, or will have none."""
        if self._asked is not None:
            self._asked.close()
            self._asked = None
        if self._inside:
            self._inside = False
            self._wire.gate.leave(self._size)


def ahead(wire: Wire, wanted: Iterable[Wanted]) -> Generator[tuple[Wanted, Early | None]]:
    """Each of them, in order, with its request where that was sent early. Close it."""
    coming: deque[tuple[Wanted, Early | None]] = deque()
    left = iter(wanted)
    done = 0
    try:
        while True:
            while _more(wire, coming, 1 + done // GROWS):
                each = next(left, None)
                if each is None:
                    break
                check_key(each.key)
                early = Early(wire, each.size)
                coming.append((each, early if early.ask(each.key) else None))
            if not coming:
                return
            each, its = coming[0]
            yield each, its
            coming.popleft()
            done += 1
            if its is not None:
                its.end()
    finally:
        for _, its in coming:
            if its is not None:
                its.end()


def _more(wire: Wire, coming: deque[tuple[Wanted, Early | None]], grown: int) -> bool:
    """Whether one more may be asked for: beyond `grown` only where a connection is there already."""
    if len(coming) >= DEPTH or (coming and coming[-1][1] is None):
        return False
    return len(coming) < grown or wire.requests.idle
