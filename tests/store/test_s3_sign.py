"""Signatures: those that AWS has published for S3, and the same as botocore's for whatever a key may be."""

from __future__ import annotations

import hashlib
import string

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as Theirs
from hypothesis import given
from hypothesis import strategies as st

from mldeploy.store.s3_sign import EMPTY, Credentials, path_of, query_of, sign

# https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
AWS = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
HOST = {"host": "examplebucket.s3.amazonaws.com"}


@pytest.mark.parametrize(
    ("method", "key", "query", "headers", "body", "signature"),
    [
        ("GET", "test.txt", {}, {"range": "bytes=0-9"}, b"",
         "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
        ("PUT", "test$file.text", {},
         {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
         b"Welcome to Amazon S3.", "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
        ("GET", "", {"lifecycle": ""}, {}, b"",
         "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("GET", "", {"prefix": "J", "max-keys": "2"}, {}, b"",
         "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
    ids=["get", "put", "lifecycle", "list"],
)  # fmt: skip
def test_the_published_ones(
    method: str, key: str, query: dict[str, str], headers: dict[str, str], body: bytes, signature: str
) -> None:
    signed = sign(
        AWS, "us-east-1", "20130524T000000Z", method, path_of(key), query_of(query), HOST | headers,
        hashlib.sha256(body).hexdigest(),
    )  # fmt: skip
    assert signed["authorization"].endswith(f"Signature={signature}")


def test_the_hash_of_nothing() -> None:
    assert hashlib.sha256(b"").hexdigest() == EMPTY


_TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n\t\0"), max_size=20)
_PARTS = st.lists(_TEXT.filter(lambda text: text.strip("/.")), min_size=1, max_size=3)


class _Then:
    def strftime(self, form: str) -> str:
        return "20261124T063956Z"


@given(
    key=_PARTS,
    query=st.dictionaries(st.sampled_from(["partNumber", "uploads", "a b", "a", "~"]), _TEXT, max_size=3),
    token=st.sampled_from(["", "a/token+="]),
    region=st.sampled_from(["us-east-1", "eu-west-3"]),
    said=st.text(string.ascii_letters + "  ,;=", max_size=20),
)
def test_the_same_as_botocores(
    key: list[str], query: dict[str, str], token: str, region: str, said: str
) -> None:
    path, asked = path_of("bucket", "/".join(key)), query_of(query)
    request = AWSRequest("PUT", f"http://host:9000{path}?{asked}".rstrip("?"), {"x-amz-meta-said": said})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.auth.get_current_datetime", _Then)
        S3SigV4Auth(Theirs("key", "secret", token or None), "s3", region).add_auth(request)
    headers = {"host": "host:9000", "x-amz-meta-said": said}
    when = _Then().strftime("")
    ours = sign(Credentials("key", "secret", token), region, when, "PUT", path, asked, headers, EMPTY)
    assert ours["authorization"] == request.headers["Authorization"]
    assert ours.get("x-amz-security-token", "") == token
