"""What a collection sweeps and what it may delete: decided from the state alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from mldeploy.core import records
from mldeploy.core.collection import (
    GRACE,
    began,
    deletable,
    is_orphan,
    no_longer_restorable,
    plan_collection,
    push_id,
    push_of,
    smallest_ulid,
)
from mldeploy.core.fold import fold, refusal
from mldeploy.core.records import Action, Record, encode, format_time
from mldeploy.core.state import State
from mldeploy.store.blobs import blob_key
from tests.core.strategies import sha

DAY = 24 * 3600 * 1000
START = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1000)


def moment(day: float) -> int:
    """Milliseconds since the epoch, so many days after the start."""
    return START + int(day * DAY)


def push_at(day: float, chance: str = "a") -> str:
    """The id of a push that began then."""
    return smallest_ulid(moment(day))[:10] + chance * 16


def said(state: State, day: float, *actions: Action) -> State:
    """The state after one record of that day, which must not be void."""
    record = Record(
        seq=state.head + 1, id=f"r{state.head}", prev=state.head_sha256, actor="t", actions=actions,
        time=format_time(datetime.fromtimestamp(moment(day) / 1000, UTC)),
    )  # fmt: skip
    after = fold(state, record.seq, encode(record))
    assert after.voids == 0, refusal(state, actions)
    return after


def publish(
    name: str, day: float, *brought: str, reused: tuple[str, ...] = (), model: str = "churn"
) -> Action:
    return records.Publish(
        model=model, digest=sha(name), push=push_at(day), owner="o", expires="2030-01-01", python="3.11",
        platform="linux-x86_64", brought={sha(blob): 10 for blob in (name, *brought)},
        reused=tuple(map(sha, reused)),
    )  # fmt: skip


def retire(version: int, model: str = "churn") -> Action:
    return records.Retire(model=model, version=version)


#: churn@1 and churn@2 share a blob; 1 was retired on day 10.
TWO = said(State(), 1, publish("one", 1, "shared", "own"))
TWO = said(TWO, 2, publish("two", 2, reused=("shared",)))
TWO = said(TWO, 10, retire(1))


def swept(state: State, day: float, grace: timedelta = GRACE, **options: bool) -> set[str] | None:
    """The names of what is planned to be swept then; None where nothing is to be done."""
    sweep = plan_collection(state, moment(day), grace, **options)
    if sweep is None:
        return None
    assert refusal(state, [sweep]) is None
    names = {sha(name): name for name in ("one", "two", "shared", "own")}
    return {names[blob] for blob in sweep.blobs}


def test_a_blob_goes_when_the_last_version_that_needed_it_was_retired_longer_than_the_grace_ago() -> None:
    assert swept(TWO, 16.9) is None
    assert swept(TWO, 17) == {"one", "own"}  # what churn@2 needs stays
    both = said(TWO, 20, retire(2))
    assert swept(both, 26.9) == {"one", "own"}
    assert swept(both, 27) == {"one", "own", "shared", "two"}


def test_without_grace_everything_unneeded_goes_that_was_pushed_before() -> None:
    assert swept(TWO, 1.5, timedelta(0)) == {"one", "own"}  # the clock of who retired it does not matter
    assert swept(TWO, 1, timedelta(0)) is None  # of the same millisecond
    late = said(State(), 1, publish("one", 9))
    late = said(late, 1, retire(1))
    assert swept(late, 8, timedelta(0)) is None  # its push began after the horizon
    assert swept(late, 10, timedelta(0)) == {"one"}


def test_a_version_that_was_restored_keeps_its_blobs_and_starts_the_grace_anew() -> None:
    state = said(TWO, 16, records.Restore(model="churn", version=1))
    assert swept(state, 99) is None
    state = said(state, 20, retire(1))
    assert swept(state, 26) is None
    assert swept(state, 27) == {"one", "own"}


def test_another_model_keeps_what_it_needs() -> None:
    state = said(TWO, 12, publish("theirs", 12, reused=("own",), model="fraud"))
    assert swept(state, 30) == {"one"}


def test_the_horizon_never_goes_back_and_moves_without_blobs_for_orphans_alone() -> None:
    sweep = plan_collection(TWO, moment(17), GRACE)
    assert sweep is not None
    assert sweep.horizon == smallest_ulid(moment(10))
    state = said(TWO, 17, sweep)
    assert plan_collection(state, moment(17), GRACE) is None
    assert plan_collection(state, moment(30), GRACE) is None
    assert plan_collection(state, moment(16), GRACE, orphans=True) is None  # nothing beyond the horizon
    moved = plan_collection(state, moment(30), GRACE, orphans=True)
    assert moved == records.Sweep(horizon=smallest_ulid(moment(23)))
    # with a longer grace than last time: what is old enough goes below the horizon there is
    state = said(said(state, 18, retire(2)), 18, records.Sweep(horizon=smallest_ulid(moment(18))))
    later = plan_collection(state, moment(60), timedelta(days=42))
    assert later is not None
    assert later.horizon == state.horizon


def test_what_does_not_fit_one_record_is_planned_in_several() -> None:
    both = said(TWO, 20, retire(2))
    found: list[str] = []
    while (sweep := plan_collection(both, moment(40), limit=3)) is not None:
        assert len(sweep.blobs) <= 3
        found += sweep.blobs
        both = said(both, 40, sweep)
    assert sorted(found) == sorted(map(sha, ("one", "two", "shared", "own")))


def test_a_time_that_no_calendar_has_keeps_a_blob_unless_there_is_no_grace() -> None:
    record = Record(
        seq=4, id="r", prev=TWO.head_sha256, actor="t", actions=(retire(2),), time="2026-99-99T00:00:00Z"
    )
    state = fold(TWO, 4, encode(record))
    assert state.voids == 0
    assert swept(state, 5_000) == {"one", "own"}
    assert swept(state, 5_000, timedelta(0)) == {"one", "two", "shared", "own"}


def test_a_horizon_is_told_as_a_time() -> None:
    assert began(push_at(2.5)) == "2026-11-03T12:00:00.000Z"
    assert began("7" + "z" * 25) == "7" + "z" * 25
    assert began("later") == "later"


def test_versions_that_can_no_longer_be_restored() -> None:
    assert [str(ref) for ref in no_longer_restorable(TWO, [sha("own")])] == ["churn@1"]
    assert no_longer_restorable(TWO, [sha("two")]) == ()  # it is not retired
    sweep = plan_collection(TWO, moment(17))
    assert sweep is not None
    assert no_longer_restorable(said(TWO, 17, sweep), [sha("shared")]) == ()  # it could not be before


def test_only_keys_of_pushes_below_the_horizon_that_are_not_live_may_go() -> None:
    state = said(TWO, 17, records.Sweep(horizon=push_at(2), blobs=(sha("own"),)))
    assert deletable(state, blob_key(sha("own"), push_at(1)))
    assert deletable(state, blob_key(sha("nowhere"), push_at(1, "b")))
    assert deletable(state, blob_key(sha("shared"), push_at(1, "b")))  # another key is the live one
    assert not deletable(state, blob_key(sha("shared"), push_at(1)))
    assert not deletable(state, blob_key(sha("own"), push_at(2)))  # this push may still publish
    assert not deletable(State(), blob_key(sha("nowhere"), push_at(1)))
    assert is_orphan(State(), blob_key(sha("nowhere"), push_at(1)), push_at(2))


@pytest.mark.parametrize(
    "key",
    [
        "blobs/sha256/ab/README", "log/00000000000000000001.json", "mldeploy.json", "",
        blob_key(sha("own"), push_at(1)) + ".tmp", "x" + blob_key(sha("own"), push_at(1)),
        blob_key(sha("own"), push_at(1)) + "\n", blob_key(sha("own"), push_at(1)).upper(),
        f"blobs/sha256/{'00' if sha('own')[:2] != '00' else '11'}/{sha('own')}.{push_at(1)}",
        blob_key(sha("own"), "8" + "0" * 25),
    ],
)  # fmt: skip
def test_what_is_no_key_of_a_blob_is_never_deleted(key: str) -> None:
    state = said(TWO, 17, records.Sweep(horizon=push_at(9)))
    assert push_of(key) is None
    assert not deletable(state, key)


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**80 - 1))
def test_the_smallest_id_of_a_millisecond_is_that(time_ms: int, chance: int) -> None:
    smallest = smallest_ulid(time_ms)
    assert smallest == str(ULID.from_int(time_ms << 80)).lower()
    assert smallest <= str(ULID.from_int((time_ms << 80) + chance)).lower()


@given(st.integers(0, 2**48 - 2), st.integers(0, 2**80 - 1), st.integers(0, 2**127), st.booleans())
def test_a_push_of_a_slow_clock_begins_after_the_horizon(
    time_ms: int, chance: int, fresh: int, at: bool
) -> None:
    horizon = smallest_ulid(time_ms) if at else str(ULID.from_int((time_ms << 80) + chance)).lower()
    given_id = str(ULID.from_int(fresh)).lower()
    found = push_id(given_id, horizon)
    assert found >= horizon
    assert ULID.from_str(found.upper())
    if given_id >= horizon:
        assert found == given_id
    else:
        assert found[10:] == given_id[10:]
        assert found <= smallest_ulid(time_ms + 2)
