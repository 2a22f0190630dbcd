"""What people are told when S3 says no: the same words from both drivers, from real answers."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mldeploy.errors import StoreError
from mldeploy.store.fsspec_store import FsspecStore
from mldeploy.store.objects import ObjectStore
from mldeploy.store.s3 import S3Store
from mldeploy.store.s3_config import Settings
from mldeploy.store.s3_errors import Where, words
from mldeploy.store.s3_heard import Failure
from mldeploy.store.s3_region import bucket_region
from tests.support.s3 import Server, use
from tests.support.saying import Asked, Say, Saying, error

TLS = Path(__file__).parents[1] / "support/tls"
DRIVERS = ["s3", "s3+fsspec"]


@pytest.fixture
def saying(monkeypatch: pytest.MonkeyPatch) -> Iterator[Saying]:
    with Saying() as server:
        use(Server(server.endpoint), monkeypatch)
        yield server


def opened(driver: str, bucket: str = "bucket") -> ObjectStore:
    url = f"{driver}://{bucket}/prefix"
    return S3Store.open(url) if driver == "s3" else FsspecStore.open(url)


def refused(store: ObjectStore) -> StoreError:
    """What a `get` is told. Other verbs go through the same words (test_s3_verbs.py has that they fail)."""
    with pytest.raises(StoreError) as caught:
        store.get("log/1.json")
    assert caught.value.message and caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


#: Answer, what the message says, what the hint says.
TOLD = [
    (error(404, "NoSuchBucket"), "there is no bucket bucket", "aws s3 mb s3://bucket"),
    (error(403, "AccessDenied"), "does not allow s3:GetObject on log/1.json", "s3:ListBucket"),
    (error(403, "InvalidAccessKeyId"), "does not know this access key", "AWS_ACCESS_KEY_ID"),
    (error(403, "SignatureDoesNotMatch"), "not that of the access key", "AWS_SECRET_ACCESS_KEY"),
    (error(400, "ExpiredToken"), "has expired", "aws sso login"),
    (error(400, "InvalidToken"), "refuses the session token", "AWS_SESSION_TOKEN"),
    (error(403, "RequestTimeTooSkewed", "too far"), "clock is too far", "timedatectl"),
    (
        error(400, "AuthorizationHeaderMalformed", Region="eu-west-1"),
        "is in region eu-west-1, not in us-east-1",
        "AWS_REGION=eu-west-1",
    ),
    (
        error(
            400, "AuthorizationHeaderMalformed", "a non-empty access key must be given", Region="us-east-1"
        ),
        "cannot read who asks: a non-empty access key must be given",
        "AWS_ACCESS_KEY_ID",
    ),
    (
        error(403, "AccessDenied", "no identity may kms:GenerateDataKey &amp; more"),
        "no identity may kms:GenerateDataKey & more",
        "s3:ListBucket",
    ),
    (error(403, "InvalidObjectState"), "moved to an archive", "lifecycle"),
    (error(501, "NotImplemented"), "cannot do what a store needs", "conditional writes"),
    (Say(404, b"<html>nginx</html>"), "answers 404", "check the URL"),
    (error(418, "Teapot", "short and stout"), "answers 418 Teapot", "check the URL"),
]


@pytest.mark.parametrize(("answer", "message", "hint"), TOLD, ids=lambda value: getattr(value, "status", ""))
def test_the_words_of_the_fast_driver(saying: Saying, answer: Say, message: str, hint: str) -> None:
    saying.says(answer)
    told = refused(opened("s3"))
    assert message in told.message
    assert hint in told.hint


def test_the_words_of_s3fs_are_the_same(saying: Saying) -> None:
    store = opened("s3+fsspec")
    for answer, message, hint in TOLD:
        saying.says(answer)
        if b"<html>" in answer.body:
            continue  # s3fs says no more of it than that the file is not there
        told = refused(store)
        assert message in told.message
        assert hint in told.hint


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_bucket_in_another_region_is_named(saying: Saying, driver: str) -> None:
    """S3 answers in the wrong region with 301, no Location, and the right one's name in a header."""
    saying.answer = lambda _: Say(
        301, error(301, "PermanentRedirect").body, {"x-amz-bucket-region": "eu-central-1"}
    )
    told = refused(opened(driver))
    assert "is in region eu-central-1, not in us-east-1" in told.message
    assert told.hint == "set AWS_REGION=eu-central-1"


