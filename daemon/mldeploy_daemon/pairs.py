"""Brings pairs kept for study from the disk to the store: pairs/<environment>/<shadow>/<host>-<file>.jsonl.

Whole files, created once and then removed here; one that does not arrive is tried again. Left out: what is
kept (`mirror/pairs.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mldeploy.errors import MldeployError
from mldeploy.store.objects import ObjectStore

logger = logging.getLogger(__name__)
#: Seconds between two looks.
LOOK = 10.0


class Shipper:
    """Ships until cancelled. `store` gives the store once it is open."""

    def __init__(
        self, environment: str, host: str, store: Callable[[], ObjectStore | None], root: Path = Path("pairs")
    ) -> None:
        self.environment, self.host, self.store, self.root = environment, host, store, root
        self.pool = ThreadPoolExecutor(1, "pairs")

    async def run(self) -> None:
        """For ever."""
        while True:
            store = self.store()
            if store is not None and self.root.exists():
                await asyncio.get_running_loop().run_in_executor(self.pool, self.ship, store)
            await asyncio.sleep(LOOK)

    def ship(self, store: ObjectStore) -> None:
        """Everything that is finished, in a thread."""
        for path in sorted(self.root.glob("*/*.jsonl")):
            key = f"pairs/{self.environment}/{path.parent.name}/{self.host}-{path.name}"
            try:
                store.create(key, path.read_bytes())  # taken: it arrived before, and its end was not seen
                path.unlink()
            except (MldeployError, OSError) as error:
                logger.info("pairs are kept here for now: %s", error)
                return
