"""Bytes between files in pieces: what upload and download of every driver are made of.

Rules: memory is one piece, whatever the size; a download's target is new, hashed as it is written and on
the disk when it returns; an error says whether the source or the target failed. Left out: temporary names,
and comparing with the digest that was expected (`store/blobs.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path

from mldeploy.errors import DiskError, IntegrityError, NotFoundError
from mldeploy.store.file import disk_error, write_all
from mldeploy.store.objects import Progress

#: Bytes in memory at a time.
PIECE = 1 << 20


def pieces(path: Path) -> Iterator[bytes]:
    """The file's bytes, a piece at a time."""
    with open(path, "rb", buffering=0) as file:
        while data := file.read(PIECE):
            yield data


def copy_in(source: Path, fd: int, progress: Progress | None) -> int:
    """Append the file `source` to the open file `fd`; returns its length. Raises DiskError."""
    total = 0
    for data in _readable(source):
        write_all(fd, data)
        total += len(data)
        if progress:
            progress(len(data))
    return total


def copy_out(source: Path, target: Path, progress: Progress | None, *, what: str) -> str:
    """The file `source` into the new file `target`; returns the sha256. NotFoundError names `what`."""
    try:
        return save(pieces(source), target, progress)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFoundError(f"there is no {what}", "it may have been collected: look at the log") from error
    except OSError as error:
        raise disk_error(error, source) from error


def save(data: Iterable[bytes], target: Path, progress: Progress | None) -> str:
    """Write `data` into the new file `target`, fsync it, return the sha256 of what was written.

    Raises DiskError for the target; errors of `data` itself pass through.
    """
    with Target(target) as file:
        for piece in data:
            file.write(piece)
            if progress:
                progress(len(piece))
        return file.finish()


class Target:
    """A file that is written from its beginning, hashed as it is, and on the disk when `finish` returns.

    A context manager. It must be new, unless `resume`: then what is there counts as written, and is hashed;
    more than `limit` bytes are dropped, for they are not the beginning of anything. Raises DiskError.
    `beside`: a thread in which what is written is hashed meanwhile.
    """

    def __init__(self, path: Path, *, resume: bool = False, limit: int | None = None) -> None:
        self._path, self._resume, self._limit = path, resume, limit
        self._digest = hashlib.sha256()
        self._fd = -1
        self.length = 0  # bytes written so far
        self.beside: Executor | None = None

    def __enter__(self) -> Target:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if self._resume else os.O_EXCL)
        with self._told():
            self._fd = os.open(self._path, flags, 0o644)
        try:
            self._take_up()
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, *args: object) -> None:
        os.close(self._fd)

    def write(self, piece: bytes | memoryview) -> None:
        """Append. `piece` may be overwritten afterwards."""
        if self.beside is None:
            self._digest.update(piece)
            self._write(piece)
            return
        hashing = self.beside.submit(self._digest.update, piece)
        try:
            self._write(piece)
        finally:
            hashing.result()

    def _write(self, piece: bytes | memoryview) -> None:
        with self._told():
            write_all(self._fd, piece)
        self.length += len(piece)

    def finish(self) -> str:
        """Flush it to the disk; returns the sha256 of all of it."""
        with self._told():
            os.fsync(self._fd)
        return self._digest.hexdigest()

    def _take_up(self) -> None:
        if not self._resume:
            return
        with self._told():
            if self._limit is not None and os.fstat(self._fd).st_size > self._limit:
                os.ftruncate(self._fd, 0)
            while piece := os.read(self._fd, PIECE):
                self._digest.update(piece)
                self.length += len(piece)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(error, self._path) from error


class Source:
    """A file that is sent: a context manager. Raises DiskError where it cannot be read, and IntegrityError
    where its length changes meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self.size = 0  # bytes

    def __enter__(self) -> Source:
        with _reading(self._path):
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            self.size = os.fstat(self._fd).st_size
        return self

    def __exit__(self, *args: object) -> None:
        os.close(self._fd)

    def read(self, start: int, length: int) -> bytes:
        """These bytes."""
        with _reading(self._path):
            data = os.pread(self._fd, length, start)
            while len(data) < length:  # a read is cut at 2 GiB, and by signals on some file systems
                more = os.pread(self._fd, length - len(data), start + len(data))
                if not more:
                    raise self.altered()
                data += more
        return data

    def check_end(self) -> None:
        """Raises IntegrityError if it is longer now than when it was opened."""
        with _reading(self._path):
            if os.fstat(self._fd).st_size != self.size:
                raise self.altered()

    def altered(self) -> IntegrityError:
        """The error for a file that is not what it ought to be."""
        return altered_source(self._path)


def altered_source(path: Path) -> IntegrityError:
    """The error for a file whose bytes are not those that were to be sent."""
    return IntegrityError(
        f"{path} is not what its digest says: it was changed",
        "pack the bundle again, or take a whole copy of it",
    )


def _readable(source: Path) -> Iterator[bytes]:
    with _reading(source):
        yield from pieces(source)


@contextlib.contextmanager
def _reading(source: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DiskError(f"{source} is not there", "it was removed meanwhile: pack it again") from error
    except OSError as error:
        raise disk_error(error, source) from error
