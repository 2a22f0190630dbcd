from __future__ import annotations

import hashlib
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mldeploy.core import records
from mldeploy.core.fold import Folding, fold, fold_many, refusal
from mldeploy.core.records import Action, Join
from mldeploy.core.state import State
from mldeploy.errors import StoreFormatError
from tests.core.strategies import actions, chain, sha, ulid

batches = st.lists(
    st.lists(actions(), min_size=1, max_size=3) | st.binary(max_size=40), min_size=1, max_size=25
)


def numbered(found: list[bytes]) -> list[tuple[int, bytes]]:
    return list(enumerate(found, 1))


@given(batches, st.integers(0, 25))
@settings(max_examples=200)
def test_one_by_one_is_the_same_as_all_at_once(said: list[list[Action] | bytes], split: int) -> None:
    found = numbered(chain(said))
    state = State()
    for seq, data in found:
        before = msgspec.json.encode(state)
        after = fold(state, seq, data)
        assert msgspec.json.encode(state) == before  # who holds a state keeps it as it was
        state = after
    assert fold_many(State(), found) == state
    assert fold_many(fold_many(State(), found[:split]), found[split:]) == state
    assert state.head == len(found)
    assert state.head_sha256 == hashlib.sha256(found[-1][1]).hexdigest()
    assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state


@given(batches)
@settings(max_examples=200)
def test_what_holds_after_every_record(said: list[list[Action] | bytes]) -> None:
    state, ever = State(), {}
    for seq, data in numbered(chain(said)):
        before, state = state, fold(state, seq, data)
        assert state.voids in (before.voids, before.voids + 1)
        if state.voids > before.voids:  # void: nothing but the head
            assert (
                msgspec.structs.replace(
                    state, head=before.head, head_sha256=before.head_sha256, void=before.void
                )
                == before
            )
        for name, model in state.models.items():
            assert sorted(model.versions) == list(range(1, len(model.versions) + 1))
            live = [version.digest for version in model.versions.values() if not version.retired]
            assert len(set(live)) == len(live)
            for number, version in model.versions.items():
                assert ever.setdefault((name, number), version.digest) == version.digest
                assert version.retired or set(version.blobs) <= set(state.blobs)
        check_traffic(state)


def bundle(number: int) -> records.Publish:
    digest = sha(f"bundle {number}")
    return records.Publish(
        model="churn", digest=digest, push=ulid(number), brought={digest: 10}, owner="o",
        expires="2030-01-01", python="3.11", platform="linux-x86_64",
    )  # fmt: skip


def test_what_a_void_record_had_counted_decides_nothing_later() -> None:
    """Whether a blob is needed is counted on first use, here amid a record that is void in the end."""
    retire = records.Retire(model="churn", version=1)
    sweep = records.Sweep(horizon=ulid(9), blobs=(sha("bundle 1"),))
    void = [retire, sweep, records.Retire(model="nobody", version=1)]
    found = numbered(chain([[bundle(1)], [bundle(2)], void, [sweep]]))
    state = fold_many(State(), found)
    assert state.void == (3, 4) and sha("bundle 1") in state.blobs
    one = State()
    for seq, data in found:
        one = fold(one, seq, data)
    assert one == state


def collecting() -> st.SearchStrategy[Action]:
    """Actions about which blobs are needed, of two versions; some fit, and "nobody" never does."""
    model, version = st.sampled_from(["churn", "churn", "churn", "nobody"]), st.integers(1, 2)
    blobs = st.sampled_from([(), (sha("bundle 1"),), (sha("bundle 2"),)])
    return st.one_of(
        st.builds(records.Retire, model=model, version=version),
        st.builds(records.Restore, model=model, version=version),
        st.builds(records.Sweep, horizon=st.integers(9, 12).map(ulid), blobs=blobs),
    )


@given(st.lists(st.lists(collecting(), min_size=1, max_size=3), max_size=8))
@settings(max_examples=300)
def test_what_may_be_collected_is_the_same_one_by_one_and_all_at_once(said: list[list[Action]]) -> None:
    found = numbered(chain([[bundle(1)], [bundle(2)], *said]))
    one = State()
    for seq, data in found:
        one = fold(one, seq, data)
    assert fold_many(State(), found) == one


