"""Bytes between files in pieces: what upload and download of every driver are made of.

Rules: memory is one piece, whatever the size; a download's target is new, hashed as it is written and on
the disk when it returns; an error says whether the source or the target failed. Left out: temporary names,
and comparing with the digest that was expected (`store/blobs.py`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mldeploy.errors import DiskError, NotFoundError
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
    digest = hashlib.sha256()
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise disk_error(error, target) from error
    try:
        for piece in data:
            digest.update(piece)
            _write(fd, piece, target)
            if progress:
                progress(len(piece))
        _sync(fd, target)
    finally:
        os.close(fd)
    return digest.hexdigest()


def _readable(source: Path) -> Iterator[bytes]:
    try:
        yield from pieces(source)
    except FileNotFoundError as error:
        raise DiskError(f"{source} is not there", "it was removed meanwhile: pack it again") from error
    except OSError as error:
        raise disk_error(error, source) from error


def _write(fd: int, piece: bytes, target: Path) -> None:
    try:
        write_all(fd, piece)
    except OSError as error:
        raise disk_error(error, target) from error


def _sync(fd: int, target: Path) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        raise disk_error(error, target) from error