def test_without_a_name_the_region_is_to_be_looked_up(saying: Saying) -> None:
    saying.says(error(301, "PermanentRedirect"))
    assert "get-bucket-location" in refused(opened("s3")).hint


def test_a_server_that_says_nonsense_of_the_region_is_one_that_does_not_say() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_babble, args=(listening,))
        thread.start()
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert bucket_region(Settings(endpoint=endpoint), "bucket") == ""
        thread.join()


def _babble(listening: socket.socket) -> None:
    peer, _ = listening.accept()
    with peer:
        peer.recv(4096)
        peer.sendall(b"what?\r\n\r\n")


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://127.0.0.1:1", "refuses the connection"),
        ("http://no-such-host.invalid", "not the name of any machine"),
    ],
)
def test_an_endpoint_out_of_reach(
    driver: str, endpoint: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Server(endpoint), monkeypatch)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    told = refused(opened(driver))
    assert message in told.message and endpoint in told.message
    assert "AWS_ENDPOINT_URL" in told.hint


@pytest.mark.parametrize("driver", DRIVERS)
def test_no_credentials(driver: str, saying: Saying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    told = refused(opened(driver))
    assert "credentials" in told.message
    assert "AWS_PROFILE" in told.hint
    assert saying.asked == []


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_profile_that_is_not_there(driver: str, saying: Saying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    told = refused(opened(driver))
    assert "nobody" in told.message
    assert "AWS_PROFILE" in told.hint


@pytest.fixture
def tls() -> Iterator[str]:
    """The endpoint of an https server whose certificate only tests/support/tls/ca.pem vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Missing)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that refuse us
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class _Missing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = error(404, "NoSuchKey").body
        self.send_response(404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_certificate_that_nobody_vouches_for(
    driver: str, tls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Server(tls), monkeypatch)
    told = refused(opened(driver))
    assert f"no secure connection to {tls}" in told.message
    assert "AWS_CA_BUNDLE" in told.hint
    monkeypatch.setenv("AWS_CA_BUNDLE", str(TLS / "ca.pem"))
    assert opened(driver).get("log/1.json") is None


# --- against the real server


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_bucket_that_is_not_there(s3_environ: Server, driver: str) -> None:
    assert "there is no bucket no-such-bucket" in refused(opened(driver, "no-such-bucket")).message


def test_credentials_that_expired_are_looked_for_again(
    saying: Saying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon goes on by itself once a login or another process has put new ones into the profile."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def write(key: str) -> None:
        file.write_text(
            f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\naws_session_token = t\n"
        )

    def answer(asked: Asked) -> Say:
        return (
            error(404, "NoSuchKey")
            if "NEWKEY" in asked.headers["authorization"]
            else error(400, "ExpiredToken")
        )

    saying.answer = answer
    write("OLDKEY")
    store = opened("s3")
    assert "has expired" in refused(store).message
    write("NEWKEY")
    assert store.get("log/1.json") is None


# --- pure


def test_every_message_can_be_filled_in() -> None:
    from mldeploy.store.s3_errors import _SAME, _WORDS

    where = Where("s3://b/p", "b", "http://h", "", "k", "s3:GetObject")
    for word in {*_WORDS, *_SAME}:
        for failure in (Failure(status=400, code=word), Failure(cause=word)):
            message, hint = words(failure, where)
            assert message and hint and "{" not in message + hint


def test_braces_in_a_servers_words_are_just_text() -> None:
    where = Where("s3://b/p", "b", "http://h", "", "k", "s3:GetObject")
    assert "{url}" in words(Failure(status=501, code="NotImplemented", said="{url}"), where)[0]
    assert "{x}" in words(Failure(status=418, code="{x}", said="{x}"), where)[0]
