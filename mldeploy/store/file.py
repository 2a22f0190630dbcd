"""The store in a local folder: exclusive create by hard link, durable before it is acknowledged.

Every write goes: temporary file in `.tmp/` of the same file system → write → length check → fsync → hard
link (create) or rename (put, upload) → fsync of the folder → only then the answer. So a reader sees a whole
object or none, and what was acknowledged survives a power cut. A failed fsync is never tried again on the
same file (the kernel has marked its pages clean); a failed fsync of the folder leaves the outcome unknown.
kill -9 leaves at most a file in `.tmp/`; the next writer removes those older than an hour.
What the file system refuses (full, read-only, no permission) is a DiskError that is a StoreError too.
Left out: bytes moved in and out as streams (`store/streams.py`), waking readers (`store/folder_watch.py`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from mldeploy.errors import DiskError, OutcomeUnknownError, StoreError, UsageError
from mldeploy.store.ids import new_ulid
from mldeploy.store.objects import Entry, Fetched, Progress, check_key

TEMPORARY = ".tmp"
#: Seconds after which a temporary file belongs to nobody: a writer touches its file all the time.
STALE = 3600.0

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
#: What says that certainly nothing was done.
_REFUSED = {*_FULL, *_FORBIDDEN, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENOMEM}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}


class FolderError(DiskError, StoreError):
    """What the file system below a store refuses."""


def folder_of(url: str) -> Path:
    """The folder that a path or a file:// URL names. Raises UsageError for a URL of another host."""
    if not url.startswith("file://"):
        if not url:
            raise UsageError("the store has no name", "give a folder or a URL")
        return Path(url).expanduser().absolute()
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise UsageError(f"{url!r} does not name a folder of this machine", "write file:///absolute/path")
    return Path(unquote(parts.path))


