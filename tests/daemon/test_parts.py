"""The agent's parts on their own: the book of failures, the disk, the published table."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import msgspec
import pytest

from mldeploy.bundle.manifest_file import read_manifest as read_yaml
from mldeploy.core.host import BuildEnvironment, Desired, ModelRoute, Worker
from mldeploy.core.manifest import canonical, digest
from mldeploy.errors import (
    BuildError,
    DaemonError,
    DiskError,
    IntegrityError,
    ManifestError,
    NotFoundError,
    StoreError,
)
from mldeploy.store.log import Log
from mldeploy_daemon import config
from mldeploy_daemon.book import WANTED, Book, backoff
from mldeploy_daemon.desired import Kept
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.fetch import Source, fetch_bundle, read_manifest, verify_bundle
from mldeploy_daemon.hands import Hands
from mldeploy_daemon.publish import Publisher
from mldeploy_daemon.table import read_table
from tests.daemon.conftest import Place
from tests.support.bundles import Maker


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    made = Disk(tmp_path / "state")
    made.prepare()
    return made


def test_the_backoff_doubles_and_ends_at_ten_minutes() -> None:
    assert [backoff(n) for n in (1, 2, 3, 7, 8, 9, 1000)] == [5, 10, 20, 320, 600, 600, 600]


def test_failures_add_up_for_one_bundle_and_survive_the_agent(disk: Disk) -> None:
    book = Book(disk, lambda: 100.0)
    book.failed("m@1", "d", "samples", "no")
    book.failed("m@1", "d", "samples", "no", "last words")
    again = Book(disk, lambda: 100.0)
    again.load()
    bad = again.bad["m@1"]
    assert (bad.attempts, bad.retry_at, bad.out, bad.log_tail) == (2, 110.0, True, "last words")
    again.failed("m@1", "other", "samples", "no")
    assert again.bad["m@1"].attempts == 1
    again.came_up("m@1")
    assert again.bad == {}


def test_a_worker_that_dies_young_again_and_again_takes_its_version_out(disk: Disk) -> None:
    book = Book(disk, lambda: 100.0)
    waits = []
    for _ in range(6):
        book.came_up("m@1")
        book.died("m@1", "d", 1.0, "SIGSEGV")
        waits.append((book.bad["m@1"].retry_at - 100.0, book.bad["m@1"].out))
    assert waits == [(0, False), (2, False), (4, False), (8, False), (80, True), (160, True)]
    book.died("m@1", "d", 3600.0, "SIGSEGV")
    assert (book.bad["m@1"].attempts, book.bad["m@1"].retry_at) == (1, 100.0)
    book.grew_old("m@1")
    assert book.bad == {}


def test_a_clock_that_is_set_back_makes_nothing_wait_longer_than_its_backoff(disk: Disk) -> None:
    now = 100.0 + 6 * 3600  # a host that boots six hours ahead
    book = Book(disk, lambda: now)
    wanted = frozenset({"m@1", "m@2"})
    for attempts in (1, 9):
        for _ in range(attempts):
            book.failed(f"m@{attempts // 9 + 1}", "d", "load", "out of memory")
    book.failed("e" * 64, "", "install", "no wheel")

    def waits(of: Book) -> list[float]:
        return [of.bad[key].retry_at - now for key in ("m@1", "m@2", "e" * 64)]

    now = 100.0
    again = Book(disk, lambda: now)  # the agent is started after the step
    again.load()
    assert waits(again) == [5.0, 600.0, 5.0]
    book.keep(wanted)  # or lives through it
    assert waits(book) == [5.0, 600.0, 5.0]
    assert (book.bad["m@2"].attempts, book.bad["m@2"].out) == (9, True)
    now += 60
    for one in (book, again):
        one.keep(wanted)
        assert waits(one) == [-55.0, 540.0, -55.0], "once, not at every look"
    assert {key: bad.retry_at for key, bad in disk.load_bad().items()} == {
        "m@1": 105.0, "m@2": 700.0, "e" * 64: 105.0,
    }  # fmt: skip


def test_an_environment_that_lacks_a_file_of_the_store_has_not_failed_to_build(disk: Disk) -> None:
    book = Book(disk, lambda: 100.0)
    hands = Hands(disk, None, Mock(busy=set()), None, None, book, lambda: None)  # type: ignore[arg-type]
    stages = []
    errors = (
        StoreError("503 Slow Down", "later"),
        NotFoundError("the wheel is gone", "push again"),
        IntegrityError("the wheel was truncated", "put it back"),
        BuildError("no wheel fits", "lock it again"),
    )
    for error in errors:
        action = BuildEnvironment(environment="e", model="m", version=1, digest="d")
        work = AsyncMock(side_effect=error)
        asyncio.run(hands._finish(action, work()))
        stages.append(book.bad["e"].stage)
    assert stages == ["fetch", "fetch", "fetch", "install"]


def test_what_is_no_longer_asked_for_or_could_not_be_fetched_is_forgotten(disk: Disk) -> None:
    book = Book(disk, lambda: 100.0)
    book.failed("m@1", "d", "fetch", "no store")
    book.failed("m@2", "d", "samples", "no")
    book.failed("e" * 64, "", "install", "no wheel")
    book.keep(frozenset({"m@1"}))
    assert set(book.bad) == {"m@1", "e" * 64}
    book.try_fetching()
    assert book.bad == {}


def test_an_environment_that_nobody_tries_again_is_forgotten(disk: Disk) -> None:
    now = 100.0
    book = Book(disk, lambda: now)
    book.failed("e" * 64, "", "install", "no wheel")
    now += backoff(1) + WANTED
    book.keep(frozenset())
    book.failed("e" * 64, "", "install", "no wheel")
    assert book.bad["e" * 64].attempts == 2, "it is still wanted"
    now += backoff(2) + WANTED + 1
    book.keep(frozenset())
    assert disk.load_bad() == {}


def test_staging_is_wiped_and_garbage_is_not_believed(disk: Disk) -> None:
    (disk.root / "staging/half").mkdir()
    (disk.root / "staging/half/file").write_text("x")
    for name in ("desired.checkpoint", "bad.json"):
        (disk.root / name).write_text("{")
    (disk.root / "bundles" / ("0" * 64)).mkdir()
    (disk.root / "bundles/notes").mkdir()
    disk.prepare()
    assert list((disk.root / "staging").iterdir()) == []
    assert Kept(disk).load() is None
    assert disk.load_bad() == {}
    assert disk.bundles() == frozenset()


def test_errors_of_the_disk_name_the_file(disk: Disk) -> None:
    (disk.root / "host.json").mkdir()
    with pytest.raises(DiskError, match=r"host\.json"):
        disk.write("host.json", b"{}")
    assert list((disk.root / "staging").iterdir()) == []
    with pytest.raises(DiskError, match=r"host\.json"):
        disk.read("host.json")


def test_a_manifest_is_checked_again_before_anything_rests_on_it(maker: Maker) -> None:
    manifest = read_yaml(maker.bundle())
    assert read_manifest(canonical(manifest), model="answer", digest=digest(manifest)) == manifest
    with pytest.raises(IntegrityError, match="is of answer, not of other"):
        read_manifest(canonical(manifest), model="other", digest="d")
    with pytest.raises(ManifestError, match="not JSON"):
        read_manifest(b"{", model="answer", digest="d")
    first = manifest.files[0]
    for path in ("../../escape", "/etc/passwd", "manifest.yaml"):
        bad = msgspec.structs.replace(
            manifest, files=(msgspec.structs.replace(first, path=path), *manifest.files[1:])
        )
        with pytest.raises(ManifestError):
            read_manifest(canonical(bad), model="answer", digest="d")


def test_a_bundle_is_links_to_verified_blobs_and_is_verified_again(place: Place, disk: Disk) -> None:
    ref = place.push(1.0)
    log = Log(place.store)
    log.refresh()
    wanted = log.state.models["answer"].versions[ref.version].digest
    source = Source(place.store, log.state.blobs)
    manifest = fetch_bundle(source, disk, model="answer", digest=wanted)
    folder = disk.root / "bundles" / wanted
    assert disk.bundles() == {wanted}
    assert not any(disk.blob(wheel.sha256).exists() for wheel in manifest.wheels), "not yet"
    for file in manifest.files:
        assert (folder / file.path).samefile(disk.blob(file.sha256))
    assert disk.broken_seals(wanted, manifest) == []
    # touched but whole: sealed anew
    first = folder / manifest.files[0].path
    os.utime(first, (1, 1))
    assert disk.broken_seals(wanted, manifest) == [manifest.files[0].path]
    verify_bundle(disk, manifest, wanted)
    assert disk.broken_seals(wanted, manifest) == []
    # altered: away with it, and it can be fetched again, without the store's help for what is whole
    first.chmod(0o644)
    first.write_text("x")
    with pytest.raises(IntegrityError, match="altered"):
        verify_bundle(disk, manifest, wanted)
    assert disk.bundles() == frozenset()
    with pytest.raises(StoreError):
        fetch_bundle(Source(None, log.state.blobs), disk, model="answer", digest=wanted)
    fetch_bundle(source, disk, model="answer", digest=wanted)
    assert disk.broken_seals(wanted, manifest) == []


def test_a_table_is_published_when_it_says_something_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    publisher = Publisher("production", "h", lambda: 7.0)
    publisher.load()
    routes = {"m": ModelRoute(stable=1, workers={1: ("w1",)})}

    def publish(routes: dict[str, ModelRoute], ready: bool = True) -> bool:
        return publisher.publish(routes, Desired(), {}, lambda _: None, ready)

    assert publish(routes)
    assert not publish(routes)
    assert publish({"m": ModelRoute(stable=2, workers={2: ("w2",)})})
    assert read_table().generation == 2
    old = Worker(id="w1", model="m", version=1, digest="d")
    assert (publisher.placed(old, 0.0).routed_last, publisher.placed(old, 0.0).routed_until) == (1, 7.0)
    # the next agent of this keeper goes on; a worker it does not find in the table may still be in a front's
    after = Publisher("production", "h", lambda: 9.0)
    after.load()
    after.adopted([old])
    assert after.routed() == {"m": 2}
    assert after.placed(old, 0.0).routed_last == 1
    # the next keeper's agent knows what served last, and none of its workers
    (tmp_path / "run/routes.json").rename(tmp_path / "run/routes.last.json")
    fresh = Publisher("production", "h", lambda: 9.0)
    fresh.load()
    assert fresh.routed() == {"m": 2}
    assert not any(route.has("w2") for route in fresh.routes.values())
    assert fresh.table.generation == 2
    # nothing serves for now: what did is still known, by the next run as well
    nothing = {"m": ModelRoute()}
    assert fresh.publish(nothing, Desired(), {}, lambda _: None, True)
    after.load()
    assert fresh.routed() == after.routed() == {"m": 2}
    assert fresh.publish({}, Desired(), {}, lambda _: None, True)
    assert fresh.routed() == {}, "the model is not wanted here any more"


def test_a_host_that_moves_to_another_environment_serves_nothing_it_served_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    staging = Publisher("staging", "h", lambda: 7.0)
    routes = {"m": ModelRoute(stable=9, workers={9: ("w9",)})}
    assert staging.publish(routes, Desired(), {}, lambda _: None, True)
    (tmp_path / "run/routes.json").rename(tmp_path / "run/routes.last.json")  # as the keeper's start does
    for environment, served in (("staging", {"m": 9}), ("production", {})):
        publisher = Publisher(environment, "h", lambda: 9.0)
        publisher.load()
        assert publisher.routed() == served
        assert publisher.routes.keys() == publisher.table.models.keys() == served.keys()
        assert publisher.table.generation == 1, "a later table is one in any environment"


def test_the_configuration_of_a_child_comes_from_its_environment() -> None:
    made = config.load({"MLDEPLOYD": '{"store": "s", "state": "/x", "future": 1, "limits": {}}'})
    assert (made.store, made.poll) == ("s", 1.0)
    with pytest.raises(DaemonError, match="is not set"):
        config.load({})
    with pytest.raises(DaemonError, match="cannot be read"):
        config.load({"MLDEPLOYD": "{"})
