"""Blobs from the store onto the disk: several at a time, and on from where they were cut."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

import pytest

from mldeploy.core.state import Blob
from mldeploy.errors import DiskError, StoreError
from mldeploy.store.blobs import blob_key
from mldeploy.store.memory import MemoryStore
from mldeploy.store.objects import Progress, Resumption, Wanted
from mldeploy_daemon import disk as disks
from mldeploy_daemon import fetch as fetching
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.fetch import BLOBS, SHORTS, Source, bring_blobs
from tests import faults

PUSH = "01k9zq3v5w8x7c2m4n6b8d0f1g"


class Resuming(MemoryStore):
    """Goes on where a fetch was cut, as S3's driver does; `cut` says after how many bytes it is."""

    def __init__(self) -> None:
        super().__init__()
        self.cut: int | None = None
        self.served = 0
        self.at_once = self.most = 0
        self.before: Callable[[], None] = lambda: None
        self._counting = threading.Lock()

    def send(
        self, key: str, source: Path, *, sha256: str, progress: Progress | None = None,
        resumption: Resumption | None = None,
    ) -> None:  # fmt: skip
        raise NotImplementedError

    def abandon(self, key: str, token: str) -> None:
        raise NotImplementedError

    def fetch(self, key: str, target: Path, *, size: int, progress: Progress | None = None) -> str:
        with self._counting:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        self.before()
        found = self.get(key)
        assert found is not None
        with target.open("ab") as file:
            had = file.tell()
            data = found.data[had : had + self.cut if self.cut is not None else None]
            file.write(data)
        with self._counting:
            self.served += len(data)
            self.at_once -= 1
        if self.cut is not None:
            raise StoreError("the connection broke", "wait")
        return hashlib.sha256(target.read_bytes()).hexdigest()


class Ahead(Resuming):
    """Asks for short ones ahead, as S3's driver does; who begins waits for `together`."""

    def __init__(self) -> None:
        super().__init__()
        self.together = threading.Barrier(1)

    def fetch_each(self, wanted: Iterable[Wanted]) -> Generator[str]:
        self.together.wait(30)
        for each in wanted:
            yield self.fetch(each.key, each.target, size=each.size)


