"""Reading many records at a time: the same as one after another, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mldeploy.core.fold import fold_many
from mldeploy.core.records import Join
from mldeploy.core.state import State
from mldeploy.errors import LogHoleError, StoreError, StoreFormatError
from mldeploy.store.log import Log
from mldeploy.store.memory import MemoryStore
from mldeploy.store.objects import ObjectStore
from mldeploy.store.tail import AHEAD, read_records, reads_ahead, record_key
from tests.store.stores import CountingStore
from tests.support.big_log import fill, long_log


def far(count: int) -> tuple[CountingStore, MemoryStore]:
    inner = MemoryStore()
    fill(inner, count, 10)
    return CountingStore(inner), inner


def folded(count: int) -> State:
    return fold_many(State(), long_log(count, 10))


def seqs(store: CountingStore) -> list[int]:
    return [int(key[4:24]) for verb, key in store.requests if verb == "get" and key.startswith("log/")]


def test_the_window_doubles_up_to_its_limit_and_reads_nothing_twice() -> None:
    store, _ = far(300)
    meet = Meeting(store)
    log = Log(store)
    assert log.refresh(limit=300) == 300
    assert log.state == folded(300)
    assert sorted(seqs(store)) == list(range(1, 301))
    assert meet.widths == [1, 2, 4, 8, 16, 32, 64]
    assert store.at_once == AHEAD == 64
    # and ends with its threads
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("log")]


class Meeting:
    """Holds every read until as many are under way as may be, up to the widest window; notes how many."""

    def __init__(self, store: CountingStore) -> None:
        self.widths: list[int] = []
        self._gate = threading.Condition()
        self._inside = 0
        store.before = self.enter

    def enter(self, key: str) -> None:
        with self._gate:
            mine = len(self.widths)
            if mine == 7:
                return
            self._inside += 1
            if self._inside == 1 << mine:
                self.widths.append(self._inside)
                self._inside = 0
                self._gate.notify_all()
            else:
                assert self._gate.wait_for(lambda: len(self.widths) > mine, 60)


def test_one_request_when_nothing_is_new() -> None:
    store, _ = far(20)
    log = Log(store)
    log.refresh()
    before = len(store.requests)
    for _ in range(3):
        assert log.refresh() == 0
    assert store.requests[before:] == [("get", record_key(21))] * 3


def test_reading_ahead_costs_no_more_than_what_was_read() -> None:
    store, _ = far(20)
    Log(store, state=folded(17)).refresh()
    assert sorted(set(seqs(store))) == list(range(18, 18 + len(seqs(store))))
    assert len(seqs(store)) <= 2 * 3 + 2


def test_a_limit_is_kept() -> None:
    store, _ = far(100)
    log = Log(store)
    assert log.refresh(limit=37) == 37
    assert sorted(seqs(store)) == list(range(1, 38))
    assert log.refresh(limit=0) == 0
    assert log.refresh() == 63
    assert log.state == folded(100)


def failing(store: CountingStore, numbers: set[int], error: Exception) -> None:
    """The next read of each of these numbers fails."""

    def before(key: str) -> None:
        seq = int(key[4:24]) if key.startswith("log/") else 0
        if seq in numbers:
            numbers.discard(seq)
            raise error

    store.before = before


@pytest.mark.parametrize("at", [1, 2, 3, 4, 7, 8, 50])
def test_a_read_that_fails_leaves_what_came_before_it(at: int) -> None:
    store, _ = far(100)
    failing(store, {at, 60, 61}, StoreError("no answer", "wait"))
    log = Log(store)
    with pytest.raises(StoreError, match="no answer"):
        log.refresh()
    assert log.state == folded(at - 1)
    while log.state.head < 100:
        try:
            log.refresh()
        except StoreError:
            assert log.state == folded(log.state.head)
    assert log.state == folded(100)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("log")]


def test_a_failure_beyond_the_head_is_none() -> None:
    store, _ = far(5)
    failing(store, {7, 8}, StoreError("no answer", "wait"))
    log = Log(store)
    assert log.refresh() == 5


def hiding(store: CountingStore, inner: MemoryStore, seq: int, times: int) -> Callable[[], int]:
    """Record `seq` is not there for so many reads; returns how often it was looked for."""
    held = inner.get(record_key(seq))
    assert held is not None
    inner.delete(record_key(seq))
    looked = 0

    def before(key: str) -> None:
        nonlocal looked
        if key == record_key(seq):
            looked += 1
            if looked > times:
                inner.create(key, held.data)

    store.before = before
    return lambda: looked


def test_records_that_arrive_within_a_window_are_read_in_order() -> None:
    store, inner = far(40)
    looked = hiding(store, inner, 12, times=1)
    log = Log(store)
    assert log.refresh() == 40
    assert looked() == 2
    assert log.state == folded(40)


def test_a_hole_stops_a_reader_and_every_writer() -> None:
    store, inner = far(40)
    hiding(store, inner, 12, times=1_000)
    log = Log(store)
    for _ in range(2):
        with pytest.raises(LogHoleError, match="record 12 is missing") as caught:
            log.refresh()
        assert "from a backup" in caught.value.hint
        assert log.state == folded(11)


def test_a_log_that_ends_before_what_was_seen_has_a_hole() -> None:
    store, inner = far(40)
    log = Log(store, seen=43)
    for _ in range(2):
        with pytest.raises(LogHoleError, match="record 41 is missing"):
            log.refresh()
    with pytest.raises(LogHoleError):
        log.append(lambda _: [Join(host="h")], actor="me", now=datetime.now(UTC))
    assert inner.get(record_key(41)) is None
    assert log.refresh(limit=3) == 0  # who asks for a few records is told of what is there
    for seq, data in list(long_log(43, 10))[40:]:
        inner.create(record_key(seq), data)
    assert log.refresh() == 3


def test_who_has_read_a_store_that_was_emptied_since_does_not_write_on() -> None:
    store, inner = far(40)
    log = Log(store)
    log.refresh()
    for entry in list(inner.list("")):
        inner.delete(entry.key)
    with pytest.raises(LogHoleError, match="record 40 is missing"):
        log.append(lambda _: [Join(host="h")], actor="me", now=datetime.now(UTC))
    assert list(inner.list("log/")) == []


def test_a_newer_format_within_a_window_stops_there() -> None:
    store, inner = far(40)
    kept = inner.get(record_key(21))
    assert kept is not None
    inner.put(record_key(21), b'{"format": 2}')
    log = Log(store)
    for _ in range(2):
        with pytest.raises(StoreFormatError):
            log.refresh()
        assert log.state == folded(20)
    inner.put(record_key(21), kept.data)
    log.refresh()
    assert log.state == folded(40)


def test_stores_that_are_near_are_read_one_by_one() -> None:
    assert reads_ahead(MemoryStore()) == 1
    assert reads_ahead(CountingStore(MemoryStore(), "file:///x")) == 1
    assert reads_ahead(CountingStore(MemoryStore(), "s3://bucket/x")) == AHEAD
    store, _ = far(30)
    log = Log(store, ahead=1)
    assert log.refresh() == 30
    assert store.at_once == 1
    assert seqs(store) == list(range(1, 32))


def test_backwards_and_given_up() -> None:
    store, _ = far(100)
    reading = read_records(store, range(100, 0, -1), AHEAD)
    assert [next(reading)[0] for _ in range(40)] == list(range(100, 60, -1))
    reading.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("log")]
    assert len(seqs(store)) < 40 + 2 * AHEAD


@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.integers(1, 62), st.sampled_from(["fail", "hide"])), max_size=8),
    st.sampled_from([1, 2, 3, 5, 64]),
)
@settings(max_examples=60)
def test_whatever_fails_or_comes_late_the_fold_is_the_same(
    count: int, faults: list[tuple[int, str]], ahead: int
) -> None:
    inner = MemoryStore()
    fill(inner, count, 3)
    left = list(faults)
    hidden: set[str] = set()

    class Store(CountingStore):
        def get(self, key: str):  # type: ignore[no-untyped-def]
            for seq, how in left:
                if key == record_key(seq):
                    left.remove((seq, how))
                    if how == "fail":
                        raise StoreError("no answer", "wait")
                    hidden.add(key)
                    return None
            return super().get(key)

    log = Log(Store(inner), ahead=ahead)
    heads = [0]
    for _ in range(len(faults) + 2):
        with contextlib.suppress(StoreError):
            log.refresh()
        assert log.state.head >= heads[-1], "a reader never goes back"
        heads.append(log.state.head)
        assert log.state == fold_many(State(), long_log(log.state.head, 3))
    assert log.state.head == count


def join_by(store: ObjectStore, host: str, log: Log | None = None) -> None:
    (log or Log(store)).append(lambda _: [Join(host=host)], actor="me", now=datetime.now(UTC))


def test_a_record_that_was_deleted_from_a_store_that_is_near_is_not_written_anew() -> None:
    _, near = far(15)
    assert reads_ahead(near) == 1
    near.delete(record_key(5))
    for log in (Log(near), Log(near, state=folded(4))):
        with pytest.raises(LogHoleError, match="record 5 is missing"):
            join_by(near, "h", log)
    assert near.get(record_key(5)) is None


def test_two_who_wrote_right_after_the_head_was_read_leave_no_hole() -> None:
    store, inner = far(7)
    others = iter("xy")

    def before(key: str) -> None:
        if key == record_key(9):  # that beyond the next
            for host in others:
                join_by(inner, host)

    store.before = before
    log = Log(store)
    join_by(store, "h", log)
    assert log.state.head == 10


def test_a_log_that_was_put_back_and_written_on_is_another() -> None:
    """Who has read record 7 neither follows what came instead nor writes behind it."""
    store, inner = far(7)
    reader, writer = Log(store), Log(store)
    reader.refresh()
    writer.refresh()
    known = reader.state
    inner.delete(record_key(6))
    inner.delete(record_key(7))
    join_by(inner, "x")
    join_by(inner, "y")
    with pytest.raises(LogHoleError, match=r"record 7 in .* is not the one that was read here before"):
        join_by(store, "h", writer)
    assert inner.get(record_key(8)) is None
    assert reader.refresh() == 0  # to whoever only polls nothing is new
    join_by(inner, "z")
    for _ in range(2):
        with pytest.raises(LogHoleError, match=r"record 7 in .* is not the one"):
            reader.refresh()
    assert reader.state == known
    for seq in (6, 7, 8):  # the right one is put back, and ends earlier than the other did
        inner.delete(record_key(seq))
    for seq, data in list(long_log(7, 10))[5:]:
        inner.create(record_key(seq), data)
    assert reader.refresh() == 0
    join_by(store, "h", reader)
    assert reader.state.head == 8


def test_garbage_right_behind_another_head_hides_nothing() -> None:
    store, inner = far(7)
    reader = Log(store)
    reader.refresh()
    inner.delete(record_key(7))
    join_by(inner, "x")
    inner.create(record_key(8), b"nothing")
    join_by(inner, "y")
    with pytest.raises(LogHoleError, match=r"record 7 in .* is not the one"):
        reader.refresh()
    assert reader.state == folded(7)


def test_a_record_that_does_not_chain_stops_nobody_where_the_head_is_as_it_was() -> None:
    store, inner = far(7)
    log = Log(store)
    log.refresh()
    stray = inner.get(record_key(3))
    assert stray is not None
    inner.create(record_key(8), stray.data.replace(b'"seq":3', b'"seq":8'))
    inner.create(record_key(9), b"nothing")
    before = len(store.requests)
    assert log.refresh() == 2
    assert log.state.voids == 2
    assert [key for _, key in store.requests[before:]].count(record_key(7)) == 1
