"""Transfers to and from S3: in parts, on from where they were cut, and every way in which they fail."""

from __future__ import annotations

import base64
import itertools
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mldeploy.errors import DiskError, IntegrityError, NotFoundError, StoreError
from mldeploy.store import s3_download, s3_requests, s3_upload
from mldeploy.store.blobs import blob_key, fetch_blob, upload_blob
from mldeploy.store.objects import Resumption
from mldeploy.store.pace import Pace
from mldeploy.store.retry import Patience
from mldeploy.store.s3 import S3Store
from mldeploy.store.s3_config import from_environment, place_of
from mldeploy.store.s3_transfer import BUDGET
from tests import faults
from tests.support.s3 import Server, use
from tests.support.s3_bucket import Bucket, digest, when
from tests.support.saying import CUT, FINE, Asked, Say, Saying, error

PART = 64 << 10
PUSH = "01k9zq3v5w8x7c2m4n6b8d0f1g"
BIG = random.Random(1).randbytes(5 * PART + 1234)
SMALL = b"small" * 100


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for module, names in ((s3_upload, ("PART", "SINGLE")), (s3_download, ("RANGE",))):
        for name in names:
            monkeypatch.setattr(module, name, PART)
    for name in ("PIECE", "LONG"):
        monkeypatch.setattr(s3_download, name, PART // 8)
    with Saying() as server:
        use(Server(server.endpoint), monkeypatch)
        server.answer = bucket = Bucket()
        yield bucket


@pytest.fixture
def store(bucket: Bucket) -> S3Store:
    return quick()


def quick(bound: float = 60) -> S3Store:
    # time is made up: a test does not wait for a pause
    clock = itertools.count()
    patience = Patience(bound=bound, monotonic=lambda: float(next(clock)), sleep=lambda _: None)
    return S3Store(place_of("s3://bucket/a"), patience=patience)


def file(folder: Path, data: bytes, name: str = "source") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def key(data: bytes) -> str:
    return f"/bucket/a/{blob_key(digest(data), PUSH)}"


def up(store: S3Store, path: Path, data: bytes, resumption: Resumption | None = None) -> list[int]:
    told: list[int] = []
    upload_blob(store, digest(data), PUSH, path, told.append, resumption=resumption)
    return told


class Notes:
    """Resumptions that go on from one another, as a journal keeps them."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    def __call__(self) -> Resumption:
        return Resumption(self.tokens[-1] if self.tokens else "", self.tokens.append)


# --- up


@pytest.mark.parametrize("data", [b"", SMALL, BIG[:PART], BIG[: PART + 1], BIG], ids=len)
def test_a_file_is_read_once_and_arrives(store: S3Store, bucket: Bucket, tmp_path: Path, data: bytes) -> None:
    told = up(store, file(tmp_path, data), data)
    assert bucket.objects == {key(data): data}
    assert bucket.sent == sum(told) == len(data)
    parts = -(-len(data) // PART)
    one = {"put": 1}
    assert bucket.did == (one if len(data) <= PART else {"begin": 1, "part": parts, "complete": 1})
    assert not bucket.uploads


@pytest.mark.parametrize("data", [SMALL, BIG], ids=len)
def test_a_file_of_another_digest_is_never_there(
    store: S3Store, bucket: Bucket, tmp_path: Path, data: bytes
) -> None:
    notes = Notes()
    with pytest.raises(IntegrityError, match="source is not what its digest says") as caught:
        upload_blob(store, digest(b"another"), PUSH, file(tmp_path, data), resumption=notes())
    assert caught.value.hint
    assert not bucket.objects and not bucket.uploads
    assert notes.tokens[-1:] in ([], [""])  # nothing to go on with


def test_a_file_that_changes_while_it_goes_up(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    source = file(tmp_path, BIG)

    def change(asked: Asked, what: str) -> None:
        if what == "part":
            with source.open("r+b") as changed:
                changed.seek(len(BIG) - 10)
                changed.write(b"0123456789")

    bucket.fault = change
    with pytest.raises(IntegrityError, match="was changed"):
        up(store, source, BIG)
    assert not bucket.objects and not bucket.uploads


@pytest.mark.parametrize("cut", [PART, len(BIG) + 5], ids=["shorter", "longer"])
def test_a_file_whose_length_changes(store: S3Store, bucket: Bucket, tmp_path: Path, cut: int) -> None:
    source = file(tmp_path, BIG)
    bucket.fault = lambda asked, what: (
        source.write_bytes((BIG + BIG)[:cut]) and None if what == "begin" else None
    )
    with pytest.raises(IntegrityError):
        up(store, source, BIG)
    assert not bucket.objects and not bucket.uploads


def test_a_file_that_is_not_there(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="source is not there") as caught:
        up(store, tmp_path / "source", BIG)
    assert caught.value.hint
    assert not bucket.did


@pytest.mark.parametrize("what", ["begin", "part", "complete", "put"])
@pytest.mark.parametrize(
    "answer",
    [CUT, error(503, "SlowDown"), error(500, "InternalError"), error(429, "TooManyRequests"),
     error(400, "RequestTimeout")],
    ids=lambda say: str(say.status),
)  # fmt: skip
def test_what_passes_is_tried_again(
    store: S3Store, bucket: Bucket, tmp_path: Path, what: str, answer: Say
) -> None:
    data = SMALL if what == "put" else BIG
    bucket.fault = when(what, answer, answer)
    up(store, file(tmp_path, data), data)
    assert bucket.objects == {key(data): data}


def test_an_error_after_the_200_of_a_complete_is_one(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    bucket.fault = when("complete", Say(200, error(500, "InternalError").body), Say(200, b" \n \n"))
    up(store, file(tmp_path, BIG), BIG)
    assert bucket.did["complete"] == 3
    assert bucket.objects == {key(BIG): BIG}


def test_throttled_it_sends_fewer_at_once(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    bucket.fault = when("part", error(503, "SlowDown"))
    gate = store._ready().wire.gate
    before = gate.pace.limit
    up(store, file(tmp_path, BIG), BIG)
    assert gate.pace.limit <= -(-len(BIG) // PART) // 2 < before


def test_a_checksum_that_is_wrong_is_no_success(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    for what, data in (("put", SMALL), ("part", BIG)):
        bucket.fault = when(what, *[error(400, "BadDigest")] * 9)
        with pytest.raises(StoreError, match="BadDigest"):
            up(store, file(tmp_path, data), data)
    assert not bucket.objects and not bucket.uploads


@pytest.mark.parametrize("checksums", [True, False], ids=["sha256", "etag"])
@pytest.mark.parametrize("sent", [0, 1, 3, 6])
def test_a_cut_upload_goes_on_with_what_is_missing(
    store: S3Store, bucket: Bucket, tmp_path: Path, sent: int, checksums: bool
) -> None:
    bucket.checksums = checksums
    notes, source = Notes(), file(tmp_path, BIG)
    failing = [None] * sent + [error(403, "AccessDenied")] * 9
    bucket.fault = when("part" if sent < 6 else "complete", *(failing if sent < 6 else failing[sent:]))
    with pytest.raises(StoreError):
        up(store, source, BIG, notes())
    there = sum(len(part) for part in bucket.uploads["upload/0+"].values())
    assert not bucket.objects and there >= sent * PART - PART
    bucket.fault, before = when(""), bucket.sent
    told = up(quick(), source, BIG, notes())
    assert bucket.objects == {key(BIG): BIG}
    assert bucket.sent - before == len(BIG) - there
    assert sum(told) == len(BIG)  # a bar shows what is there as done
    assert bucket.did["begin"] == 1


def test_a_part_that_holds_other_bytes_is_sent_again(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    """As when the file was changed, the push cut, and the file put back."""
    notes, source = Notes(), file(tmp_path, BIG)
    bucket.fault = when("complete", error(403, "AccessDenied"))
    with pytest.raises(StoreError):
        up(store, source, BIG, notes())
    bucket.uploads["upload/0+"][2] = bytes(PART)
    bucket.fault, before = when(""), bucket.sent
    up(store, source, BIG, notes())
    assert bucket.objects == {key(BIG): BIG}
    assert bucket.sent - before == PART


def test_an_upload_that_has_expired_begins_anew(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    notes, source = Notes(), file(tmp_path, BIG)
    bucket.fault = when("complete", error(403, "AccessDenied"))
    with pytest.raises(StoreError):
        up(store, source, BIG, notes())
    bucket.uploads.clear()
    bucket.fault = when("")
    up(store, source, BIG, notes())
    assert bucket.objects == {key(BIG): BIG}
    assert bucket.did["begin"] == 2


def test_without_the_right_to_list_parts_it_begins_anew(
    store: S3Store, bucket: Bucket, tmp_path: Path
) -> None:
    notes, source = Notes(), file(tmp_path, BIG)
    bucket.fault = when("complete", error(403, "AccessDenied"))
    with pytest.raises(StoreError):
        up(store, source, BIG, notes())
    bucket.fault = lambda asked, what: error(403, "AccessDenied") if what == "parts" else None
    up(store, source, BIG, notes())
    assert bucket.objects == {key(BIG): BIG}
    assert bucket.did["begin"] == 2


def test_a_listing_of_parts_that_does_not_go_on_ends(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    notes, source = Notes(), file(tmp_path, BIG)
    bucket.fault = when("complete", error(403, "AccessDenied"))
    with pytest.raises(StoreError):
        up(store, source, BIG, notes())
    same = b"<R><IsTruncated>true</IsTruncated><NextPartNumberMarker>3</NextPartNumberMarker></R>"
    bucket.fault = lambda asked, what: Say(200, same) if what == "parts" else None
    up(store, source, BIG, notes())
    assert bucket.did["parts"] == 2
    assert bucket.objects == {key(BIG): BIG}


def test_an_upload_that_expires_meanwhile_begins_anew(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    bucket.fault = when("part", None, error(404, "NoSuchUpload"))
    notes = Notes()
    up(store, file(tmp_path, BIG), BIG, notes())
    assert bucket.objects == {key(BIG): BIG}
    bucket.fault = when("part", *[error(404, "NoSuchUpload")] * 99)
    with pytest.raises(StoreError, match="NoSuchUpload"):  # and not for ever
        up(store, file(tmp_path, BIG[1:]), BIG[1:], Notes()())


def test_a_complete_whose_answer_was_lost_is_not_sent_again(
    store: S3Store, bucket: Bucket, tmp_path: Path
) -> None:
    lost = threading.Event()

    def fault(asked: Asked, what: str) -> Say | None:
        if what != "complete" or lost.is_set():
            return None
        lost.set()
        with bucket._lock:
            bucket._complete(asked, urlsplit(asked.path).path, {"uploadId": "upload/0+"})
        return CUT

    bucket.fault = fault
    up(store, file(tmp_path, BIG), BIG)
    assert bucket.objects == {key(BIG): BIG}
    assert bucket.sent == len(BIG)


def test_a_run_killed_after_its_complete_sends_nothing_again(
    store: S3Store, bucket: Bucket, tmp_path: Path
) -> None:
    notes, source = Notes(), file(tmp_path, BIG)
    up(store, source, BIG, notes())
    up(quick(), source, BIG, notes())
    assert bucket.sent == len(BIG)
    assert bucket.did["begin"] == 1


def test_without_notes_a_failed_upload_is_aborted(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    bucket.fault = when("part", *[error(403, "AccessDenied")] * 9)
    with pytest.raises(StoreError, match="s3:PutObject"):
        up(store, file(tmp_path, BIG), BIG)
    assert not bucket.uploads


def test_an_upload_is_abandoned_as_far_as_that_can_be(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    notes = Notes()
    bucket.fault = when("complete", error(403, "AccessDenied"))
    with pytest.raises(StoreError):
        up(store, file(tmp_path, BIG), BIG, notes())
    for answer in (error(403, "AccessDenied"), CUT, None, None):
        bucket.fault = when("abort", answer)
        store.abandon(blob_key(digest(BIG), PUSH), notes.tokens[-1])
    assert not bucket.uploads


def test_what_a_progress_callback_raises_ends_it(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upload_blob(store, digest(BIG), PUSH, file(tmp_path, BIG), stop)
    assert not bucket.objects
    assert store._ready().wire.gate.try_enter(BUDGET)  # nothing is held


def test_parts_grow_so_that_ten_thousand_are_enough() -> None:
    class Long:
        size = 5 << 40  # the longest object of S3

    for module_part in (8 << 20,):
        upload = s3_upload._Upload(None, "", Long(), None, None, None)  # type: ignore[arg-type]
        assert upload._part % (1 << 20) == 0 and upload._part > module_part
        assert Long.size / upload._part <= 10_000


# --- down


def down(store: S3Store, target: Path, data: bytes, **options: Any) -> list[int]:
    told: list[int] = []
    fetch_blob(store, digest(data), PUSH, target, size=len(data), progress=told.append, **options)
    assert target.read_bytes() == data
    return told


@pytest.mark.parametrize("fast", [1, 1 << 60], ids=["stream", "ranges"])
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("data", [b"", SMALL, BIG[:PART], BIG], ids=len)
def test_an_object_comes_whole(
    store: S3Store, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes,
    fast: int, ranges: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(s3_download, "FAST", fast)
    bucket.objects[key(data)] = data
    bucket.ranges = ranges
    assert sum(down(store, tmp_path / "target", data)) == len(data)
    if fast > 1 and ranges and len(data) > PART:
        assert bucket.did["get"] >= 5  # the rest of it, by ranges
    if fast == 1:
        assert bucket.did["get"] == (1 if data else 0) or not ranges
    assert store._ready().wire.gate.try_enter(BUDGET)


@pytest.mark.parametrize("fast", [1, 1 << 60], ids=["stream", "ranges"])
def test_a_connection_that_breaks_goes_on_where_it_was(
    store: S3Store, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: int
) -> None:
    monkeypatch.setattr(s3_download, "FAST", fast)
    bucket.objects[key(BIG)] = BIG
    served = [0]

    def breaking(asked: Asked, what: str) -> Say | None:
        say = bucket._get(asked, key(BIG), {})
        if bucket.did["get"] % 2:
            kept = min(len(say.body), PART // 2)
            served[0] += kept
            return Say(say.status, say.body, say.headers, keep=kept)
        served[0] += len(say.body)
        return None

    bucket.fault = breaking
    down(store, tmp_path / "target", BIG)
    if fast > 1:
        assert served[0] < 2 * len(BIG) + PART


@pytest.mark.parametrize("data", [BIG[: PART - 1], BIG], ids=len)
def test_a_connection_that_breaks_to_a_server_without_ranges(
    store: S3Store, bucket: Bucket, tmp_path: Path, data: bytes
) -> None:
    bucket.objects[key(data)] = data
    bucket.ranges = False

    def breaking(asked: Asked, what: str) -> Say | None:
        say = bucket._get(asked, key(data), {})
        return Say(say.status, say.body, say.headers, keep=PART // 2) if bucket.did["get"] == 1 else None

    bucket.fault = breaking
    down(store, tmp_path / "target", data)
    assert bucket.did["get"] == 3  # cut; a range, in vain; the whole


def test_a_connection_that_always_breaks_is_given_up(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    bucket.objects[key(BIG)] = BIG

    def breaking(asked: Asked, what: str) -> Say:
        say = bucket._get(asked, key(BIG), {})
        return Say(say.status, say.body, say.headers, keep=0)

    bucket.fault = breaking
    with pytest.raises(StoreError) as caught:
        down(quick(), tmp_path / "target", BIG)
    assert caught.value.hint
    assert not (tmp_path / "target").exists()
    assert bucket.did["get"] < 20


@pytest.mark.parametrize("chunked", [False, True])
def test_answers_that_are_whole_and_hold_nothing_are_given_up(
    store: S3Store, bucket: Bucket, tmp_path: Path, chunked: bool
) -> None:
    bucket.objects[key(BIG)] = BIG

    def empty(asked: Asked, what: str) -> Say:
        assert bucket.did["get"] < 100, "it asks for ever"
        say = bucket._get(asked, key(BIG), {})
        return Say(say.status, b"", say.headers, chunked=chunked)

    bucket.fault = empty
    target = file(tmp_path, BIG[:100], "target")
    with pytest.raises(StoreError, match="end after 100 bytes" if chunked else "not as long as its range"):
        down(quick(), target, BIG, resume=True)
    assert bucket.did["get"] < 20


@pytest.mark.parametrize(
    "said", ["bytes 0-99/{size}", "bytes 100-199/{size}", "bytes 100-{last}/*", "100-{last}/{size}", ""]
)
def test_another_range_than_was_asked_for_is_not_taken(
    store: S3Store, bucket: Bucket, tmp_path: Path, said: str
) -> None:
    bucket.objects[key(BIG)] = BIG
    headers = {"content-range": said.format(size=len(BIG), last=len(BIG) - 1)}
    bucket.fault = lambda asked, what: Say(206, BIG[100:], headers)
    target = file(tmp_path, BIG[:100], "target")
    with pytest.raises(StoreError, match="another range came"):
        down(quick(), target, BIG, resume=True)
    assert bucket.did["get"] == 1
    assert target.read_bytes() == BIG[:100]


def test_an_object_whose_answer_does_not_say_its_length(
    store: S3Store, bucket: Bucket, tmp_path: Path
) -> None:
    for data in (SMALL, BIG):
        bucket.fault = lambda asked, what, data=data: Say(200, data, chunked=True)
        down(store, tmp_path / f"{len(data)}", data)
        bucket.fault = lambda asked, what, data=data: Say(200, data[:-1], chunked=True)
        with pytest.raises((StoreError, IntegrityError)):
            down(quick(), tmp_path / "short", data)
        bucket.fault = lambda asked, what, data=data: Say(200, data, chunked=True)
        assert store.download(blob_key(digest(data), PUSH), tmp_path / f"{len(data)} again") == digest(data)


@pytest.mark.parametrize("had", [0, 1, PART, 3 * PART + 7, len(BIG)])
def test_a_beginning_is_gone_on_with(store: S3Store, bucket: Bucket, tmp_path: Path, had: int) -> None:
    bucket.objects[key(BIG)] = BIG
    target = file(tmp_path, BIG[:had], "target")
    served: list[int] = []
    bucket.fault = lambda asked, what: served.append(len(bucket._get(asked, key(BIG), {}).body))
    assert sum(down(store, target, BIG, resume=True)) == len(BIG)
    assert all(count <= len(BIG) - had for count in served)


@pytest.mark.parametrize("had", [1000, len(BIG), len(BIG) + 1])
def test_a_beginning_of_something_else_is_fetched_again_whole(
    store: S3Store, bucket: Bucket, tmp_path: Path, had: int
) -> None:
    """As a power cut leaves it, or a longer file, which is no beginning."""
    bucket.objects[key(BIG)] = BIG
    down(store, file(tmp_path, bytes(had), "target"), BIG, resume=True)


def test_other_bytes_in_the_store_are_found_beside_a_beginning(
    store: S3Store, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.objects[key(BIG)] = bytes(len(BIG))
    target = file(tmp_path, BIG[:1000], "target")
    with pytest.raises(IntegrityError, match="other bytes"):
        down(store, target, BIG, resume=True)
    assert not target.exists()


def test_what_has_come_stays_when_the_store_goes_away(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    bucket.objects[key(BIG)] = BIG
    gone = threading.Event()

    def going(asked: Asked, what: str) -> Say | None:
        if gone.is_set():
            return error(403, "AccessDenied")
        gone.set()
        say = bucket._get(asked, key(BIG), {})
        return Say(say.status, say.body, say.headers, keep=2 * PART)

    bucket.fault = going
    target = tmp_path / "target"
    with pytest.raises(StoreError):
        fetch_blob(store, digest(BIG), PUSH, target, size=len(BIG), resume=True)
    had = target.stat().st_size
    assert 0 < had < len(BIG)
    bucket.fault = when("")
    down(store, target, BIG, resume=True)


@pytest.mark.parametrize("stored", [b"", BIG[:PART], BIG[:-1], BIG + b"x"], ids=len)
def test_an_object_of_another_length(store: S3Store, bucket: Bucket, tmp_path: Path, stored: bytes) -> None:
    bucket.objects[key(BIG)] = stored
    with pytest.raises(IntegrityError) as caught:
        down(store, tmp_path / "target", BIG)
    assert caught.value.hint
    assert not (tmp_path / "target").exists()


def test_an_object_of_other_bytes(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    bucket.objects[key(BIG)] = BIG[:-1] + b"?"
    with pytest.raises(IntegrityError, match="other bytes than its digest says"):
        down(store, tmp_path / "target", BIG)
    assert not (tmp_path / "target").exists()


def test_an_object_that_is_not_there(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    for size in (len(SMALL), len(BIG)):
        with pytest.raises(NotFoundError, match="is not in s3://bucket/a"):
            fetch_blob(store, digest(BIG), PUSH, tmp_path / "target", size=size)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_full_disk(store: S3Store, bucket: Bucket, tmp_path: Path, at: int, resume: bool) -> None:
    bucket.objects[key(BIG)] = BIG
    folder = tmp_path / "full"
    folder.mkdir()
    with (
        faults.striking(folder, at=at, action="ENOSPC") as struck,
        pytest.raises(DiskError, match="no space"),
    ):
        fetch_blob(store, digest(BIG), PUSH, folder / "target", size=len(BIG), resume=resume)
    assert struck.step
    assert not (folder / "target").exists()  # it would keep the disk full
    assert store._ready().wire.gate.try_enter(BUDGET)


def test_a_file_that_is_there_already_is_not_touched(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    bucket.objects[key(BIG)] = BIG
    target = file(tmp_path, b"mine", "target")
    with pytest.raises(DiskError, match="already there"):
        fetch_blob(store, digest(BIG), PUSH, target, size=len(BIG))
    assert target.read_bytes() == b"mine"


def test_threads_share_one_gate(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    at_once, most, lock = [0], [0], threading.Lock()

    def counted(asked: Asked, what: str) -> Say | None:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        threading.Event().wait(0.002)
        with lock:
            at_once[0] -= 1
        return None

    bucket.fault = counted
    store._ready().wire.gate._pace = Pace(limit=3, still=10**9)
    source = file(tmp_path, BIG)
    threads = [threading.Thread(target=up, args=(store, source, BIG)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bucket.objects == {key(BIG): BIG}
    assert 1 < most[0] <= 3 + 8  # to begin and to complete is not counted by the gate


# --- what the environment asks for

_SSE = "x-amz-server-side-encryption"
_KEY = base64.b64encode(bytes(32)).decode()
_CUSTOMER = {
    f"{_SSE}-customer-algorithm": "AES256",
    f"{_SSE}-customer-key": _KEY,
    f"{_SSE}-customer-key-md5": "cLyPS3KoaSFGi/joRB3OUQ==",
}
_PAYS = {"x-amz-request-payer": "requester"}


@pytest.mark.parametrize(
    ("environ", "always", "content", "begin"),
    [
        ({"AWS_SERVER_SIDE_ENCRYPTION": "AES256"}, {}, {}, {_SSE: "AES256"}),
        ({"AWS_SERVER_SIDE_ENCRYPTION": "aws:kms", "AWS_SSE_KMS_KEY_ID": "k",
          "AWS_SSE_BUCKET_KEY_ENABLED": "true"},
         {}, {}, {_SSE: "aws:kms", f"{_SSE}-aws-kms-key-id": "k", f"{_SSE}-bucket-key-enabled": "true"}),
        ({"AWS_SERVER_SIDE_ENCRYPTION": "sse-c", "AWS_SSE_CUSTOMER_KEY_BASE64": _KEY},
         {}, _CUSTOMER, _CUSTOMER),
        ({"AWS_REQUEST_PAYER": "true"}, _PAYS, {}, {}),
        ({}, {}, {}, {}),
    ],
    ids=["s3", "kms", "customer", "payer", "nothing"],
)  # fmt: skip
def test_encryption_and_who_pays_go_with_the_requests_that_take_them(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str],
    always: dict[str, str], content: dict[str, str], begin: dict[str, str],
) -> None:  # fmt: skip
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    heard: dict[str, dict[str, str]] = {}

    def note(asked: Asked, what: str) -> Say | None:
        heard[what] = {
            name: value for name, value in asked.headers.items() if name.startswith((_SSE, "x-amz-request-"))
        }
        return FINE if asked.path.endswith("log/1") else None

    bucket.fault = note
    store = quick()
    notes = Notes()
    for data in (SMALL, BIG):
        up(store, file(tmp_path, data), data, notes())
        down(store, tmp_path / f"{len(data)}", data)
    up(store, file(tmp_path, BIG), BIG, notes())  # looks for parts, and for the object
    assert heard == {
        "put": always | begin, "begin": always | begin, "part": always | content,
        # these two because the upload has a checksum, as S3 asks then
        "parts": always | content, "complete": always | content,
        "head": always | content, "get": always | content,
    }  # fmt: skip
    # as obstore sends them, which writes the log
    store.put("log/1", b"x")
    assert heard["put"] == always | begin


def test_a_session_token_and_a_region_are_signed(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token")
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    seen: list[dict[str, str]] = []
    bucket.fault = lambda asked, what: seen.append(asked.headers)
    up(quick(), file(tmp_path, SMALL), SMALL)
    assert seen[0]["x-amz-security-token"] == "a-token"
    assert "/eu-west-3/s3/aws4_request" in seen[0]["authorization"]
    assert "x-amz-security-token" in seen[0]["authorization"].split("SignedHeaders=")[1]


def test_nobody_signs_where_nobody_asked_to(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSSPEC_S3_ANON", "true")
    bucket.objects[key(BIG)] = BIG
    seen: list[dict[str, str]] = []
    bucket.fault = lambda asked, what: seen.append(asked.headers)
    down(quick(), tmp_path / "target", BIG)
    assert "authorization" not in seen[0]


@pytest.mark.parametrize(
    ("environ", "base"),
    [
        ({}, "https://bucket.s3.us-east-1.amazonaws.com"),
        ({"AWS_REGION": "cn-north-1"}, "https://s3.cn-north-1.amazonaws.com.cn/bucket"),
        ({"AWS_ENDPOINT_URL": "http://host:1/x/"}, "http://host:1/x/bucket"),
    ],
)
def test_where_the_keys_of_a_bucket_are(environ: dict[str, str], base: str) -> None:
    assert s3_requests._base(place_of("s3://bucket/a"), from_environment(environ)) == base


@pytest.mark.parametrize("endpoint", ["localhost:9000", "http://host:port"])
def test_an_endpoint_that_is_none(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with pytest.raises(StoreError, match="is not the URL of a server") as caught:
        up(quick(), file(tmp_path, SMALL), SMALL)
    assert caught.value.hint


def test_a_proxy_that_cannot_be_used(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StoreError, match="socks5"):
        up(quick(), file(tmp_path, SMALL), SMALL)
