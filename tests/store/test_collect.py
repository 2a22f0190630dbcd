"""A collection on real drivers: what goes and what stays, faults, races, and a kill at every step."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mldeploy.core.collection import smallest_ulid
from mldeploy.core.records import Action, Join, Leave, Publish, Restore, Retire
from mldeploy.core.state import State
from mldeploy.errors import MldeployError, OutcomeUnknownError, StoreError
from mldeploy.store.blobs import blob_key
from mldeploy.store.checkpoints import KEEP, Named
from mldeploy.store.collect import Collection, Found, collect
from mldeploy.store.file import FileStore
from mldeploy.store.fleet import GROUP
from mldeploy.store.fsspec_store import FsspecStore
from mldeploy.store.gone import TOLD
from mldeploy.store.log import Log
from mldeploy.store.memory import MemoryStore
from mldeploy.store.objects import Entry, Fetched, ObjectStore
from mldeploy.store.s3 import S3Store
from tests import faults
from tests.store.stores import FaultyStore

START = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)


#: What a collection asks of a store is the same everywhere: buckets are asked the main part of it.
EVERYWHERE = pytest.mark.parametrize("store", ["memory", "file", "s3", "s3+fsspec"], indirect=True)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "file":
        (tmp_path / "store").mkdir()
        return FileStore(tmp_path / "store")
    url = f"{request.param}://{request.getfixturevalue('bucket')}/prefix"
    return S3Store.open(url) if request.param == "s3" else FsspecStore.open(url)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def push_at(day: float, chance: str = "a") -> str:
    return smallest_ulid(round((START + day * DAY).timestamp() * 1000))[:10] + chance * 16


def bring(store: ObjectStore, push: str, *blobs: str) -> None:
    """Upload, as a push that has not published yet."""
    for blob in blobs:
        assert store.create(blob_key(sha(blob), push), blob.encode())


def say(store: ObjectStore, day: float, *actions: Action) -> State:
    appended = Log(store).append(lambda _: actions, actor="test", now=START + day * DAY)
    assert appended is not None
    return appended.state


def publish(store: ObjectStore, day: float, *brought: str, reused: tuple[str, ...] = ()) -> State:
    """A version of `churn` whose manifest is the first blob."""
    push = push_at(day)
    bring(store, push, *brought)
    return say(
        store, day, Publish(
            model="churn", digest=sha(brought[0]), push=push, owner="o", expires="2030-01-01", python="3.11",
            platform="linux-x86_64", brought={sha(blob): len(blob) for blob in brought},
            reused=tuple(map(sha, reused)),
        ),
    )  # fmt: skip


def run(store: ObjectStore, day: float, **options: Any) -> Collection:
    return collect(store, Log(store), now=START + day * DAY, actor="gc", **options)


def keys(store: ObjectStore) -> set[str]:
    return {entry.key for entry in store.list("blobs/")}


def state_of(store: ObjectStore) -> State:
    log = Log(store)
    log.refresh()
    return log.state


def whole(store: ObjectStore) -> None:
    """Every version that is not retired has every blob at its live key."""
    state = state_of(store)
    for model in state.models.values():
        for version in model.versions.values():
            for blob in () if version.retired else version.blobs:
                assert store.get(blob_key(blob, state.blobs[blob].push)) is not None


@pytest.fixture
def two(store: ObjectStore) -> ObjectStore:
    """churn@1 (retired on day 10) and churn@2, which share a blob; and a push of day 3 that was cut off."""
    publish(store, 1, "one", "own", "shared")
    publish(store, 2, "two", reused=("shared",))
    bring(store, push_at(3), "own", "lost")
    say(store, 10, Retire(model="churn", version=1))
    return store


LIVE = {blob_key(sha("two"), push_at(2)), blob_key(sha("shared"), push_at(1))}


@EVERYWHERE
def test_it_deletes_what_nothing_needs_and_nothing_else(two: ObjectStore) -> None:
    before = keys(two)
    told = run(two, 30, dry_run=True)
    assert (keys(two), state_of(two).head) == (before, 3)
    done = run(two, 30)
    assert done.seqs == (4,)
    assert (done.blobs, done.orphans) == (Found(2, 6), Found(2, 7))
    assert [str(ref) for ref in done.versions] == ["churn@1"]
    assert (told.blobs, told.orphans, told.versions) == (done.blobs, done.orphans, done.versions)
    assert told.horizon == done.horizon
    assert keys(two) == LIVE
    whole(two)


def test_again_there_is_nothing_and_no_record(two: ObjectStore) -> None:
    first = run(two, 30)
    again = run(two, 31)
    assert again == Collection(horizon=first.horizon)
    assert state_of(two).head == 4


def test_within_the_grace_nothing_goes_but_what_is_older_than_it(two: ObjectStore) -> None:
    done = run(two, 10.5)  # the push that was cut off is older than a week, the retirement is not
    assert (done.blobs, done.orphans) == (Found(), Found(2, 7))
    assert state_of(two).blobs.keys() >= {sha("one"), sha("own")}
    say(two, 11, Restore(model="churn", version=1))
    assert run(two, 60).blobs == Found()
    whole(two)


@EVERYWHERE
def test_what_was_swept_is_pushed_again_under_a_new_key(two: ObjectStore) -> None:
    run(two, 30)
    with pytest.raises(MldeployError, match="have been collected"):
        say(two, 31, Restore(model="churn", version=1))
    state = publish(two, 31, "one", "own", reused=("shared",))
    assert state.models["churn"].versions[3].digest == sha("one")
    assert keys(two) == LIVE | {blob_key(sha("one"), push_at(31)), blob_key(sha("own"), push_at(31))}
    run(two, 60)
    whole(two)
    say(two, 61, Retire(model="churn", version=3))
    say(two, 62, Restore(model="churn", version=1))  # its blobs are live again, under other keys
    run(two, 90)
    whole(two)


def test_a_push_under_way_keeps_its_files_until_it_is_older_than_the_horizon(store: ObjectStore) -> None:
    publish(store, 1, "one")
    bring(store, push_at(20), "two")
    assert run(store, 20.5) == Collection(horizon="")
    assert run(store, 30).orphans == Found(1, 3)
    with pytest.raises(MldeployError, match="began before the last collection"):
        publish(store, 20, "two")


class Wrong:
    """A store whose listing is what it is told to be."""

    def __init__(self, inner: ObjectStore, entries: list[Entry] | None) -> None:
        self._inner, self._entries = inner, entries
        self.deleted: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def list(self, prefix: str) -> Iterator[Entry]:
        if self._entries is None:
            raise StoreError("no answer", "wait")
        return iter(self._entries)

    def delete(self, key: str) -> None:
        self.deleted.append(key)
        self._inner.delete(key)


def test_a_listing_that_is_empty_or_wrong_deletes_nothing_that_is_needed(two: ObjectStore) -> None:
    mad = [
        Entry(key, 1, 0.0)
        for key in (
            "mldeploy.json", "log/00000000000000000001.json", "blobs/sha256/README",
            "hosts/production/h1.json", *LIVE, blob_key(sha("two"), push_at(40)),
        )
    ]  # fmt: skip
    before = {entry.key for entry in two.list("")}
    store = Wrong(two, mad)
    done = run(store, 30)  # type: ignore[arg-type]
    # what the log swept goes without having been listed; and nobody needs the report of who is no member
    swept = {blob_key(sha("one"), push_at(1)), blob_key(sha("own"), push_at(1))}
    assert {*store.deleted} - {"hosts/production/h1.json"} == swept
    assert done.blobs == Found(2, 6)
    assert {entry.key for entry in two.list("")} == (before - {*store.deleted}) | {
        "log/00000000000000000004.json"
    }
    assert run(Wrong(two, []), 31) == Collection(horizon=done.horizon)  # type: ignore[arg-type]
    assert run(two, 32).orphans == Found(2, 7)
    assert keys(two) == LIVE


def test_a_listing_that_fails_ends_it_before_anything_was_written(two: ObjectStore) -> None:
    before = keys(two)
    with pytest.raises(StoreError, match="no answer"):
        run(Wrong(two, None), 30)  # type: ignore[arg-type]
    assert (keys(two), state_of(two).head) == (before, 3)


@pytest.mark.parametrize("threads", [1, 16])
def test_a_delete_that_fails_is_told_and_the_next_run_finishes(two: ObjectStore, threads: int) -> None:
    class Failing(Wrong):
        def delete(self, key: str) -> None:
            if len(self.deleted) == 2:
                raise StoreError("access denied", "ask for s3:DeleteObject")
            super().delete(key)

    failing = Failing(two, list(two.list("blobs/")))
    with pytest.raises(StoreError, match=r"of 4 objects .*access denied") as error:
        run(failing, 30, threads=threads)  # type: ignore[arg-type]
    assert "run it again" in error.value.hint
    assert "DeleteObject" in error.value.hint
    whole(two)
    done = run(two, 30)
    assert (done.seqs, done.blobs) == ((), Found())
    assert 1 <= done.orphans.objects <= 2
    assert keys(two) == LIVE


def test_a_lost_answer_of_the_sweep_is_resolved_by_reading(two: ObjectStore) -> None:
    done = run(FaultyStore(two, creates=["drop"]), 30)
    assert (done.seqs, done.blobs) == ((4,), Found(2, 6))
    assert keys(two) == LIVE


def test_where_the_outcome_stays_unknown_nothing_is_deleted(two: ObjectStore) -> None:
    class Gone(Wrong):
        """The store takes the record and is not heard of again."""

        silent = False

        def create(self, key: str, data: bytes) -> bool:
            self._inner.create(key, data)
            self.silent = True
            raise OutcomeUnknownError("no answer", "look")

        def get(self, key: str) -> Fetched | None:
            if self.silent:
                raise StoreError("no answer", "wait")
            return self._inner.get(key)

    before = keys(two)
    store = Gone(two, list(two.list("blobs/")))
    with pytest.raises(OutcomeUnknownError, match="not known whether record 4"):
        run(store, 30, deadline=0)  # type: ignore[arg-type]
    assert (store.deleted, keys(two)) == ([], before)
    done = run(two, 30)  # the next run finds the sweep, and what it left
    assert (done.seqs, done.blobs, done.orphans) == ((), Found(), Found(4, 13))
    assert keys(two) == LIVE


def test_what_was_restored_or_published_meanwhile_is_not_swept(two: ObjectStore) -> None:
    def rival() -> None:
        say(two, 29, Restore(model="churn", version=1))

    done = run(FaultyStore(two, creates=["rival"], rival=rival), 30)
    assert done.blobs == Found()
    assert done.orphans == Found(2, 7)
    assert state_of(two).voids == 0
    whole(two)


@EVERYWHERE
def test_of_two_at_once_each_deletes_what_the_log_says(two: ObjectStore) -> None:
    found: list[Collection] = []

    def rival() -> None:
        found.append(run(two, 29))

    found.append(run(FaultyStore(two, creates=["rival"], rival=rival), 30))
    assert sorted(done.blobs.objects for done in found) == [0, 2]
    assert state_of(two).voids == 0
    assert keys(two) == LIVE
    whole(two)


def test_many_at_once_with_pushes_between(two: ObjectStore) -> None:
    failed: list[BaseException] = []

    def collecting() -> None:
        for day in range(30, 34):
            run(two, day, threads=2)

    def pushing(number: int) -> None:
        for turn in range(4):
            publish(two, 40 + turn + number / 10, f"n{number}-{turn}")

    def guarded(work: Callable[..., None], *args: int) -> None:
        try:
            work(*args)
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(collecting,)) for _ in range(3)]
    threads += [threading.Thread(target=guarded, args=(pushing, number)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert len(state_of(two).models["churn"].versions) == 14
    whole(two)


@EVERYWHERE
def test_left_overs_of_a_probe_go_when_they_are_old(store: ObjectStore) -> None:
    store.put("probe/old-1", b"x")
    modified = next(store.list("probe/")).modified
    now = datetime.fromtimestamp(modified, UTC)
    young = collect(store, Log(store), now=now + timedelta(minutes=59), actor="gc", grace=timedelta(0))
    assert young == Collection(horizon="")  # its probe may still run
    done = collect(store, Log(store), now=now + timedelta(minutes=61), actor="gc", grace=timedelta(0))
    assert done.leftovers == Found(1, 1)
    assert list(store.list("probe/")) == []


def reported(store: ObjectStore, *keys: str) -> float:
    """Reports at these keys; when the first was written, by the store."""
    for key in keys:
        store.put(f"hosts/{key}", b"{}")
    return next(entry.modified for entry in store.list("hosts/") if entry.key == f"hosts/{keys[0]}")


def remaining(store: ObjectStore) -> set[str]:
    return {entry.key.removeprefix("hosts/") for entry in store.list("hosts/")}


@EVERYWHERE
def test_reports_of_hosts_that_are_gone_go_when_they_are_old(store: ObjectStore) -> None:
    say(store, 0, Join(host="here"), Join(host="moved", environment="staging"), Join(host="left"))
    say(store, 0, Leave(host="left"))
    stay = {"production/here.json", "staging/moved.json", "notes.txt", "production/a/b.json"}
    gone = {"production/moved.json", "production/left.json", "old/h.json", "production/merged-0.json"}
    written = datetime.fromtimestamp(reported(store, *sorted(stay | gone)), UTC)

    def at(age: timedelta, grace: timedelta, **options: Any) -> Collection:
        return collect(store, Log(store), now=written + age, actor="gc", grace=grace, **options)

    # what a host has told of a notice counts for a week
    assert at(TOLD - DAY, timedelta(0)).reports == Found()
    assert at(TOLD + DAY, 10 * DAY).reports == Found()
    assert remaining(store) == stay | gone
    assert at(TOLD + DAY, timedelta(0), dry_run=True).reports == Found(4, 8)
    assert remaining(store) == stay | gone
    assert at(TOLD + DAY, timedelta(0)).reports == Found(4, 8)
    assert remaining(store) == stay
    assert at(TOLD + DAY, timedelta(0)).reports == Found()


def test_merged_reports_stay_while_there_is_such_a_group() -> None:
    store = MemoryStore()
    say(store, 0, *(Join(host=f"h-{number}") for number in range(GROUP + 1)))
    written = reported(store, *(f"production/merged-{group}.json" for group in range(4)))
    now = datetime.fromtimestamp(written, UTC) + TOLD + DAY
    assert collect(store, Log(store), now=now, actor="gc").reports == Found(2, 4)
    assert remaining(store) == {"production/merged-0.json", "production/merged-1.json"}


def test_who_may_not_delete_reports_collects_all_the_same() -> None:
    class Narrow(MemoryStore):
        def delete(self, key: str) -> None:
            if key.startswith("hosts/"):
                raise StoreError("the policy does not allow s3:DeleteObject", "ask for it")
            super().delete(key)

    store = Narrow()
    store.put("probe/old-1", b"x")
    written = reported(store, "production/left.json")
    now = datetime.fromtimestamp(written, UTC) + TOLD + DAY
    done = collect(store, Log(store), now=now, actor="gc")
    assert (done.leftovers, done.reports) == (Found(1, 1), Found())
    assert "does not allow s3:DeleteObject" in done.kept_reports


def test_superseded_checkpoints_go_and_the_newest_stay(store: ObjectStore) -> None:
    named = [Named(head, "f" * 16, f"{head:064x}") for head in range(1, KEEP + 3)]
    for one in named:
        store.create(one.key, b"12")
    store.create("checkpoints/README", b"not ours")
    told = run(store, 1, dry_run=True)
    done = run(store, 1)
    assert told.checkpoints == done.checkpoints == Found(2, 4)
    left = [entry.key for entry in store.list("checkpoints/")]
    assert left == [*(one.key for one in named[2:]), "checkpoints/README"]
    assert run(store, 1) == Collection(horizon="")


def _struck(root: Path, scratch: Path, at: int) -> bool:
    """Collect in a child that is killed at its `at`-th write; whether it was."""
    scratch.mkdir()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.environ.update(faults.armed(scratch, under=[root], at=at))
            faults.arm()
            run(FileStore(root), 30, threads=1)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def test_killed_at_every_write_the_next_run_finishes(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    first = FileStore(tmp_path / "first")
    publish(first, 1, "one", "own", "shared")
    publish(first, 2, "two", reused=("shared",))
    bring(first, push_at(3), "own", "lost")
    say(first, 10, Retire(model="churn", version=1))
    steps = 0
    while True:
        steps += 1
        root = Path(shutil.copytree(tmp_path / "first", tmp_path / f"store-{steps}"))
        struck = _struck(root, tmp_path / f"scratch-{steps}", steps)
        store = FileStore(root)
        whole(store)
        run(store, 31)
        assert keys(store) == LIVE
        assert (state_of(store).head, state_of(store).voids) == (4, 0)
        whole(store)
        shutil.rmtree(root)
        if not struck:
            break
    assert steps > 8, steps
