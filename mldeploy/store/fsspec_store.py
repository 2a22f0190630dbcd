"""Any other scheme through its fsspec driver: gs, az, sftp…, with fsspec's own URLs and credentials.

Rules: exclusive create is the file system's own (`mode="create"`: a conditional write on S3); a file system
that has none, or ignores it, is found out by the probe when the store is made. fsspec is imported when a
store is opened, never before. Nothing is cached: a listing or a size from before would be a lie.
s3+fsspec:// is S3 through s3fs: `get` is one GetObject; s3fs and botocore are told to try once, and
`store/retry.py` does the rest (of transfers s3fs tries each request again by itself). One thing they keep to
themselves: aiohttp sends again where a connection kept from before turns out to be closed, so "taken" may
be this call's own write. s3fs cannot be used across a fork.
Left out: waking readers (they poll), and the hot path for S3 (`store/s3.py`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from mldeploy.errors import (
    DiskError,
    MldeployError,
    NotFoundError,
    OutcomeUnknownError,
    StoreError,
    UsageError,
)
from mldeploy.store import s3_errors
from mldeploy.store.objects import Entry, Fetched, Progress, check_key
from mldeploy.store.pace import Gate, Pace
from mldeploy.store.retry import Verdict, persist
from mldeploy.store.s3_heard import heard_from_botocore
from mldeploy.store.streams import PIECE, save

T = TypeVar("T")
_SELECTED = "+fsspec"

#: Of an upload to S3: bytes of a part, and parts at once. s3fs holds so many in memory for each file.
PART, PARTS = 16 << 20, 4
#: Bytes of a request of a download.
BLOCK = 8 << 20
#: Bytes in memory, and requests at once, for all transfers of a store together.
BUDGET, REQUESTS = 64 << 20, 16


class FsspecStore:
    """A store below a path of an fsspec file system. `url` must not hold credentials.

    `bulk`: for S3 alone, the same file system for transfers, which may try each of their requests again.
    """

    def __init__(self, filesystem: Any, root: str, url: str, *, bulk: Any = None) -> None:
        self._fs = filesystem
        self._root = root.rstrip("/")
        self._url = url
        self._s3 = bulk is not None
        self._bulk = bulk or filesystem
        self._gate = Gate(BUDGET, pace=Pace(limit=REQUESTS))

    @classmethod
    def open(cls, url: str) -> FsspecStore:
        """Find the driver of a URL; nothing is reached yet. Raises UsageError for an unknown scheme, and
        StoreError where the driver's package is missing or refuses its configuration.
        """
        import fsspec

        scheme, _, rest = url.partition("://")
        plain = f"{scheme.removesuffix(_SELECTED)}://{rest}"
        options = _s3_options(os.environ) if plain.startswith("s3://") else {}
        try:
            filesystem, root = fsspec.core.url_to_fs(
                plain, use_listings_cache=False, skip_instance_cache=True, **options
            )
        except ImportError as error:
            raise StoreError(f"{scheme}:// needs a package: {error}", "install it beside mldeploy") from error
        except ValueError as error:
            raise UsageError(
                f"{scheme}:// is no kind of store: {error}", "give a folder, file:///… or s3://bucket/prefix"
            ) from error
        except Exception as error:  # drivers raise whatever their libraries do
            raise StoreError(
                f"cannot open {scheme}://: {error}", "check the URL and the credentials"
            ) from error
        shown = f"{scheme}://{_without_password(rest)}"
        if not options:
            return cls(filesystem, str(root), shown)
        filesystem.retries = 1  # s3fs's own, on top of botocore's
        bulk, _ = fsspec.core.url_to_fs(plain, use_listings_cache=False, skip_instance_cache=True, **options)
        return cls(filesystem, str(root), shown, bulk=bulk)

    @property
    def url(self) -> str:
        """As it was opened, without credentials."""
        return self._url

    def get(self, key: str) -> Fetched | None:
        """The object, or None. Where it is not S3, a second request asks when it was written."""
        path = self._path(key)

        def ask() -> Fetched | None:
            try:
                return self._get_from_s3(path) if self._s3 else self._cat(path)
            except FileNotFoundError as error:
                if self._absent(error):
                    return None
                raise

        return self._persist(ask, key, "s3:GetObject")

    def create(self, key: str, data: bytes) -> bool:
        """True if this call wrote it. On another file system than S3 any error but "exists" leaves the
        outcome unknown.
        """
        path = self._path(key)
        try:
            self._fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except (TypeError, NotImplementedError) as error:
            raise StoreError(
                f"{self._url} has no exclusive create: {error}", "use a local folder or S3"
            ) from error
        except Exception as error:  # drivers raise whatever their libraries do
            failure = heard_from_botocore(error) if self._s3 else None
            if failure and s3_errors.exists(failure):
                return False
            if failure and s3_errors.unsent(failure):
                raise s3_errors.told(failure, self._where(key, "s3:PutObject")) from error
            raise OutcomeUnknownError(
                f"it is not known whether {key} was written to {self._url}: {error}", "run it again"
            ) from error
        return True

    def put(self, key: str, data: bytes) -> None:
        """Write or overwrite."""
        path = self._path(key)
        self._persist(lambda: self._fs.pipe_file(path, data), key, "s3:PutObject")

    def list(self, prefix: str) -> Iterator[Entry]:
        """In order of the keys."""
        folder = prefix.rpartition("/")[0]
        start = f"{self._root}/{folder}" if folder else self._root

        def ask() -> Any:
            try:
                return self._fs.find(start, detail=True, refresh=True)
            except FileNotFoundError as error:
                if self._absent(error):
                    return {}
                raise

        entries = []
        for path, info in self._persist(ask, prefix, "s3:ListBucket").items():
            key = str(path).removeprefix(f"{self._root}/")
            if key.startswith(prefix) and info.get("type") == "file":
                entries.append(Entry(key, int(info.get("size") or 0), _seconds(info)))
        return iter(sorted(entries, key=lambda entry: entry.key))

    def delete(self, key: str) -> None:
        """Remove, if it is there."""
        path = self._path(key)

        def remove() -> None:
            try:
                self._fs.rm_file(path)
            except FileNotFoundError as error:
                if not self._absent(error):
                    raise

        self._persist(remove, key, "s3:DeleteObject")

    def upload(self, key: str, source: Path, progress: Progress | None = None) -> None:
        """Stream a file in; the driver completes the object when all of it is there."""
        path = self._path(key)
        if not source.is_file():
            raise DiskError(f"{source} is not there", "it was removed meanwhile: pack it again")
        size = source.stat().st_size
        # s3fs holds all parts under way in memory, and of its own accord that is ten of 50 MB
        parts = {"chunksize": max(PART, -(-size // 10_000)), "max_concurrency": PARTS} if self._s3 else {}
        with self._told(key, "s3:PutObject"), self._let_in(min(size, PART * PARTS)):
            self._bulk.put_file(str(source), path, callback=_callback(progress), **parts)

    def download(self, key: str, target: Path, progress: Progress | None = None) -> str:
        """Stream it out into a new file; memory is bounded."""
        path = self._path(key)
        with self._told(key, "s3:GetObject"), self._let_in(2 * BLOCK):
            try:
                with self._bulk.open(path, "rb", block_size=BLOCK, cache_type="readahead") as file:
                    return save(iter(lambda: file.read(PIECE), b""), target, progress)
            except FileNotFoundError as error:
                if not self._absent(error):
                    raise
                raise NotFoundError(
                    f"there is no {key} in {self._url}", "it may have been collected"
                ) from error

    def watch(self, prefix: str, wake: Callable[[], None]) -> Callable[[], None] | None:
        """None: it has to be polled."""
        return None

    @contextlib.contextmanager
    def _let_in(self, count: int) -> Iterator[None]:
        """Where a transfer that takes `count` bytes of memory has its turn."""
        self._gate.enter(count)
        try:
            yield
        finally:
            self._gate.leave(count)

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"

    def _get_from_s3(self, path: str) -> Fetched:
        """s3fs's own `cat_file` drops the answer's time, which would cost a request more."""
        from fsspec.asyn import sync

        bucket, name, _ = self._fs.split_path(path)
        answer = self._fs.call_s3("get_object", Bucket=bucket, Key=name)
        body = answer["Body"]
        try:
            return Fetched(sync(self._fs.loop, body.read), _seconds(answer))
        finally:
            body.close()

    def _cat(self, path: str) -> Fetched:
        return Fetched(self._fs.cat_file(path), self._modified(path))

    def _modified(self, path: str) -> float:
        try:
            return _seconds(self._fs.info(path, refresh=True))
        except (FileNotFoundError, TypeError):
            return 0.0

    def _absent(self, error: FileNotFoundError) -> bool:
        """Whether it is the object that is not there; s3fs says the same of a bucket."""
        failure = heard_from_botocore(error) if self._s3 else None
        return failure is None or failure.code != "NoSuchBucket"

    def _persist(self, ask: Callable[[], T], key: str, right: str) -> T:
        with self._told(key, right):
            return persist(ask, _judge, self._url) if self._s3 else ask()

    def _where(self, key: str, right: str) -> s3_errors.Where:
        from mldeploy.store.s3_config import from_environment

        settings = from_environment(os.environ)
        if self._fs.endpoint_url:
            settings = replace(settings, endpoint=self._fs.endpoint_url)
        return s3_errors.Where(
            url=self._url,
            bucket=self._root.partition("/")[0],
            endpoint=settings.shown(),
            region=settings.region,
            key=key,
            right=right,
        )

    @contextlib.contextmanager
    def _told(self, key: str, right: str) -> Iterator[None]:
        try:
            yield
        except MldeployError:
            raise
        except Exception as error:  # drivers raise whatever their libraries do
            failure = heard_from_botocore(error) if self._s3 else None
            if failure:
                raise s3_errors.told(failure, self._where(key, right)) from error
            raise StoreError(
                f"{self._url} does not answer for {key}: {type(error).__name__}: {error}",
                "check the network, the URL and the credentials",
            ) from error


def _without_password(rest: str) -> str:
    """A URL's part after ://, without who asks; a container before an @, as abfs:// has it, stays."""
    place, slash, path = rest.partition("/")
    if ":" in place and "@" not in place and "@" in path:  # a password with a slash, which none may have
        return rest.rpartition("@")[2]
    who, at, host = place.rpartition("@")
    return f"{host if ':' in who else who + at + host}{slash}{path}"


def _s3_options(environ: Mapping[str, str]) -> dict[str, Any]:
    """What s3fs is told beyond what it and botocore find by themselves."""
    options: dict[str, Any] = {
        "config_kwargs": {"retries": {"total_max_attempts": 1}, "connect_timeout": 5, "read_timeout": 30}
    }
    region = environ.get("AWS_REGION")  # botocore knows AWS_DEFAULT_REGION alone
    if region:
        options["client_kwargs"] = {"region_name": region}
    return options


def _judge(error: Exception) -> Verdict:
    failure = None if isinstance(error, MldeployError) else heard_from_botocore(error)
    return Verdict(again=False) if failure is None else s3_errors.verdict(failure)


def _seconds(info: dict[str, Any]) -> float:
    for name in ("LastModified", "last_modified", "mtime", "modified", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0


def _callback(progress: Progress | None) -> Any:
    from fsspec.callbacks import Callback

    class Told(Callback):  # type: ignore[misc] # fsspec has no types
        def relative_update(self, inc: int = 1) -> None:
            if progress:
                progress(inc)

    return Told()
