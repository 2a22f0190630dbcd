"""Any other scheme through its fsspec driver: s3, gs, az, sftp…, with fsspec's own URLs and credentials.

Rules: exclusive create is the file system's own (`mode="create"`: a conditional write on S3); a file system
that has none, or ignores it, is found out by the probe when the store is made. fsspec is imported when a
store is opened, never before. Nothing is cached: a listing or a size from before would be a lie.
Left out: waking readers (they poll), and the hot path for S3, which is to get a driver of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from mldeploy.errors import (
    DiskError,
    MldeployError,
    NotFoundError,
    OutcomeUnknownError,
    StoreError,
    UsageError,
)
from mldeploy.store.objects import Entry, Fetched, Progress, check_key
from mldeploy.store.streams import PIECE, save

_SELECTED = "+fsspec"


class FsspecStore:
    """A store below a path of an fsspec file system. `url` must not hold credentials."""

    def __init__(self, filesystem: Any, root: str, url: str) -> None:
        self._fs = filesystem
        self._root = root.rstrip("/")
        self._url = url

    @classmethod
    def open(cls, url: str) -> FsspecStore:
        """Find the driver of a URL; nothing is reached yet. Raises UsageError for an unknown scheme, and
        StoreError where the driver's package is missing or refuses its configuration.
        """
        import fsspec

        scheme, _, rest = url.partition("://")
        plain = f"{scheme.removesuffix(_SELECTED)}://{rest}"
        try:
            filesystem, root = fsspec.core.url_to_fs(
                plain, use_listings_cache=False, skip_instance_cache=True
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
        return cls(filesystem, str(root), f"{scheme}://{rest.rpartition('@')[2]}")

    @property
    def url(self) -> str:
        """As it was opened, without credentials."""
        return self._url

    def get(self, key: str) -> Fetched | None:
        """The object, or None. Two requests, of which only the bytes decide anything."""
        path = self._path(key)
        with self._told(key):
            try:
                data = self._fs.cat_file(path)
            except FileNotFoundError:
                return None
            return Fetched(data, self._modified(path))

    def create(self, key: str, data: bytes) -> bool:
        """True if this call wrote it. Any error but "exists" leaves the outcome unknown."""
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
            raise OutcomeUnknownError(
                f"it is not known whether {key} was written to {self._url}: {error}", "run it again"
            ) from error
        return True

    def put(self, key: str, data: bytes) -> None:
        """Write or overwrite."""
        path = self._path(key)
        with self._told(key):
            self._fs.pipe_file(path, data)

    def list(self, prefix: str) -> Iterator[Entry]:
        """In order of the keys."""
        folder = prefix.rpartition("/")[0]
        start = f"{self._root}/{folder}" if folder else self._root
        with self._told(prefix):
            try:
                found = self._fs.find(start, detail=True, refresh=True)
            except FileNotFoundError:
                found = {}
        entries = []
        for path, info in found.items():
            key = str(path).removeprefix(f"{self._root}/")
            if key.startswith(prefix) and info.get("type") == "file":
                entries.append(Entry(key, int(info.get("size") or 0), _seconds(info)))
        return iter(sorted(entries, key=lambda entry: entry.key))

    def delete(self, key: str) -> None:
        """Remove, if it is there."""
        path = self._path(key)
        with self._told(key), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def upload(self, key: str, source: Path, progress: Progress | None = None) -> None:
        """Stream a file in; the driver completes the object when all of it is there."""
        path = self._path(key)
        if not source.is_file():
            raise DiskError(f"{source} is not there", "it was removed meanwhile: pack it again")
        with self._told(key):
            self._fs.put_file(str(source), path, callback=_callback(progress))

    def download(self, key: str, target: Path, progress: Progress | None = None) -> str:
        """Stream it out into a new file; memory is bounded."""
        path = self._path(key)
        with self._told(key):
            try:
                with self._fs.open(path, "rb", block_size=4 * PIECE, cache_type="readahead") as file:
                    return save(iter(lambda: file.read(PIECE), b""), target, progress)
            except FileNotFoundError as error:
                raise NotFoundError(
                    f"there is no {key} in {self._url}", "it may have been collected"
                ) from error

    def watch(self, prefix: str, wake: Callable[[], None]) -> Callable[[], None] | None:
        """None: it has to be polled."""
        return None

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"

    def _modified(self, path: str) -> float:
        try:
            return _seconds(self._fs.info(path, refresh=True))
        except (FileNotFoundError, TypeError):
            return 0.0

    @contextlib.contextmanager
    def _told(self, key: str) -> Iterator[None]:
        try:
            yield
        except MldeployError:
            raise
        except Exception as error:  # drivers raise whatever their libraries do
            raise StoreError(
                f"{self._url} does not answer for {key}: {type(error).__name__}: {error}",
                "check the network, the URL and the credentials",
            ) from error


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
