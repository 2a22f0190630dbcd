"""The folder driver where it hurts: kill -9 at every step, a full disk, no permission, lost folders."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mldeploy.errors import DiskError, MldeployError, OutcomeUnknownError, StoreError, UsageError
from mldeploy.store.file import STALE, FileStore, disk_error, folder_of
from mldeploy.store.objects import MARKER, open_store
from tests import faults

# What a writer does: each verb once, on keys in folders that are not there yet.
WRITES = """
import sys
from pathlib import Path
from mldeploy.store.file import FileStore
store, source = FileStore(Path(sys.argv[1])), Path(sys.argv[2])
print(store.create("log/1.json", b"created" * 100), flush=True)
store.put("hosts/production/h.json", b"replaced" * 100)
store.upload("blobs/sha256/ab/abc.push", source)
print("done", flush=True)
"""
WHOLE = {
    "log/1.json": b"created" * 100,
    "hosts/production/h.json": b"replaced" * 100,
    "blobs/sha256/ab/abc.push": b"blob" * 400_000,
}


def write(store: Path, source: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WRITES, str(store), str(source)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(WHOLE["blobs/sha256/ab/abc.push"])
    return path


def test_killed_at_every_step_that_writes(tmp_path: Path, source: Path) -> None:
    counted = tmp_path / "counted"
    (tmp_path / "store").mkdir()
    dry = write(tmp_path / "store", source, faults.armed(counted, under=[tmp_path / "store"], at=0))
    assert dry.stdout == "True\ndone\n"
    steps = faults.steps(counted)
    kinds = {step.split()[1] for step in steps}
    assert {"open", "os.write", "os.fsync", "os.link", "os.rename", "os.mkdir", "os.remove"} <= kinds
    for number in range(1, len(steps) + 1):
        root = tmp_path / f"store-{number}"
        root.mkdir()
        (root / "hosts" / "production").mkdir(parents=True)
        (root / "hosts" / "production" / "h.json").write_bytes(b"before")
        struck = tmp_path / f"struck-{number}"
        killed = write(root, source, faults.armed(struck, under=[root], at=number))
        if not faults.fired(struck):  # two folders were there already, so there are fewer steps
            assert killed.stdout == "True\ndone\n"
            continue
        assert killed.returncode == -9, steps[number - 1]
        check_after_kill(root, source, acknowledged="True" in killed.stdout)


def check_after_kill(root: Path, source: Path, *, acknowledged: bool) -> None:
    store = FileStore(root)
    keys = [entry.key for entry in store.list("")]
    assert set(keys) <= set(WHOLE)
    for key in keys:
        found = store.get(key)
        assert found is not None
        assert found.data == WHOLE[key] or (key.startswith("hosts/") and found.data == b"before"), key
    assert "log/1.json" in keys or not acknowledged
    # the next one finishes it, and sweeps what the dead left once it is old
    for leftover in (root / ".tmp").glob("*"):
        os.utime(leftover, (0, 0))
    store.create("log/1.json", WHOLE["log/1.json"])
    store.put("hosts/production/h.json", WHOLE["hosts/production/h.json"])
    store.upload("blobs/sha256/ab/abc.push", source)
    for key, data in WHOLE.items():
        found = store.get(key)
        assert found is not None
        assert found.data == data
    assert list((root / ".tmp").iterdir()) == []


@pytest.mark.parametrize("action", ["ENOSPC", "EIO", "EROFS", "EACCES"])
def test_an_error_at_every_step_is_told_and_leaves_nothing_half_done(
    tmp_path: Path, source: Path, action: str
) -> None:
    """Each step of each verb fails once, and the verb is then tried again."""
    verbs: dict[str, Callable[[FileStore], object]] = {
        "1.json": lambda store: store.create("log/1.json", b"created" * 100),
        "h.json": lambda store: store.put("hosts/h.json", b"created" * 100),
        "ab": lambda store: store.upload("blobs/ab", source),
    }
    outcomes = set()
    for name, call in verbs.items():
        for number in itertools.count(1):
            root = tmp_path / f"{name}-{number}"
            root.mkdir()
            error = None
            with faults.striking(root, at=number, action=action) as struck:
                try:
                    call(FileStore(root))
                except (DiskError, OutcomeUnknownError) as caught:
                    error = caught
            there = {path.name for path in root.glob("[!.]*/**/*") if path.is_file()}
            outcomes.add((name, type(error).__name__))
            if error is None:  # nothing struck, or only a temporary file could not be removed
                assert struck.step.split()[:1] in ([], ["os.remove"]), struck.step
                assert there == {name}
            elif isinstance(error, OutcomeUnknownError):  # visible, and not certain to survive
                assert struck.step.startswith("os.fsync")
                assert there == {name}
            else:
                assert there == set(), struck.step
            if error is not None:
                assert str(root) in error.message
                assert error.hint
            if not struck.step:
                break
            call(FileStore(root))
            assert {path.name for path in root.glob("[!.]*/**/*") if path.is_file()} == {name}
    for name in verbs:
        assert {(name, "FolderError"), (name, "OutcomeUnknownError"), (name, "NoneType")} <= outcomes


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 128 KiB, where this user may mount one; else an ordinary folder."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


FILL = """
import resource, signal, sys
from pathlib import Path
from mldeploy.errors import DiskError, StoreError
from mldeploy.store.file import FileStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # where the disk itself is not tiny
root, big = Path(sys.argv[1]), Path(sys.argv[2])
store = FileStore(root)
assert store.create("log/1.json", b"x" * 1000)
store.put("hosts/h.json", b"before")
for call in (
    lambda: store.create("log/2.json", b"x" * 500_000),
    lambda: store.put("hosts/h.json", b"x" * 500_000),
    lambda: store.upload("blobs/a", big),
    lambda: store.download("big", root / "target"),
):
    try:
        call()
    except DiskError as error:
        assert "no space" in error.message and "free some space" in error.hint, error
        assert str(root) in error.message
        if "target" not in error.message:
            assert isinstance(error, StoreError)
    else:
        raise SystemExit("it fitted")
    (root / "target").unlink(missing_ok=True)