@pytest.fixture(autouse=True)
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every blob is long enough to be gone on with."""
    monkeypatch.setattr(fetching, "SHORT", 0)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    disk = Disk(tmp_path / "state")
    disk.prepare()
    return disk


def filled(store: MemoryStore, *datas: bytes) -> tuple[Source, dict[str, int]]:
    wanted = {hashlib.sha256(data).hexdigest(): len(data) for data in datas}
    for sha256, data in zip(wanted, datas, strict=True):
        store.put(blob_key(sha256, PUSH), data)
    return Source(store, {s: Blob(push=PUSH, size=size) for s, size in wanted.items()}), wanted


def test_a_fetch_that_was_cut_goes_on_after_a_restart(disk: Disk) -> None:
    store = Resuming()
    source, wanted = filled(store, os.urandom(1000))
    store.cut = 600
    with pytest.raises(StoreError):
        bring_blobs(source, disk, wanted)
    again = Disk(disk.root)
    again.prepare()
    store.cut = None
    bring_blobs(source, again, wanted)
    assert store.served == 1000
    (sha256,) = wanted
    assert hashlib.sha256(again.blob(sha256).read_bytes()).hexdigest() == sha256
    assert not list((disk.root / "partial").iterdir())
    assert not list((disk.root / "staging").iterdir())


def test_what_came_in_part_and_was_altered_is_fetched_anew(disk: Disk) -> None:
    """As a power cut leaves it: nothing is wrong with the store."""
    store = Resuming()
    source, wanted = filled(store, os.urandom(1000))
    (sha256,) = wanted
    (disk.root / "partial" / sha256).write_bytes(b"something else")
    bring_blobs(source, disk, wanted)
    assert disk.has_blob(sha256, 1000)
    assert hashlib.sha256(disk.blob(sha256).read_bytes()).hexdigest() == sha256


def test_what_came_in_part_goes_after_a_day(disk: Disk) -> None:
    for name, age in (("old", disks.STALE + 60), ("young", 60)):
        path = disk.root / "partial" / name
        path.write_bytes(b"x")
        then = path.stat().st_mtime - age
        os.utime(path, (then, then))
    disk.prepare()
    assert [path.name for path in (disk.root / "partial").iterdir()] == ["young"]


def test_a_full_disk_keeps_nothing_that_fills_it(disk: Disk) -> None:
    source, wanted = filled(MemoryStore(), os.urandom(1000))
    with (
        faults.striking(disk.root / "partial", at=3, action="ENOSPC") as struck,
        pytest.raises(DiskError) as caught,
    ):
        bring_blobs(source, disk, wanted)
    assert struck.step and caught.value.hint
    assert not list((disk.root / "partial").iterdir())


def test_several_come_at_a_time_and_all_of_them(disk: Disk) -> None:
    store = Resuming()
    together = threading.Barrier(BLOBS)

    def meet() -> None:
        together.wait(60)

    store.before = meet
    source, wanted = filled(store, *(os.urandom(100) for _ in range(3 * BLOBS)))
    bring_blobs(source, disk, wanted)
    assert store.most == BLOBS
    assert all(disk.has_blob(sha256, size) for sha256, size in wanted.items())
    store.before = lambda: pytest.fail("fetched again")
    bring_blobs(source, disk, wanted)


def test_two_actions_that_want_the_same_blob_do_not_wait_for_each_other(disk: Disk) -> None:
    store = Resuming()
    source, wanted = filled(store, os.urandom(1000))
    inside: list[bool] = []

    def meanwhile() -> None:
        if not inside:
            inside.append(True)
            bring_blobs(source, disk, wanted)

    store.before = meanwhile
    bring_blobs(source, disk, wanted)
    (sha256,) = wanted
    assert hashlib.sha256(disk.blob(sha256).read_bytes()).hexdigest() == sha256
    assert store.served == 2000
    assert not list((disk.root / "partial").iterdir())


def test_the_first_that_fails_ends_it(disk: Disk) -> None:
    store = Resuming()
    source, wanted = filled(store, *(os.urandom(100) for _ in range(40)))
    store.cut = 10
    with pytest.raises(StoreError, match="the connection broke"):
        bring_blobs(source, disk, wanted)
    assert store.served < 10 * 40


@pytest.mark.parametrize("short", [0, 1 << 20])
def test_when_it_returns_every_blob_stays_where_it_is(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    """The folder of each is flushed after the last blob has come into it."""
    monkeypatch.setattr(fetching, "SHORT", short)
    source, wanted = filled(MemoryStore(), *(os.urandom(10) for _ in range(20)))
    done: list[Path] = []
    place, sync = Disk.put_blob, disks._sync
    monkeypatch.setattr(
        Disk, "put_blob", lambda self, at, sha256: (place(self, at, sha256), done.append(self.blob(sha256)))
    )
    monkeypatch.setattr(disks, "_sync", lambda path: (sync(path), done.append(path)))
    bring_blobs(source, disk, wanted)
    for sha256 in wanted:
        blob = disk.blob(sha256)
        assert blob.parent in done[done.index(blob) :]


def test_of_a_short_blob_that_was_cut_nothing_is_left(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SHORT", 1 << 20)
    store = Resuming()
    source, wanted = filled(store, os.urandom(1000))
    store.cut = 600
    with pytest.raises(StoreError):
        bring_blobs(source, disk, wanted)
    assert not [path for name in ("partial", "staging") for path in (disk.root / name).iterdir()]
    store.cut = None
    bring_blobs(source, disk, wanted)
    assert all(disk.has_blob(sha256, size) for sha256, size in wanted.items())


def test_few_threads_go_on_with_short_ones_where_the_store_asks_ahead(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "SHORT", 100)
    store = Ahead()
    store.together = threading.Barrier(SHORTS)  # of more, some would wait in vain
    datas = [os.urandom(1000) for _ in range(BLOBS)] + [os.urandom(10 + n) for n in range(60)]
    source, wanted = filled(store, *datas)
    bring_blobs(source, disk, wanted)
    assert all(disk.has_blob(sha256, size) for sha256, size in wanted.items())


def test_a_short_one_that_fails_ends_it(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SHORT", 100)
    store = Ahead()
    source, wanted = filled(store, *(os.urandom(10 + n) for n in range(60)))
    store.together = threading.Barrier(SHORTS)
    store.cut = 5
    with pytest.raises(StoreError, match="the connection broke"):
        bring_blobs(source, disk, wanted)
    assert not list((disk.root / "staging").iterdir())
