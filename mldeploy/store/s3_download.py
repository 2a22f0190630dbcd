"""Files from S3: on from where a connection was cut, and in ranges, several at a time, where that pays.

Rules: a long file comes in one stream while that brings `FAST` bytes a second or more, which from a server
nearby it does, with the least work for both; else, as from S3 itself, which is slow by the connection, in
ranges; a file is written in order, so that what is there after a cut is a beginning: it is hashed again and
the rest is fetched; the bytes of a range that have come are not asked for again when its connection breaks;
a server that knows no ranges sends the whole, in one stream. Memory is bounded by the gate: a range holds its
bytes from when it is asked for to when it is written.
Bytes go from the connection into buffers that are used again, and from there to the disk and into the hash at
once (`store/streams.py`): receiving, writing and hashing are in threads of their own where a file is long.
Exceptions of `store/s3_requests.py` pass through: the caller tells them (`store/s3.py`).
Left out: which key, and comparing with the digest that was expected (`store/blobs.py`).
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Protocol

from mldeploy.errors import StoreError
from mldeploy.store.blobs import altered
from mldeploy.store.objects import Progress
from mldeploy.store.pace import MOST
from mldeploy.store.s3_ahead import Early
from mldeploy.store.s3_answer import Answer
from mldeploy.store.s3_heard import Failed, answered
from mldeploy.store.s3_transfer import Wire
from mldeploy.store.streams import PIECE, Target

#: Bytes of a range, and of the beginning of a long file by which it is judged what pays.
RANGE = 16 << 20
#: Bytes a second of one stream beside which more would only be more work: S3's own have less than 100 MiB.
FAST = 128 << 20
#: Bytes of a piece of a long stream: with 1 MiB, threads that hand over to each other take 5 % longer.
LONG = 4 << 20
#: Such pieces that are fetched ahead.
AHEAD = 3
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
    early: Early | None = None,
) -> str:
    """Stream `key` into the file `path`, fsync it, return the sha256 of what it holds then.

    `size`: its length in bytes, where that is known: a longer one is fetched in ranges, several at a time.
    `resume`: the file may be there, with the beginning of the object in it. `early`: a request for all of it,
    which the caller ends. Raises DiskError, and IntegrityError for an object of another length; Failed where
    there is none.
    """
    with Target(path, resume=resume, limit=size) as target, _beside(wire, target, size):
        if progress and target.length:
            progress(target.length)
        for piece in _pieces(_Object(wire, key, size, early), target.length):
            target.write(piece)
            if progress:
                progress(len(piece))
        return target.finish()


@contextlib.contextmanager
def _beside(wire: Wire, target: Target, size: int | None) -> Iterator[None]:
    """Where a file is long, it is hashed in another thread than it is written in."""
    if size is None or size - target.length <= RANGE:
        yield
        return
    with wire.pool(1) as thread:
        target.beside = thread
        yield


class _NoRangesError(Exception):
    """The server sends the whole object where a part of it was asked for."""


class _Object:
    """One object, of `size` bytes where that is known."""

    def __init__(self, wire: Wire, key: str, size: int | None, early: Early | None) -> None:
        self.wire, self.key, self.size, self.early = wire, key, size, early

    def read(self, start: int, end: int | None, room: _Room) -> Iterator[memoryview]:
        """The bytes from `start` to `end` (None: all there are) in `room`, whatever breaks meanwhile."""
        position, cuts = start, 0
        while end is None or position < end:
            reached = position
            try:
                for piece in self._stream(position, end, room):
                    position += len(piece)
                    yield piece
                if end is None or position >= end:
                    self.wire.gate.done(position - start)
                    return
                if position == reached:  # it says that this was all of it, and would say so for ever
                    raise StoreError(
                        f"answers for {self.key} of {self.wire.url} end after {position} bytes of {end}",
                        "check the proxy and the endpoint, then run it again",
                    )
            except Failed as error:
                cuts = 0 if position - reached >= PIECE else cuts + 1
                if cuts > CUTS or not self.wire.judge(error).again:
                    raise

    def read_whole(self, start: int) -> Iterator[memoryview]:
        """The same from a server that knows no ranges: what lies before `start` is dropped."""
        skip = start
        for piece in self._stream(0, None, _Ring(1, PIECE)):
            if skip < len(piece):
                yield piece[skip:]
            skip = max(skip - len(piece), 0)

    def _stream(self, start: int, end: int | None, room: _Room) -> Iterator[memoryview]:
        """What one request brings."""
        with self.wire.ask(lambda: self._open(start, end), None) as answer:
            left = answer.length if end is None else end - start
            while left is None or left:
                free = room.free()
                count = answer.readinto(free if left is None else free[:left])
                if not count:
                    return
                yield room.fill(count)
                if left is not None:
                    left -= count

    def _open(self, start: int, end: int | None) -> Answer:
        # the whole is asked for as such: then it matters not whether the server knows ranges
        whole = not start and (end is None or end == self.size)
        try:
            answer = self.early.answer() if self.early and whole else None
            answer = answer or self.wire.requests.open(self.key, start, None if whole else end)
        except Failed as error:
            if not whole and error.failure.status == 416:
                raise altered(self.wire.url, self.key, "is shorter than it ought to be") from error
            raise
        try:
            self._check(answer, start, end, whole)
        except BaseException:
            answer.close()
            raise
        return answer

    def _check(self, answer: Answer, start: int, end: int | None, whole: bool) -> None:
        if not whole and answer.status != 206:
            raise _NoRangesError
        length = answer.length
        if not whole:
            first, last, length = _range_of(answer.headers.get("content-range", ""))
            if first != start or (end is not None and last != min(end, length) - 1):
                raise Failed(answered(answer.status, "another range came than was asked for"))
            if answer.length not in (None, last - first + 1):
                raise Failed(answered(answer.status, "the answer is not as long as its range"))
        if self.size is not None and length not in (None, self.size):
            raise altered(self.wire.url, self.key, f"has {length} bytes instead of {self.size}")


def _range_of(text: str) -> tuple[int, int, int]:
    """First and last byte, and the length of the whole; bytes 0 to -1 of 0 where it says nothing."""
    found = re.fullmatch(r"bytes (\d{1,16})-(\d{1,16})/(\d{1,16})", text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else (-1, -1, -1)


class _Room(Protocol):
    """Where bytes are put that come."""

    def free(self) -> memoryview:
        """The place for the next ones."""

    def fill(self, count: int) -> memoryview:
        """So many have been put there: they."""


class _Ring:
    """Buffers of `length` bytes, used in turn: what was filled is overwritten `count` pieces later."""

    def __init__(self, count: int, length: int) -> None:
        self._ring = deque(memoryview(bytearray(length)) for _ in range(count))

    def free(self) -> memoryview:
        return self._ring[0]

    def fill(self, count: int) -> memoryview:
        piece = self._ring[0][:count]
        self._ring.rotate(-1)
        return piece


class _Block:
    """One place of `length` bytes."""

    def __init__(self, length: int) -> None:
        self.whole = memoryview(bytearray(length))
        self._filled = 0

    def free(self) -> memoryview:
        return self.whole[self._filled : self._filled + PIECE]

    def fill(self, count: int) -> memoryview:
        self._filled += count
        return self.whole[self._filled - count : self._filled]


def _pieces(source: _Object, start: int) -> Iterator[memoryview]:
    """From `start` to the end. A piece is overwritten when the next one is asked for."""
    size, reached = source.size, start
    try:
        if size is None or size - start <= RANGE:
            length = PIECE if size is None else min(size - start, PIECE)
            pieces: Iterator[memoryview] = _held(source, source.read(start, size, _Ring(1, length)), start)
        else:
            pieces = _long(source, start, size)
        for piece in pieces:
            reached += len(piece)
            yield piece
    except _NoRangesError:
        yield from _held(source, source.read_whole(reached), reached)


def _long(source: _Object, start: int, size: int) -> Iterator[memoryview]:
    clock = source.wire.monotonic
    begun, reached, first = 0.0, start, 0
    stream = _held(source, _ahead(source, source.read(start, size, _Ring(AHEAD + 1, LONG))), start)
    with contextlib.closing(stream):  # its turn at the gate ends before a range has one
        for piece in stream:
            if not first:  # what a server takes to find an object says nothing of the way
                begun, first = clock(), len(piece)
            before, reached = reached, reached + len(piece)
            yield piece
            judged = before - start < RANGE <= reached - start
            if judged and FAST * (clock() - begun) > reached - start - first:
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


def _held(source: _Object, pieces: Iterator[memoryview], start: int) -> Generator[memoryview]:
    """Pieces of one request, which is let through the gate, unless it has been already."""
    if source.early is not None:
        yield from pieces
        return
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
    coming: deque[tuple[int, Future[memoryview]]] = deque()

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
                yield coming[0][1].result()
                gate.leave(coming.popleft()[0])
        finally:
            for length, future in coming:
                future.cancel()
                gate.leave(length)


def _range(source: _Object, start: int, end: int) -> memoryview:
    block = _Block(end - start)
    for _ in source.read(start, end, block):
        pass
    return block.whole
