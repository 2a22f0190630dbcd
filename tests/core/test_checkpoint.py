"""The bytes of a checkpoint: the same state comes out, or an error, and never another state."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mldeploy.core import checkpoint, records
from mldeploy.core.fold import fold_many
from mldeploy.core.records import Action
from mldeploy.core.state import Blob, State
from mldeploy.errors import IntegrityError
from tests.core.strategies import actions, chain, refused, sha, ulid
from tests.support.big_log import long_log

batches = st.lists(
    st.lists(actions(), min_size=1, max_size=3) | st.binary(max_size=40), min_size=1, max_size=25
)


def folded(said: list[list[Action] | bytes]) -> State:
    return fold_many(State(), list(enumerate(chain(said), 1)))


@pytest.fixture(scope="module")
def state() -> State:
    """Everything a state can hold that a long log brings about, swept blobs apart."""
    return fold_many(State(), long_log(700, 40))


@pytest.fixture(scope="module")
def small() -> bytes:
    return checkpoint.encode(fold_many(State(), long_log(70, 5)))


@given(batches, st.integers(0, 25))
@settings(max_examples=150)
def test_a_state_comes_back_as_it_was(said: list[list[Action] | bytes], split: int) -> None:
    found = list(enumerate(chain(said), 1))
    state = fold_many(State(), found)
    data = checkpoint.encode(state)
    again = checkpoint.decode(data)
    assert again == state
    # who folded in other steps, or from a checkpoint, writes the same bytes
    half = checkpoint.decode(checkpoint.encode(fold_many(State(), found[:split])))
    assert checkpoint.encode(fold_many(half, found[split:])) == data


def test_it_goes_on_from_a_checkpoint(state: State) -> None:
    found = list(long_log(900, 40))
    there = checkpoint.decode(checkpoint.encode(state))
    assert fold_many(there, found[700:]) == fold_many(State(), found)


def test_it_is_small_and_equal_texts_are_one(state: State) -> None:
    data = checkpoint.encode(state)
    digests = {*state.blobs} | {v.digest for m in state.models.values() for v in m.versions.values()}
    assert len(data) < 32 * len(digests) + 40_000  # a sha256 does not pack; the rest is little
    again = checkpoint.decode(data)
    versions = [version for model in again.models.values() for version in model.versions.values()]
    assert len({id(version.platform) for version in versions}) == 1
    keys = {key: id(key) for key in again.blobs}
    assert {id(blob) for version in versions for blob in version.blobs if blob in keys} <= {*keys.values()}


@given(st.data())
@settings(max_examples=300)
def test_damage_is_noticed(small: bytes, data: st.DataObject) -> None:
    good = small
    at = data.draw(st.integers(0, len(good) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "add", "drop"]))
    bad = {
        "flip": good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :],
        "cut": good[:at],
        "add": good + b"x",
        "drop": good[:at] + good[at + 1 :],
    }[how]
    with contextlib.suppress(IntegrityError):
        # here the damage is in what a reader may leave out, or changes nothing that is said
        assert checkpoint.decode(bad) == checkpoint.decode(good)


def packed(state: State) -> dict[str, Any]:
    there = checkpoint.pack(state)
    return {name: getattr(there, name) for name in there.__struct_fields__}


@pytest.mark.parametrize(
    "change",
    [
        {"refs": [-1]}, {"refs": [10**6]}, {"refs": []}, {"refs": [2**63]}, {"counts": []}, {"counts": [0]},
        {"counts": [10**6]}, {"counts": [-3]}, {"live": []}, {"live": [0, 0]}, {"blobs": []},
        {"digests": b"short"}, {"digests": b""}, {"blobs": [{"push": 1}]}, {"state": {"head": "x"}},
    ],
    ids=str,
)  # fmt: skip
def test_what_fits_together_no_more_is_refused(state: State, change: dict[str, Any]) -> None:
    good = packed(state)
    extended = {
        name: good[name] + value if name in ("refs", "counts") and value else value
        for name, value in change.items()
    }
    for fields in ({**good, **change}, {**good, **extended}):
        data = checkpoint.seal(state, list(fields.values()))  # type: ignore[arg-type]
        assert isinstance(refused(lambda data=data: checkpoint.decode(data)), IntegrityError)


def test_a_header_of_another_state_is_refused(state: State) -> None:
    other = msgspec.structs.replace(state, head=state.head + 1)
    data = checkpoint.seal(other, checkpoint.pack(state))
    assert "another record" in str(refused(lambda: checkpoint.decode(data)))


@pytest.mark.parametrize("said", [1 << 50, 1 << 30, -1, 0, 5])
def test_a_bomb_is_not_unpacked(state: State, said: int) -> None:
    header = checkpoint.header(checkpoint.encode(state))
    line = msgspec.json.encode(msgspec.structs.replace(header, size=said)) + b"\n"
    bomb = line + zlib.compress(bytes(8 << 20), 9)
    assert isinstance(refused(lambda: checkpoint.decode(bomb)), IntegrityError)
    true = msgspec.json.encode(msgspec.structs.replace(header, size=8 << 20)) + b"\n"
    assert "says that it holds" in str(
        refused(lambda: checkpoint.decode(true + zlib.compress(bytes(8 << 20), 9)))
    )


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b"x" * 5_000, b'{"checkpoint":1}\n', b"\xff\n"])
def test_garbage_is_no_checkpoint(data: bytes) -> None:
    for read in (checkpoint.header, checkpoint.decode):
        assert isinstance(refused(lambda read=read: read(data)), IntegrityError)


def test_what_is_no_sha256_is_not_written(state: State) -> None:
    for name in ("A" * 64, "ab", "zz" * 32, "a b" + "c" * 61):
        bad = msgspec.structs.replace(state, blobs={**state.blobs, name: Blob(push="p", size=1)})
        with pytest.raises(ValueError):
            checkpoint.encode(bad)


# --- of which fold it is


def test_a_checkpoint_of_another_fold_is_refused(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    data = checkpoint.encode(state)
    before = checkpoint.fold_format()
    monkeypatch.setattr(checkpoint, "FOLD", checkpoint.FOLD + 1)
    checkpoint.fold_format.cache_clear()
    try:
        assert checkpoint.fold_format() != before
        assert "another version" in str(refused(lambda: checkpoint.decode(data)))
        assert checkpoint.header(data).fold == before
    finally:
        monkeypatch.undo()
        checkpoint.fold_format.cache_clear()
    assert checkpoint.decode(data) == state


def test_every_change_of_a_type_is_another_fold() -> None:
    def described(*fields: Any, **config: Any) -> set[str]:
        inner = msgspec.defstruct("Inner", fields, **config)
        return checkpoint._described([msgspec.defstruct("Outer", [("one", dict[str, tuple[inner, ...]])])])

    plain = described(("a", int))
    assert len(plain) == 2
    for other in (
        described(("a", int), ("b", int, 0)),  # a field with a default
        described(("a", str)),
        described(("a", int, 1)),
        described(("b", int)),
        described(("a", int), tag="other"),
        described(("a", int), forbid_unknown_fields=True),
        described(("a", dict[str, int], msgspec.field(default_factory=dict))),
    ):
        assert other != plain
    assert described(("a", int)) == plain
    names = {line.split(" ", 1)[0] for line in checkpoint._described([State])}
    assert {"State", "Model", "Version", "Serving", "Ramp", "Ended", "Host", "Blob"} <= names


def every_action() -> Iterator[list[Action] | bytes]:
    """Each action at least once where it fits, and some where none does."""

    def publish(model: str, number: int, *more: str) -> records.Publish:
        blobs = {sha(f"{model}{number}{part}"): 10 for part in ("manifest", *more)}
        return records.Publish(
            model=model, digest=sha(f"{model}{number}manifest"), push=ulid(number), brought=blobs,
            reused=(), owner="o", expires="2030-01-01", python="3.11", platform="linux-x86_64",
        )  # fmt: skip

    def promote(version: int, rollout: int, *steps: int, **more: Any) -> records.Promote:
        return records.Promote(
            model="m", version=version, rollout=ulid(rollout), steps=steps or (10_000,), **more
        )

    yield [records.Join(host="a", labels={"zone": "x"}), records.Join(host="b"), records.Join(host="c")]
    for number in range(1, 6):
        yield [publish("m", number, "model"), publish("n", number)]
    yield [promote(1, 1)]
    yield [promote(2, 2, 100, 5_000, 10_000, hold=60, guards=("p99 < 1.2x",))]
    yield [records.Advance(rollout=ulid(2), step=0)]
    yield [records.Advance(rollout=ulid(2), step=0)]  # void: it stands at step 1
    yield [records.Pause(rollout=ulid(2), reason="look"), records.Resume(rollout=ulid(2))]
    yield [records.Advance(rollout=ulid(2), step=1)]
    yield [records.Complete(rollout=ulid(2), step=2)]
    yield [promote(3, 3, 100, on=("zone=x",))]
    yield [promote(4, 4, 1_000)]  # supersedes it
    yield [promote(4, 5, 2_500)]  # the same version goes on
    yield [records.Halt(rollout=ulid(5), reason="p99")]
    yield [records.Rollback(model="m", reason="worse"), promote(5, 6, environment="staging")]
    yield [records.Freeze(model="m", reason="holidays"), records.Freeze(environment="staging")]
    yield [promote(5, 7)]  # void: frozen
    yield b"garbage"
    yield [records.Unfreeze(model="m")]
    yield [records.Retire(model="m", version=4), records.Extend(model="m", version=3, expires="2031-01-01")]
    yield [records.Restore(model="m", version=4), records.Retire(model="m", version=3, force=True)]
    yield [records.Retire(model="n", version=1)]
    yield [records.Sweep(horizon=ulid(4), blobs=(sha("n1manifest"),))]
    yield [publish("n", 2, "late")]  # void: its push is older than the horizon
    yield [records.Leave(host="a"), records.Forget(host="b")]
    yield [records.Drain(host="c", reason="new disk")]
    yield [records.Undrain(host="c"), records.Drain(host="c", reason="sold")]
    yield [records.Policy(settings={"notify": {"ops": "json://ops.example.com"}})]
    yield [promote(2, 8), promote(2, 9, environment="canary")]  # a notice for each
    yield [records.Shadow(model="m", version=4, shadow=ulid(10))]
    yield [records.Retire(model="m", version=4)]


#: What these records fold to. Where this changes, the same records fold to something else than they did:
#: if no field, default or action has changed with it, raise FOLD (core/fold.py); then write the new one here.
FOLDED = "9759696db583812e"


def test_the_same_records_still_fold_to_the_same_state() -> None:
    state = folded(list(every_action()))
    assert state.void == (10, 20, 21, 27)
    body = zlib.decompress(checkpoint.encode(state).partition(b"\n")[2])
    assert hashlib.sha256(body).hexdigest()[:16] == FOLDED
