"""When to call and with what, with a clock made of numbers; and cutting frames."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mldeploy.runtime.batching import MISSES, REST, SHARE, Batcher, take
from mldeploy.runtime.frames import HEADER, REQUEST_V2, RESPONSE, Frame, FrameReader
from tests.runtime.helpers import encode_header


@dataclass(frozen=True)
class Item:
    number: int
    key: object
    rows: int


def test_never_waits_with_one_in_flight() -> None:
    batcher = Batcher(64, call_seconds=1.0)
    assert batcher.wait(0.0, 1, 1) == 0.0
    for now in range(10):
        batcher.called(1.0, 1, 0)
        assert batcher.wait(float(now), 1, 1) == 0.0


def test_waits_up_to_a_fifth_of_a_call_for_those_in_flight() -> None:
    batcher = Batcher(64, call_seconds=1.0)
    batcher.called(1.0, 8, 0)
    assert batcher.wait(10.0, 3, 3) == pytest.approx(SHARE)
    assert batcher.wait(10.15, 5, 5) == pytest.approx(SHARE - 0.15)
    assert batcher.wait(10.16, 8, 8) == 0.0  # all are here
    batcher.called(1.0, 8, 0)
    assert batcher.wait(20.0, 3, 3) == pytest.approx(SHARE)
    assert batcher.wait(20.0 + SHARE, 3, 3) == 0.0  # long enough


def test_those_that_came_during_the_call_are_in_flight_too() -> None:
    batcher = Batcher(64, call_seconds=1.0)
    batcher.called(1.0, 1, 1)
    assert batcher.wait(0.0, 1, 1) > 0.0
    assert batcher.wait(0.0, 2, 2) == 0.0


def test_does_not_wait_for_more_than_fits() -> None:
    batcher = Batcher(8, call_seconds=1.0)
    batcher.called(1.0, 8, 100)
    assert batcher.wait(0.0, 8, 8) == 0.0
    assert batcher.wait(0.0, 2, 9) == 0.0


def test_stops_waiting_where_it_fills_no_batch_and_tries_again_later() -> None:
    batcher = Batcher(64, call_seconds=1.0)
    batcher.called(1.0, 4, 0)
    waits = 0
    for now in range(MISSES + REST):
        wait = batcher.wait(float(now), 2, 2)
        waits += wait > 0.0
        batcher.called(1.0, 2, 2)  # none came
    assert waits == MISSES
    assert batcher.wait(1000.0, 2, 2) > 0.0
    # one that brings something keeps it waiting
    for now in range(10 * MISSES):
        batcher.wait(2000.0 + now, 2, 2)
        batcher.called(1.0, 3 if now % 2 else 2, 1)
    assert batcher.wait(3000.0, 2, 2) > 0.0


def test_the_measured_time_follows_the_calls() -> None:
    batcher = Batcher(64)
    for _ in range(100):
        batcher.called(0.010, 4, 0)
    assert batcher.wait(0.0, 2, 2) == pytest.approx(0.010 * SHARE)


def test_take_is_in_order_and_bounded() -> None:
    queue = deque(Item(i, (), rows) for i, rows in enumerate([2, 3, 4, 1]))
    assert [item.number for item in take(queue, 8)] == [0, 1]
    assert [item.number for item in take(queue, 8)] == [2, 3]
    assert take(queue, 8) == []
    queue.extend([Item(0, (), 50), Item(1, (), 1)])
    assert [item.number for item in take(queue, 8)] == [0]


@settings(deadline=None)  # the machine is shared
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9)), max_size=30),
    st.integers(1, 10),
)
def test_take_loses_and_mixes_nothing(given: list[tuple[str, int]], max_rows: int) -> None:
    queue = deque(Item(i, key, rows) for i, (key, rows) in enumerate(given))
    taken = []
    while queue:
        first = queue[0]
        batch = take(queue, max_rows)
        assert batch[0] == first  # nobody is passed over for ever
        assert len({item.key for item in batch}) == 1
        assert len(batch) == 1 or sum(item.rows for item in batch) <= max_rows
        assert [item.number for item in queue] == sorted(item.number for item in queue)
        taken += batch
    assert sorted(item.number for item in taken) == list(range(len(given)))
    for key in "ab":
        order = [item.number for item in taken if item.key == key]
        assert order == sorted(order)


frames = st.builds(
    Frame,
    kind=st.sampled_from([REQUEST_V2, RESPONSE]),
    id=st.integers(0, 2**64 - 1),
    body=st.binary(max_size=50),
    status=st.integers(0, 599),
    budget=st.integers(0, 2**32 - 1),
    header=st.just(0),
    flags=st.integers(0, 255),
)


@settings(deadline=None)  # the machine is shared
@given(st.lists(frames, max_size=6), st.lists(st.integers(1, 40), min_size=1))
def test_frames_survive_any_cut(sent: list[Frame], cuts: list[int]) -> None:
    data = b"".join(encode_header(frame) + frame.body for frame in sent)
    reader, got, at, turn = FrameReader(), [], 0, 0
    while at < len(data):
        size = cuts[turn % len(cuts)]
        got += reader.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    assert got == sent
    assert reader.buffered == 0


def test_an_unfinished_frame_is_kept() -> None:
    reader = FrameReader()
    data = encode_header(Frame(REQUEST_V2, 1, b"abc")) + b"abc"
    assert reader.feed(data + data[:10])[0].body == b"abc"
    assert reader.buffered == 10
    assert reader.feed(data[10:])[0].id == 1
    assert HEADER.size == 24
