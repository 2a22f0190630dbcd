"""Files from S3: on from where a connection was cut, and in ranges, several at a time, where that pays.

Rules: a long file comes in one stream while that brings `FAST` bytes a second or more, which from a server
nearby it does, with the least work for both; else, as from S3 itself, which is slow by the connection, in
ranges; a file is written in order, so that what is there after a cut is a beginning: it is hashed again and
the rest is fetched; the bytes of a range that have come are not asked for again when its connection breaks;
a server that knows no ranges sends the whole, in one stream. Memory is bounded by the gate: a range holds its
bytes from when it is asked for to when it is written.
Exceptions of obstore pass through: the caller tells them (`store/s3.py`).
Left out: which key, and comparing with the digest that was expected (`store/blobs.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from mldeploy.errors import StoreError
from mldeploy.store.blobs import altered
from mldeploy.store.objects import Progress
from mldeploy.store.pace import MOST
from mldeploy.store.s3_heard import heard
from mldeploy.store.s3_transfer import Wire
from mldeploy.store.streams import PIECE, Target

#: Bytes of a range, and of the beginning of a long file by which it is judged what pays.
RANGE = 16 << 20
#: Bytes a second of one stream beside which more would only be more work.
FAST = 200 << 20
#: Pieces of a stream that are fetched ahead.
AHEAD = 8
#: Times in a row that a connection may break before it has brought a piece.
CUTS = 8


def download(
    wire: Wire,
    key: str,
    path: Path,
    *,
    size: int | None,
    progress: Progress | None,
    resume: bool = False,
) -> str:
    """Stream `key` into the file `path`, fsync it, return the sha256 of what it holds then.

    `size`: its length in bytes, where that is known: a longer one is fetched in ranges, several at a time.
    `resume`: the file may be there, with the beginning of the object in it. Raises DiskError, and
    IntegrityError for an object of another length; obstore's FileNotFoundError where there is none.
    """
    with Target(path, resume=resume, limit=size) as target:
        if progress and target.length:
            progress(target.length)
        for piece in _pieces(_Object(wire, key, size), target.length):
            target.write(piece)
            if progress:
                progress(len(piece))
        return target.finish()


class _NoRangesError(Exception):
    """The server sends the whole object where a part of it was asked for."""


class _Object:
    """One object, of `size` bytes where that is known."""

    def __init__(self, wire: Wire, key: str, size: int | None) -> None:
        self.wire, self.key, self.size = wire, key, size

    def read(self, start: int, end: int | None) -> Iterator[memoryview]:
        """The bytes from `start` to `end` (None: all there are), whatever breaks meanwhile."""
        position, cuts = start, 0
        while end is None or position < end:
            reached = position
            try:
                for piece in self.wire.ask(lambda: self._open(position, end)):  # noqa: B023 - called at once
                    position += len(piece)
                    yield memoryview(piece)
                if end is None or position >= end:
                    self.wire.gate.done(position - start)
                    return
                if position == reached:  # it says that this was all of it, and would say so for ever
                    raise StoreError(
                        f"answers for {self.key} of {self.wire.url} end after {position} bytes of {end}",
                        "check the proxy and the endpoint, then run it again",
                    )
            except Exception as error:
                cuts = 0 if position - reached >= PIECE else cuts + 1
                if cuts > CUTS or not self.wire.judge(error).again:
                    raise

    def read_whole(self, start: int) -> Iterator[memoryview]:
        """The same from a server that knows no ranges: what lies before `start` is dropped."""
        skip = start
        for piece in self.wire.ask(lambda: self._open(0, None)):
            view = memoryview(piece)
            if skip < len(view):
                yield view[skip:]
            skip = max(skip - len(view), 0)

    def _open(self, start: int, end: int | None) -> Any:
        import obstore

        options: dict[str, Any] = {}
        if end is not None:
            options = {"range": (start, end)}
        elif start:
            options = {"range": {"offset": start}}
        try:
            found = obstore.get(self.wire.down, self.key, options=options or None)  # type: ignore[arg-type]
        except Exception as error:
            if options and "NotPartial" in str(error):
                raise _NoRangesError from error
            if options and heard(error).status == 416:
                raise altered(self.wire.url, self.key, "is shorter than it ought to be") from error
            raise
        length = found.meta["size"]
        if self.size is not None and length != self.size:
            raise altered(self.wire.url, self.key, f"has {length} bytes instead of {self.size}")
        return found.stream(min_chunk_size=PIECE)


def _pieces(source: _Object, start: int) -> Iterator[memoryview]:
    """From `start` to the end."""
    size, reached = source.size, start
    try:
        if size is None or size - start <= RANGE:
            yield from _held(source, source.read(start, size), start)
            return
        for piece in _long(source, start, size):
            reached += len(piece)
            yield piece
    except _NoRangesError:
        yield from _held(source, source.read_whole(reached), reached)


def _long(source: _Object, start: int, size: int) -> Iterator[memoryview]:
    clock = source.wire.monotonic
    begun, reached = clock(), start
    for piece in _held(source, _ahead(source, source.read(start, size)), start):
        before, reached = reached, reached + len(piece)
        yield piece
        if before - start < RANGE <= reached - start and FAST * (clock() - begun) > RANGE:
            break
    if reached < size:
        yield from _ranges(source, reached, size)


def _ahead(source: _Object, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
    """The same pieces; the next ones are fetched while one is used."""
    with source.wire.pool(1) as pool:
        coming = deque(pool.submit(next, pieces, None) for _ in range(AHEAD))
        try:
            while (piece := coming.popleft().result()) is not None:
                coming.append(pool.submit(next, pieces, None))
                yield piece
        finally:
            for future in coming:
                future.cancel()


def _held(source: _Object, pieces: Iterator[memoryview], start: int) -> Iterator[memoryview]:
    """Pieces of one request, which is let through the gate."""
    count = RANGE if source.size is None else min(RANGE, source.size - start)
    source.wire.gate.enter(count)
    try:
        yield from pieces
    finally:
        source.wire.gate.leave(count)


def _ranges(source: _Object, start: int, size: int) -> Iterator[memoryview]:
    """The bytes in order; the ranges that come next are on their way meanwhile."""
    gate = source.wire.gate
    starts = deque(range(start, size, RANGE))
    coming: deque[tuple[int, Future[list[memoryview]]]] = deque()

    def ask_for_more(pool: Executor) -> None:
        while starts:
            length = min(RANGE, size - starts[0])
            # waits for its turn only where nothing is on its way: what has come must be taken to make room
            if not coming:
                gate.enter(length)
            elif not gate.try_enter(length):
                return
            first = starts.popleft()
            coming.append((length, pool.submit(_range, source, first, first + length)))

    with source.wire.pool(MOST) as pool:
        try:
            while starts or coming:
                ask_for_more(pool)
                yield from coming[0][1].result()
                gate.leave(coming.popleft()[0])
        finally:
            for length, future in coming:
                future.cancel()
                gate.leave(length)


def _range(source: _Object, start: int, end: int) -> list[memoryview]:
    return list(source.read(start, end))
