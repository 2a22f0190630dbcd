"""The requests of transfers: signed with the hash of their bodies, and sent once.

Rules: S3 checks what it gets against a sha256 that was made here (`x-amz-content-sha256`, which is signed,
and `x-amz-checksum-sha256`, which it keeps); the environment's headers for encryption and for buckets whose
reader pays go with the requests that take them; an answer that is no success is a `Failed`
(`store/s3_heard.py`). Threads may share one.
Left out: uploads in parts (`store/s3_parts.py`), trying again, what an error means.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mldeploy.store.s3_answer import Answer
from mldeploy.store.s3_config import DEFAULT_REGION, Place, Settings
from mldeploy.store.s3_heard import Failed, Failure, answered, heard
from mldeploy.store.s3_http import Asked, Http
from mldeploy.store.s3_sign import EMPTY, Credentials, path_of, query_of, sign
from mldeploy.store.s3_way import Way

CHECKSUM = "x-amz-checksum-sha256"
_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Extra:
    """Headers that the environment asks for, in obstore's names.

    `always`: of every request; `content`: of those that read or write bytes; `begin`: of those that begin an
    object.
    """

    always: Mapping[str, str] = field(default_factory=dict)
    content: Mapping[str, str] = field(default_factory=dict)
    begin: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Extra:
        """Read AWS_REQUEST_PAYER, AWS_SERVER_SIDE_ENCRYPTION, AWS_SSE_KMS_KEY_ID, AWS_SSE_BUCKET_KEY_ENABLED
        and AWS_SSE_CUSTOMER_KEY_BASE64.
        """
        always = {"x-amz-request-payer": "requester"} if _true(environ, "AWS_REQUEST_PAYER") else {}
        kind = environ.get("AWS_SERVER_SIDE_ENCRYPTION", "")
        prefix = "x-amz-server-side-encryption"
        if kind == "sse-c":
            key = environ.get("AWS_SSE_CUSTOMER_KEY_BASE64", "")
            md5 = hashlib.md5(base64.b64decode(key), usedforsecurity=False).digest()
            content = {
                f"{prefix}-customer-algorithm": "AES256",
                f"{prefix}-customer-key": key,
                f"{prefix}-customer-key-md5": base64.b64encode(md5).decode(),
            }
            return cls(always, content, content)
        begin = {prefix: kind}
        if environ.get("AWS_SSE_KMS_KEY_ID"):
            begin[f"{prefix}-aws-kms-key-id"] = environ["AWS_SSE_KMS_KEY_ID"]
        if _true(environ, "AWS_SSE_BUCKET_KEY_ENABLED"):
            begin[f"{prefix}-bucket-key-enabled"] = "true"
        return cls(always, {}, begin if kind else {})


class Requests:
    """Requests for the keys below one place. The constructor does no I/O.

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
        self._credentials = credentials
        self._region = settings.region or DEFAULT_REGION
        self.extra = Extra.of(environ)
        base = _base(place, settings)
        scheme, _, rest = base.partition("://")
        host, _, root = rest.partition("/")
        self._root, self._prefix = root, place.prefix
        self._http = Http(Way(f"{scheme}://{host}", settings.ca_bundle))

    @property
    def idle(self) -> bool:
        """Whether there is a connection that nobody uses, as far as one can know."""
        return self._http.idle

    def put(self, key: str, data: bytes, sha256: bytes) -> None:
        """Write `data`, whose digest is `sha256`, in one request."""
        checksum = {CHECKSUM: base64.b64encode(sha256).decode()}
        self.ask("PUT", key, _NOTHING, data, sha256.hex(), {**checksum, **self.extra.begin})

    def open(self, key: str, start: int, end: int | None) -> Answer:
        """The object's bytes from `start` to `end` (None: all there are), to be read and closed."""
        return answered_well(self.begin(key, start, end))

    def begin(self, key: str, start: int = 0, end: int | None = None) -> Asked:
        """Ask for them; `answered_well` gives the answer."""
        headers = {**self.extra.content}
        if start or end is not None:
            headers["range"] = f"bytes={start}-{'' if end is None else end - 1}"
        return self._begin("GET", key, _NOTHING, b"", EMPTY, headers)

    def ask(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        body: bytes = b"",
        sha256: str = "",
        headers: Mapping[str, str] = _NOTHING,
    ) -> tuple[Mapping[str, str], bytes]:
        """Headers and body of the answer. `sha256`: of the body in hex, where it is known."""
        digest = sha256 or (hashlib.sha256(body).hexdigest() if body else EMPTY)
        with answered_well(self._begin(method, key, query, body, digest, headers)) as answer:
            return answer.headers, answer.read()

    def _begin(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        body: bytes,
        sha256: str,
        headers: Mapping[str, str],
    ) -> Asked:
        path, asked = path_of(self._root, self._prefix, key), query_of(query)
        sent = {**headers, **self.extra.always}
        if self._credentials is not None:
            who = _who(self._credentials)
            sent["host"] = self._http.host
            when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            sent = sign(who, self._region, when, method, path, asked, sent, sha256)
            del sent["host"]  # the connection says it
        sent["user-agent"] = "mldeploy"
        if method in ("PUT", "POST"):
            sent["content-length"] = str(len(body))
        return self._http.begin(method, f"{path}?{asked}" if asked else path, sent, body)


def _who(credentials: Callable[[], Any]) -> Credentials:
    """Who signs. Raises Failed: what goes wrong in getting to know it says nothing of this request."""
    try:
        given = credentials()
    except Exception as error:  # of the program, the file or the service that gives them
        raise Failed(Failure(cause="credentials", said=heard(error).said)) from error
    return Credentials(given["access_key_id"], given["secret_access_key"], given.get("token") or "")


def answered_well(asked: Asked) -> Answer:
    """The answer to a request, if it is a success. Raises Failed."""
    answer = asked.answer()
    if 200 <= answer.status < 300:
        return answer
    with answer:
        failure = answered(answer.status, _said(answer))
    region = failure.region or answer.headers.get("x-amz-bucket-region", "")
    raise Failed(replace(failure, region=region))


def _said(answer: Answer) -> str:
    """The body of an error; without it, the status says what there is to say."""
    try:
        return answer.read().decode(errors="replace")
    except Failed:
        return ""


def _true(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").lower() in ("1", "true")


def _base(place: Place, settings: Settings) -> str:
    """The URL below which the bucket's keys are, as obstore makes it."""
    endpoint, virtual = settings.address(place.bucket)
    if not endpoint:
        region = settings.region or DEFAULT_REGION
        if virtual:
            return f"https://{place.bucket}.s3.{region}.amazonaws.com"
        endpoint = f"https://s3.{region}.amazonaws.com"
    return endpoint if virtual else f"{endpoint}/{place.bucket}"
