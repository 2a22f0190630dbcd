"""The journal of a push: what it has sent so far, on the disk of the machine that sends it.

A push that was cut and is run again takes up the push id and sends what is missing. That a blob is there is
known from the store's own answer, which the journal kept; nobody may delete the keys of a push that is not
below the horizon, so it still is. Rules:
  - one file for each store (by its id, not its URL) and bundle, one JSON object a line: first what push it
    is, then each blob that the store has acknowledged and each upload in parts that was begun. A line comes
    after the answer it tells of; a torn one is no line. Nothing is fsynced: a lost line costs a blob sent
    twice;
  - it is locked while a push uses it; who finds it locked pushes under another id, and without a journal;
  - a push is taken up only if its id is not below the horizon and in no record, and the log is a continuation
    of the one it began with (a store that was put back from a backup may have lost the blobs);
  - it is removed when the record is written. One that nobody has touched for a week is removed by the next
    push to its store, which aborts its uploads in parts; those of other stores stay for a month.
Left out: what is sent (`bundle/upload.py`), and when to begin anew (`bundle/push.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from mldeploy.core.state import State
from mldeploy.store.blobs import abandon_blob
from mldeploy.store.log import record_key
from mldeploy.store.objects import ObjectStore, Resumption

FORMAT = 1
#: After this long nobody goes on with a push; the grace of a collection is as long.
STALE = timedelta(days=7)
#: After this long a journal goes whose store was not pushed to again.
FOREIGN = timedelta(days=30)
_SUFFIX = ".push"


class Begun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line: which push this is, and the head of the log that it began with."""

    format: int
    store: str  # its id
    bundle: str  # digest
    push: str
    head: int
    head_sha256: str


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    blob: str  # sha256
    token: str = ""  # of an upload in parts; empty with `done`, or when it was given up
    done: bool = False


class Journal:
    """An open and locked journal. Threads may call `done` and `resumption`."""

    def __init__(self, path: Path, fd: int, store: str, bundle: str) -> None:
        self._path, self._fd = path, fd
        self._store, self._bundle = store, bundle
        self._lock = threading.Lock()
        self._spoilt = False
        self.begun: Begun | None = None
        self.sent: set[str] = set()  # sha256 of the blobs that the store has acknowledged
        self.tokens: dict[str, str] = {}  # by sha256, of uploads in parts that were begun
        self._read()

    def push_to_take_up(self, state: State, store: ObjectStore) -> str:
        """The id of the push to go on with in this state; "" where there is none."""
        begun = self.begun
        if begun is None or begun.push < state.horizon or begun.head > state.head:
            return ""
        if any(v.push == begun.push for model in state.models.values() for v in model.versions.values()):
            return ""
        return begun.push if _continues(begun, state, store) else ""

    def begin(self, push: str, state: State, store: ObjectStore) -> None:
        """A new push; what the one before has left behind is given up."""
        self.give_up(store)
        self.begun = Begun(
            format=FORMAT,
            store=self._store,
            bundle=self._bundle,
            push=push,
            head=state.head,
            head_sha256=state.head_sha256,
        )
        self.sent.clear()
        try:
            os.ftruncate(self._fd, 0)
        except OSError:
            self._spoilt = True  # what is written now would be taken for the earlier push's
        self._append(self.begun)

    def give_up(self, store: ObjectStore) -> None:
        """Abort the uploads in parts that were begun."""
        for sha256, token in self.tokens.items():
            if self.begun is not None:
                abandon_blob(store, sha256, self.begun.push, token)
        self.tokens.clear()

    def done(self, sha256: str) -> None:
        """The store has acknowledged this blob."""
        with self._lock:
            self.sent.add(sha256)
            self.tokens.pop(sha256, None)
        self._append(_Line(blob=sha256, done=True))

    def resumption(self, sha256: str) -> Resumption:
        """Where the upload of this blob goes on, and where it notes how far it is."""

        def note(token: str) -> None:
            with self._lock:
                self.tokens[sha256] = token
            self._append(_Line(blob=sha256, token=token))

        return Resumption(self.tokens.get(sha256, ""), note)

    def close(self, *, remove: bool = False) -> None:
        """Unlock it; with `remove` it is gone."""
        with self._lock:  # a sender may still be about to write, after a second Ctrl-C
            fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if remove:
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(fd)

    def _append(self, line: msgspec.Struct) -> None:
        # a push is not worth less because its journal cannot be written: it would only begin anew
        if self._spoilt:
            return
        with self._lock, contextlib.suppress(OSError):
            os.write(self._fd, msgspec.json.encode(line) + b"\n")

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            first, *lines = os.pread(self._fd, os.fstat(self._fd).st_size, 0).split(b"\n")
            self.begun = _begun(first, self._store, self._bundle)
            if self.begun is None:
                return
            for line in lines:
                self._take(line)
            if lines and lines[-1]:
                os.write(self._fd, b"\n")  # what was torn must not spoil what comes after it

    def _take(self, data: bytes) -> None:
        try:
            line = msgspec.json.decode(data, type=_Line)
        except (msgspec.MsgspecError, UnicodeError):
            return
        self.tokens.pop(line.blob, None)
        if line.done:
            self.sent.add(line.blob)
        elif line.token:
            self.tokens[line.blob] = line.token


