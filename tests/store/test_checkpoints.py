"""Starting from a checkpoint: what it costs, and that nothing is believed that the log does not bear out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest

from mldeploy.core import checkpoint
from mldeploy.core.fold import fold_many
from mldeploy.core.records import Join
from mldeploy.core.state import State
from mldeploy.errors import LogHoleError, StoreError
from mldeploy.store import checkpoints
from mldeploy.store.checkpoints import KEEP, OUTDATED, PREFIX, Named, hint_key, interval, superseded
from mldeploy.store.log import Log, record_key
from mldeploy.store.memory import MemoryStore
from mldeploy.store.objects import Entry
from tests.store.stores import CountingStore
from tests.support.big_log import fill, long_log

NOW = datetime(2026, 11, 23, 22, 59, 1, tzinfo=UTC)
MODELS = 40


def folded(count: int, models: int = MODELS) -> State:
    return fold_many(State(), long_log(count, models))


@pytest.fixture(scope="module")
def states() -> dict[int, State]:
    return {count: folded(count) for count in (200, 300, 400, 450)}


@pytest.fixture
def inner(states: dict[int, State]) -> MemoryStore:
    """450 records, with checkpoints of 200, 300 and 400."""
    store = MemoryStore()
    fill(store, 450, MODELS)
    known: tuple[Named, ...] = ()
    for count in (200, 300, 400):
        known = (checkpoints.write(store, states[count], known), *known)
    return store


def named(store: MemoryStore) -> list[Named]:
    """Newest first."""
    found = [Named.parse(entry.key) for entry in store.list(PREFIX)]
    return sorted((one for one in found if one), reverse=True)


def append(log: Log, host: str) -> None:
    log.append(lambda _: [Join(host=host)], actor="me", now=NOW, deadline=1.0, sleep=lambda _: None)


# --- what it costs


@pytest.mark.parametrize(
    ("models", "records"),
    [(500, 3_000), pytest.param(10_000, 100_000, marks=pytest.mark.full)],
)
def test_opening_a_large_store_costs_four_requests(models: int, records: int) -> None:
    inner = MemoryStore()
    fill(inner, records, models)
    writer = Log(inner)
    assert writer.refresh() == records
    assert writer.checkpoint()
    store = CountingStore(inner)
    log = Log(store)
    assert log.refresh() == records
    assert [key.split(".")[0] for _, key in store.requests] == [
        "hints/checkpoint", record_key(records).split(".")[0], f"checkpoints/{records:020d}",
        record_key(records + 1).split(".")[0],
    ]  # fmt: skip
    assert log.state == writer.state
    assert len(log.state.models) == models
    # with a tail: that is read, up to 64 at a time, and nothing else
    tail = list(long_log(records + 500, models))[records:]
    for seq, data in tail:
        inner.create(record_key(seq), data)
    store.requests.clear()
    log = Log(store)
    assert log.refresh() == records + 500
    assert store.at_once <= 64
    read = sorted(int(key[4:24]) for _, key in store.requests if key.startswith("log/"))
    assert read[:501] == list(range(records, records + 501))
    assert len(store.requests) <= 10 + 500 + 64
    assert {verb for verb, _ in store.requests} == {"get"}


def test_what_is_known_already_costs_no_checkpoint(inner: MemoryStore, states: dict[int, State]) -> None:
    store = CountingStore(inner)
    log = Log(store, state=states[200], ahead=1)
    assert log.refresh() == 250
    assert store.count("get", PREFIX) == store.count("get", "hints/") == 0


def test_with_a_limit_every_record_is_read(inner: MemoryStore) -> None:
    seen: list[int] = []
    log = Log(CountingStore(inner), taken=lambda seq, _: seen.append(seq))
    assert log.refresh(limit=30) == 30
    assert seen == list(range(1, 31))
    log.refresh()
    assert seen == list(range(1, 451))
    late: list[int] = []
    Log(inner, taken=lambda seq, _: late.append(seq)).refresh()
    assert late == list(range(401, 451))


def test_a_reader_far_behind_leaps(monkeypatch: pytest.MonkeyPatch, inner: MemoryStore) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL", 100)
    store = CountingStore(inner)
    log = Log(store, state=folded(30), ahead=1)
    assert log.refresh() == 420
    assert log.state == folded(450)
    read = [int(key[4:24]) for _, key in store.requests if key.startswith("log/")]
    assert read == [*range(31, 131), 400, *range(401, 452)]
    # not for a few records
    store.requests.clear()
    log = Log(store, state=folded(250), ahead=1)
    log.refresh()
    assert store.count("get", PREFIX) == 0


# --- what is not believed


def _overwrite(store: MemoryStore, which: Named, data: bytes) -> None:
    store.put(which.key, data)


def _rename(store: MemoryStore, which: Named, data: bytes) -> None:
    """Bytes that are what their key says, and yet wrong."""
    false = which._replace(sha256=hashlib.sha256(data).hexdigest())
    store.put(false.key, data)
    before = [one.key for one in named(store) if one.head < which.head]
    store.put(hint_key(), msgspec.json.encode({"newest": [false.key, *before]}))


def _no_hint(store: MemoryStore) -> None:
    store.delete(hint_key())


def _hint(data: bytes) -> Callable[[MemoryStore], None]:
    return lambda store: store.put(hint_key(), data)


def _missing(store: MemoryStore) -> None:
    store.delete(named(store)[0].key)


def _garbage(store: MemoryStore) -> None:
    _overwrite(store, named(store)[0], b"garbage")


def _another(store: MemoryStore) -> None:
    newest, before, _ = named(store)
    found = store.get(before.key)
    assert found is not None
    _rename(store, newest, found.data)


def _other_fold(store: MemoryStore) -> None:
    found = store.get(named(store)[0].key)
    assert found is not None
    fold = checkpoint.fold_format().encode()
    _rename(store, named(store)[0], found.data.replace(fold, b"0" * 16, 1))


def _of_another_log(store: MemoryStore) -> None:
    """A whole and valid checkpoint of record 400, of a log that had another record 400."""
    other = msgspec.structs.replace(folded(400), head_sha256="ab" * 32)
    _rename(store, named(store)[0], checkpoint.encode(other))


def _all_garbage(store: MemoryStore) -> None:
    for one in named(store):
        store.put(one.key, b"garbage")


@pytest.mark.parametrize(
    ("harm", "starts"),
    [
        (_no_hint, 0), (_hint(b"garbage"), 0), (_hint(b"{}"), 0), (_hint(b'{"newest": ["x", "y"]}'), 0),
        (_hint(b'{"newest": [7]}'), 0), (_hint(b""), 0), (_missing, 300), (_garbage, 300), (_another, 300),
        (_other_fold, 300), (_of_another_log, 300), (_all_garbage, 0),
    ],
)  # fmt: skip
def test_whatever_is_wrong_the_state_is_the_logs(
    inner: MemoryStore, harm: Callable[[MemoryStore], None], starts: int
) -> None:
    harm(inner)
    store = CountingStore(inner)
    log = Log(store, ahead=1)
    assert log.refresh() == 450
    assert log.state == folded(450)
    read = [int(key[4:24]) for _, key in store.requests if key.startswith("log/")]
    # each checkpoint that is tried costs the record at its head; then the tail is read
    assert read[-(451 - starts) :] == list(range(starts + 1, 452))
    assert len(store.requests) - (451 - starts) <= 7


def test_a_hint_of_another_fold_is_not_even_read(inner: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FOLD", 99)
    checkpoint.fold_format.cache_clear()
    try:
        store = CountingStore(inner)
        log = Log(store, ahead=1)
        log.refresh()
        assert store.count("get", PREFIX) == 0
        # it writes its own, beside the others
        checkpoints.write(inner, log.state, ())
        assert len(named(inner)) == 4
        assert len(list(inner.list("hints/checkpoint."))) == 2
    finally:
        monkeypatch.undo()
        checkpoint.fold_format.cache_clear()


def test_who_may_not_read_hints_still_reads_the_log(inner: MemoryStore) -> None:
    store = CountingStore(inner)

    def refuse(key: str) -> None:
        if not key.startswith("log/"):
            raise StoreError("forbidden", "ask")

    store.before = refuse
    log = Log(store)
    assert log.refresh() == 450
    with pytest.raises(StoreError, match="forbidden"):  # but cannot know that there is no hole
        append(log, "h")


def test_a_store_out_of_reach_while_it_is_opened(inner: MemoryStore) -> None:
    store = CountingStore(inner)

    def refuse(_: str) -> None:
        raise StoreError("no answer", "wait")

    store.before = refuse
    log = Log(store)
    with pytest.raises(StoreError):
        log.refresh()
    store.before = lambda _: None
    assert log.refresh() == 450
    assert store.count("get", PREFIX) == 1


# --- holes


def test_a_hint_beyond_a_missing_record_is_a_hole(inner: MemoryStore) -> None:
    kept = {seq: data.data for seq in range(350, 451) if (data := inner.get(record_key(seq)))}
    for seq in kept:
        inner.delete(record_key(seq))
    store = CountingStore(inner)
    for _ in range(2):
        log = Log(store, ahead=1)
        for _ in range(2):
            with pytest.raises(LogHoleError, match="record 350 is missing"):
                log.refresh()
            assert log.state == folded(349)  # readers keep what they have
    for writer in (Log(store), Log(store, state=folded(349))):
        for _ in range(2):
            with pytest.raises(LogHoleError):
                append(writer, "h")
    assert inner.get(record_key(350)) is None
    for seq, data in kept.items():
        inner.create(record_key(seq), data)
    append(log, "h")
    assert log.state.head == 451


def test_others_that_wrote_meanwhile_are_no_hole(inner: MemoryStore, states: dict[int, State]) -> None:
    """The hint is read after the head: by then it may name what came in between."""
    store = CountingStore(inner)
    late = {seq: data.data for seq in range(391, 451) if (data := inner.get(record_key(seq)))}
    for seq in late:
        inner.delete(record_key(seq))

    def others(key: str) -> None:
        if key == hint_key():
            for seq, data in late.items():
                inner.create(record_key(seq), data)

    store.before = others
    log = Log(store, state=folded(390))
    append(log, "h")
    assert log.state.head == 451


@pytest.mark.parametrize("made", [False, True])
def test_a_false_hint_stops_nobody(inner: MemoryStore, made: bool) -> None:
    false = Named(10**12, checkpoint.fold_format(), "ab" * 32)
    if made:
        data = checkpoint.encode(folded(20))
        false = false._replace(sha256=hashlib.sha256(data).hexdigest())
        inner.put(false.key, data)
    inner.put(hint_key(), msgspec.json.encode({"newest": [false.key, named(inner)[0].key]}))
    log = Log(CountingStore(inner))
    assert log.refresh() == 450
    append(log, "h")
    assert log.state.head == 451


# --- who writes one, and which go


def test_one_is_written_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL", 100)
    store = MemoryStore()
    log, other = Log(store), Log(store)
    written = []
    for seq, data in long_log(360, MODELS):
        store.create(record_key(seq), data)
        if seq % 10 == 0:
            log.refresh()
            other.refresh()
            if log.checkpoint():
                written.append(seq)
            assert not other.checkpoint(), "another has just written it"
            assert not log.checkpoint(late=0)
    assert written == [100, 200, 300]
    assert [one.head for one in named(store)] == [300, 200, 100]
    last = list(long_log(450, MODELS))[360:]
    for seq, data in last:
        store.create(record_key(seq), data)
    log.refresh()
    assert not log.checkpoint(late=60)
    assert log.checkpoint(late=50)
    assert [one.head for one in checkpoints.read_hint(store)] == [450, 300, 200]
    fresh = Log(store)
    assert fresh.refresh() == 450
    assert fresh.state == log.state == folded(450)


def test_the_longer_the_log_the_rarer() -> None:
    assert [interval(head) for head in (0, 1_000, 64_000, 100_000, 1_000_000)] == [
        1_000, 1_000, 1_000, 1_562, 15_625,
    ]  # fmt: skip


def test_what_goes_wrong_while_one_is_written_is_nobodys_problem(
    monkeypatch: pytest.MonkeyPatch, inner: MemoryStore
) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL", 10)
    for verb in ("create", "put", "get"):
        store = CountingStore(inner)
        log = Log(store)
        log.refresh()

        def fail(*_: object) -> None:
            raise StoreError("refused", "ask")

        monkeypatch.setattr(store, verb, fail)
        assert not log.checkpoint()
    assert Log(inner).refresh() == 450


def test_the_same_state_is_the_same_object(inner: MemoryStore) -> None:
    one, other = Log(inner), Log(inner, state=folded(7), ahead=64)
    one.refresh()
    other.refresh()
    keys = {checkpoints.write(inner, log.state, ()).key for log in (one, other)}
    assert len(keys) == 1


def test_the_newest_few_of_each_fold_stay() -> None:
    def entry(head: int, fold: str, modified: float) -> Entry:
        return Entry(Named(head, fold * 16, "c" * 64).key, 1, modified)

    now = 100 * OUTDATED
    kept = [entry(head, "a", now - head) for head in range(7, 7 + KEEP)]
    old = [entry(head, "a", now) for head in range(1, 7)]
    other = [entry(head, "b", now - OUTDATED + 100) for head in range(1, 1 + KEEP)]
    dead = [entry(head, "d", now - OUTDATED - 100) for head in (1, 2)]
    strange = [Entry(f"{PREFIX}notes.txt", 1, now), Entry(f"{PREFIX}{5:020d}.zz", 1, now)]
    gone = superseded([*kept, *old, *other, *dead, *strange][::-1])
    assert gone == sorted(one.key for one in (*old, *dead))
    assert superseded([]) == []
    assert superseded(dead) == []  # the only fold there is, however long ago


def test_a_checkpoint_is_created_and_never_written_over(
    monkeypatch: pytest.MonkeyPatch, inner: MemoryStore
) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL", 10)
    store = CountingStore(inner)
    log = Log(store)
    log.refresh()
    store.requests.clear()
    assert log.checkpoint()
    assert [(verb, key.split(".")[0]) for verb, key in store.requests] == [
        ("get", "hints/checkpoint"), ("create", f"checkpoints/{450:020d}"), ("put", "hints/checkpoint"),
    ]  # fmt: skip
