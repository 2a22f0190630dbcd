"""Lets this host steer: `steering.py` in a thread, and what it proposes appended in the log's own thread.

Rules: as the follower's, nothing here ends the agent: a store that cannot be reached is asked again, and a
proposal that came too late writes nothing. Left out: what is proposed, and when (`steering.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor

from mldeploy.core.records import Action
from mldeploy.core.state import State
from mldeploy.errors import MldeployError
from mldeploy.store.fleet import Fleet
from mldeploy_daemon.config import Config
from mldeploy_daemon.follow import Follower
from mldeploy_daemon.steering import Steering, Turn, still

logger = logging.getLogger(__name__)
#: Seconds until the next look where one failed.
AGAIN = 10.0


class Steerer:
    """Steers until cancelled. `look` is to be called when the log may have moved."""

    def __init__(self, config: Config, host: str, follower: Follower) -> None:
        self.config, self.host, self.follower = config, host, follower
        self.pool = ThreadPoolExecutor(1, "steer")
        self.woken = asyncio.Event()
        self._head = -1
        self._steering: Steering | None = None

    def look(self) -> None:
        """A log that has moved is looked at soon."""
        head = self.follower.state.head if self.follower.state else -1
        if head != self._head:
            self._head = head
            self.woken.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            self.woken.clear()
            pause = await self._once()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), pause)

    async def _once(self) -> float:
        state, store = self.follower.state, self.follower.store
        if state is None or store is None or not self.follower.read_head:
            return AGAIN
        if self._steering is None:
            self._steering = Steering(self.config.environment, self.host, Fleet(store), self.config.report)
        loop = asyncio.get_running_loop()
        try:
            turn: Turn = await loop.run_in_executor(self.pool, self._steering.look, state)
            for action in turn.actions:
                await self._append(action, state)
        except MldeployError as error:
            logger.info("steering: %s", error)
            return AGAIN
        except Exception:
            logger.exception("steering")
            return AGAIN
        return turn.pause

    async def _append(self, action: Action, seen: State) -> None:
        def intent(state: State) -> tuple[Action, ...]:
            return still(state, action, seen)

        appended = await self.follower.append(intent)
        if appended is not None:
            logger.info("record %d: %s", appended.seq, type(action).__name__.lower())
