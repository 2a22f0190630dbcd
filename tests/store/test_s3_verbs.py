"""What each verb sends to S3, and what it makes of every answer: counted at a server that we script."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from mldeploy.errors import OutcomeUnknownError, StoreError
from mldeploy.store.fsspec_store import FsspecStore
from mldeploy.store.log import Log
from mldeploy.store.objects import ObjectStore
from mldeploy.store.retry import Patience
from mldeploy.store.s3 import S3Store
from mldeploy.store.s3_config import place_of
from tests.support.proxy import Action, Proxy, Request
from tests.support.s3 import Server, use
from tests.support.saying import CUT, FINE, Say, Saying, error

MISSING = error(404, "NoSuchKey")
TAKEN = error(412, "PreconditionFailed", Condition="If-None-Match")


@pytest.fixture
def saying(monkeypatch: pytest.MonkeyPatch) -> Iterator[Saying]:
    with Saying() as server:
        use(Server(server.endpoint), monkeypatch)
        yield server


@pytest.fixture
def s3(saying: Saying) -> S3Store:
    # time is made up: a test does not wait for a pause
    clock = iter(range(1_000_000))
    patience = Patience(bound=8, monotonic=lambda: float(next(clock)), sleep=lambda _: None)
    return S3Store(place_of("s3://bucket/a/prefix"), patience=patience)


@pytest.fixture(params=["s3", "s3+fsspec"])
def store(request: pytest.FixtureRequest, s3: S3Store) -> ObjectStore:
    return s3 if request.param == "s3" else FsspecStore.open("s3+fsspec://bucket/a/prefix")


# --- create


def test_a_create_is_one_conditional_put(store: ObjectStore, saying: Saying) -> None:
    saying.says(FINE)
    assert store.create("log/1.json", b"x" * 5_000_000) is True
    assert [(one.method, one.path, len(one.body)) for one in saying.asked] == [
        ("PUT", "/bucket/a/prefix/log/1.json", 5_000_000)
    ]
    assert saying.asked[0].headers["if-none-match"] == "*"


def test_taken_is_false(store: ObjectStore, saying: Saying) -> None:
    saying.says(TAKEN)
    assert store.create("log/1.json", b"x") is False
    assert len(saying.asked) == 1


def test_what_may_have_been_written_is_unknown_and_never_sent_again(
    store: ObjectStore, saying: Saying
) -> None:
    for answer in (
        error(500, "InternalError"),
        error(503, "SlowDown"),
        error(503, "ServiceUnavailable"),
        error(409, "ConditionalRequestConflict"),
        error(400, "RequestTimeout"),
        Say(502, b"<html>bad gateway</html>"),
        Say(504),
    ):
        saying.says(answer, TAKEN)  # a second attempt would meet its own success
        with pytest.raises(OutcomeUnknownError) as caught:
            store.create("log/1.json", b"x")
        assert "log/1.json" in caught.value.message and caught.value.hint
        assert len(saying.asked) == 1, answer


def test_a_create_whose_connection_is_cut(s3: S3Store, saying: Saying) -> None:
    saying.says(CUT, TAKEN)
    with pytest.raises(OutcomeUnknownError):
        s3.create("log/1.json", b"x")
    assert len(saying.asked) == 1


def test_s3fs_sends_it_again_and_says_taken(saying: Saying) -> None:
    """Why "taken" decides nothing by itself: aiohttp sends again, and nothing turns that off."""
    saying.says(CUT, TAKEN)
    assert FsspecStore.open("s3+fsspec://bucket/p").create("log/1.json", b"x") is False
    assert len(saying.asked) == 2


def test_what_was_certainly_not_written_says_so(store: ObjectStore, saying: Saying) -> None:
    for answer in (
        error(403, "AccessDenied"),
        error(403, "SignatureDoesNotMatch"),
        error(403, "RequestTimeTooSkewed"),
        error(400, "ExpiredToken"),
        error(404, "NoSuchBucket"),
        error(429, "TooManyRequests"),
        error(501, "NotImplemented"),
        Say(301, error(301, "PermanentRedirect").body, {"x-amz-bucket-region": "eu-west-1"}),
    ):
        saying.says(answer)
        with pytest.raises(StoreError) as caught:
            store.create("log/1.json", b"x")
        assert not isinstance(caught.value, OutcomeUnknownError), answer


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://no-such-host.invalid"])
@pytest.mark.parametrize("driver", ["s3", "s3+fsspec"])
def test_no_connection_is_certainly_not_written(
    driver: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Server(endpoint), monkeypatch)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    store = S3Store.open("s3://bucket/p") if driver == "s3" else FsspecStore.open("s3+fsspec://bucket/p")
    with pytest.raises(StoreError) as caught:
        store.create("log/1.json", b"x")
    assert endpoint in caught.value.message


def test_a_server_that_is_silent_leaves_it_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mldeploy.store.s3_client.REQUEST", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use(Server(f"http://127.0.0.1:{silent.getsockname()[1]}"), monkeypatch)
        with pytest.raises(OutcomeUnknownError, match="did not answer"):
            S3Store.open("s3://bucket/p").create("log/1.json", b"x")


def test_an_answer_lost_after_the_write_is_found_by_reading(s3_environ: Server, bucket: str) -> None:
    """The server has it, the answer is lost, the log reads it back and takes it for its own."""
    from datetime import UTC, datetime

    from mldeploy.core.records import Join

    def rule(request: Request) -> Action:
        lost = request.method == "PUT" and not any(one.status == 200 for one in proxy.requests[:-1])
        return Action.AFTER if lost else Action.PASS

    with Proxy(s3_environ.endpoint.removeprefix("http://"), rule) as proxy:
        store = S3Store(place_of(f"s3://{bucket}/s"), s3_environ.through(f"http://{proxy.address}").environ)
        appended = Log(store).append(lambda _: [Join(host="h")], actor="me", now=datetime.now(UTC))
    assert appended is not None and appended.seq == 1
    assert proxy.count("PUT") == 1


# --- the others


def verbs(store: ObjectStore) -> list[Callable[[], object]]:
    return [
        lambda: store.get("log/1.json"),
        lambda: store.put("hosts/e/h.json", b"x"),
        lambda: store.delete("blobs/x"),
        lambda: list(store.list("log/")),
    ]


def test_a_read_is_one_request_and_brings_the_time(store: ObjectStore, saying: Saying) -> None:
    saying.says(Say(200, b"a record", dict(FINE.headers)))
    found = store.get("log/1.json")
    assert found is not None
    assert (found.data, found.modified) == (b"a record", 1_795_502_396.0)
    saying.says(MISSING)
    assert store.get("log/2.json") is None
    assert [one.method for one in saying.asked] == ["GET"]


def test_a_read_that_is_cut_in_the_body_is_asked_again(store: ObjectStore, saying: Saying) -> None:
    whole = Say(200, b"a record", dict(FINE.headers))
    saying.says(replace(whole, keep=3), whole)
    found = store.get("log/1.json")
    assert found is not None and found.data == b"a record"
    assert len(saying.asked) == 2


@pytest.mark.parametrize("verb", range(4), ids=["get", "put", "delete", "list"])
@pytest.mark.parametrize("failure", [error(500, "InternalError"), error(503, "SlowDown"), CUT, Say(502)])
def test_what_may_be_sent_twice_is(s3: S3Store, saying: Saying, failure: Say, verb: int) -> None:
    saying.says(failure, failure, Say(200, LISTING, dict(FINE.headers)) if verb == 3 else FINE)
    verbs(s3)[verb]()
    assert len(saying.asked) == 3
    assert len({(one.method, one.path) for one in saying.asked}) == 1


LISTING = (
    b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>bucket</Name>'
    b"<Prefix>a/prefix/log/</Prefix>"
    b"<KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>"
)


@pytest.mark.parametrize("verb", range(4), ids=["get", "put", "delete", "list"])
def test_it_is_not_tried_for_ever(s3: S3Store, saying: Saying, verb: int) -> None:
    saying.says(error(503, "SlowDown"))
    with pytest.raises(StoreError, match="fewer requests"):
        verbs(s3)[verb]()
    assert 2 <= len(saying.asked) <= 8


def test_what_will_not_pass_is_not_tried_again(store: ObjectStore, saying: Saying) -> None:
    for verb in verbs(store):
        saying.says(error(403, "AccessDenied"))
        with pytest.raises(StoreError):
            verb()
        assert len(saying.asked) == 1


def test_a_throttled_store_says_so_once(
    s3: S3Store, saying: Saying, caplog: pytest.LogCaptureFixture
) -> None:
    saying.says(*[error(503, "SlowDown")] * 3, MISSING)
    with caplog.at_level(logging.WARNING, "mldeploy.store"):
        assert s3.get("log/1.json") is None
    assert [record.getMessage() for record in caplog.records] == [
        "s3://bucket/a/prefix asks for fewer requests: going on more slowly"
    ]


def test_a_poll_that_finds_nothing_is_one_request(store: ObjectStore, saying: Saying) -> None:
    saying.says(MISSING)
    for _ in range(3):
        assert store.get("log/00000000000000000001.json") is None
    assert [(one.method, one.path) for one in saying.asked] == [
        ("GET", "/bucket/a/prefix/log/00000000000000000001.json")
    ] * 3


def test_what_another_wrote_after_a_listing_is_seen(s3_environ: Server, bucket: str) -> None:
    """s3fs remembers listings unless told otherwise."""
    store = FsspecStore.open(f"s3+fsspec://{bucket}/s")
    store.put("log/1.json", b"1")
    assert [entry.key for entry in store.list("log/")] == ["log/1.json"]
    s3_environ.client().put_object(Bucket=bucket, Key="s/log/2.json", Body=b"2")
    found = store.get("log/2.json")
    assert found is not None and found.data == b"2"
    assert [entry.key for entry in store.list("log/")] == ["log/1.json", "log/2.json"]


@pytest.mark.parametrize(
    "answer",
    [Say(404), Say(404, b"<html>not here</html>"), error(404, "NoSuchBucket")],
    ids=["", "html", "bucket"],
)
def test_only_a_missing_key_is_none(s3: S3Store, saying: Saying, answer: Say) -> None:
    """A proxy or a wrong address that answers 404 is no empty store."""
    saying.says(answer)
    for verb in verbs(s3)[:3]:
        with pytest.raises(StoreError):
            verb()


def test_a_long_listing_is_whole_and_in_order_and_its_pages_are_asked_for_again(
    s3_environ: Server, bucket: str
) -> None:
    keys = [f"k/{number:04d}" for number in range(1_005)]
    store = S3Store.open(f"s3://{bucket}/s")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))

    def rule(request: Request) -> Action:
        return Action.AFTER if len(proxy.requests) % 2 else Action.PASS

    with Proxy(s3_environ.endpoint.removeprefix("http://"), rule) as proxy:
        other = S3Store(place_of(store.url), s3_environ.through(f"http://{proxy.address}").environ)
        assert [entry.key for entry in other.list("k/")] == keys
    assert proxy.count("GET") == 4


# --- processes and threads


def test_threads_share_a_store(s3_environ: Server, bucket: str) -> None:
    store = S3Store.open(f"s3://{bucket}/s")
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda number: store.create(f"log/{number % 10}", b"x"), range(200)))
    assert sum(won) == 10


FORKING = """
import os, sys, signal
from mldeploy.errors import StoreError
from mldeploy.store.objects import open_store
store = open_store(sys.argv[1])
pid = os.fork()
if pid == 0:
    signal.alarm(30)
    try:
        store.get("log/1.json")
    except StoreError as error:
        os.write(1, f"{error.message} / {error.hint}".encode())
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert store.get("log/1.json") is None
"""


def test_a_forked_child_is_told_and_does_not_hang(s3_environ: Server, bucket: str) -> None:
    s3_environ.make_store(bucket, "s")
    done = subprocess.run(
        [sys.executable, "-c", FORKING, f"s3://{bucket}/s"],
        capture_output=True, text=True, check=True, env=os.environ, timeout=60,
    )  # fmt: skip
    assert "forked" in done.stdout and "spawn" in done.stdout


def test_a_transfer_through_s3fs_outlives_cuts(
    s3_environ: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(1 << 20) * 50)  # three parts, the last of more than one

    def rule(request: Request) -> Action:
        return Action.AFTER if len(proxy.requests) % 3 == 0 else Action.PASS

    with Proxy(s3_environ.endpoint.removeprefix("http://"), rule) as proxy:
        use(s3_environ.through(f"http://{proxy.address}"), monkeypatch)
        store = FsspecStore.open(f"s3+fsspec://{bucket}/s")
        store.upload("blobs/one", source)
        store.download("blobs/one", target)
    assert target.read_bytes() == source.read_bytes()
    assert any(one.action is Action.AFTER for one in proxy.requests)
    assert proxy.count("PUT", "partNumber=3") >= 1
