"""The log and its checkpoints on a real S3 server, through both drivers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from mldeploy.core.fold import fold_many
from mldeploy.core.records import Join
from mldeploy.core.state import State
from mldeploy.errors import LogHoleError
from mldeploy.store import checkpoints
from mldeploy.store.history import head_at, newest_first, state_at
from mldeploy.store.log import Log, record_key
from mldeploy.store.objects import ObjectStore, open_store
from tests.store.stores import CountingStore
from tests.support.big_log import long_log
from tests.support.s3 import Server, bucket, s3_environ, s3_server

__all__ = ["bucket", "s3_environ", "s3_server"]

COUNT, TAIL, MODELS = 100, 12, 5
RECORDS = list(long_log(COUNT + TAIL, MODELS))


@pytest.fixture(params=["s3", "s3+fsspec"])
def store(request: pytest.FixtureRequest, s3_environ: Server, bucket: str) -> ObjectStore:
    s3_environ.make_store(bucket, "team")
    return open_store(f"{request.param}://{bucket}/team")


def write(store: ObjectStore, records: list[tuple[int, bytes]]) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda one: store.create(record_key(one[0]), one[1]), records))


def test_a_log_opens_from_its_checkpoint_and_is_read_back(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL", 50)
    write(store, RECORDS[:COUNT])
    writer = Log(store)
    assert writer.refresh() == COUNT
    assert writer.state == fold_many(State(), RECORDS[:COUNT])
    assert writer.checkpoint()
    counting = CountingStore(store, store.url)
    opened = Log(counting)
    assert opened.refresh() == COUNT
    assert opened.state == writer.state
    assert len(counting.requests) == 4
    write(store, RECORDS[COUNT:])
    counting.requests.clear()
    opened = Log(counting)
    assert opened.refresh() == COUNT + TAIL
    assert opened.state == fold_many(State(), RECORDS)
    assert len(counting.requests) <= 4 + 2 * TAIL + 2
    assert {verb for verb, _ in counting.requests} == {"get"}
    # back again, and to a time
    back = newest_first(store, COUNT + TAIL)
    assert [next(back).seq for _ in range(5)] == list(range(COUNT + TAIL, COUNT + TAIL - 5, -1))
    back.close()
    assert head_at(store, COUNT + TAIL, datetime.now(UTC).timestamp() + 60) == COUNT + TAIL
    assert head_at(store, COUNT + TAIL, 0.0) == 0
    assert state_at(store, COUNT + 7) == fold_many(State(), RECORDS[: COUNT + 7])
    # a hole is found by readers that know nothing and by writers that have seen the rest
    late = Log(store, state=fold_many(State(), RECORDS[: COUNT - 9]))
    for seq in range(COUNT - 8, COUNT + TAIL + 1):
        store.delete(record_key(seq))
    for log in (Log(store), late):
        with pytest.raises(LogHoleError, match=f"record {COUNT - 8} is missing"):
            log.append(lambda _: [Join(host="h")], actor="me", now=datetime.now(UTC))
    assert store.get(record_key(COUNT - 8)) is None
