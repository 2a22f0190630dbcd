"""What steering and telling people have in common: a look at the log's state whenever it has moved, and
after a pause, for ever, in a thread of its own.

Rules: nothing here ends the agent, and its loop waits for nothing of it; a store that cannot be reached is
asked again. Left out: what a look does (`steer.py`, `notify.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor

from mldeploy.core.state import State
from mldeploy.errors import MldeployError
from mldeploy.store.objects import ObjectStore
from mldeploy_daemon.config import Config
from mldeploy_daemon.follow import Follower

logger = logging.getLogger(__name__)
#: Seconds until the next look where one failed.
RETRY = 10.0


class Duty(ABC):
    """Does its part until cancelled. `look` is to be called when the log may have moved."""

    #: In logs, and of its thread.
    name: str

    def __init__(self, config: Config, host: str, follower: Follower) -> None:
        self.config, self.host, self.follower = config, host, follower
        self.pool = ThreadPoolExecutor(1, self.name)
        self.woken = asyncio.Event()
        self._head = -1

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
            pause = await self._safely()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), pause)

    @abstractmethod
    async def once(self, state: State, store: ObjectStore) -> float:
        """One look; returns the seconds until the next, unless the log moves. May raise MldeployError."""

    async def _safely(self) -> float:
        state, store = self.follower.state, self.follower.store
        if state is None or store is None or not self.follower.read_head:
            return RETRY
        try:
            return await self.once(state, store)
        except MldeployError as error:
            logger.info("%s: %s", self.name, error)
        except Exception:
            logger.exception("%s", self.name)
        return RETRY
