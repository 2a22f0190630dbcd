"""Files to and from S3: streamed, in bounded memory.

Rules: a file becomes an object when all of it is there and never before; to upload again is safe, because a
key belongs to one push. obstore's exceptions pass through: the caller tells them (`store/s3.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mldeploy.errors import DiskError
from mldeploy.store.file import disk_error
from mldeploy.store.objects import Progress
from mldeploy.store.streams import PIECE, pieces, save

if TYPE_CHECKING:
    from obstore.store import S3Store

#: Bytes up to which a file goes in one request.
SINGLE = 8 << 20
#: S3 takes no more parts of one object.
PARTS = 10_000


def upload(client: S3Store, key: str, source: Path, progress: Progress | None) -> None:
    """Stream the file `source` to `key`. Raises DiskError where it cannot be read, and obstore's errors."""
    import obstore

    try:
        size = source.stat().st_size
        if size <= SINGLE:
            data = source.read_bytes()
            obstore.put(client, key, data, use_multipart=False)
            if progress:
                progress(len(data))
            return
    except FileNotFoundError as error:
        if obstore_error(error):
            raise
        raise DiskError(f"{source} is not there", "it was removed meanwhile: pack it again") from error
    except OSError as error:
        raise disk_error(error, source) from error
    obstore.put(
        client,
        key,
        _told(source, progress),
        use_multipart=True,
        chunk_size=max(SINGLE, -(-size // PARTS)),
        max_concurrency=4,
    )


def obstore_error(error: FileNotFoundError) -> bool:
    """Whether it was raised by obstore (for a bucket that is not there) and not by the file system."""
    return error.errno is None


def download(client: S3Store, key: str, target: Path, progress: Progress | None) -> str:
    """Stream `key` into the new file `target`, fsync it, return its sha256. Raises DiskError, and obstore's
    errors, FileNotFoundError where there is no such object among them.
    """
    import obstore

    stream = obstore.get(client, key).stream(min_chunk_size=PIECE)
    return save((bytes(piece) for piece in stream), target, progress)


def _told(source: Path, progress: Progress | None) -> Iterator[bytes]:
    for piece in pieces(source):
        yield piece
        if progress:
            progress(len(piece))
