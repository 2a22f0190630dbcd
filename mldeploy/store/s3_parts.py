"""The requests of a multipart upload: begin, send a part, ask which parts are there, complete, abort.

obstore has these too, but keeps the upload's id to itself, so that nobody can go on with an upload that was
cut. Here botocore signs, and its HTTP session sends; its client is left out (half a second to load, and each
part hashed once more). docs/adr has what was measured.
Rules: every body is hashed (sha256) by the caller, and the hash is signed and sent as the part's checksum; a
request is sent once, whoever calls tries again; an answer that is no success is a `Refused`, and where there
was none botocore's exception passes through (`s3_heard.heard` reads both). Threads may share one.
Left out: which parts, and what an error means.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from mldeploy.store.s3_config import DEFAULT_REGION, Place, Settings
from mldeploy.store.s3_heard import Refused, answered

#: Seconds to make a connection, and without a byte moving.
CONNECT, SILENCE = 5, 30
#: Bytes given to the connection at a time: `SILENCE` is for each.
_BITE = 1 << 20
_HASH = "x-amz-checksum-sha256"


class Sent(NamedTuple):
    """A part that the store has: its number from 1, and what the store said of it."""

    number: int
    size: int
    etag: str  # with its quotes
    sha256: str  # base64; "" where the store keeps none


@dataclass(frozen=True, slots=True)
class Encryption:
    """What the environment asks for, in obstore's names: the headers of what begins an upload."""

    headers: Mapping[str, str]

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Encryption:
        """Read AWS_SERVER_SIDE_ENCRYPTION, AWS_SSE_KMS_KEY_ID and AWS_SSE_BUCKET_KEY_ENABLED."""
        kind = environ.get("AWS_SERVER_SIDE_ENCRYPTION", "").lower()
        names = {"aes256": "AES256", "sse-s3": "AES256", "sse-kms": "aws:kms", "sse-kms-dsse": "aws:kms:dsse"}
        found = {"x-amz-server-side-encryption": names.get(kind, kind)}
        if environ.get("AWS_SSE_KMS_KEY_ID"):
            found["x-amz-server-side-encryption-aws-kms-key-id"] = environ["AWS_SSE_KMS_KEY_ID"]
        if environ.get("AWS_SSE_BUCKET_KEY_ENABLED", "").lower() in ("1", "true"):
            found["x-amz-server-side-encryption-bucket-key-enabled"] = "true"
        return cls(found if kind else {})


