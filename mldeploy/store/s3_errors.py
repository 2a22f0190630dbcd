"""What went wrong with S3, in the user's terms: what may be done about a failure, its message and its hint.

Pure. Two questions decide what a driver may do next:
  - `unsent`: is it certain that nothing was written? Only then may a create say so; everything else is
    "not known", and is resolved by reading the key (`store/log.py`).
  - `passing`: may the same request succeed in a moment? Then reads, overwrites and deletes are tried again.
S3's codes are those of https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html; Ceph, MinIO and
others answer with the same ones. Left out: reading an exception (`store/s3_heard.py`), and doing anything
about it (`store/s3.py`, `store/retry.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from mldeploy.errors import StoreError
from mldeploy.store.retry import Verdict
from mldeploy.store.s3_config import DEFAULT_REGION
from mldeploy.store.s3_heard import Failure

#: Codes by which a server says "slower".
_THROTTLED = {
    "SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException", "TooManyRequests",
    "RequestLimitExceeded", "RequestThrottled", "BandwidthLimitExceeded",
}  # fmt: skip
#: Codes of credentials that were good once, or will be: looked for anew at the next request.
_STALE = {
    "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId",
    "InvalidClientTokenId",
}  # fmt: skip
#: Codes of a bucket that is in another region.
_ELSEWHERE = {
    "PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException", "AuthorizationQueryParametersError",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Where:
    """What was asked of which bucket: what messages are filled in with. `region` "" means not known."""

    url: str
    bucket: str
    endpoint: str
    region: str
    key: str
    right: str  # the right it takes in a policy: "s3:GetObject", "s3:PutObject" …


# --- judging


def absent(failure: Failure) -> bool:
    """Whether it says that there is no such object; a 404 of anything else (a proxy, no bucket) does not."""
    return failure.status == 404 and failure.code == "NoSuchKey"


def exists(failure: Failure) -> bool:
    """Whether it says that the key of an exclusive create is taken."""
    return failure.status in (304, 412)


def throttled(failure: Failure) -> bool:
    """Whether the server asks for fewer requests."""
    return failure.status == 429 or failure.code in _THROTTLED


def passing(failure: Failure) -> bool:
    """Whether the same request may succeed in a moment."""
    if failure.status:
        # 409: another request on this key is under way
        return (
            (failure.status >= 500 and failure.status != 501)
            or failure.status in (408, 409, 429)
            or (failure.code in _THROTTLED | {"RequestTimeout", "OperationAborted"})
        )
    return failure.cause in ("refused", "unresolved", "unreachable", "timeout", "cut")


def unsent(failure: Failure) -> bool:
    """Whether it is certain that nothing was written and nothing will be."""
    if not failure.status:
        return failure.cause in ("refused", "unresolved", "unreachable", "tls", "credentials")
    refused = 300 <= failure.status < 500 or failure.status == 501
    return refused and not exists(failure) and (failure.status == 429 or not passing(failure))


def stale_credentials(failure: Failure) -> bool:
    """Whether other credentials may have been put where these came from."""
    return failure.code in _STALE or failure.cause == "credentials"


def elsewhere(failure: Failure) -> bool:
    """Whether the bucket is in another region."""
    return failure.status in (301, 307) or failure.code in _ELSEWHERE


def verdict(failure: Failure) -> Verdict:
    """Whether to try again what may be sent twice."""
    return Verdict(
        again=passing(failure),
        throttled=throttled(failure),
        connected=failure.cause not in ("refused", "unresolved", "unreachable"),
    )


# --- telling

#: Code or cause: message and hint. Filled in with the fields of Where and `said`.
_WORDS: dict[str, tuple[str, str]] = {
    "NoSuchBucket": (
        "there is no bucket {bucket} at {endpoint}",
        "make it, for example with `aws s3 mb s3://{bucket}`, or correct the name in {url}",
    ),
    "InvalidBucketName": ("{bucket} cannot be the name of a bucket", "correct the name in {url}"),
    "NoSuchKey": ("there is no {key} in {url}", "it may have been collected: look at the log"),
    "AccessDenied": (
        "{endpoint} does not allow {right} on {key} in {url}: {said}",
        "grant {right} on arn:aws:s3:::{path} to these credentials, and s3:ListBucket on the bucket: without "
        "that S3 says forbidden also of a key that is not there. docs/s3.md has the policies",
    ),
    "InvalidAccessKeyId": (
        "{endpoint} does not know this access key",
        "correct AWS_ACCESS_KEY_ID or the profile; `aws sts get-caller-identity` says who you are",
    ),
    "SignatureDoesNotMatch": (
        "{endpoint} refuses the signature: the secret key is not that of the access key",
        "correct AWS_SECRET_ACCESS_KEY or the profile",
    ),
    "ExpiredToken": (
        "the session token for {url} has expired",
        "get new credentials (`aws sso login`, or assume the role again)",
    ),
    "InvalidToken": (
        "{endpoint} refuses the session token",
        "set AWS_SESSION_TOKEN together with the keys it came with, or unset it",
    ),
    "RequestTimeTooSkewed": (
        "this machine's clock is too far from that of {endpoint}: {said}",
        "set the clock (`timedatectl set-ntp true`); S3 allows 15 minutes",
    ),
    "Elsewhere": (
        "bucket {bucket} is not in region {region}",
        "set AWS_REGION to the bucket's region; `aws s3api get-bucket-location --bucket {bucket}` names it",
    ),
    "AuthorizationHeaderMalformed": (
        "{endpoint} cannot read who asks: {said}",
        "correct AWS_ACCESS_KEY_ID or the profile: an access key is empty, or holds what is none",
    ),
    "Found": (
        "bucket {bucket} is in region {right_region}, not in {region}",
        "set AWS_REGION={right_region}",
    ),
    "Throttled": (
        "{endpoint} still asks for fewer requests: {said}",
        "wait and run it again; S3 allows 3,500 writes and 5,500 reads a second below one prefix",
    ),
    "InvalidObjectState": (
        "{key} in {url} was moved to an archive and cannot be read",
        "restore it, and take {url} out of the bucket's lifecycle rules",
    ),
    "NotImplemented": (
        "{endpoint} cannot do what a store needs: {said}",
        "use a store with an exclusive create: a local folder, or S3 with conditional writes",
    ),
    "refused": (
        "{endpoint} refuses the connection",
        "is the server up, and its address right? It comes from AWS_ENDPOINT_URL or the profile",
    ),
    "unresolved": (
        "{endpoint} is not the name of any machine",
        "correct AWS_ENDPOINT_URL or AWS_REGION, or check the network's name service",
    ),
    "unreachable": ("{endpoint} cannot be reached: {said}", "check the network, the proxy and the endpoint"),
    "tls": (
        "no secure connection to {endpoint}: {said}",
        "name the certificate's authority in AWS_CA_BUNDLE, or write http:// if the endpoint has no TLS",
    ),
    "credentials": (
        "no credentials for {url}: {said}",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role",
    ),
    "timeout": ("{endpoint} did not answer for {key} in time", "check the network, then run it again"),
    "cut": ("the connection to {endpoint} broke: {said}", "check the network, then run it again"),
}
_SAME = {
    "ExpiredTokenException": "ExpiredToken",
    "TokenRefreshRequired": "ExpiredToken",
    "InvalidClientTokenId": "InvalidAccessKeyId",
    "RequestExpired": "RequestTimeTooSkewed",
    "AllAccessDisabled": "AccessDenied",
    "Forbidden": "AccessDenied",
    "QuotaExceeded": "Full",
    "XMinioStorageFull": "Full",
}
_WORDS["Full"] = ("{endpoint} has no more room: {said}", "raise the quota, or free some with `mldeploy gc`")


def words(failure: Failure, where: Where) -> tuple[str, str]:
    """Message and hint."""
    filled = {
        "url": where.url,
        "bucket": where.bucket,
        "endpoint": where.endpoint,
        "region": where.region or "the default region",
        "key": where.key or "the bucket",
        "right": where.right,
        "path": where.url.partition("://")[2].rstrip("/") + "/*",
        "right_region": failure.region,
        "said": failure.said or "no reason given",
        "answer": f"{failure.status} {failure.code}".strip(),
    }
    found = _WORDS.get(_word(failure, where))
    if found is None:
        found = ("{endpoint} answers {answer} for {key} in {url}: {said}", "check the URL and the endpoint")
        if passing(failure):
            found = (found[0], "the server has a trouble of its own: run it again")
    return found[0].format_map(filled), found[1].format_map(filled)


def told(failure: Failure, where: Where) -> StoreError:
    """The error that a user sees."""
    return StoreError(*words(failure, where))


def _word(failure: Failure, where: Where) -> str:
    if elsewhere(failure):
        if failure.region and failure.region != (where.region or DEFAULT_REGION):
            return "Found"
        # S3 says so of the region, which it then names, and of an access key that is none
        return failure.code if failure.code in _WORDS else "Elsewhere"
    if throttled(failure):
        return "Throttled"
    if failure.status == 0 and failure.cause:
        return failure.cause
    code = _SAME.get(failure.code, failure.code)
    if code in _WORDS:
        return code
    return {403: "AccessDenied", 501: "NotImplemented"}.get(failure.status, "")
