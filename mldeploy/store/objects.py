"""The five verbs asked of a store, the two streams for blobs, and `open_store`.

A key is a relative path with forward slashes. Every driver keeps these promises (tests/store holds them all
to one suite): `create` has exactly one winner however many race; a reader sees a whole object or none;
`get` of what is not there is None and nothing else is. What the verbs are used for is in store/log.py,
store/blobs.py and store/reports.py.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from mldeploy.core.records import format_time
from mldeploy.errors import NotFoundError, OutcomeUnknownError, StoreError, StoreFormatError

#: The newest format of a store that this code opens.
FORMAT = 1
#: The key that says that this is a store, and of which format.
MARKER = "mldeploy.json"
#: Called with the number of bytes just moved.
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a listing. `modified` is the store's own clock, seconds since the epoch."""

    key: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Fetched:
    """An object's bytes and when the store says it was written: seconds since the epoch, whole ones on S3."""

    data: bytes
    modified: float


# parts that are not empty and do not begin with a dot; no backslash, no control character
_KEY = re.compile(r"[^/\\.\x00-\x1f][^/\\\x00-\x1f]*(/[^/\\.\x00-\x1f][^/\\\x00-\x1f]*)*")


def check_key(key: str) -> str:
    """`key` if it may be one; else ValueError (keys are made by this program, never by its users)."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a key of a store")
    return key


class ObjectStore(Protocol):
    """A bucket or a folder. Every verb raises StoreError when the store cannot be reached or refuses."""

    @property
    def url(self) -> str:
        """The URL it was opened with, without credentials."""

    def get(self, key: str) -> Fetched | None:
        """The object, or None if there is none."""

    def create(self, key: str, data: bytes) -> bool:
        """Write `data` at `key` unless something is there. True: written by this call. False: taken, which
        may be by this call itself where a library below sends again on its own (s3fs does).

        Raises OutcomeUnknownError when it may or may not have been written: `get` decides. Any other
        StoreError or DiskError means that nothing was written and nothing will be.
        """

    def put(self, key: str, data: bytes) -> None:
        """Write or overwrite; for hosts/ and hints only."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """The objects whose keys begin with `prefix`, in order of their keys. Never the truth."""

    def delete(self, key: str) -> None:
        """Remove; nothing there is no error."""

    def upload(self, key: str, source: Path, progress: Progress | None = None) -> None:
        """Stream a file to `key`, which nobody else uses; whole or not at all, and again if need be."""

    def download(self, key: str, target: Path, progress: Progress | None = None) -> str:
        """Stream `key` into the new file `target`, fsync it, and return the sha256 of what was written.

        Raises NotFoundError when there is no such object. The caller removes `target` on failure.
        """

    def watch(self, prefix: str, wake: Callable[[], None]) -> Callable[[], None] | None:
        """Call `wake` (from any thread) when an object directly below `prefix` (`log/`) may have changed.

        Returns what stops the watch, or None where the store cannot tell and has to be polled.
        """


class Resumption:
    """Where an upload that was cut goes on. `token` is what the driver noted last, "" for nothing; `note` is
    called with every change of it, and must keep it before it returns.
    """

    def __init__(self, token: str, note: Callable[[str], None]) -> None:
        self.token = token
        self._note = note

    def note(self, token: str) -> None:
        """Keep `token`."""
        self.token = token
        self._note(token)


@runtime_checkable
class ResumingStore(Protocol):
    """What a driver has besides that moves a blob in parts and goes on where it was cut."""

    def send(
        self,
        key: str,
        source: Path,
        *,
        sha256: str,
        progress: Progress | None = None,
        resumption: Resumption | None = None,
    ) -> None:
        """`upload`, of a file that is read once; nothing is at `key` unless what was sent has this digest.

        Raises IntegrityError where it has not.
        """

    def fetch(self, key: str, target: Path, *, size: int, progress: Progress | None = None) -> str:
        """`download` of `size` bytes into a file that may hold the beginning of them already, which stays
        when it fails. Raises IntegrityError for an object of another length.
        """

    def abandon(self, key: str, token: str) -> None:
        """Remove what an upload that noted `token` has left behind, if it can be removed."""


class Wanted(NamedTuple):
    """An object of `size` bytes that is to be in the new file `target`."""

    key: str
    target: Path
    size: int


@runtime_checkable
class AheadStore(Protocol):
    """What a driver has besides that asks for short objects before their turn."""

    def fetch_each(self, wanted: Iterable[Wanted]) -> Generator[str]:
        """`download` of each, in order: its sha256. Takes a few of `wanted` before it yields the first; what
        one that fails has left of its file stays. Raises IntegrityError for an object of another length.
        """


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """`mldeploy.json`: what makes a bucket or a folder a store."""

    format: int = FORMAT
    id: str  # ULID of the store
    created: str  # RFC 3339


class Opened(NamedTuple):
    """What a driver gives: the store, and the same with nothing made durable, for the probe."""

    store: ObjectStore
    scratch: ObjectStore


def open_store(url: str, *, create: bool = False) -> ObjectStore:
    """The store at `url`: a path, file:///…, s3://bucket/prefix, memory://NAME (this process alone), or an
    fsspec URL (s3+fsspec://… is S3 through s3fs).

    `create`: make it one if it is none yet; its exclusive create is probed first. One that exists is opened.
    Raises NotFoundError where there is no store, StoreFormatError for one of a newer mldeploy, StoreError
    where it cannot be reached or fails the probe, DiskError where a folder cannot be written, UsageError for
    a URL of no known kind.
    """
    opened = _driver(url, create)
    store = opened.store
    found = store.get(MARKER)
    if found is None and create:
        found = _create(opened)
    if found is None:
        raise NotFoundError(
            f"there is no mldeploy store at {store.url}",
            f"the first `mldeploy push SOURCE --store {store.url}` makes one; --store names another",
        )
    _check_format(store.url, found.data)
    return store


def _driver(url: str, create: bool) -> Opened:
    # drivers are imported when asked for: fsspec and its file systems take long to load
    scheme, separator, _ = url.partition("://")
    if not separator or scheme == "file":
        from mldeploy.store.file import FileStore, folder_of

        root = folder_of(url)
        if create:
            FileStore(root).make_root()
        return Opened(FileStore(root, marker=MARKER), FileStore(root, durable=False))
    if scheme == "memory":
        from mldeploy.store.memory import MemoryStore

        memory = MemoryStore.named(url)
        return Opened(memory, memory)
    remote: ObjectStore
    if scheme == "s3":
        from mldeploy.store.s3 import S3Store

        remote = S3Store.open(url)
    else:
        from mldeploy.store.fsspec_store import FsspecStore

        remote = FsspecStore.open(url)
    return Opened(remote, remote)


def store_id(store: ObjectStore) -> str:
    """The id of a store, made with it; "" where it has none. One request."""
    found = store.get(MARKER)
    try:
        return msgspec.json.decode(found.data, type=Marker).id if found is not None else ""
    except (msgspec.MsgspecError, UnicodeError):
        return ""


def _create(opened: Opened) -> Fetched:
    from mldeploy.store.ids import new_ulid
    from mldeploy.store.probe import probe

    probe(opened.scratch)
    marker = Marker(id=new_ulid(), created=format_time(datetime.now(UTC)))
    with contextlib.suppress(OutcomeUnknownError):  # what can be read decides
        opened.store.create(MARKER, msgspec.json.encode(marker) + b"\n")
    found = opened.store.get(MARKER)  # another may have been quicker: theirs is the store's
    if found is None:
        raise StoreError(
            f"{opened.store.url} does not show {MARKER} after it was written",
            "a store must be consistent: a written object is there for every reader at once",
        )
    return found


def _check_format(url: str, data: bytes) -> None:
    try:
        marker = msgspec.json.decode(data, type=_MarkerFormat)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise StoreError(
            f"{MARKER} of {url} cannot be read: {error}", "put it back from a backup, or name another store"
        ) from error
    if marker.format > FORMAT:
        raise StoreFormatError(
            f"the store {url} has format {marker.format}, and this mldeploy reads up to {FORMAT}",
            "upgrade mldeploy",
        )


class _MarkerFormat(msgspec.Struct, frozen=True):
    format: int