assert store.get("hosts/h.json").data == b"before"
assert store.get("log/2.json") is None and store.get("blobs/a") is None
assert [e.key for e in store.list("") if e.key != "big"] == ["hosts/h.json", "log/1.json"]
assert list((root / ".tmp").iterdir()) == []
assert store.create("log/2.json", b"x" * 1000)
print("held")
"""


def test_a_full_disk_loses_nothing(tiny: Path, source: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "big"
    elsewhere.write_bytes(b"x" * 500_000)
    (tiny / "big").symlink_to(elsewhere)  # to be downloaded onto the full disk
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(tiny), str(source)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("held\n", "")


FORBIDDEN = """
import os, sys
from pathlib import Path
from mldeploy.errors import DiskError, StoreError
from mldeploy.store import file, folder_watch, streams
root = Path(sys.argv[1])
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)  # root may write anywhere
store = file.FileStore(root)
for call in (
    lambda: store.create("log/1.json", b""),
    lambda: store.put("hosts/h.json", b""),
    lambda: store.upload("blobs/a", Path(sys.argv[2])),
    lambda: store.download("readable", root / "target"),
    lambda: store.delete("readable"),
    lambda: file.FileStore(root / "new" / "store").make_root(),
    lambda: store.get("secret"),
):
    try:
        call()
    except DiskError as error:
        assert "not allowed" in error.message and str(root) in error.message, error
        assert "right" in error.hint
    else:
        raise SystemExit("it was allowed")
assert store.get("readable").data == b"x"
print("held")
"""


def test_a_folder_that_may_not_be_written(source: Path) -> None:
    # not below pytest's own folder, which only this user may enter
    root = Path(tempfile.mkdtemp())
    try:
        (root / "readable").write_bytes(b"x")
        (root / "secret").write_bytes(b"x")
        (root / "secret").chmod(0)
        (root / "source").write_bytes(b"x")
        root.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", FORBIDDEN, str(root), str(root / "source")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("held\n", "")
    finally:
        root.chmod(0o755)
        shutil.rmtree(root)


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
    assert threading.active_count() == 1 or not any("notify" in t.name.lower() for t in threading.enumerate())


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
