"""Short blobs asked for before their turn: whole, in order, whatever goes wrong with those on their way."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mldeploy.errors import DiskError, IntegrityError, NotFoundError, StoreError
from mldeploy.store import s3_client
from mldeploy.store.blobs import Short, blob_key, fetch_blobs
from mldeploy.store.memory import MemoryStore
from mldeploy.store.pace import START, Pace
from mldeploy.store.retry import Patience
from mldeploy.store.s3 import S3Store
from mldeploy.store.s3_ahead import DEPTH
from mldeploy.store.s3_config import Settings, place_of
from mldeploy.store.s3_transfer import BUDGET
from tests.support.s3 import Server, use
from tests.support.s3_bucket import Bucket, digest, when
from tests.support.saying import CUT, Asked, Say, Saying, error

PUSH = "01k9zq3v5w8x7c2m4n6b8d0f1g"
BLOBS = [random.Random(number).randbytes(1000 + number) for number in range(40)]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with Saying() as server:
        use(Server(server.endpoint), monkeypatch)
        server.answer = bucket = Bucket()
        bucket.objects |= {key(blob): blob for blob in BLOBS}
        yield bucket


@pytest.fixture
def store(bucket: Bucket) -> S3Store:
    # time is made up: a test does not wait for a pause
    clock = itertools.count()
    patience = Patience(bound=60, monotonic=lambda: float(next(clock)), sleep=lambda _: None)
    return S3Store(place_of("s3://bucket/a"), patience=patience)


def key(blob: bytes) -> str:
    return f"/bucket/a/{blob_key(digest(blob), PUSH)}"


def short(folder: Path, blobs: list[bytes]) -> list[Short]:
    return [Short(digest(blob), PUSH, folder / digest(blob), len(blob)) for blob in blobs]


def fetched(store: S3Store | MemoryStore, folder: Path, blobs: list[bytes]) -> None:
    """All of them come, in order."""
    came = list(fetch_blobs(store, short(folder, blobs)))
    assert came == [digest(blob) for blob in blobs]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        digest(blob): blob for blob in blobs
    }


def nothing_is_held(store: S3Store) -> bool:
    return store._ready().wire.gate.try_enter(BUDGET)


def test_all_come_in_order_and_each_is_asked_for_once(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    fetched(store, tmp_path, BLOBS)
    assert dict(bucket.did) == {"get": len(BLOBS)}
    assert nothing_is_held(store)


def test_the_next_ones_are_on_their_way_before_the_first_is_answered(
    store: S3Store, bucket: Bucket, tmp_path: Path
) -> None:
    fetched(store, tmp_path, BLOBS)  # then there are the connections
    again = tmp_path / "again"
    again.mkdir()
    together = threading.Barrier(min(DEPTH, START))

    def meet(asked: Asked, what: str) -> None:
        if asked.path in [key(blob) for blob in BLOBS[: together.parties]]:
            together.wait(60)

    bucket.fault = meet
    fetched(store, again, BLOBS)


def test_connections_are_made_one_after_the_other_while_answers_come(
    store: S3Store, bucket: Bucket, tmp_path: Path
) -> None:
    fetched(store, tmp_path, BLOBS[:1])
    assert bucket.did["get"] == 1
    with closing(fetch_blobs(store, short(tmp_path, BLOBS[1:]))) as coming:
        next(coming)
        assert bucket.did["get"] <= 2  # one was there, and none is made before the first has come
        next(coming)
        next(coming)
        assert bucket.did["get"] <= 6


def test_what_was_refused_at_one_moment_slows_it_once(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    fetched(store, tmp_path, BLOBS)
    again = tmp_path / "again"
    again.mkdir()
    bucket.fault = when("get", *[error(503, "SlowDown")] * DEPTH)
    fetched(store, again, BLOBS)
    assert store._ready().wire.gate.pace.limit == DEPTH // 2


@pytest.mark.parametrize("answer", [CUT, error(500, "InternalError"), error(503, "SlowDown")])
@pytest.mark.parametrize("place", [0, 1, 5])
def test_one_that_fails_is_asked_for_again(
    store: S3Store, bucket: Bucket, tmp_path: Path, answer: Say, place: int
) -> None:
    bucket.fault = when("get", *[None] * place, answer)
    fetched(store, tmp_path, BLOBS)
    assert bucket.did["get"] == len(BLOBS) + 1
    assert nothing_is_held(store)


def test_one_whose_answer_breaks_off_goes_on(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    broken = Say(200, BLOBS[2], keep=100)
    bucket.fault = lambda asked, _: (
        broken if asked.path == key(BLOBS[2]) and "range" not in asked.headers else None
    )
    fetched(store, tmp_path, BLOBS)


def test_one_that_is_gone_is_named(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    gone = BLOBS[7]
    del bucket.objects[key(gone)]
    came: list[str] = []
    with pytest.raises(NotFoundError, match=digest(gone)):
        came.extend(fetch_blobs(store, short(tmp_path, BLOBS)))
    assert (tmp_path / digest(BLOBS[6])).read_bytes() == BLOBS[6]
    assert nothing_is_held(store)


@pytest.mark.parametrize(
    ("there", "says"),
    [(b"x" * len(BLOBS[3]), "other bytes"), (BLOBS[3][:-1], "bytes instead of"), (b"", "bytes instead of")],
    ids=["altered", "truncated", "empty"],
)
def test_other_bytes_are_refused(
    store: S3Store, bucket: Bucket, tmp_path: Path, there: bytes, says: str
) -> None:
    bucket.objects[key(BLOBS[3])] = there
    with pytest.raises(IntegrityError, match=says):
        list(fetch_blobs(store, short(tmp_path, BLOBS)))
    assert nothing_is_held(store)


def test_a_store_that_is_away_is_told_after_retries(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    bucket.fault = lambda asked, what: error(500, "InternalError")
    with pytest.raises(StoreError, match="500"):
        list(fetch_blobs(store, short(tmp_path, BLOBS)))
    assert bucket.did["get"] > DEPTH
    assert nothing_is_held(store)


def test_credentials_that_cannot_be_renewed_are_told_and_looked_for_again(
    store: S3Store, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = s3_client.settings_of
    failing = [RuntimeError("the role is gone")]

    def settings_of(environ: Mapping[str, str]) -> tuple[Settings, Callable[[], Any] | None]:
        settings, provider = made(environ)
        assert provider is not None

        def give() -> Any:
            if failing:
                raise failing[0]
            return provider()

        return settings, give

    monkeypatch.setattr(s3_client, "settings_of", settings_of)
    first = store._ready()
    with pytest.raises(StoreError, match="no credentials for s3://bucket/a: RuntimeError: the role is gone"):
        list(fetch_blobs(store, short(tmp_path, BLOBS)))
    assert first.wire.gate.try_enter(BUDGET)
    assert bucket.did["get"] == 0
    failing.clear()
    (tmp_path / "again").mkdir()
    fetched(store, tmp_path / "again", BLOBS)


def test_a_target_that_is_there_is_not_touched(store: S3Store, tmp_path: Path) -> None:
    mine = tmp_path / digest(BLOBS[1])
    mine.write_bytes(b"mine")
    with pytest.raises(DiskError, match="already there"):
        list(fetch_blobs(store, short(tmp_path, BLOBS)))
    assert mine.read_bytes() == b"mine"
    assert nothing_is_held(store)


def test_who_stops_gives_up_what_is_on_its_way(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    with closing(fetch_blobs(store, short(tmp_path, BLOBS))) as coming:
        assert next(coming) == digest(BLOBS[0])
    assert nothing_is_held(store)
    assert bucket.did["get"] <= DEPTH + 1


def test_threads_at_a_narrow_gate_do_not_wait_for_each_other(
    store: S3Store, bucket: Bucket, tmp_path: Path
) -> None:
    """Whoever waits for its turn holds no other's: else all would wait for ever."""
    store._ready().wire.gate._pace = Pace(limit=1, still=10**9)
    parts = [BLOBS[start::4] for start in range(4)]
    for number, _ in enumerate(parts):
        (tmp_path / str(number)).mkdir()
    threads = [
        threading.Thread(target=fetched, args=(store, tmp_path / str(number), part), daemon=True)
        for number, part in enumerate(parts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert sum(1 for _ in tmp_path.glob("*/*")) == len(BLOBS)


def test_nothing_is_asked_for_an_empty_one(store: S3Store, bucket: Bucket, tmp_path: Path) -> None:
    fetched(store, tmp_path, [BLOBS[0], b"", BLOBS[1]])
    assert bucket.did["get"] == 2


def test_a_store_that_does_not_ask_ahead(tmp_path: Path) -> None:
    store = MemoryStore()
    for blob in BLOBS:
        store.put(blob_key(digest(blob), PUSH), blob)
    fetched(store, tmp_path, BLOBS)
