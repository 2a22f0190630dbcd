"""Files to S3: in one request or in parts, several at a time, and on from where an upload was cut.

Rules:
  - a file becomes an object when all of it is there and what was sent has the digest that was asked for, and
    never before: up to `SINGLE` bytes are read once, hashed and sent in one request; a longer file goes in
    parts, is hashed as the parts are read, and is completed only then. S3 checks each request and each part
    against a sha256 of its own;
  - an upload that was cut goes on by its id: a part that the store has, with the checksum of what the file
    holds now, is not sent again;
  - memory is bounded by the gate: a part holds its bytes from when it is read to when it is sent.
Exceptions of `store/s3_requests.py` pass through: the caller tells them (`store/s3.py`).
Left out: the requests of a multipart upload (`store/s3_parts.py`), which key, and what to send.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections import deque
from concurrent.futures import CancelledError, Future
from pathlib import Path

from mldeploy.errors import IntegrityError
from mldeploy.store.objects import Progress, Resumption
from mldeploy.store.pace import MOST
from mldeploy.store.s3_heard import Failed, heard, heard_from_botocore
from mldeploy.store.s3_parts import Sent
from mldeploy.store.s3_transfer import Wire
from mldeploy.store.streams import PIECE, Source

#: Bytes up to which a file goes in one request, and bytes of a part.
SINGLE = PART = 8 << 20
#: S3 takes no more parts of one object.
PARTS = 10_000
#: Times an upload that the store no longer knows is begun anew.
ANEW = 2


def upload(
    wire: Wire,
    key: str,
    path: Path,
    *,
    sha256: str | None,
    progress: Progress | None,
    resumption: Resumption | None = None,
) -> None:
    """Stream the file at `path` to `key`. With `sha256`, only if that is the digest of what was sent.

    `resumption`: what an earlier run noted, and where this one notes it; without one, an upload in parts that
    fails is aborted. Raises IntegrityError, and DiskError where the file cannot be read.
    """
    with Source(path) as source:
        if source.size <= SINGLE:
            _whole(wire, key, source, sha256, progress)
        else:
            _Upload(wire, key, source, sha256, progress, resumption).run()


def _whole(wire: Wire, key: str, source: Source, sha256: str | None, progress: Progress | None) -> None:
    wire.gate.enter(source.size)
    try:
        data = source.read(0, source.size)
        source.check_end()
        digest = hashlib.sha256(data).digest()
        if sha256 is not None and digest.hex() != sha256:
            raise source.altered()
        wire.ask(lambda: wire.requests.put(key, data, digest), len(data))
    finally:
        wire.gate.leave(source.size)
    if progress:
        with contextlib.suppress(CancelledError):  # it is there, and there is nothing left to end
            progress(len(data))


class _Upload:
    """A file that goes in parts."""

    def __init__(
        self,
        wire: Wire,
        key: str,
        source: Source,
        sha256: str | None,
        progress: Progress | None,
        resumption: Resumption | None,
    ) -> None:
        self._wire, self._key, self._source = wire, key, source
        self._sha256, self._progress, self._resumption = sha256, progress, resumption
        least = -(-source.size // PARTS)
        self._part = PART if least <= PART else -(-least // PIECE) * PIECE

    def run(self) -> None:
        """Go on with the upload that was noted, or begin one; once more where the store forgets it."""
        for left in range(ANEW, -1, -1):
            upload = _upload_of(self._resumption.token if self._resumption else "", self._part)
            there = self._sent(upload) if upload else {}
            if there is None and self._length() == self._source.size:
                # completed by a run that did not live to say so: only this push writes to the key, and what
                # it completes has been verified
                self._tell(self._source.size)
                return
            try:
                self._fill(upload if upload and there is not None else self._begin(), there or {})
                return
            except Exception as error:
                if not left or not _unknown(error):
                    raise

    def _begin(self) -> str:
        upload = self._wire.ask(lambda: self._wire.multipart.begin(self._key))
        if self._resumption:
            self._resumption.note(_token_of(upload, self._part))
        return upload

    def _sent(self, upload: str) -> dict[int, Sent] | None:
        """The parts that are there; None where the store does not know the upload, or may not say."""
        try:
            return self._wire.ask(lambda: self._wire.multipart.sent(self._key, upload))
        except Exception as error:
            if _unknown(error) or heard(error).code == "AccessDenied":
                return None
            raise

    def _length(self) -> int | None:
        return self._wire.ask(lambda: self._wire.multipart.length(self._key))

    def _fill(self, upload: str, there: dict[int, Sent]) -> None:
        """Send what is not there, and complete it."""
        try:
            parts, found = self._send_all(upload, there)
            self._source.check_end()
            if self._sha256 is not None and found != self._sha256:
                raise self._source.altered()
            self._complete(upload, parts)
        except BaseException as error:
            # what a later run could go on with stays; bytes that are not the file's do not
            if self._resumption is None or isinstance(error, IntegrityError):
                self._abort(upload)
            raise

    def _send_all(self, upload: str, there: dict[int, Sent]) -> tuple[list[Sent], str]:
        """The parts, and the digest of the file as it was read for them."""
        digest = hashlib.sha256()
        parts: list[Sent] = []
        sending: deque[tuple[int, Future[Sent]]] = deque()
        with self._wire.pool(MOST) as pool:
            try:
                for number, start in enumerate(range(0, self._source.size, self._part), 1):
                    length = min(self._part, self._source.size - start)
                    self._wire.gate.enter(length)
                    try:
                        data = self._source.read(start, length)
                        digest.update(data)
                        future = pool.submit(self._send, upload, number, data, there.get(number))
                    except BaseException:
                        self._wire.gate.leave(length)
                        raise
                    sending.append((length, future))
                    del data  # the sender alone holds it
                    while sending and sending[0][1].done():
                        parts.append(sending.popleft()[1].result())
                while sending:
                    parts.append(sending.popleft()[1].result())
            except BaseException:
                for length, future in sending:
                    if future.cancel():  # let in, and its thread never came
                        self._wire.gate.leave(length)
                raise
        return parts, digest.hexdigest()

    def _send(self, upload: str, number: int, data: bytes, there: Sent | None) -> Sent:
        try:
            digest = hashlib.sha256(data).digest()
            part = _held(there, data, digest) or self._wire.ask(
                lambda: self._wire.multipart.send(self._key, upload, number, data, digest), len(data)
            )
            self._tell(len(data))
            return part
        finally:
            self._wire.gate.leave(len(data))

    def _complete(self, upload: str, parts: list[Sent]) -> None:
        try:
            self._wire.ask(lambda: self._wire.multipart.complete(self._key, upload, parts))
        except Exception as error:
            # an answer that was lost, and sent again: the upload is no more, and the object is there
            if not _unknown(error) or self._length() != self._source.size:
                raise

    def _abort(self, upload: str) -> None:
        abandon(self._wire, self._key, _token_of(upload, self._part))
        if self._resumption:
            self._resumption.note("")

    def _tell(self, count: int) -> None:
        if self._progress:
            self._progress(count)


def abandon(wire: Wire, key: str, token: str) -> None:
    """Abort the upload that `token` notes; where that fails it is left to the bucket's lifecycle rule."""
    upload = token.partition(":")[2]
    try:
        if upload:
            wire.multipart.abort(key, upload)
    except Exception as error:
        if not isinstance(error, Failed) and heard_from_botocore(error) is None:
            raise


def _token_of(upload: str, part: int) -> str:
    return f"{part}:{upload}"


def _upload_of(token: str, part: int) -> str:
    """The id of the upload that a token notes; "" for one with parts of another size."""
    size, _, upload = token.partition(":")
    return upload if size == str(part) else ""


def _unknown(error: Exception) -> bool:
    """Whether the store says that it does not know the upload: expired, aborted, or completed."""
    return heard(error).code == "NoSuchUpload"


def _held(there: Sent | None, data: bytes, digest: bytes) -> Sent | None:
    """The part that the store has, if it holds `data`, as its checksum says; one without is not trusted."""
    if there is None or there.size != len(data):
        return None
    checksum = base64.b64encode(digest).decode()
    if there.sha256:
        return there if there.sha256 == checksum else None
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return there._replace(sha256=checksum) if there.etag.strip('"') == md5 else None
