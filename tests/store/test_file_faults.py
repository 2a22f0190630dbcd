"""The folder driver where it hurts: kill -9 and errors at every step, a full disk, no permission."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mldeploy.errors import DiskError, OutcomeUnknownError
from mldeploy.store.file import FileStore
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


def test_the_order_of_a_write(tmp_path: Path, source: Path) -> None:
    """The file is on the disk before it has its name, and the name before anyone is told."""
    (tmp_path / "store").mkdir()
    write(tmp_path / "store", source, faults.armed(tmp_path / "counted", under=[tmp_path / "store"], at=0))
    root = str((tmp_path / "store").resolve())
    steps = [step.split()[1:] for step in faults.steps(tmp_path / "counted")]
    named = [index for index, (event, _) in enumerate(steps) if event in ("os.link", "os.rename")]
    assert len(named) == 3
    for index in named:
        folder = str(Path(steps[index][1]).parent)
        # nothing between the last byte and fsync, and between fsync and the name
        assert steps[index - 1][0] == "os.fsync"
        assert steps[index - 1][1].startswith(f"{root}/.tmp/")
        assert steps[index - 2][0] == "os.write"
        after = [step for step in steps[index + 1 :] if step[0] != "os.remove"]
        assert after[0] == ["os.fsync", folder]
        # and the folder's own name is on the disk: fsync of the folder above, after it was made
        made = steps.index(["os.mkdir", folder])
        assert ["os.fsync", str(Path(folder).parent)] in steps[made:index]


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT, errno.ESTALE])
def test_a_link_that_was_made_though_the_answer_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As NFS answers whose server was away: the log then reads what is there, and writes nothing twice."""
    link = os.link

    def made(source: Path, target: Path) -> None:
        link(source, target)
        raise OSError(number, os.strerror(number))

    store = FileStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", made)
        with pytest.raises(OutcomeUnknownError):
            store.create("log/1.json", b"record")
    found = store.get("log/1.json")
    assert found is not None and found.data == b"record"
    assert store.create("log/1.json", b"another") is False


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
            elif isinstance(error, OutcomeUnknownError):
                # visible, and not certain to survive; or, of a link, not certain to be there
                assert struck.step.startswith(("os.fsync", "os.link"))
                assert there == (set() if struck.step.startswith("os.link") else {name})
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
