"""The log against stores whose answers get lost, arrive late or lie."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mldeploy.core.records import Action, Freeze, Join, Leave, Unfreeze
from mldeploy.core.state import State
from mldeploy.errors import (
    MldeployError,
    NotAllowedError,
    OutcomeUnknownError,
    RaceLostError,
    StoreError,
    StoreFormatError,
)
from mldeploy.store.history import history
from mldeploy.store.log import Appended, Intent, Log, record_key
from mldeploy.store.memory import MemoryStore
from tests.store.history_checker import Told, problems
from tests.store.stores import FaultyStore

NOW = datetime(2026, 11, 23, 22, 59, 1, tzinfo=UTC)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.001)


def append(log: Log, intent: Intent, deadline: float | None = 5.0, **more: object) -> Appended | None:
    clock = Clock()
    return log.append(
        intent, actor="me", now=NOW, deadline=deadline, monotonic=clock, sleep=clock.sleep, **more
    )  # type: ignore[arg-type]


def join(host: str) -> Intent:
    return lambda _: [Join(host=host)]


def in_store(store: MemoryStore) -> dict[int, bytes]:
    found = {}
    for seq in itertools.count(1):
        fetched = store.get(record_key(seq))
        if fetched is None:
            return found
        found[seq] = fetched.data
    raise AssertionError


def test_append_and_refresh() -> None:
    store = MemoryStore()
    log, reader = Log(store), Log(store)
    first = append(log, join("a"), ids=lambda: "my-id")
    assert first == Appended(1, "my-id", log.state)
    append(log, join("b"))
    assert reader.refresh(limit=1) == 1
    assert set(reader.state.hosts) == {"a"}
    assert reader.refresh() == 1
    assert reader.refresh() == 0
    assert reader.state == log.state
    assert Log(store, state=log.state).refresh() == 0


def test_an_intent_without_actions_writes_nothing() -> None:
    store = MemoryStore()
    assert append(Log(store), lambda _: []) is None
    assert in_store(store) == {}


def test_what_would_be_void_is_not_written() -> None:
    store = MemoryStore()
    with pytest.raises(MldeployError) as caught:
        append(Log(store), lambda _: [Leave(host="nobody")])
    assert "no host" in caught.value.message
    assert in_store(store) == {}


@pytest.mark.parametrize(
    "creates",
    [["drop"], ["fail"], ["taken"], ["conflict"], ["late"], ["fail", "fail", "drop"], ["conflict", "taken"],
     ["late", "fail"], ["late", "late"], ["late", "drop"], ["drop", "refuse"], ["fail", "refuse", "ok"]],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize(  # the first two look for the head, and for a record beyond it
    "gets", [[], ["ok", "ok", "error", "error"], ["ok", "ok", "stale"]], ids=["", "errors", "stale"]
)
def test_an_answer_that_was_lost_is_resolved_and_written_once(creates: list[str], gets: list[str]) -> None:
    inner = MemoryStore()
    store = FaultyStore(inner, creates, gets)
    log = Log(store)
    appended = append(log, join("a"))
    assert appended is not None
    store.arrive()
    assert (appended.seq, set(log.state.hosts)) == (1, {"a"})
    assert problems(in_store(inner), [Told([(appended.id, 1)])]) == []
    # the same bytes at the same number, however often
    assert set(store.created) == {(record_key(1), in_store(inner)[1])}


@pytest.mark.parametrize("how", ["fail", "drop", "late", "conflict", "taken", "rival"])
def test_another_writer_was_quicker(how: str) -> None:
    inner = MemoryStore()

    def other() -> None:
        append(Log(inner), join("other"), ids=lambda: "other-id")

    creates = {"rival": ["rival"], "fail": ["fail", "rival"], "conflict": ["conflict", "rival"]}
    store = FaultyStore(inner, creates.get(how, ["rival", how]), rival=other)
    log = Log(store)
    appended = append(log, join("mine"), ids=iter(["my-id", "never-asked"]).__next__)
    store.arrive()
    assert appended is not None
    assert (appended.seq, appended.id) == (2, "my-id")
    assert set(log.state.hosts) == {"other", "mine"}
    assert problems(in_store(inner), [Told([("my-id", 2), ("other-id", 1)])]) == []


def test_the_intent_is_asked_again_on_the_new_state() -> None:
    inner = MemoryStore()
    store = FaultyStore(inner, ["rival"], rival=lambda: append(Log(inner), join("a")))
    seen: list[int] = []

    def intent(state: State) -> Sequence[Action]:
        seen.append(state.head)
        return [] if "a" in state.hosts else [Join(host="a")]

    assert append(Log(store), intent) is None
    assert seen == [0, 1]
    assert len(in_store(inner)) == 1


def test_an_intent_that_no_longer_fits_has_lost_the_race() -> None:
    inner = MemoryStore()
    append(Log(inner), join("a"))
    rival = lambda: append(Log(inner), lambda _: [Leave(host="a")])  # noqa: E731
    with pytest.raises(RaceLostError, match="another record came first, and now: there is no host"):
        append(Log(FaultyStore(inner, ["rival"], rival=rival)), lambda _: [Leave(host="a")])
    assert len(in_store(inner)) == 2

    def never(state: State) -> Sequence[Action]:
        raise NotAllowedError("no", "ask")

    with pytest.raises(NotAllowedError):
        append(Log(inner), never)


@pytest.mark.parametrize("how", ["drop", "fail", "late"])
def test_at_the_deadline_the_outcome_is_unknown_and_nothing_is_undone(how: str) -> None:
    inner = MemoryStore()
    store = FaultyStore(inner, [how], ["ok", "ok"] + ["error"] * 10_000)
    store._creates += ["fail"] * 10_000
    log = Log(store)
    with pytest.raises(OutcomeUnknownError) as caught:
        append(log, join("a"))
    assert "mldeploy history" in caught.value.hint
    assert log.state.head == 0
    store.arrive()
    assert len(in_store(inner)) == (how != "fail")
    assert len(set(store.created)) == 1
    # the next start resolves it
    fresh = Log(inner)
    append(fresh, lambda state: [] if "a" in state.hosts else [Join(host="a")])
    assert len(in_store(inner)) == 1


def test_a_refusal_is_told_at_once_when_nothing_can_have_been_written() -> None:
    store = FaultyStore(MemoryStore(), ["refuse"])
    with pytest.raises(StoreError, match="refused"):
        append(Log(store), join("a"))
    assert len(store.created) == 1


def test_a_store_out_of_reach_keeps_what_was_read() -> None:
    inner = MemoryStore()
    for host in "abc":
        append(Log(inner), join(host))
    log = Log(FaultyStore(inner, gets=["ok", "ok", "error"]))
    with pytest.raises(StoreError):
        log.refresh()
    assert log.state.head == 2
    assert log.refresh() == 1


def test_others_that_never_stop_writing_are_a_race_lost_at_the_deadline() -> None:
    inner = MemoryStore()
    clock, count = Clock(), itertools.count()

    def rival() -> None:
        clock.sleep(1)
        append(Log(inner), join(f"h{next(count)}"))

    log = Log(FaultyStore(inner, ["rival"] * 100, rival=rival))
    with pytest.raises(RaceLostError, match="5 other records came first"):
        log.append(join("a"), actor="me", now=NOW, deadline=5, monotonic=clock, sleep=clock.sleep)
    assert "a" not in Log(inner).state.hosts


def test_a_record_of_a_newer_format_stops_readers_and_writers() -> None:
    store = MemoryStore()
    log = Log(store)
    append(log, join("a"))
    store.create(record_key(2), b'{"format": 2}')
    for call in (log.refresh, lambda: append(log, join("b")), lambda: list(history(store))):
        with pytest.raises(StoreFormatError):
            call()
    assert log.state.head == 1
    assert set(in_store(store)) == {1, 2}


def test_garbage_keeps_its_number_and_wedges_nobody() -> None:
    store = MemoryStore()
    log = Log(store)
    append(log, join("a"))
    store.create(record_key(2), b"garbage")
    appended = append(log, join("b"))
    assert appended is not None
    assert appended.seq == 3
    assert (log.state.voids, set(log.state.hosts)) == (1, {"a", "b"})
    reader = Log(store)
    reader.refresh()
    assert reader.state == log.state
    told = list(history(store))
    assert [verdict.seq for verdict in told] == [1, 2, 3]
    assert [verdict.void is None for verdict in told] == [True, False, True]
    assert told[1].record is None
    assert "cannot be read" in str(told[1].void)
    assert [verdict.seq for verdict in history(store, state=log.state)] == []


def test_a_void_record_is_told_with_its_reason() -> None:
    store = MemoryStore()
    log = Log(store)
    append(log, lambda _: [Freeze()])
    stale = FaultyStore(store)
    before = Log(stale)
    before.refresh()
    append(log, lambda _: [Unfreeze()])
    first = in_store(store)[1]
    store.create(record_key(3), first)  # somebody copies record 1
    verdict = list(history(store))[2]
    assert "says that it is number 1" in str(verdict.void)


def test_clocks_order_nothing() -> None:
    """Writers whose clocks go backwards, or stand: the number in the log alone says what came first."""

    def write(times: list[datetime]) -> State:
        store = MemoryStore()
        log = Log(store)
        ids = itertools.count()
        for number, time in enumerate(times):
            said = [Freeze()] if number % 2 == 0 else [Unfreeze()]
            log.append(lambda _, said=said: said, actor="me", now=time, ids=lambda: f"id{next(ids)}")  # type: ignore[misc]
        log.append(lambda _: [Freeze(reason="last")], actor="me", now=times[0], ids=lambda: "last")
        reader = Log(store)
        reader.refresh()
        assert reader.state == log.state
        return log.state

    forwards = [NOW + timedelta(days=day) for day in range(6)]
    states = [
        write(forwards),
        write(forwards[::-1]),
        write([NOW] * 6),
        write([datetime(1970, 1, 1, tzinfo=UTC)] * 6),
    ]
    for state in states:
        assert (state.head, state.voids, state.frozen) == (7, 0, {"production": "last"})


HOWS = st.sampled_from(["ok", "drop", "fail", "late", "taken", "conflict", "refuse"])
GETS = st.sampled_from(["ok", "ok", "error", "stale"])


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(HOWS, max_size=4), st.lists(GETS, max_size=6)), max_size=12
    ),
    st.data(),
)
@settings(max_examples=120)
def test_no_schedule_of_faults_loses_or_doubles_a_record(
    plan: list[tuple[int, list[str], list[str]]], data: st.DataObject
) -> None:
    """Three writers take turns, each append under its own faults, sometimes with a rival in the middle."""
    inner = MemoryStore()
    logs = [Log(inner) for _ in range(3)]
    told = Told()
    numbers = itertools.count()
    stores: list[FaultyStore] = []

    def write(log: Log) -> None:
        one = f"id{next(numbers)}"
        told.tried.add(one)
        try:
            appended = append(log, join(one), deadline=2.0, ids=lambda: one)
        except (StoreError, OutcomeUnknownError):
            return
        assert appended is not None
        told.acknowledged.append((one, appended.seq))

    for writer, creates, gets in plan:
        if data.draw(st.booleans()):
            creates = [*creates, "rival"]
        store = FaultyStore(inner, creates, gets, rival=lambda: write(Log(inner)))
        stores.append(store)
        logs[writer]._store = store
        write(logs[writer])
        if data.draw(st.booleans()):
            data.draw(st.sampled_from(stores)).arrive()  # a late write lands long after
    for store in stores:
        store.arrive()
    assert problems(in_store(inner), [told]) == []
    reader = Log(inner)
    reader.refresh()
    assert reader.state.voids == 0
    for log in logs:
        log._store = inner
        log.refresh()
        assert log.state == reader.state
