"""The store in a bucket of S3, through obstore: one request a verb, and no retry that hides anything.

Rules:
  - `create` is one PutObject with `If-None-Match: *`, never sent twice: obstore's own retry would send it
    again after a lost answer and then report its own success as "taken". 412 is "taken"; what certainly
    wrote nothing (forbidden, no bucket, no connection) is a StoreError; everything else, 409 and every 5xx
    among them, is OutcomeUnknownError, and reading the key decides;
  - get, put, list and delete are tried again within a bound (`store/retry.py`);
  - `get` is one GetObject, there or not, and nothing is listed;
  - the client is made at the first verb and made again when the credentials are refused, so that what a
    login or another process renews is taken up by a daemon that runs.
Threads may share a store. A child of fork may not use one where the parent had: obstore's threads do not
survive a fork (tried: the child hangs), so it is told to start a process anew instead.
Left out: waking readers (they poll).
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mldeploy.errors import MldeployError, NotFoundError, OutcomeUnknownError, StoreError
from mldeploy.store import s3_errors
from mldeploy.store.objects import Entry, Fetched, Progress, Resumption, Wanted, check_key
from mldeploy.store.retry import Patience, Verdict, persist
from mldeploy.store.s3_client import Clients
from mldeploy.store.s3_config import Place, Settings, place_of
from mldeploy.store.s3_heard import Failure, heard
from mldeploy.store.s3_transfer import Wire

T = TypeVar("T")

#: Objects that S3 lists in one answer.
PAGE = 1000


class _Process:
    """The process in which obstore was first used."""

    pid = 0


class S3Store:
    """A store below a prefix of a bucket. The constructor does no I/O and reads no configuration.

    `environ` is where the settings are read when the first verb is called; `patience` bounds retries.
    """

    def __init__(
        self, place: Place, environ: Mapping[str, str] | None = None, patience: Patience | None = None
    ) -> None:
        self._place = place
        self._environ = os.environ if environ is None else environ
        self._patience = patience
        self._clients: Clients | None = None
        self._lock = threading.Lock()

    @classmethod
    def open(cls, url: str) -> S3Store:
        """The store at s3://bucket/prefix; nothing is reached yet. Raises UsageError for another URL."""
        return cls(place_of(url))

    @property
    def url(self) -> str:
        """s3://bucket/prefix"""
        return self._place.url

    # --- the verbs

    def get(self, key: str) -> Fetched | None:
        """The object, or None; one request. `modified` is in whole seconds."""
        import obstore

        check_key(key)

        def ask() -> Fetched | None:
            try:
                found = obstore.get(self._ready().hot, key)
                return Fetched(bytes(found.bytes()), found.meta["last_modified"].timestamp())
            except FileNotFoundError as error:
                if s3_errors.absent(heard(error)):
                    return None
                raise

        return self._persist(ask, key, "s3:GetObject")

    def create(self, key: str, data: bytes) -> bool:
        """True if this call wrote it."""
        import obstore

        check_key(key)
        clients = self._ready()
        try:
            obstore.put(clients.hot, key, data, mode="create", use_multipart=False)
        except Exception as error:
            failure = self._heard(error)
            if s3_errors.exists(failure):
                return False
            message, hint = s3_errors.words(failure, self._where(key, "s3:PutObject"))
            if s3_errors.unsent(failure):
                raise StoreError(message, hint) from error
            raise OutcomeUnknownError(
                f"it is not known whether {key} was written to {self.url}: {message}", hint
            ) from error
        return True

    def put(self, key: str, data: bytes) -> None:
        """Write or overwrite."""
        import obstore

        check_key(key)
        self._persist(
            lambda: obstore.put(self._ready().hot, key, data, use_multipart=False), key, "s3:PutObject"
        )

    def list(self, prefix: str) -> Iterator[Entry]:
        """In order of the keys, a page of up to 1,000 at a time; a page that fails is asked for again."""
        folder = prefix.rpartition("/")[0]
        last = ""
        while True:
            page = self._page(folder, last, prefix)
            for entry in page:
                if entry.key <= last:
                    raise StoreError(
                        f"{self.url} does not list in order of the keys: {entry.key} after {last}",
                        "use a general purpose bucket; directory buckets have no order",
                    )
                last = entry.key
                if entry.key.startswith(prefix):
                    yield entry
            if len(page) < PAGE:
                return

    def delete(self, key: str) -> None:
        """Remove, if it is there."""
        import obstore

        check_key(key)

        def remove() -> None:
            try:
                obstore.delete(self._ready().hot, key)
            except FileNotFoundError as error:
                if not s3_errors.absent(heard(error)):
                    raise

        self._persist(remove, key, "s3:DeleteObject")

    def upload(self, key: str, source: Path, progress: Progress | None = None) -> None:
        """Stream a file in (`store/s3_upload.py`)."""
        from mldeploy.store.s3_upload import upload

        self._carry(
            lambda wire: upload(wire, key, source, sha256=None, progress=progress), key, "s3:PutObject"
        )

    def send(
        self,
        key: str,
        source: Path,
        *,
        sha256: str,
        progress: Progress | None = None,
        resumption: Resumption | None = None,
    ) -> None:
        """Stream a file of this digest in, or go on with what was cut (`store/s3_upload.py`)."""
        from mldeploy.store.s3_upload import upload

        self._carry(
            lambda wire: upload(wire, key, source, sha256=sha256, progress=progress, resumption=resumption),
            key,
            "s3:PutObject",
        )

    def abandon(self, key: str, token: str) -> None:
        """Abort the upload that was noted."""
        from mldeploy.store.s3_upload import abandon

        self._carry(lambda wire: abandon(wire, key, token), key, "s3:AbortMultipartUpload")

    def download(self, key: str, target: Path, progress: Progress | None = None) -> str:
        """Stream it out into a new file (`store/s3_download.py`)."""
        from mldeploy.store.s3_download import download

        return self._carry(
            lambda wire: download(wire, key, target, size=None, progress=progress), key, "s3:GetObject"
        )

    def fetch(self, key: str, target: Path, *, size: int, progress: Progress | None = None) -> str:
        """Stream it out into a file that may have its beginning (`store/s3_download.py`)."""
        from mldeploy.store.s3_download import download

        return self._carry(
            lambda wire: download(wire, key, target, size=size, progress=progress, resume=True),
            key,
            "s3:GetObject",
        )

    def fetch_each(self, wanted: Iterable[Wanted]) -> Generator[str]:
        """Stream short ones out; the next ones are on their way meanwhile (`store/s3_ahead.py`)."""
        from mldeploy.store.s3_ahead import ahead
        from mldeploy.store.s3_download import download

        wire = self._told(lambda: self._ready().wire, "", "s3:GetObject")
        with contextlib.closing(ahead(wire, wanted)) as coming:
            for (key, target, size), early in coming:
                carry = functools.partial(
                    download, key=key, path=target, size=size, progress=None, early=early
                )
                yield self._carry(carry, key, "s3:GetObject")

    def watch(self, prefix: str, wake: Callable[[], None]) -> Callable[[], None] | None:
        """None: it has to be polled."""
        return None

    def _page(self, folder: str, after: str, prefix: str) -> Sequence[Entry]:
        import obstore

        def ask() -> Sequence[Entry]:
            stream = obstore.list(self._ready().hot, folder or None, offset=after or None, chunk_size=PAGE)
            page = next(iter(stream), ())
            return [Entry(one["path"], one["size"], one["last_modified"].timestamp()) for one in page]

        return self._persist(ask, prefix, "s3:ListBucket")

    # --- the client

    def _ready(self) -> Clients:
        with self._lock:
            pid = _Process.pid = _Process.pid or os.getpid()
            if pid != os.getpid():
                raise StoreError(
                    f"{self.url} cannot be used in a process that was forked after S3 had been used in its "
                    "parent",
                    "start the process anew (multiprocessing's `spawn` or `forkserver`)",
                )
            if self._clients is None:
                self._clients = Clients(self._place, self._environ, self._patience)
            return self._clients

    def _heard(self, error: Exception) -> Failure:
        failure = heard(error)
        if s3_errors.stale_credentials(failure):
            with self._lock:
                self._clients = None  # look for others at the next request
        clients = self._clients
        if clients and s3_errors.elsewhere(failure) and not failure.region:
            from mldeploy.store.s3_region import bucket_region

            failure = replace(failure, region=bucket_region(clients.settings, self._place.bucket))
        return failure

    def _where(self, key: str, right: str) -> s3_errors.Where:
        clients = self._clients
        settings = clients.settings if clients else Settings()
        return s3_errors.Where(
            url=self.url,
            bucket=self._place.bucket,
            endpoint=settings.shown(),
            region=settings.region,
            key=key,
            right=right,
        )

    # --- errors

    def _persist(self, ask: Callable[[], T], key: str, right: str) -> T:
        return self._told(lambda: persist(ask, _judge, self.url, self._patience), key, right)

    def _carry(self, carry: Callable[[Wire], T], key: str, right: str) -> T:
        check_key(key)
        return self._told(lambda: carry(self._ready().wire), key, right)

    def _told(self, ask: Callable[[], T], key: str, right: str) -> T:
        try:
            return ask()
        except (MldeployError, CancelledError):  # what a progress callback ends a transfer with
            raise
        except Exception as error:
            failure = self._heard(error)
            told = s3_errors.told(failure, self._where(key, right))
            if s3_errors.absent(failure):
                raise NotFoundError(told.message, told.hint) from error
            raise told from error


def _judge(error: Exception) -> Verdict:
    return Verdict(again=False) if isinstance(error, MldeployError) else s3_errors.verdict(heard(error))
