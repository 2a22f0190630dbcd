"""The last folded state, on this machine's disk: so that a command does not fetch a checkpoint each time.

    $XDG_CACHE_HOME/mldeploy/states/<name of the store>.checkpoint

Never trusted over the log: it is gone on from only where the record at its head is in the store, with the
sha256 that the state names. Losing it, or not being able to write it, costs time and nothing else. For stores
that are near there is none: a checkpoint in the same folder is as quick.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os

from mldeploy.config import cache_folder
from mldeploy.core import checkpoint
from mldeploy.core.state import State
from mldeploy.errors import MldeployError
from mldeploy.store.objects import ObjectStore
from mldeploy.store.tail import reads_ahead, record_key

logger = logging.getLogger(__name__)
#: Records, or in a long log one in so many, after which what is kept is written anew.
STEP, SHARE = 64, 64


class StateCache:
    """For one store. `load` before the log is read, `keep` after."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        name = hashlib.sha256(store.url.encode()).hexdigest()[:32]
        self._path = cache_folder() / "states" / f"{name}.checkpoint"
        self._near = reads_ahead(store) == 1
        self._kept = 0  # the head of what lies there

    def load(self) -> State | None:
        """The state to go on from, if there is one that the log bears out. Raises StoreError."""
        if self._near:
            return None
        try:
            state = checkpoint.decode(self._path.read_bytes())
        except (OSError, MldeployError) as error:
            logger.info("%s is not used: %s", self._path, error)
            return None
        found = self._store.get(record_key(state.head))
        if found is None or hashlib.sha256(found.data).hexdigest() != state.head_sha256:
            logger.info("%s is of another log", self._path)
            return None
        self._kept = state.head
        return state

    def keep(self, state: State) -> None:
        """Keep the state, if it is worth it; never raises for what the disk says."""
        if self._near or state.head < self._kept + max(STEP, state.head // SHARE):
            return
        staged = self._path.with_name(f".{self._path.name}.{os.urandom(6).hex()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            staged.write_bytes(checkpoint.encode(state))  # not flushed: whatever is left, its reader checks
            os.replace(staged, self._path)
            self._kept = state.head
        except (OSError, ValueError) as error:
            logger.info("%s was not written: %s", self._path, error)
            with contextlib.suppress(OSError):
                staged.unlink(missing_ok=True)
