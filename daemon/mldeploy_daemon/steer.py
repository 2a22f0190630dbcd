"""Lets this host steer: `steering.py` in a thread, and what it proposes appended in the log's own thread.

Rules: as the follower's, nothing here ends the agent: a store that cannot be reached is asked again, and a
proposal that came too late writes nothing. One that cannot be appended keeps no other back.
Left out: what is proposed, and when (`steering.py`).
"""

from __future__ import annotations

import asyncio
import logging

from mldeploy.core.records import Action
from mldeploy.core.state import State
from mldeploy.errors import MldeployError, StoreError
from mldeploy.store.fleet import Fleet
from mldeploy.store.objects import ObjectStore
from mldeploy_daemon.duties import RETRY, Duty
from mldeploy_daemon.steering import Steering, Turn, still

logger = logging.getLogger(__name__)


class Steerer(Duty):
    """Steers until cancelled."""

    name = "steer"
    _steering: Steering | None = None

    async def once(self, state: State, store: ObjectStore) -> float:
        """Look, and append what is proposed."""
        if self._steering is None:
            self._steering = Steering(self.config.environment, self.host, Fleet(store), self.config.report)
        loop = asyncio.get_running_loop()
        turn: Turn = await loop.run_in_executor(self.pool, self._steering.look, state)
        pause = turn.pause
        for action in turn.actions:
            try:
                await self._append(action, state)
            except StoreError:
                raise  # it takes none of the others either
            except MldeployError as error:
                logger.warning("%s cannot be appended: %s", type(action).__name__.lower(), error)
                pause = min(pause, RETRY)
        return pause

    async def _append(self, action: Action, seen: State) -> None:
        def intent(state: State) -> tuple[Action, ...]:
            return still(state, action, seen)

        appended = await self.follower.append(intent)
        if appended is not None:
            logger.info("record %d: %s", appended.seq, type(action).__name__.lower())
