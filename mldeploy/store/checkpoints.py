"""Where checkpoints lie, which one to start from, and the hint that names the newest.

    checkpoints/<head, 20 digits>.<fold>.<sha256>    one State, immutable; the key says what is in it
    hints/checkpoint.<fold>                          the keys of the newest, overwritten by whoever writes one

A checkpoint speeds a reader up and is never the truth: one is taken only if its bytes have the sha256 of its
key, it decodes, it is of this code's fold, and the record at its head is there with the sha256 that it names.
Whatever is wrong with it, the one before it is tried, and then the log itself. There is a hint for each fold,
so that two versions of mldeploy do not take turns at hiding each other's.
Left out: the bytes (`core/checkpoint.py`), who writes one and when (`store/log.py`), who deletes (`collect`).
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from mldeploy.core import checkpoint
from mldeploy.core.state import State
from mldeploy.errors import IntegrityError, MldeployError
from mldeploy.store.objects import Entry, ObjectStore
from mldeploy.store.tail import record_key

logger = logging.getLogger(__name__)

PREFIX = "checkpoints/"
#: Of each fold, so many are kept and named by its hint.
KEEP = 3
#: Seconds after which the checkpoints of a fold that nobody writes any more may go.
OUTDATED = 30 * 86_400.0
#: Records after which a new checkpoint is worth its bytes …
INTERVAL = 1_000
#: … or, in a long log, one in so many.
_SHARE = 64

_KEY = re.compile(rf"{PREFIX}(\d{{20}})\.([0-9a-f]{{16}})\.([0-9a-f]{{64}})", re.ASCII)


class Named(NamedTuple):
    """What the key of a checkpoint says."""

    head: int
    fold: str
    sha256: str

    @property
    def key(self) -> str:
        """checkpoints/<20 digits>.<fold>.<sha256>"""
        return f"{PREFIX}{self.head:020d}.{self.fold}.{self.sha256}"

    @classmethod
    def parse(cls, key: str) -> Named | None:
        """None for a key of another form."""
        found = _KEY.fullmatch(key)
        return cls(int(found[1]), found[2], found[3]) if found else None


class _Hint(msgspec.Struct, frozen=True, kw_only=True):
    newest: tuple[str, ...]  # keys, the newest first


_HINT = msgspec.json.Decoder(_Hint)


def hint_key() -> str:
    """The key of this fold's hint."""
    return f"hints/checkpoint.{checkpoint.fold_format()}"


def interval(head: int) -> int:
    """Records between two checkpoints of a log that is `head` long.

    A share of the log, so that what is written of a state that grows stays a multiple of the log itself.
    """
    return max(INTERVAL, head // _SHARE)


def read_hint(store: ObjectStore) -> tuple[Named, ...]:
    """The checkpoints that the hint names, the newest first; none where it says nothing that makes sense.

    Raises StoreError.
    """
    found = store.get(hint_key())
    if found is None:
        return ()
    try:
        keys = _HINT.decode(found.data).newest[:KEEP]
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ()
    named = [one for one in map(Named.parse, keys) if one and one.fold == checkpoint.fold_format()]
    return tuple(sorted(named, reverse=True))


def load(store: ObjectStore, named: Named) -> State | None:
    """The state of a checkpoint; None, and a line for whoever debugs this, if it may not be believed."""
    try:
        return _load(store, named)
    except MldeployError as error:
        logger.info("%s is not used: %s", named.key, error)
        return None


def load_before(store: ObjectStore, head: int) -> State | None:
    """The newest checkpoint of a head up to `head`, of those that a listing shows.

    None where there is none that may be believed: a listing is never the truth. Raises StoreError.
    """
    listed = (Named.parse(entry.key) for entry in store.list(PREFIX))
    fold = checkpoint.fold_format()
    fit = sorted((one for one in listed if one and one.fold == fold and one.head <= head), reverse=True)
    return next((state for one in fit[:KEEP] if (state := load(store, one)) is not None), None)


def _load(store: ObjectStore, named: Named) -> State:
    record = store.get(record_key(named.head))  # small, and without it the rest is for nothing
    found = store.get(named.key) if record is not None else None
    if record is None or found is None:
        raise IntegrityError("it, or the record that it ends with, is not there")
    if hashlib.sha256(found.data).hexdigest() != named.sha256:
        raise IntegrityError("its bytes are not what its key says")
    state = checkpoint.decode(found.data)
    if (state.head, state.head_sha256) != (named.head, hashlib.sha256(record.data).hexdigest()):
        raise IntegrityError("it does not fit the log")
    return state


def vouches(store: ObjectStore, named: Named) -> bool:
    """Whether that checkpoint is there and says that record `named.head` was written. Raises StoreError."""
    found = store.get(named.key)
    if found is None or hashlib.sha256(found.data).hexdigest() != named.sha256:
        return False
    try:
        return checkpoint.header(found.data).head == named.head
    except IntegrityError:
        return False


def write(store: ObjectStore, state: State, known: Iterable[Named]) -> Named:
    """Write the checkpoint of `state`, then the hint; `known`: what the hint named before.

    Raises StoreError and OutcomeUnknownError; whatever was written until then does no harm.
    """
    data = checkpoint.encode(state)
    named = Named(state.head, checkpoint.fold_format(), hashlib.sha256(data).hexdigest())
    store.create(named.key, data)  # one that is there already has the same bytes
    newest = sorted({named, *known}, reverse=True)[:KEEP]
    store.put(hint_key(), msgspec.json.encode(_Hint(newest=tuple(one.key for one in newest))))
    return named


def superseded(entries: Iterable[Entry]) -> list[str]:
    """Of a listing of PREFIX, the keys that nobody needs any more: for a collection to delete.

    The newest KEEP of each fold stay, unless nothing of that fold was written for OUTDATED seconds before
    the newest of all. A key of another form is not ours to judge.
    """
    folds: dict[str, list[tuple[Named, float]]] = {}
    for entry in entries:
        named = Named.parse(entry.key)
        if named is not None:
            folds.setdefault(named.fold, []).append((named, entry.modified))
    last = max((modified for found in folds.values() for _, modified in found), default=0.0)
    gone: list[str] = []
    for found in folds.values():
        found.sort(reverse=True)
        fresh = max(modified for _, modified in found) > last - OUTDATED
        gone += [named.key for named, _ in found[KEEP if fresh else 0 :]]
    return sorted(gone)