class FileStore:
    """A store below `root`. Threads and processes may share it.

    `marker`: a key that must be there; with it, a folder that is no longer (or not) mounted is an error and
    not an empty store. `durable=False` leaves out every fsync (the probe). Nothing is touched before the
    first verb.
    """

    def __init__(self, root: Path, *, marker: str = "", durable: bool = True) -> None:
        self._root = root
        self._marker = marker
        self._durable = durable
        self._ready: set[Path] = set()  # folders known to be there, durably
        self._swept = False

    @property
    def url(self) -> str:
        """file:///…"""
        return f"file://{quote(str(self._root))}"

    # --- the verbs

    def get(self, key: str) -> Fetched | None:
        """The object, or None."""
        # the one verb that is called for every record of the log: no Path and no file object
        path = f"{self._root}/{check_key(key)}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            self._check_root(key)
            return None
        except OSError as error:
            raise disk_error(error, Path(path)) from error
        try:
            status = os.fstat(fd)
            return Fetched(_read_all(fd, status.st_size), status.st_mtime)
        except IsADirectoryError:
            return None
        except OSError as error:
            raise disk_error(error, Path(path)) from error
        finally:
            os.close(fd)

    def create(self, key: str, data: bytes) -> bool:
        """True if this call wrote it."""
        path = self._path(key)
        self._check_root(key)
        if os.path.lexists(path):  # a lost race is the common case, and needs no temporary file
            return False
        with self._told(path), self._temporary(path) as (name, fd):
            write_all(fd, data)
            if os.path.lexists(path):  # fsync is what costs
                return False
            self._seal(fd, len(data), name)
            try:
                os.link(name, path)
            except FileExistsError:
                # over NFS a link may be made and the answer lost: two names mean that it is ours
                if os.fstat(fd).st_nlink < 2:
                    return False
            except OSError as error:
                if error.errno in _NO_LINKS:
                    raise _no_links(self._root, error) from error
                if error.errno in _REFUSED:
                    raise
                raise _not_known(path, error) from error  # NFS may have made it all the same
            self._unlink(name)
            self._confirm(path.parent)
        return True

    def put(self, key: str, data: bytes) -> None:
        """Write or overwrite."""
        path = self._path(key)
        self._check_root(key)
        with self._told(path), self._temporary(path) as (name, fd):
            write_all(fd, data)
            self._seal(fd, len(data), name)
            self._replace(name, path)

    def list(self, prefix: str) -> Iterator[Entry]:
        """In order of the keys."""
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self._root
        self._check_root(prefix)
        for entry in self._walk(start, f"{folder}/" if folder else "", prefix):
            if entry.key.startswith(prefix):
                yield entry

    def delete(self, key: str) -> None:
        """Remove, if it is there. Not made durable: keys are never used twice, so it may come back."""
        path = self._path(key)
        with self._told(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()

    def upload(self, key: str, source: Path, progress: Progress | None = None) -> None:
        """Stream a file in; memory is bounded."""
        from mldeploy.store.streams import copy_in

        path = self._path(key)
        self._check_root(key)
        with self._told(path), self._temporary(path) as (name, fd):
            self._seal(fd, copy_in(source, fd, progress), name)
            self._replace(name, path)

    def download(self, key: str, target: Path, progress: Progress | None = None) -> str:
        """Stream it out into a new file; memory is bounded."""
        from mldeploy.store.streams import copy_out

        self._check_root(key)
        return copy_out(self._path(key), target, progress, what=f"{key} in {self.url}")

    def watch(self, prefix: str, wake: Callable[[], None]) -> Callable[[], None] | None:
        """By inotify; None where the system gives no more of it."""
        from mldeploy.store.folder_watch import watch_folder

        folder = prefix.rpartition("/")[0]
        return watch_folder(self._root, self._path(folder) if folder else self._root, wake)

    # --- the parts of a write

    def make_root(self) -> None:
        """Make the store's folder, durably, if it is not there."""
        with self._told(self._root):
            missing = [folder for folder in (self._root, *self._root.parents) if not folder.exists()]
            for folder in reversed(missing):
                with contextlib.suppress(FileExistsError):
                    folder.mkdir()
                self._sync_folder(folder.parent)
            if not self._root.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self._root))

    @contextlib.contextmanager
    def _temporary(self, path: Path) -> Iterator[tuple[Path, int]]:
        """A new temporary file for `path`, whose folder is made; removed unless it was renamed."""
        self._make_folders(path.parent)
        name = self._root / TEMPORARY / f"{socket.gethostname()}-{os.getpid()}-{new_ulid()}"
        fd = self._open_new(name)
        try:
            yield name, fd
        finally:
            with contextlib.suppress(OSError):  # whatever it says, fsync has spoken
                os.close(fd)
            self._unlink(name)

    def _open_new(self, name: Path) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.open(name, flags, 0o666)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                name.parent.mkdir()  # need not survive a power cut
            return os.open(name, flags, 0o666)

    def _seal(self, fd: int, length: int, name: Path) -> None:
        if self._durable:
            os.fsync(fd)
        status = os.fstat(fd)
        if status.st_size != length:
            raise StoreError(f"{name} holds {status.st_size} bytes of {length}", "check the file system")
        if not self._swept and self._durable:
            self._swept = True
            self._sweep(status.st_mtime)

    def _replace(self, name: Path, path: Path) -> None:
        os.replace(name, path)
        self._confirm(path.parent)

    def _make_folders(self, folder: Path) -> None:
        if folder in self._ready or folder == self._root:
            return
        if folder.parent != self._root:
            self._make_folders(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        # also where another made it: its name must be durable before anything inside is acknowledged
        self._sync_folder(folder.parent)
        self._ready.add(folder)

    def _confirm(self, folder: Path) -> None:
        """The name is there; from here on no error may say that nothing was written."""
        try:
            self._sync_folder(folder)
        except OSError as error:
            raise _not_known(folder, error) from error

    def _sync_folder(self, folder: Path) -> None:
        if not self._durable:
            return
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _sweep(self, now: float) -> None:
        """Remove temporary files left by killed writers. `now` is the file system's own time."""
        with contextlib.suppress(OSError), os.scandir(self._root / TEMPORARY) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < now - STALE:
                        os.unlink(entry.path)

    def _unlink(self, name: Path) -> None:
        with contextlib.suppress(OSError):  # what stays is swept later
            os.unlink(name)

    # --- paths and errors

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _check_root(self, key: str) -> None:
        if self._marker:
            if key == self._marker or os.path.lexists(self._root / self._marker):
                return
        elif self._root.is_dir():
            return
        if not self._root.is_dir():
            raise StoreError(f"the store's folder {self._root} is not there", "make it, or mount it")
        raise StoreError(f"{self._root} is no longer a store: it has no {self._marker}", "is it mounted?")

    def _walk(self, folder: Path, base: str, prefix: str) -> Iterator[Entry]:
        with self._told(folder):
            try:
                with os.scandir(folder) as scan:
                    entries = [entry for entry in scan if not entry.name.startswith(".")]
            except (FileNotFoundError, NotADirectoryError):
                return
            # "a-b" sorts before "a/b", which plain sorting by name would turn round
            named = {f"{entry.name}/" if entry.is_dir() else entry.name: entry for entry in entries}
        for name in sorted(named):
            key = base + name
            if name.endswith("/"):
                if key.startswith(prefix) or prefix.startswith(key):
                    yield from self._walk(Path(named[name].path), key, prefix)
                continue
            with self._told(folder):
                try:
                    status = named[name].stat()
                except FileNotFoundError:  # deleted meanwhile
                    continue
            if stat.S_ISREG(status.st_mode):
                yield Entry(key, status.st_size, status.st_mtime)

    @contextlib.contextmanager
    def _told(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._ready.clear()  # someone may have removed a folder
            raise disk_error(error, path) from error


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`: os.write may take less than it was given."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read_all(fd: int, size: int) -> bytes:
    data = os.read(fd, size + 1)
    while more := os.read(fd, 1 << 20) if data else b"":
        data += more
    return data


def disk_error(error: OSError, path: Path) -> FolderError:
    """What the operating system said about `path`, with the cure."""
    said = error.strerror or str(error)
    if error.errno in _FULL:
        return FolderError(f"no space to write {path}: {said}", "free some space, then run it again")
    if error.errno in _FORBIDDEN:
        return FolderError(f"not allowed to use {path}: {said}", f"give this user the right to {path.parent}")
    if error.errno == errno.EEXIST:
        return FolderError(f"{path} is already there", "remove it, or name another file")
    if error.errno == errno.ENOTDIR:
        return FolderError(f"{path} lies below something that is no folder", "name another folder")
    return FolderError(f"cannot use {path}: {said}", "check the disk, then run it again")


def _not_known(path: Path, error: OSError) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"what was written to {path} may not be there, or may not survive: {error.strerror}",
        "check the disk, then look whether it is there before writing again",
    )


def _no_links(root: Path, error: OSError) -> StoreError:
    return StoreError(
        f"the file system of {root} makes no hard links: {error.strerror}",
        "put the store on a file system that does (ext4, xfs, btrfs, NFS), or use S3",
    )