@contextlib.contextmanager
def journal(
    folder: Path | None, store: str, bundle: str, tell: Callable[[str], None]
) -> Iterator[Journal | None]:
    """The journal of pushing the bundle of this digest to the store of this id, in `folder`.

    None where there is no folder, where another process is pushing the same, and where it cannot be written,
    which `tell` is told. It stays, unless the block removes it with `close`.
    """
    opened = None
    if folder is not None and store:
        try:
            opened = _open(folder, store, bundle)
        except OSError as error:
            tell(f"no journal in {folder} ({error.strerror}): if this push is cut it begins anew")
    try:
        yield opened
    finally:
        if opened is not None:
            opened.close()


def remove_stale(folder: Path, store: ObjectStore, identity: str, now: datetime) -> None:
    """Remove the journals of this store that nobody touched for a week, and abort what they began there."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            with contextlib.suppress(OSError):
                age = now.timestamp() - path.stat().st_mtime
                if age > STALE.total_seconds():
                    _remove(path, store, identity, age > FOREIGN.total_seconds())


def _remove(path: Path, store: ObjectStore, identity: str, foreign: bool) -> None:
    fd = _locked(path)
    if fd is None:
        return
    try:
        first = os.pread(fd, 4096, 0).partition(b"\n")[0]
        bundle = _field(first, "bundle")
        own = _field(first, "store") == identity
        if own:
            Journal(path, fd, identity, bundle).give_up(store)
        if own or foreign or not bundle:
            path.unlink()
    finally:
        os.close(fd)


def _open(folder: Path, store: str, bundle: str) -> Journal | None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = hashlib.sha256(f"{store}\n{bundle}".encode()).hexdigest()[:32]
    path = folder / f"{name}{_SUFFIX}"
    fd = _locked(path)
    return None if fd is None else Journal(path, fd, store, bundle)


def _locked(path: Path) -> int | None:
    """The file at `path`, made if need be, open and locked; None where another holds it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:  # else who held it has removed it meanwhile
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _begun(line: bytes, store: str, bundle: str) -> Begun | None:
    try:
        begun = msgspec.json.decode(line, type=Begun)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    if (begun.format, begun.store, begun.bundle) != (FORMAT, store, bundle):
        return None
    return begun


def _field(line: bytes, name: str) -> str:
    with contextlib.suppress(msgspec.MsgspecError, UnicodeError):
        return str(getattr(msgspec.json.decode(line, type=Begun), name))
    return ""


def _continues(begun: Begun, state: State, store: ObjectStore) -> bool:
    """Whether the log still holds the record that was its head when the push began."""
    if begun.head == state.head:
        return begun.head_sha256 == state.head_sha256
    if begun.head == 0:
        return True
    found = store.get(record_key(begun.head))
    return found is not None and hashlib.sha256(found.data).hexdigest() == begun.head_sha256
