"""Pushes and collections: what was swept comes back under new keys, and a push in flight starts again."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mldeploy.bundle.published import fetch_manifest, fetch_sample
from mldeploy.core.collection import smallest_ulid
from mldeploy.core.records import Action, Restore, Retire
from mldeploy.core.state import State
from mldeploy.errors import NotAllowedError
from mldeploy.progress import Silent
from mldeploy.store.blobs import blob_key
from mldeploy.store.collect import Collection, collect
from mldeploy.store.file import FileStore
from mldeploy.store.log import Log
from mldeploy.store.memory import MemoryStore
from mldeploy.store.objects import ObjectStore

from .test_push import pushed, small

NOW = datetime.now(UTC)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "memory":
        return MemoryStore()
    (tmp_path / "store").mkdir()
    return FileStore(tmp_path / "store")


def state_of(store: ObjectStore) -> State:
    log = Log(store)
    log.refresh()
    return log.state


def say(store: ObjectStore, *actions: Action) -> None:
    Log(store).append(lambda _: actions, actor="me", now=NOW)


def gone(store: ObjectStore, later: timedelta, grace: timedelta = timedelta(0)) -> Collection:
    return collect(store, Log(store), now=NOW + later, actor="gc", grace=grace)


def whole(store: ObjectStore) -> None:
    """Every version that is not retired can be fetched."""
    state = state_of(store)
    for model in state.models.values():
        for version in model.versions.values():
            for blob in () if version.retired else version.blobs:
                assert store.get(blob_key(blob, state.blobs[blob].push)) is not None


def ids_from(day: int) -> Callable[[], str]:
    """Push ids of that day and later, one a day: a collection between any two of them has a horizon."""
    days = itertools.count(day)
    return lambda: smallest_ulid(round((NOW + next(days) * timedelta(days=1)).timestamp() * 1000))


def test_retired_collected_and_pushed_again(store: ObjectStore, tmp_path: Path) -> None:
    folder = small(tmp_path / "a")
    first = pushed(store, folder)
    before = {entry.key for entry in store.list("blobs/")}
    say(store, Retire(model="small", version=1))
    assert gone(store, timedelta(days=6), timedelta(days=7)).seqs == ()
    say(store, Restore(model="small", version=1))
    say(store, Retire(model="small", version=1))
    done = gone(store, timedelta(days=8), timedelta(days=7))
    assert (done.blobs.objects, [str(ref) for ref in done.versions]) == (len(before), ["small@1"])
    assert list(store.list("blobs/")) == []
    with pytest.raises(NotAllowedError, match="have been collected"):
        say(store, Restore(model="small", version=1))
    again = pushed(store, folder, ids=ids_from(9))
    assert str(again.ref) == "small@2"
    assert (again.digest, again.uploaded_blobs, again.reused_blobs) == (first.digest, len(before), 0)
    assert before.isdisjoint(entry.key for entry in store.list("blobs/"))
    assert fetch_manifest(store, state_of(store), "small", 2).name == "small"
    assert fetch_sample(store, state_of(store), "small", 2) == b"{}"
    gone(store, timedelta(days=30))
    whole(store)


def test_a_push_across_a_collection_without_grace_begins_again_and_gets_through(
    store: ObjectStore, tmp_path: Path
) -> None:
    pushed(store, small(tmp_path / "a", "1"), ids=ids_from(-9))
    say(store, Retire(model="small", version=1))
    collected: list[Collection] = []

    class Between(Silent):
        def step(self, text: str) -> None:
            # twice: the push that begins again is swept as well
            if text == "writing the record" and len(collected) < 2:
                collected.append(gone(store, timedelta(days=1 + len(collected), hours=12)))

    done = pushed(store, small(tmp_path / "b", "2"), progress=Between(), ids=ids_from(1))
    assert str(done.ref) == "small@2"
    assert len(collected) == 2
    assert collected[0].blobs.objects == 4  # of version 1, which the push wanted to reuse
    assert collected[0].orphans.objects == 2  # what it had brought itself
    assert (done.uploaded_blobs, done.reused_blobs) == (4, 0)
    now = state_of(store)
    assert now.voids == 0
    whole(store)
    gone(store, timedelta(days=60))
    whole(store)
    assert len(list(store.list("blobs/"))) == 4


def test_a_machine_whose_clock_is_slow_pushes_all_the_same(store: ObjectStore, tmp_path: Path) -> None:
    pushed(store, small(tmp_path / "a", "1"))
    say(store, Retire(model="small", version=1))
    gone(store, timedelta(days=3))
    done = pushed(store, small(tmp_path / "b", "2"), ids=ids_from(-30))
    assert (str(done.ref), done.uploaded_blobs) == ("small@2", 4)
    assert gone(store, timedelta(days=2)).orphans.objects == 0
    whole(store)
