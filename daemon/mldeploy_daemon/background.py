"""What the agent does beside its loop: it follows the log, reports, steers, tells people and ships pairs.

Rules: each is to go on for as long as the agent does. One that ends of an error is started again in a while:
without a follower a host would hear of nothing, and nobody would see it. Left out: what they do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)
#: Seconds until one that has ended of an error is started again.
AGAIN = 5.0


class Background:
    """Tasks that run until closed, or until they end by themselves."""

    def __init__(self, *tasks: Callable[[], Awaitable[None]]) -> None:
        self._running = [asyncio.create_task(_kept(task)) for task in tasks]

    def close(self) -> None:
        """End all."""
        for task in self._running:
            task.cancel()


async def _kept(task: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            return await task()
        except Exception:
            logger.exception("%s is started again", getattr(task, "__qualname__", task))
        await asyncio.sleep(AGAIN)
