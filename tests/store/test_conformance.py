"""What every driver promises, held by one suite."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from mldeploy.errors import DiskError, NotFoundError, StoreError
from mldeploy.store.file import FileStore
from mldeploy.store.fsspec_store import FsspecStore
from mldeploy.store.ids import new_ulid
from mldeploy.store.memory import MemoryStore
from mldeploy.store.objects import ObjectStore
from mldeploy.store.probe import probe
from mldeploy.store.s3 import S3Store


@pytest.fixture(params=["file", "memory", "fsspec", "s3", "s3+fsspec"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "file":
        root = tmp_path / "a store"
        root.mkdir()
        yield FileStore(root)
    elif request.param == "memory":
        yield MemoryStore()
    elif request.param == "fsspec":
        # fsspec's file system in memory: the same code as for buckets, without a network
        remote = FsspecStore.open(f"memory+fsspec://{new_ulid()}/prefix")
        yield remote
        remote._fs.store.clear()
    else:
        url = f"{request.param}://{request.getfixturevalue('bucket')}/a prefix/of two"
        yield S3Store.open(url) if request.param == "s3" else FsspecStore.open(url)


def test_get_of_nothing_is_none(store: ObjectStore) -> None:
    assert store.get("log/1.json") is None
    store.create("log/1.json", b"x")
    for key in ("log", "log/1", "log/1.json/2", "lo"):
        assert store.get(key) is None


def test_create_once(store: ObjectStore) -> None:
    assert store.create("log/1.json", b"first") is True
    assert store.create("log/1.json", b"second") is False
    found = store.get("log/1.json")
    assert found is not None
    assert found.data == b"first"


@pytest.mark.parametrize("data", [b"", b"x", b"\0\xff" * 700_000], ids=["empty", "small", "large"])
def test_bytes_come_back_as_they_went(store: ObjectStore, data: bytes) -> None:
    store.create("one", data)
    store.put("two", data)
    for key in ("one", "two"):
        found = store.get(key)
        assert found is not None
        assert found.data == data


def test_put_overwrites(store: ObjectStore) -> None:
    for data in (b"first, and longer", b"second"):
        store.put("hosts/production/h.json", data)
        found = store.get("hosts/production/h.json")
        assert found is not None
        assert found.data == data
    assert store.create("hosts/production/h.json", b"") is False


def test_the_stores_clock(store: ObjectStore) -> None:
    store.put("one", b"1")
    store.put("two", b"2")
    one, two = store.get("one"), store.get("two")
    assert one is not None
    assert two is not None
    assert 1.7e9 < one.modified <= two.modified
    # S3 gives whole seconds with an object and milliseconds in a listing
    assert [int(entry.modified) for entry in store.list("")] == [int(one.modified), int(two.modified)]


def test_list_is_by_prefix_and_in_order_of_keys(store: ObjectStore) -> None:
    keys = ["a-b/1", "a/2", "a/10", "a/b/c", "ab", "a.txt", "b/1", "hosts/production/x.json"]
    for key in keys:
        store.put(key, key.encode())
    assert [entry.key for entry in store.list("")] == sorted(keys)
    for prefix in ("a", "a/", "a/1", "a/b", "a/b/", "hosts/", "hosts/prod", "nothing/", "z"):
        expected = sorted(key for key in keys if key.startswith(prefix))
        assert [entry.key for entry in store.list(prefix)] == expected, prefix
    assert {entry.key: entry.size for entry in store.list("")} == {key: len(key) for key in keys}


def test_delete(store: ObjectStore) -> None:
    store.put("a/1", b"x")
    store.delete("a/1")
    store.delete("a/1")
    store.delete("never/was")
    assert store.get("a/1") is None
    assert list(store.list("")) == []
    assert store.create("a/1", b"again")


def test_upload_and_download(store: ObjectStore, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    data = bytes(range(256)) * 12_345
    source.write_bytes(data)
    up: list[int] = []
    down: list[int] = []
    store.upload("blobs/sha256/ab/abc.push", source, up.append)
    assert store.download("blobs/sha256/ab/abc.push", target, down.append) == hashlib.sha256(data).hexdigest()
    assert target.read_bytes() == data
    assert sum(up) == sum(down) == len(data)
    store.upload("blobs/sha256/ab/abc.push", source)  # again, after a failure, is fine
    assert [entry.size for entry in store.list("blobs/")] == [len(data)]


def test_an_empty_file_goes_up_and_down(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "source").touch()
    store.upload("empty", tmp_path / "source")
    assert store.download("empty", tmp_path / "target") == hashlib.sha256().hexdigest()


def test_download_of_nothing(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        store.download("blobs/none", tmp_path / "target")
    assert "blobs/none" in caught.value.message


def test_a_source_that_is_gone_writes_nothing(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises((DiskError, StoreError)) as caught:
        store.upload("blobs/one", tmp_path / "gone")
    assert "gone" in caught.value.message
    assert store.get("blobs/one") is None
    assert list(store.list("")) == []


def test_a_target_that_exists_is_not_touched(store: ObjectStore, tmp_path: Path) -> None:
    store.put("one", b"new")
    (tmp_path / "target").write_bytes(b"old")
    with pytest.raises(DiskError, match="already there"):
        store.download("one", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"old"


def test_a_key_does_not_leave_the_store(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for key in (
        "", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".tmp/x", "a/.hidden", "a\\b", "a\0b", "a\nb",
    ):  # fmt: skip
        for call in (
            partial(store.get, key),
            partial(store.create, key, b""),
            partial(store.put, key, b""),
            partial(store.delete, key),
            partial(store.upload, key, tmp_path / "file"),
            partial(store.download, key, tmp_path / "target"),
        ):
            with pytest.raises(ValueError, match="not a key"):
                call()


def test_one_of_many_creates_wins(store: ObjectStore) -> None:
    probe(store, rounds=30)
    assert list(store.list("")) == []


def test_readers_see_a_whole_object_or_none(store: ObjectStore) -> None:
    whole = {bytes([number]) * 200_000 for number in range(3)}
    over = threading.Event()
    seen: list[bytes] = []
    most = 60 if store.url.startswith(("file", "memory")) else 20

    def read() -> None:
        while not over.is_set():
            for key in ("put", "created/0"):
                found = store.get(key)
                if found is not None:
                    seen.append(found.data[:1])
                    assert found.data in whole
            assert {entry.size for entry in store.list("")} <= {200_000}

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            number, end = 0, time.monotonic() + 60
            # on a busy machine the writer may be done before a reader had its turn
            while number < most or (not seen and time.monotonic() < end):
                store.put("put", bytes([number % 3]) * 200_000)
                store.create(f"created/{number}", bytes([number % 3]) * 200_000)
                number += 1
        finally:
            over.set()
        for reader in readers:
            reader.result()
    assert seen


def test_a_watch_wakes_or_is_none(store: ObjectStore) -> None:
    woken = threading.Event()
    stop = store.watch("log/", woken.set)
    if stop is None:
        return
    store.create("log/1.json", b"x")
    assert woken.wait(10)
    stop()


def test_the_url_is_told(store: ObjectStore) -> None:
    assert "://" in store.url
