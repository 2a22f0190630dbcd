"""What S3 does with objects and parts, as far as a transfer sees it: an answer of `saying.py`'s server."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections import Counter
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from tests.support.saying import Asked, Say, error


def digest(data: bytes) -> str:
    """Its sha256."""
    return hashlib.sha256(data).hexdigest()


class Bucket:
    """Objects and uploads in parts; `fault` may answer instead, and `did` counts what was asked for."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.fault: Callable[[Asked, str], Say | None] = lambda asked, what: None
        self.did: Counter[str] = Counter()
        self.sent = 0  # bytes of bodies that were taken
        self.checksums = True  # of parts, in a listing
        self.ranges = True
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Say:
        parts = urlsplit(asked.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        what = self._what(asked, query)
        with self._lock:
            self.did[what] += 1
        said = self.fault(asked, what)
        if said is not None:
            return said
        with self._lock:
            return getattr(self, f"_{what}")(asked, parts.path, query)

    def _what(self, asked: Asked, query: dict[str, str]) -> str:
        if "uploads" in query:
            return "begin"
        if "uploadId" in query:
            return {"PUT": "part", "GET": "parts", "POST": "complete", "DELETE": "abort"}[asked.method]
        return asked.method.lower()

    def _checked(self, asked: Asked) -> Say | None:
        wanted = base64.b64encode(hashlib.sha256(asked.body).digest()).decode()
        assert asked.headers["x-amz-content-sha256"] == digest(asked.body)
        if asked.headers.get("x-amz-checksum-sha256") != wanted:
            return error(400, "BadDigest")
        self.sent += len(asked.body)
        return None

    def _put(self, asked: Asked, key: str, query: dict[str, str]) -> Say:
        wrong = self._checked(asked)
        self.objects[key] = asked.body
        return wrong or Say(200, headers={"etag": '"e"'})

    def _begin(self, asked: Asked, key: str, query: dict[str, str]) -> Say:
        assert asked.headers["x-amz-checksum-algorithm"] == "SHA256"
        name = f"upload/{len(self.uploads)}+"
        self.uploads[name] = {}
        return _xml(f"<UploadId>{name}</UploadId>")

    def _part(self, asked: Asked, key: str, query: dict[str, str]) -> Say:
        if query["uploadId"] not in self.uploads:
            return error(404, "NoSuchUpload")
        wrong = self._checked(asked)
        self.uploads[query["uploadId"]][int(query["partNumber"])] = asked.body
        return wrong or Say(200, headers={"etag": _etag(asked.body)})

    def _parts(self, asked: Asked, key: str, query: dict[str, str]) -> Say:
        if query["uploadId"] not in self.uploads:
            return error(404, "NoSuchUpload")
        there = sorted(self.uploads[query["uploadId"]].items())
        rest = [(number, data) for number, data in there if number > int(query["part-number-marker"])]
        page = rest[:2]  # S3 lists 1,000
        said = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{_etag(data)}</ETag><Size>{len(data)}</Size>"
            + (f"<ChecksumSHA256>{_checksum(data)}</ChecksumSHA256>" if self.checksums else "")
            + "</Part>"
            for number, data in page
        )
        more = "true" if len(rest) > 2 else "false"
        last = page[-1][0] if page else 0
        return _xml(
            f"{said}<NextPartNumberMarker>{last}</NextPartNumberMarker><IsTruncated>{more}</IsTruncated>"
        )

    def _complete(self, asked: Asked, key: str, query: dict[str, str]) -> Say:
        parts = self.uploads.pop(query["uploadId"], None)
        if parts is None:
            return error(404, "NoSuchUpload")
        named = [int(number) for number in re.findall(rb"<PartNumber>(\d+)", asked.body)]
        assert named == sorted(parts) == list(range(1, len(parts) + 1))
        assert re.findall(rb"<ChecksumSHA256>(.*?)<", asked.body) == [
            _checksum(parts[number]).encode() for number in named
        ]
        self.objects[key] = b"".join(parts[number] for number in named)
        return _xml("<ETag>e</ETag>")

    def _abort(self, asked: Asked, key: str, query: dict[str, str]) -> Say:
        self.uploads.pop(query["uploadId"], None)
        return Say(204)

    def _head(self, asked: Asked, key: str, query: dict[str, str]) -> Say:
        if key not in self.objects:
            return Say(404)
        return Say(200, self.objects[key], {"last-modified": "Tue, 24 Nov 2026 06:39:56 GMT", "etag": '"e"'})

    def _get(self, asked: Asked, key: str, query: dict[str, str]) -> Say:
        data = self.objects.get(key)
        if data is None:
            return error(404, "NoSuchKey")
        headers = {"last-modified": "Tue, 24 Nov 2026 06:39:56 GMT", "etag": '"e"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", ""))
        if wanted is None or not self.ranges:
            return Say(200, data, headers)
        start, end = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
        if start >= len(data):
            return error(416, "InvalidRange")
        headers["content-range"] = f"bytes {start}-{end - 1}/{len(data)}"
        return Say(206, data[start:end], headers)


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _xml(inside: str) -> Say:
    return Say(200, f'<Answer xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inside}</Answer>'.encode())


def when(what: str, *answers: Say | None) -> Callable[[Asked, str], Say | None]:
    """These answers to the first requests of that kind; None: as it ought to be."""
    left = list(answers)
    lock = threading.Lock()

    def fault(asked: Asked, which: str) -> Say | None:
        with lock:
            return left.pop(0) if which == what and left else None

    return fault
