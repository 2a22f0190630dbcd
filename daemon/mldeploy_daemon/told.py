"""What this host has told people, of notices that are pending: told.json, for the report and the next agent.

Rules: written before a message leaves (that it was tried) and after (what it has reached), so that an agent
that is started again sends neither once more; loaded before the first report, which says it to the others.
Where the disk takes nothing it is in memory alone. Left out: when what is sent (`notifying.py`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection

import msgspec

from mldeploy.errors import DiskError
from mldeploy_daemon.disk import Disk

logger = logging.getLogger(__name__)
TOLD = "told.json"


class _Kept(msgspec.Struct, frozen=True):
    reached: dict[str, tuple[str, ...]] = {}
    tried: dict[str, float] = {}


class Tellings:
    """One host's. Changed by one thread; others may read `reached`, which is replaced and never changed."""

    def __init__(self, disk: Disk | None = None) -> None:
        self._disk = disk
        self._kept = _Kept()

    def load(self) -> None:
        """Go on from the disk. Raises DiskError."""
        data = self._disk.read(TOLD) if self._disk is not None else None
        if data is not None:
            with contextlib.suppress(msgspec.MsgspecError):
                self._kept = msgspec.json.decode(data, type=_Kept)

    @property
    def reached(self) -> dict[str, tuple[str, ...]]:
        """Pending notice -> the targets that it has reached, from here or, as was found, from elsewhere;
        and recipients at targets that are not done with, as `reporting.message.mark` names them.
        """
        return self._kept.reached

    def tried(self, notice: str) -> float | None:
        """The age (seconds) at which the notice was tried last; None: never."""
        return self._kept.tried.get(notice)

    def tries(self, notice: str, age: float) -> None:
        """It is about to be tried."""
        self._set(_Kept(self._kept.reached, {**self._kept.tried, notice: age}))

    def has_reached(self, notice: str, targets: Collection[str]) -> None:
        """These, and no others."""
        self._set(_Kept({**self._kept.reached, notice: tuple(sorted(targets))}, self._kept.tried))

    def keep(self, pending: Collection[str]) -> None:
        """Forget all other notices: they are closed."""
        reached = {name: targets for name, targets in self._kept.reached.items() if name in pending}
        tried = {name: age for name, age in self._kept.tried.items() if name in pending}
        if _Kept(reached, tried) != self._kept:
            self._set(_Kept(reached, tried))

    def _set(self, kept: _Kept) -> None:
        self._kept = kept
        if self._disk is None:
            return
        try:
            self._disk.write(TOLD, msgspec.json.encode(kept))
        except DiskError as error:
            logger.error("%s", error)
