"""Lets this host tell people: `notifying.py` in a thread, and what closes a notice appended in the log's own.

Rules: nothing here ends the agent, and its loop waits for nothing of it; what was sent is closed in the log
right after, and what somebody else has closed meanwhile is not sent; one notice that cannot be told keeps no
other back. Left out: what, to whom and when.
"""

from __future__ import annotations

import asyncio
import logging

from mldeploy.core.records import Notified
from mldeploy.core.state import Notice, State
from mldeploy.errors import MldeployError, NotificationError
from mldeploy.store.objects import ObjectStore
from mldeploy_daemon.config import Config
from mldeploy_daemon.duties import Duty
from mldeploy_daemon.follow import Follower
from mldeploy_daemon.notifying import Notifying
from mldeploy_daemon.told import Tellings

logger = logging.getLogger(__name__)


class Notifier(Duty):
    """Tells people until cancelled."""

    name = "notify"

    def __init__(self, config: Config, host: str, follower: Follower) -> None:
        super().__init__(config, host, follower)
        self._told = Tellings(follower.disk)
        self._notifying: Notifying | None = None

    def load(self) -> None:
        """Go on from what this host has told before. Raises DiskError."""
        self._told.load()

    @property
    def told(self) -> dict[str, tuple[str, ...]]:
        """For the report, from the first one on: the targets that pending notices have reached from here."""
        return self._told.reached

    async def once(self, state: State, store: ObjectStore) -> float:
        """Look, send what is due, and close what has arrived."""
        if self._notifying is None:
            self._notifying = Notifying(self.config.environment, self.host, store, told=self._told)
        notifying, loop = self._notifying, asyncio.get_running_loop()
        plan = await loop.run_in_executor(self.pool, notifying.plan, state)
        trouble: MldeployError | None = None
        for notice, turn in plan.due:
            fresh = await self._fresh()
            if fresh is None or not notifying.pending(fresh, notice):
                continue
            try:
                outcome = await loop.run_in_executor(self.pool, notifying.send, fresh, notice, turn)
            except MldeployError as error:
                trouble = error  # the store did not answer for this one: it is asked again
                continue
            except Exception:
                logger.exception("notice %s cannot be told", notice.id)
                self.follower.note(
                    NotificationError(f"notice {notice.id} cannot be told: see the daemon's log")
                )
                continue
            for problem in outcome.errors:
                logger.warning("%s", problem)
                self.follower.note(problem)
            self.follower.changed()  # what was reached is told in the report
            if outcome.closing is not None:
                await self._close(notifying, notice, outcome.closing)
        if trouble is not None:
            raise trouble
        return plan.pause

    async def _fresh(self) -> State | None:
        """The state at the head, read now: what was closed a moment ago is not sent."""
        await self.follower.append(lambda _: ())
        return self.follower.state

    async def _close(self, notifying: Notifying, notice: Notice, closing: Notified) -> None:
        def intent(state: State) -> tuple[Notified, ...]:
            return (closing,) if notifying.pending(state, notice) else ()

        appended = await self.follower.append(intent)
        if appended is not None:
            said = closing.reason or "every target was reached"
            logger.info("notice %s is closed: %s", notice.id, said)
