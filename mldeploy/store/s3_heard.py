"""What a server or a library said when S3 did not do as asked, read into one value.

Pure. obstore's exceptions are text (status and body of the answer, or what went wrong on the way); those of
botocore and s3fs are objects. Left out: what it means (`store/s3_errors.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that was no success, or that there was none.

    `status`: of HTTP, 0 where no answer came. `code`: S3's word for it, "" where there is none. `cause`,
    where no answer came: "refused", "unresolved", "unreachable" (no connection was made), "tls",
    "credentials" (none found, nothing was sent), "timeout", or "cut" (the connection broke meanwhile).
    `region`: where the answer says that the bucket is. `said`: in the server's or the library's own words.
    """

    status: int = 0
    code: str = ""
    cause: str = ""
    region: str = ""
    said: str = ""


class Failed(Exception):  # noqa: N818 - it is what the request did
    """A request of our own (`store/s3_http.py`) without success: what was answered, or why nothing.

    `sent`: when, by the clock of the gate, where that was before its turn.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.status or failure.cause} {failure.code}: {failure.said}")
        self.failure = failure
        self.sent: float | None = None


def heard(error: BaseException) -> Failure:
    """Reads an exception of a request, whoever made it; of anything else there is no cause to hear of."""
    if isinstance(error, Failed):
        return error.failure
    of_obstore = type(error).__module__.startswith("obstore") or (
        isinstance(error, OSError) and error.errno is None  # a FileNotFoundError, which is Python's own
    )
    of_botocore = heard_from_botocore(error)
    if of_botocore is None and not of_obstore:
        return Failure(said=f"{type(error).__name__}: {error}")
    return of_botocore or heard_from_obstore(error)


def heard_from_obstore(error: BaseException) -> Failure:
    """Reads the text of one of obstore's exceptions, which holds the status and the body of the answer."""
    text = str(error)
    said, _, inside = text.partition("\n\nDebug source:")
    status = re.search(r"status code: (\d{3})", said)
    if status or "<Code>" in said:
        return answered(int(status[1]) if status else 0, said)
    if "without LOCATION" in said:
        return Failure(status=301, code="PermanentRedirect", said=_first_line(said))
    if type(error).__name__ == "UnauthenticatedError" or "credential provider" in said:
        return Failure(cause="credentials", said=_last_words(said))
    return Failure(cause=_cause_in_rust(inside), said=_reason_in_rust(inside) or _first_line(said))


def answered(status: int, text: str) -> Failure:
    """Reads an answer that is no success: its status and its body."""
    return Failure(
        status=status,
        code=_tag("Code", text),
        region=_tag("Region", text),
        said=_tag("Message", text) or _first_line(text),
    )


def _cause_in_rust(text: str) -> str:
    connecting = re.search(r"kind: Connect\b|legacy::Error\(\s*Connect,", text)
    if re.search(r"InvalidCertificate|InvalidMessage|AlertReceived|UnknownIssuer", text):
        return "tls" if connecting else "cut"
    if connecting:
        if "ConnectionRefused" in text:
            return "refused"
        return "unresolved" if "dns error" in text else "unreachable"
    return "timeout" if "TimedOut" in text or "kind: Timeout" in text else "cut"


def _reason_in_rust(text: str) -> str:
    """Of a debug print, what was wrong: a certificate's fault, the system's words, or the last word."""
    found = re.search(r"InvalidCertificate\(\s*(\w+)", text)
    found = found or re.search(r'(?:message|error): "([^"]+)"', text)
    if found:
        return found[1]
    word = re.findall(r"[A-Za-z]\w+", text)
    return str(word[-1]) if word else ""


#: Classes of botocore's and aiohttp's exceptions that say that there was no answer, or no request.
_NO_ANSWER = {
    "NoCredentialsError": "credentials",
    "PartialCredentialsError": "credentials",
    "CredentialRetrievalError": "credentials",
    "TokenRetrievalError": "credentials",
    "UnauthorizedSSOTokenError": "credentials",
    "SSOTokenLoadError": "credentials",
    "ProfileNotFound": "credentials",
    "ConnectTimeoutError": "unreachable",
    "ReadTimeoutError": "timeout",
    "TimeoutError": "timeout",
    "SSLError": "tls",
    "ConnectionClosedError": "cut",
    "HTTPClientError": "cut",
    "IncompleteReadError": "cut",
    "ResponseStreamingError": "cut",
    "ClientPayloadError": "cut",  # aiohttp's: the body ended too soon
    "SocketTimeoutError": "timeout",  # aiohttp's: no byte of the body came in time
}
_THEIRS = ("botocore", "aiobotocore", "aiohttp")


def heard_from_botocore(error: BaseException) -> Failure | None:
    """Reads an exception of botocore, or of s3fs that was raised from one; None if it is neither."""
    seen: list[BaseException] = []
    here: BaseException | None = error
    while here is not None and here not in seen:
        seen.append(here)
        failure = _one_of_botocore(here)
        if failure is not None:
            return failure
        here = here.__cause__ or here.__context__
    return None


def _one_of_botocore(error: BaseException) -> Failure | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict) and "Error" in response:
        meta, told = response.get("ResponseMetadata", {}), response["Error"]
        code = str(told.get("Code", ""))
        status = int(meta.get("HTTPStatusCode") or 0) or (int(code) if code.isdecimal() else 0)
        region = told.get("Region") or meta.get("HTTPHeaders", {}).get("x-amz-bucket-region", "")
        return Failure(
            status=status,
            code="" if code.isdecimal() else code,
            region=str(region),
            said=str(told.get("Message") or error),
        )
    name, text = type(error).__name__, _first_line(str(error))
    if name == "EndpointConnectionError":
        inner = _first_line(str(getattr(error, "kwargs", {}).get("error") or error.__context__ or text))
        return Failure(cause=_cause_in_words(inner), said=inner)
    if name in _NO_ANSWER and type(error).__module__.partition(".")[0] in _THEIRS:
        return Failure(cause=_NO_ANSWER[name], said=text)
    return None


def _cause_in_words(text: str) -> str:
    lower = text.lower()
    if "refused" in lower or "connect call failed" in lower:
        return "refused"
    if "name or service" in lower or "resolution" in lower or "getaddrinfo" in lower or "nodename" in lower:
        return "unresolved"
    return "tls" if "certificate" in lower or "ssl" in lower else "unreachable"


def _tag(name: str, text: str) -> str:
    found = re.search(rf"<{name}>([^<]*)</{name}>", text)
    text = found[1].strip() if found else ""
    if "&" not in text:
        return text
    from html import unescape

    return unescape(text)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:300]


def _last_words(text: str) -> str:
    """Of "… for path External AWS credential provider: RuntimeError: none": "none"."""
    return _first_line(text).rpartition(": ")[2]
