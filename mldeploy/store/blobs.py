"""Blobs: immutable bytes by digest, under a key that carries the id of the push that brought them.

Rules: a key is never used twice; what goes up is hashed, and is not there unless its digest is the one in
the key; what is fetched is compared with its digest and size before anyone sees it, and removed if it
differs. Whether a blob exists is for the folded state to say, never for the store.
Left out: which blobs to bring or to reuse (`bundle/push.py`) and collecting them.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeGuard

from mldeploy.core.types import check_digest
from mldeploy.errors import DiskError, IntegrityError, NotFoundError
from mldeploy.store.file import disk_error
from mldeploy.store.objects import AheadStore, ObjectStore, Progress, ResumingStore, Resumption, Wanted
from mldeploy.store.streams import PIECE, Source, altered_source


def blob_key(sha256: str, push: str) -> str:
    """blobs/sha256/ab/<sha256>.<push id>"""
    return f"blobs/sha256/{check_digest(sha256)[:2]}/{sha256}.{push}"


def upload_blob(
    store: ObjectStore,
    sha256: str,
    push: str,
    source: Path,
    progress: Progress | None = None,
    *,
    resumption: Resumption | None = None,
) -> str:
    """Stream the file `source` into the store if it has this sha256; returns the key.

    `resumption`: where an earlier run was cut, and where this one notes how far it is. Raises IntegrityError
    for a file of another digest, or one that changes meanwhile, StoreError, DiskError or OutcomeUnknownError;
    to upload the same again is safe.
    """
    key = blob_key(sha256, push)
    if _resumes(store):
        store.send(key, source, sha256=sha256, progress=progress, resumption=resumption)
        return key
    before = _look(source)
    if _sha256(source) != sha256:
        raise altered_source(source)
    store.upload(key, source, progress)
    if _look(source) != before:
        raise altered_source(source)
    return key


def abandon_blob(store: ObjectStore, sha256: str, push: str, token: str) -> None:
    """Remove what an upload of this blob that was cut has left in the store, where it can be removed."""
    if token and _resumes(store):
        store.abandon(blob_key(sha256, push), token)


def fetch_blob(
    store: ObjectStore,
    sha256: str,
    push: str,
    target: Path,
    *,
    size: int | None = None,
    progress: Progress | None = None,
    resume: bool = False,
) -> None:
    """Stream a blob into the new file `target`, durable and verified; on any error there is no `target`.

    With `resume`, and a `size`, the file may be there with the beginning of the blob, and stays with what has
    come when the store does not answer: the next call goes on from there. One that turns out to be the
    beginning of something else, as after a power cut, is fetched again whole. Raises IntegrityError for other
    bytes than the digest's, NotFoundError, StoreError, DiskError.
    """
    key = blob_key(sha256, push)
    resume = resume and size is not None
    existed = target.exists() and not resume
    try:
        if existed:
            raise disk_error(FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)), target)
        begun = resume and target.exists() and target.stat().st_size > 0
        found = _download(store, key, target, size, progress, resume)
        if begun and found != sha256:  # it may have been the beginning of something else
            target.unlink()
            found = _download(store, key, target, size, progress, resume)
        _verify(store.url, key, target, found, sha256, size)
    except BaseException as error:
        # what another has made is not touched, and a beginning is kept for the next call
        if not existed and not (resume and _may_go_on(error)):
            target.unlink(missing_ok=True)
        if isinstance(error, NotFoundError):
            raise _gone(store.url, key) from error
        raise


class Short(NamedTuple):
    """A short blob that is to be in the new file `target`."""

    sha256: str
    push: str
    target: Path
    size: int


def fetch_blobs(store: ObjectStore, wanted: Iterable[Short]) -> Generator[str]:
    """`fetch_blob` of each, in order: yields its digest once its file is durable and verified.

    A few of `wanted` are taken before the first is yielded. What one that fails has left stays in its folder.
    Raises as fetch_blob.
    """
    url = store.url
    if not asks_ahead(store):
        for each in wanted:
            fetch_blob(store, each.sha256, each.push, each.target, size=each.size)
            yield each.sha256
        return
    taken: deque[tuple[str, Short]] = deque()

    def objects() -> Iterator[Wanted]:
        for each in wanted:
            key = blob_key(each.sha256, each.push)
            taken.append((key, each))
            yield Wanted(key, each.target, each.size)

    with contextlib.closing(store.fetch_each(objects())) as coming:
        while True:
            try:
                found = next(coming, None)
            except NotFoundError as error:
                raise _gone(url, taken[0][0]) from error
            if found is None:
                return
            key, each = taken.popleft()
            _verify(url, key, each.target, found, each.sha256, each.size)
            yield each.sha256


def asks_ahead(store: ObjectStore) -> TypeGuard[AheadStore]:
    """Whether `fetch_blobs` has several requests of one thread on their way."""
    return _is_a(type(store), AheadStore)


def _resumes(store: ObjectStore) -> TypeGuard[ResumingStore]:
    return _is_a(type(store), ResumingStore)


@functools.cache  # what a protocol asks takes as long as a small file
def _is_a(kind: type, protocol: type) -> bool:
    return issubclass(kind, protocol)


def _download(
    store: ObjectStore, key: str, target: Path, size: int | None, progress: Progress | None, resume: bool
) -> str:
    if size is not None and _resumes(store):
        return store.fetch(key, target, size=size, progress=progress)
    if resume:
        target.unlink(missing_ok=True)
    return store.download(key, target, progress)


def _verify(url: str, key: str, target: Path, found: str, sha256: str, size: int | None) -> None:
    """Compare what has come, of which `found` is the digest, with what is wanted. Raises IntegrityError."""
    length = target.stat().st_size
    if size is not None and length != size:
        raise altered(url, key, f"has {length} bytes instead of {size}")
    if found != sha256:
        raise altered(url, key, "holds other bytes than its digest says")


def _gone(url: str, key: str) -> NotFoundError:
    return NotFoundError(f"{key} is not in {url}", "push the bundle again")


def _may_go_on(error: BaseException) -> bool:
    """Whether what has come is worth keeping: not where it is wrong, or where it fills the disk."""
    return not isinstance(error, IntegrityError | NotFoundError | DiskError)


def altered(url: str, key: str, said: str) -> IntegrityError:
    """The error for an object of the store `url` that is not what its key says: `said` of it."""
    return IntegrityError(
        f"{key} {said}",
        f"it was truncated or altered in {url}: put the file with that sha256 back there, from a "
        "backup or from the bundle that was pushed",
    )


def _look(source: Path) -> tuple[int, ...]:
    """What differs once a file has been written to or replaced."""
    try:
        status = source.stat()
    except OSError as error:
        raise disk_error(error, source) from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _sha256(source: Path) -> str:
    digest = hashlib.sha256()
    with Source(source) as file:
        for start in range(0, file.size, PIECE):
            digest.update(file.read(start, min(PIECE, file.size - start)))
        file.check_end()
    return digest.hexdigest()
