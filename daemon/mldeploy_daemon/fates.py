"""What became of workers: who came up, ended, or has lived long enough, into the book, the evidence, the log.

A worker that ends unasked is a crash in the scopes it had its part in when it left the table. That may be a
while ago: its last words are waited for, and meanwhile the fronts are told that it is gone.
Left out: how an ending is found out (`workers.py`), and what follows from it (`book.py`, `mldeploy.core`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from mldeploy_daemon.book import YOUNG, Book
from mldeploy_daemon.measures import Measures
from mldeploy_daemon.publish import Publisher
from mldeploy_daemon.workers import Ending, Workers

logger = logging.getLogger(__name__)


class Fates:
    """Of all workers of one host."""

    def __init__(
        self,
        workers: Workers,
        publisher: Publisher,
        book: Book,
        measures: Measures,
        now: Callable[[], float],
    ) -> None:
        self.workers, self.publisher, self.book = workers, publisher, book
        self.measures, self.now = measures, now

    def note(self) -> None:
        """Everything since the last time."""
        for live in self.workers.came_up:
            logger.info("%s is loaded: worker %s", live.ref, live.id)
            self.book.came_up(live.ref)
        self.workers.came_up.clear()
        for ending in self.workers.endings:
            self._mourn(ending)
        self.workers.endings.clear()
        now = self.now()
        for live in self.workers.live.values():
            bad = self.book.bad.get(live.ref)
            if bad is not None and live.state == "ready" and now - live.ready_at > YOUNG:
                self.book.grew_old(live.ref)

    def _mourn(self, ending: Ending) -> None:
        live = ending.worker
        scopes = self.publisher.scopes(live.id, live.model, live.version)
        self.publisher.forget(live.id)
        if ending.asked:
            logger.info("%s: worker %s is stopped", live.ref, live.id)
        elif ending.lived is None:
            self.book.failed(live.ref, live.digest, ending.stage, ending.reason, ending.log_tail)
        else:
            self.measures.crashed(scopes, live.model, live.version, idle=live.idle)
            self.book.died(live.ref, live.digest, ending.lived, ending.reason, ending.log_tail)
