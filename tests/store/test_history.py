"""Reading the log back: the newest first, where it stood at a time, and what it said then."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mldeploy.core.fold import fold_many
from mldeploy.core.state import State
from mldeploy.errors import LogHoleError
from mldeploy.store import checkpoints
from mldeploy.store.history import head_at, history, newest_first, state_at
from mldeploy.store.log import Log, record_key
from mldeploy.store.memory import MemoryStore
from tests.store.stores import CountingStore
from tests.support.big_log import long_log

COUNT = 400
RECORDS = list(long_log(COUNT, 20))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def inner() -> MemoryStore:
    """Record n was written at the time 10 n; record 100 is garbage, so that what follows it is void."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    for seq, data in RECORDS:
        clock.now = seq * 10.0
        store.create(record_key(seq), data)
    log = Log(store)
    for head in (150, 250):
        log.refresh(limit=head - log.state.head)
        checkpoints.write(store, log.state, ())
    return store


def folded(count: int) -> State:
    return fold_many(State(), RECORDS[:count])


def seqs(store: CountingStore) -> list[int]:
    return [int(key[4:24]) for verb, key in store.requests if key.startswith("log/")]


def test_backwards_in_parallel_and_no_further_than_asked(inner: MemoryStore) -> None:
    store = CountingStore(inner)
    found = newest_first(store, COUNT)
    taken = [next(found) for _ in range(30)]
    found.close()
    assert [past.seq for past in taken] == list(range(COUNT, COUNT - 30, -1))
    assert taken[0].modified == COUNT * 10.0
    assert taken[0].record is not None
    assert min(seqs(store)) > COUNT - 30 - 64
    assert len(seqs(store)) <= 30 + 64
    assert [past.seq for past in newest_first(inner, 3)] == [3, 2, 1]
    assert list(newest_first(inner, 0)) == []


def test_what_cannot_be_read_is_told_as_that_and_what_is_missing_is_a_hole() -> None:
    store = MemoryStore()
    for seq, data in RECORDS[:20]:
        store.create(record_key(seq), data if seq != 5 else b"garbage")
    assert [past.seq for past in newest_first(store, 20) if past.record is None] == [5]
    assert [verdict.seq for verdict in history(store) if verdict.void] == list(range(5, 7))
    store.delete(record_key(9))
    for ahead in (1, 64):
        with pytest.raises(LogHoleError, match="record 9 is missing"):
            list(newest_first(store, 20, ahead=ahead))
    with pytest.raises(LogHoleError, match="record 9 is missing"):
        state_at(store, 15)
    with pytest.raises(LogHoleError):
        head_at(store, 9, 0.0)


@given(st.integers(0, COUNT), st.floats(-5, COUNT * 10 + 50))
@settings(max_examples=200)
def test_where_the_log_stood_at_a_time(inner: MemoryStore, head: int, moment: float) -> None:
    store = CountingStore(inner)
    assert head_at(store, head, moment) == max(0, min(head, math.floor(moment / 10)))
    assert len(store.requests) <= 2 * math.log2(COUNT) + 2


def test_it_costs_little_for_what_was_just_now(inner: MemoryStore) -> None:
    store = CountingStore(inner)
    assert head_at(store, COUNT, 1e9) == COUNT
    assert len(store.requests) == 1
    store.requests.clear()
    assert head_at(store, COUNT, COUNT * 10 - 25) == COUNT - 3
    assert len(store.requests) <= 5


def test_many_at_the_same_second() -> None:
    store = MemoryStore(clock=lambda: 7.0)
    for seq, data in RECORDS[:30]:
        store.create(record_key(seq), data)
    assert (head_at(store, 30, 6.9), head_at(store, 30, 7.0)) == (0, 30)


@pytest.mark.parametrize(("seq", "start"), [(0, 0), (1, 0), (149, 0), (150, 150), (249, 150), (400, 250)])
def test_the_state_of_then_is_read_from_the_nearest_checkpoint(
    inner: MemoryStore, seq: int, start: int
) -> None:
    store = CountingStore(inner)
    assert state_at(store, seq) == folded(seq)
    read = sorted(set(seqs(store)))
    assert read == ([start] if start else []) + list(range(start + 1, seq + 1))
    assert store.count("get", "checkpoints/") == bool(start)


def test_nor_is_a_checkpoint_believed_here(inner: MemoryStore) -> None:
    store = MemoryStore()
    for entry in inner.list(""):
        found = inner.get(entry.key)
        assert found is not None
        store.create(entry.key, b"garbage" if entry.key.startswith("checkpoints/") else found.data)
    assert state_at(store, 300) == folded(300)


def test_forwards_with_verdicts(inner: MemoryStore) -> None:
    store = CountingStore(inner)
    assert [verdict.seq for verdict in history(store)] == list(range(1, COUNT + 1))
    assert [verdict.seq for verdict in history(inner, state=folded(395))] == list(range(396, 401))