def check_traffic(state: State) -> None:
    rollouts = []
    for models in state.environments.values():
        for name, serving in models.items():
            ramp = serving.ramp
            used = {serving.stable, serving.previous, ramp.version if ramp else None} - {None}
            assert all(not state.models[name].versions[number].retired for number in used if number)
            assert serving.stable is None or serving.stable != serving.previous
            if ramp:
                assert 0 <= ramp.step < len(ramp.steps)
                assert ramp.version != serving.stable
                rollouts.append(ramp.rollout)
    assert len(set(rollouts)) == len(rollouts)


@given(batches, st.lists(actions(), min_size=1, max_size=3))
@settings(max_examples=200)
def test_a_refusal_says_what_the_fold_will_do(said: list[list[Action] | bytes], intent: list[Action]) -> None:
    found = chain(said)
    state = fold_many(State(), numbered(found))
    problem = refusal(state, intent)
    data = chain([intent], state.head + 1, state.head_sha256)[0]
    folding = Folding(state)
    verdict = folding.take(state.head + 1, data)
    assert (verdict.void is None) == (problem is None)
    if problem is not None:
        assert (str(problem), problem.hint) == (str(verdict.void), verdict.void.hint)  # type: ignore[union-attr]
        assert problem.hint
    published = [(ref.name, ref.version) for ref in verdict.published]
    after = folding.state()
    new = [(name, number) for name, model in after.models.items() for number in model.versions
           if name not in state.models or number not in state.models[name].versions]  # fmt: skip
    assert sorted(published) == sorted(new)


@given(batches, st.data())
@settings(max_examples=150)
def test_damage_anywhere_never_raises_and_is_folded_alike(
    said: list[list[Action] | bytes], data: st.DataObject
) -> None:
    found = chain(said)
    for _ in range(data.draw(st.integers(1, 3))):
        which = data.draw(st.integers(0, len(found) - 1))
        damaged = bytearray(found[which] or b"x")
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
        found[which] = bytes(damaged)
    try:
        one = fold_many(State(), numbered(found))
    except StoreFormatError:  # the damage made a higher format of it
        return
    other = State()
    for seq, record in numbered(found):
        other = fold(other, seq, record)
    assert one == other
    assert one.head == len(found)


def test_a_record_that_does_not_chain_is_void_and_the_next_chains_to_its_bytes() -> None:
    first, second = chain([[Join(host="a")], [Join(host="b")]])
    stranger = chain([[Join(host="c")]], 2, "f" * 64)[0]
    state = fold_many(State(), [(1, first), (2, stranger)])
    assert (state.voids, set(state.hosts)) == (1, {"a"})
    third = chain([[Join(host="d")]], 3, state.head_sha256)[0]
    assert set(fold(state, 3, third).hosts) == {"a", "d"}
    # the one written by somebody who had not seen the stranger is void as well
    assert fold(state, 3, chain([[Join(host="e")]], 3, state_sha(second))[0]).voids == 2


def state_sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_newer_format_stops_the_fold_and_leaves_what_came_before() -> None:
    folding = Folding(State())
    folding.take(1, chain([[Join(host="a")]])[0])
    with pytest.raises(StoreFormatError):
        folding.take(2, b'{"format": 2}')
    assert folding.head == 1
    assert folding.state().head == 1


def test_numbers_are_taken_in_order() -> None:
    data = chain([[Join(host="a")]])[0]
    for seq in (0, 2):
        with pytest.raises(ValueError, match="cannot follow"):
            fold(State(), seq, data)


def test_a_long_log_folds_in_linear_time() -> None:
    def said(count: int) -> list[tuple[int, bytes]]:
        batches: list[list[Action]] = []
        for number in range(count // 4):
            blob = hashlib.sha256(b"%d" % number).hexdigest()
            batches.append([
                records.Publish(
                    model="churn", digest=blob, push=ulid(number), brought={blob: 1}, owner="o",
                    expires="2030-01-01", python="3.11", platform="linux-x86_64",
                )
            ])  # fmt: skip
            batches.append(
                [records.Promote(model="churn", version=number + 1, steps=(100,), rollout=ulid(number))]
            )
            batches.append([records.Halt(rollout=ulid(number), reason="")])
            batches.append([records.Join(host=f"h{number}")])
        return numbered(chain(batches))

    def cost(found: list[tuple[int, bytes]]) -> float:
        start = time.process_time()
        state = fold_many(State(), found)
        assert state.head == len(found)
        return time.process_time() - start

    # everything in one model: where anything were searched for or copied each time, this would be 100 times
    few, many = said(1_000), said(10_000)
    fold_many(State(), few)
    assert cost(many) < 40 * max(cost(few), 0.005)
