"""The folder driver: folders that vanish, what the dead leave behind, large files, URLs, watching."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mldeploy.errors import DiskError, MldeployError, OutcomeUnknownError, StoreError, UsageError
from mldeploy.store.file import STALE, FileStore, disk_error, folder_of
from mldeploy.store.objects import MARKER, open_store


def test_below_a_file_there_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="no folder") as caught:
        open_store(str(tmp_path / "file" / "store"), create=True)
    assert isinstance(caught.value, StoreError)
    with pytest.raises(DiskError):
        open_store(str(tmp_path / "file"), create=True)


def test_a_store_that_is_no_longer_mounted_is_an_error_and_not_empty(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), create=True)
    assert store.get("log/1.json") is None
    (tmp_path / "store" / MARKER).unlink()  # as when only the mount point is left
    (tmp_path / "file").touch()
    for call in (
        lambda: store.get("log/1.json"),
        lambda: store.create("log/1.json", b""),
        lambda: store.put("hosts/h.json", b""),
        lambda: list(store.list("log/")),
        lambda: store.upload("blobs/a", tmp_path / "file"),
        lambda: store.download("blobs/a", tmp_path / "target"),
    ):
        with pytest.raises(StoreError, match="no longer a store"):
            call()
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is not there"):
        store.get("log/1.json")


def test_a_folder_removed_under_the_writer_is_made_again(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put("hosts/production/h.json", b"1")
    (tmp_path / "hosts/production/h.json").unlink()
    (tmp_path / "hosts/production").rmdir()
    with pytest.raises(MldeployError):
        store.put("hosts/production/h.json", b"2")
    store.put("hosts/production/h.json", b"3")
    assert store.get("hosts/production/h.json").data == b"3"  # type: ignore[union-attr]


def test_temporary_files_of_the_dead_are_swept_and_of_the_living_are_not(tmp_path: Path) -> None:
    (tmp_path / ".tmp").mkdir()
    for name, age in (("dead", STALE + 60), ("living", STALE - 60)):
        (tmp_path / ".tmp" / name).write_bytes(b"half")
        then = time.time() - age
        os.utime(tmp_path / ".tmp" / name, (then, then))
    store = FileStore(tmp_path)
    assert list(store.list("")) == []
    store.put("a", b"")
    assert [path.name for path in (tmp_path / ".tmp").iterdir()] == ["living"]
    assert [entry.key for entry in store.list("")] == ["a"]


def test_a_large_file_streams_in_bounded_memory(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(100 << 20)
    code = """
import resource, sys
from pathlib import Path
from mldeploy.store.file import FileStore
store = FileStore(Path(sys.argv[1]))
store.put("warm", b"")
used = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmData" in line)
limit = int(used.split()[1]) * 1024 + (16 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
store.upload("blobs/a", Path(sys.argv[2]))
store.download("blobs/a", Path(sys.argv[1]) / "target")
"""
    (tmp_path / "store").mkdir()
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "store"), str(source)], check=True)
    assert (tmp_path / "store" / "target").stat().st_size == 100 << 20


def test_what_the_system_says_becomes_an_error_with_a_cure() -> None:
    said = {
        "no space": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "not allowed": (errno.EROFS, errno.EACCES, errno.EPERM),
        "cannot use": (errno.EIO,),
        "no folder": (errno.ENOTDIR,),
    }
    for word, number in [(word, number) for word, numbers in said.items() for number in numbers]:
        error = disk_error(OSError(number, os.strerror(number)), Path("/somewhere/file"))
        assert word in error.message
        assert "/somewhere" in error.message
        assert error.hint
        assert isinstance(error, DiskError)
        assert isinstance(error, StoreError)
    assert not issubclass(OutcomeUnknownError, StoreError)


def test_urls_name_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder_of("file:///a/b%20c") == Path("/a/b c")
    assert folder_of("file://localhost/a") == Path("/a")
    assert folder_of("/a/b") == Path("/a/b")
    monkeypatch.chdir(tmp_path)
    assert folder_of("store") == tmp_path / "store"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_of("~/store") == tmp_path / "store"
    assert folder_of(FileStore(tmp_path / "a b#c?").url) == tmp_path / "a b#c?"
    for url in ("file://otherhost/a", "file://", ""):
        with pytest.raises(UsageError):
            folder_of(url)


# --- watching


def wait_for(event: threading.Event) -> None:
    assert event.wait(10)
    event.clear()


def test_a_watch_waits_for_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    woken = threading.Event()
    before = threading.active_count()
    stop = store.watch("hosts/production/", woken.set)
    assert stop is not None
    store.put("hosts/production/a.json", b"1")
    wait_for(woken)
    # from now on it is the folder itself that is watched; it may have been noticed more than once
    for number in range(20):
        woken.clear()
        store.put("hosts/production/a.json", str(number).encode())
        wait_for(woken)
    stop()
    assert threading.active_count() <= before


def test_reading_wakes_nobody(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.create("log/1.json", b"1")
    count: list[int] = []
    woken = threading.Event()

    def wake() -> None:
        count.append(1)
        woken.set()

    stop = store.watch("log/", wake)
    assert stop is not None
    for _ in range(50):
        store.get("log/1.json")
        list(store.list("log/"))
        store.create("log/1.json", b"2")
        store.put("hosts/h.json", b"2")
    store.create("log/2.json", b"2")
    wait_for(woken)  # events come in order: all before it have been seen
    assert sum(count) <= 2
    stop()


def test_a_watch_of_no_folder_is_none(tmp_path: Path) -> None:
    assert FileStore(tmp_path / "none").watch("log/", lambda: None) is None