class Multipart:
    """The requests, for the keys below one place. The constructor does no I/O.

    `credentials` gives a dict with access_key_id, secret_access_key and token each time it is called (None:
    nothing is signed).
    """

    def __init__(
        self,
        place: Place,
        settings: Settings,
        credentials: Callable[[], Any] | None,
        environ: Mapping[str, str],
    ) -> None:
        self._place, self._settings, self._credentials = place, settings, credentials
        self._encryption = Encryption.of(environ)
        self._base = _base(place, settings)
        self._session: Any = None
        self._lock = threading.Lock()

    def begin(self, key: str) -> str:
        """A new upload to `key`; its id."""
        headers = {"x-amz-checksum-algorithm": "SHA256", **self._encryption.headers}
        root = _xml(self._ask("POST", key, {"uploads": ""}, headers=headers)[1])
        found = root.findtext("UploadId") if root is not None else None
        if not found:
            raise Refused(answered(200, "the answer to the begin of an upload holds no UploadId"))
        return found

    def send(self, key: str, upload: str, number: int, data: bytes, sha256: bytes) -> Sent:
        """Send part `number`, whose digest is `sha256`; sending it again replaces it."""
        checksum = base64.b64encode(sha256).decode()
        query = {"partNumber": str(number), "uploadId": upload}
        headers, _ = self._ask("PUT", key, query, data, sha256, {_HASH: checksum})
        return Sent(number, len(data), headers.get("etag", ""), checksum)

    def sent(self, key: str, upload: str) -> dict[int, Sent]:
        """The parts that the store has, by number."""
        found: dict[int, Sent] = {}
        marker = "0"
        while True:
            query = {"part-number-marker": marker, "uploadId": upload}
            root = _xml(self._ask("GET", key, query)[1])
            if root is None:
                raise Refused(answered(200, "the answer to a question for parts is not XML"))
            for part in root.iter("Part"):
                one = Sent(
                    number=int(part.findtext("PartNumber") or 0),
                    size=int(part.findtext("Size") or 0),
                    etag=part.findtext("ETag") or "",
                    sha256=part.findtext("ChecksumSHA256") or "",
                )
                found[one.number] = one
            marker = root.findtext("NextPartNumberMarker") or ""
            if (root.findtext("IsTruncated") or "").lower() != "true" or not marker.isdecimal():
                return found

    def complete(self, key: str, upload: str, parts: Sequence[Sent]) -> None:
        """Make the object of these parts."""
        said = "".join(
            f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag)}</ETag>"
            f"<ChecksumSHA256>{part.sha256}</ChecksumSHA256></Part>"
            for part in parts
        )
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        body = f'<CompleteMultipartUpload xmlns="{space}">{said}</CompleteMultipartUpload>'.encode()
        _, answer = self._ask("POST", key, {"uploadId": upload}, body)
        # S3 answers 200 before it begins to put the parts together, and an error may follow
        root = _xml(answer)
        if root is None or root.tag == "Error":
            raise Refused(answered(500, answer.decode(errors="replace")))

    def abort(self, key: str, upload: str) -> None:
        """Give an upload up; its parts go."""
        self._ask("DELETE", key, {"uploadId": upload})

    def length(self, key: str) -> int | None:
        """The length in bytes of the object at `key`; None if there is none, or it may not be known."""
        try:
            headers, _ = self._ask("HEAD", key, {})
        except Refused as error:
            if error.failure.status in (403, 404):  # without s3:ListBucket the first says the second
                return None
            raise
        return int(headers.get("content-length", -1))

    def _ask(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        body: bytes = b"",
        sha256: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Mapping[str, str], bytes]:
        request = _Http.request()(
            method=method,
            url=f"{self._base}/{quote(self._key(key), safe='/~')}?{urlencode(query, quote_via=quote)}".rstrip(
                "?"
            ),
            headers={**(headers or {}), "Content-Length": str(len(body)), "User-Agent": "mldeploy"},
            data=_bites(body) if len(body) > _BITE else body,
        )
        self._sign(request, (sha256 or hashlib.sha256(body).digest()).hex())
        answer = self._http().send(request.prepare())
        if not 200 <= answer.status_code < 300:
            raise Refused(answered(answer.status_code, answer.content.decode(errors="replace")))
        return answer.headers, answer.content

    def _key(self, key: str) -> str:
        return f"{self._place.prefix}/{key}" if self._place.prefix else key

    def _sign(self, request: Any, sha256: str) -> None:
        if self._credentials is None:
            return
        given = self._credentials()
        _Http.signer()(
            given["access_key_id"], given["secret_access_key"], given.get("token"),
            self._settings.region or DEFAULT_REGION, sha256,
        ).add_auth(request)  # fmt: skip

    def _http(self) -> Any:
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        with self._lock:
            if self._session is None:
                self._session = URLLib3Session(
                    verify=self._settings.ca_bundle or True,
                    proxies=get_environ_proxies(self._base),
                    timeout=(CONNECT, SILENCE),
                    max_pool_connections=16,
                )
            return self._session


class _Http:
    """botocore's classes, imported when a request is made: they take long to load."""

    @staticmethod
    def request() -> Any:
        from botocore.awsrequest import AWSRequest

        return AWSRequest

    @staticmethod
    def signer() -> Callable[[str, str, str | None, str, str], Any]:
        from botocore.auth import S3SigV4Auth
        from botocore.credentials import Credentials

        class Signer(S3SigV4Auth):  # type: ignore[misc] # botocore has no types
            """Signs a body whose hash is known, instead of reading it again."""

            def __init__(self, key: str, secret: str, token: str | None, region: str, sha256: str) -> None:
                super().__init__(Credentials(key, secret, token), "s3", region)
                self._sha256 = sha256

            def payload(self, request: Any) -> str:
                return self._sha256

        return Signer


def _bites(body: bytes) -> Iterator[memoryview]:
    view = memoryview(body)
    for start in range(0, len(view), _BITE):
        yield view[start : start + _BITE]


def _base(place: Place, settings: Settings) -> str:
    """The URL below which the bucket's keys are, as obstore makes it."""
    endpoint, virtual = settings.address(place.bucket)
    if not endpoint:
        region = settings.region or DEFAULT_REGION
        if virtual:
            return f"https://{place.bucket}.s3.{region}.amazonaws.com"
        endpoint = f"https://s3.{region}.amazonaws.com"
    return endpoint if virtual else f"{endpoint}/{place.bucket}"


def _xml(data: bytes) -> ET.Element | None:
    """The document without its namespace; None for what is none."""
    try:
        root = ET.fromstring(data.strip())
    except ET.ParseError:
        return None
    for element in root.iter():
        element.tag = re.sub(r"^\{[^}]*\}", "", element.tag)
    return root
