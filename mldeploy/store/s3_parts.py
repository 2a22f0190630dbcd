"""The requests of a multipart upload: begin, send a part, ask which parts are there, complete, abort.

obstore has these too, but keeps the upload's id to itself, so that nobody can go on with one that was cut.
Rules: a part is hashed (sha256) by the caller, and the hash is sent as its checksum; a request is sent once,
whoever calls tries again; an answer that is no success is a `Failed`. Threads may share one.
Left out: signing and sending (`store/s3_requests.py`), which parts, and what an error means.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mldeploy.store.s3_heard import Failed, answered
from mldeploy.store.s3_requests import CHECKSUM, Requests

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET


class Sent(NamedTuple):
    """A part that the store has: its number from 1, and what the store said of it."""

    number: int
    size: int
    etag: str  # with its quotes
    sha256: str  # base64; "" where the store keeps none


class Multipart:
    """The requests, for the keys of `requests`."""

    def __init__(self, requests: Requests) -> None:
        self._ask, self._extra = requests.ask, requests.extra

    def begin(self, key: str) -> str:
        """A new upload to `key`; its id."""
        headers = {"x-amz-checksum-algorithm": "SHA256", **self._extra.begin}
        root = _xml(self._ask("POST", key, {"uploads": ""}, headers=headers)[1])
        found = root.findtext("UploadId") if root is not None else None
        if not found:
            raise Failed(answered(200, "the answer to the begin of an upload holds no UploadId"))
        return found

    def send(self, key: str, upload: str, number: int, data: bytes, sha256: bytes) -> Sent:
        """Send part `number`, whose digest is `sha256`; sending it again replaces it."""
        checksum = base64.b64encode(sha256).decode()
        query = {"partNumber": str(number), "uploadId": upload}
        given = {CHECKSUM: checksum, **self._extra.content}
        headers, _ = self._ask("PUT", key, query, data, sha256.hex(), given)
        return Sent(number, len(data), headers.get("etag", ""), checksum)

    def sent(self, key: str, upload: str) -> dict[int, Sent]:
        """The parts that the store has, by number."""
        found: dict[int, Sent] = {}
        marker = 0
        while True:
            query = {"part-number-marker": str(marker), "uploadId": upload}
            root = _xml(self._ask("GET", key, query, headers=self._extra.content)[1])
            if root is None:
                raise Failed(answered(200, "the answer to a question for parts is not XML"))
            for part in root.iter("Part"):
                one = Sent(
                    number=int(part.findtext("PartNumber") or 0),
                    size=int(part.findtext("Size") or 0),
                    etag=part.findtext("ETag") or "",
                    sha256=part.findtext("ChecksumSHA256") or "",
                )
                found[one.number] = one
            last, marker = marker, int(root.findtext("NextPartNumberMarker") or 0)
            if (root.findtext("IsTruncated") or "").lower() != "true" or marker <= last:
                return found

    def complete(self, key: str, upload: str, parts: Sequence[Sent]) -> None:
        """Make the object of these parts."""
        from html import escape

        said = "".join(
            f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag, quote=False)}</ETag>"
            f"<ChecksumSHA256>{part.sha256}</ChecksumSHA256></Part>"
            for part in parts
        )
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        body = f'<CompleteMultipartUpload xmlns="{space}">{said}</CompleteMultipartUpload>'.encode()
        _, answer = self._ask("POST", key, {"uploadId": upload}, body, headers=self._extra.content)
        # S3 answers 200 before it begins to put the parts together, and an error may follow
        root = _xml(answer)
        if root is None or root.tag == "Error":
            raise Failed(answered(500, answer.decode(errors="replace")))

    def abort(self, key: str, upload: str) -> None:
        """Give an upload up; its parts go."""
        self._ask("DELETE", key, {"uploadId": upload})

    def length(self, key: str) -> int | None:
        """The length in bytes of the object at `key`; None if there is none, or it may not be known."""
        try:
            headers, _ = self._ask("HEAD", key, {}, headers=self._extra.content)
        except Failed as error:
            if error.failure.status in (403, 404):  # without s3:ListBucket the first says the second
                return None
            raise
        return int(headers.get("content-length", -1))


def _xml(data: bytes) -> ET.Element | None:
    """The document without its namespace; None for what is none."""
    from xml.etree import ElementTree as ET

    try:
        root = ET.fromstring(data.strip())
    except ET.ParseError:
        return None
    for element in root.iter():
        element.tag = re.sub(r"^\{[^}]*\}", "", element.tag)
    return root
