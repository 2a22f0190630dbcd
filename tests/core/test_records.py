from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mldeploy.core import records
from mldeploy.core.records import GENESIS, Action, Join, Publish, Record, decode, encode, format_time
from mldeploy.errors import IntegrityError, StoreFormatError, UsageError
from tests.core.strategies import TIME, actions, chain, refused, sha, ulid


def record(*said: Action, **changes: object) -> Record:
    whole = Record(seq=1, id=ulid(1), prev=GENESIS, time=TIME, actor="me", actions=said or (Join(host="h"),))
    return msgspec.structs.replace(whole, **changes)


@given(st.lists(actions(), min_size=1, max_size=4), st.integers(1, 10**12))
def test_a_record_round_trips(said: list[Action], seq: int) -> None:
    whole = record(*said, seq=seq)
    assert decode(encode(whole), seq) == whole


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_garbage_is_refused_and_never_raises_anything_else(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode(data, 1)


@given(st.data())
def test_a_damaged_record_is_refused_or_read(data: st.DataObject) -> None:
    whole = bytearray(encode(record()))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    problem = refused(lambda: decode(bytes(whole), 1))
    assert problem is None or isinstance(problem, IntegrityError | StoreFormatError)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xfe",
        encode(record())[:-1],
    ],
    ids=range(9),
)
def test_what_is_no_record(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode(data, 1)


def test_a_record_says_its_number_time_and_something() -> None:
    with pytest.raises(IntegrityError, match="says that it is number 1"):
        decode(encode(record()), 2)
    for changes in ({"time": ""}, {"time": "yesterday"}, {"id": ""}, {"format": 0}):
        with pytest.raises(IntegrityError):
            decode(msgspec.json.encode(record(**changes)), 1)
    with pytest.raises(IntegrityError):
        decode(msgspec.json.encode(msgspec.structs.replace(record(), actions=())), 1)


def test_unknown_keys_and_actions_are_refused() -> None:
    data = encode(record())
    for old, new in ((b'"action":"join"', b'"action":"explode"'), (b'"actor"', b'"more":1,"actor"')):
        assert data.replace(old, new) != data
        with pytest.raises(IntegrityError):
            decode(data.replace(old, new), 1)


@pytest.mark.parametrize("data", [b'{"format":2}', b'{"format":2,"anything":[{"else":1}]}'])
def test_a_newer_format_stops_a_reader(data: bytes) -> None:
    with pytest.raises(StoreFormatError) as caught:
        decode(data, 7)
    assert "upgrade" in caught.value.hint


def test_a_newer_format_with_the_fields_of_this_one_stops_a_reader_too() -> None:
    with pytest.raises(StoreFormatError):
        decode(encode(record()).replace(b'"format":1', b'"format":2'), 1)


def test_a_giant_is_refused() -> None:
    with pytest.raises(IntegrityError, match="longer than"):
        decode(b" " * (records.MAX_RECORD + 1), 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_would_not_be_read_back_is_not_written(value: float) -> None:
    action = Publish(
        model="m", digest=sha("d"), push=ulid(1), brought={}, owner="o", expires="2030-01-01", python="3.11",
        platform="linux-x86_64", metrics={"auc": value},
    )  # fmt: skip
    with pytest.raises(UsageError):
        encode(record(action))


def test_other_things_that_cannot_be_written() -> None:
    for bad in (
        record(Join(host="\ud800")),
        msgspec.structs.replace(record(), actions=()),
    ):
        with pytest.raises(UsageError):
            encode(bad)


def test_defaults_are_left_out() -> None:
    assert b"environment" not in encode(record())
    assert len(chain([[Join(host="h")], [Join(host="i")]])) == 2


def test_times_are_utc_to_the_millisecond() -> None:
    moment = datetime(2026, 11, 23, 23, 59, 1, 123_456, tzinfo=timezone(timedelta(hours=1)))
    assert format_time(moment) == TIME
    assert format_time(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000Z"
