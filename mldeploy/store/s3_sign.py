"""Signs requests to S3: AWS Signature Version 4, in the header `authorization`, of a body of known hash.

Pure: the time is passed in. Rules: a path is encoded once, as S3 wants it and other services do not; signed
are the host and every header that is given here; the hash of the body is signed as it is given, so that a
body is hashed once, by whoever needs its hash anyway.
https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
Left out: signed URLs, bodies signed in chunks, Signature Version 2 and 4a.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

_ALGORITHM = "AWS4-HMAC-SHA256"
#: The sha256 of nothing, in hex: of a request without a body.
EMPTY = hashlib.sha256().hexdigest()


class Credentials(NamedTuple):
    """An access key, its secret and, of temporary ones, their token."""

    access: str
    secret: str
    token: str = ""


def path_of(*parts: str) -> str:
    """The path of a request, /bucket/key, encoded."""
    return "/" + "/".join(quote(part, safe="/~") for part in parts if part)


def query_of(query: Mapping[str, str]) -> str:
    """The query of a request, encoded and in the order in which it is signed."""
    if not query:
        return ""
    pairs = sorted((quote(name, safe="~"), quote(value, safe="~")) for name, value in query.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


def sign(
    credentials: Credentials,
    region: str,
    when: str,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    sha256: str,
) -> dict[str, str]:
    """The headers of a request and those that sign it.

    `when`: in UTC, as 20261124T063956Z. `path` and `query` as `path_of` and `query_of` make them. `headers`:
    with small letters; `host` must be among them. `sha256`: of the body, in hex.
    """
    signed = {**headers, "x-amz-content-sha256": sha256, "x-amz-date": when}
    if credentials.token:
        signed["x-amz-security-token"] = credentials.token
    names = sorted(signed)
    lines = "".join(f"{name}:{' '.join(signed[name].split())}\n" for name in names)
    named = ";".join(names)
    canonical = f"{method}\n{path}\n{query}\n{lines}\n{named}\n{sha256}"
    scope = f"{when[:8]}/{region}/s3/aws4_request"
    text = f"{_ALGORITHM}\n{when}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.digest(_key(credentials.secret, when[:8], region), text.encode(), "sha256").hex()
    signed["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access}/{scope}, SignedHeaders={named}, Signature={signature}"
    )
    return signed


@functools.lru_cache(maxsize=8)
def _key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for word in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    return key
