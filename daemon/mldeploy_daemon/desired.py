"""What the log said when it was last read, on this host's disk: with the store out of reach it is still true.

    desired.checkpoint       a state (`mldeploy.core.checkpoint`), replaced whole
    desired.<head>.tail      the records after it: for each its length (4 bytes), its sha256, and its bytes

A new record costs its own bytes: it is added to the tail. When the tail has outgrown the checkpoint, the
state is written anew and the next tail begins. Killed in the middle of adding, the last record of the tail
does not have its sha256 and is left out: it will be read again. After anything that went wrong nothing is
added to a file whose end is not known: the state is written anew.
"""

from __future__ import annotations

import hashlib
import logging
import struct

from mldeploy.core import checkpoint
from mldeploy.core.fold import Folding
from mldeploy.core.state import State
from mldeploy.errors import MldeployError
from mldeploy_daemon.disk import Disk

logger = logging.getLogger(__name__)
CHECKPOINT = "desired.checkpoint"
#: Bytes. A tail may grow to that, however small the checkpoint is.
SMALL = 1 << 20
_FRAME = struct.Struct(">I32s")


class Kept:
    """The state as it lies on the disk. `exact`: what was loaded is what this code would have folded."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._base = 0  # the record that the checkpoint ends with
        self._head = 0  # the last record that is on the disk
        self._room = 0  # bytes that the tail may still grow by; 0: the state has to be written anew
        self._new: list[bytes] = []  # frames of records taken since
        self.exact = True

    def load(self) -> State | None:
        """None where there is nothing, or nothing that this code can read. Raises DiskError.

        After an upgrade the state may be one that another version folded: better than none, but nothing to
        go on from (`exact`).
        """
        data = self._disk.read(CHECKPOINT)
        if data is None:
            return None
        try:
            self.exact = checkpoint.header(data).fold == checkpoint.fold_format()
            state = checkpoint.decode(data, any_fold=True)
        except MldeployError as error:
            logger.warning("%s: %s", CHECKPOINT, error)
            return None
        tail = self._disk.read(_tail(state.head)) or b""
        folding = Folding(state)
        used = _fold(folding, tail)
        self._base, self._head = state.head, folding.head
        whole = used == len(tail) and self.exact
        self._room = max(len(data), SMALL) - used if whole else 0
        return folding.state()

    def took(self, seq: int, data: bytes) -> None:
        """This record has been folded: it follows the last one, or what is kept does not reach up to it."""
        if seq != self._head + len(self._new) + 1:
            self._room = 0
        frame = _FRAME.pack(len(data), hashlib.sha256(data).digest()) + data
        self._room -= len(frame)
        if self._room > 0:
            self._new.append(frame)
        else:
            self._new.clear()

    def save(self, state: State) -> None:
        """Make the disk hold this state, which the records just taken lead to. Raises DiskError."""
        if state.head == self._head and self._room > 0 and not self._new:
            return
        added, self._new = self._new, []
        room, self._room = self._room, 0  # until it is certain that it is there
        if room > 0 and self._head + len(added) == state.head:
            self._disk.append(_tail(self._base), b"".join(added))
            self._head, self._room = state.head, room
            return
        data = checkpoint.encode(state)
        self._disk.write(CHECKPOINT, data)
        self._base = self._head = state.head
        self._room = max(len(data), SMALL)
        for name in self._disk.names("desired.*.tail"):
            self._disk.remove(name)


def _tail(head: int) -> str:
    return f"desired.{head}.tail"


def _fold(folding: Folding, tail: bytes) -> int:
    """Fold what is whole of a tail; returns how many bytes that was."""
    at = 0
    while at + _FRAME.size <= len(tail):
        size, sha256 = _FRAME.unpack_from(tail, at)
        data = tail[at + _FRAME.size : at + _FRAME.size + size]
        if hashlib.sha256(data).digest() != sha256:
            break
        try:
            folding.take(folding.head + 1, data)
        except MldeployError:  # of a newer format: another version has written it
            break
        at += _FRAME.size + size
    return at
