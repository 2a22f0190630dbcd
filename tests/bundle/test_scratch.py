"""Scratch folders: gone when they are done with, and when whoever made them was killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mldeploy.bundle.files import MANIFEST, new_folder
from mldeploy.bundle.scratch import PREFIX, held_folder, scratch_folder


@pytest.fixture(autouse=True)
def place(temporary: Path) -> Path:
    return temporary


@contextmanager
def running(code: str, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said a line, and waits; killed at the end."""
    program = f"import sys, time\n{code}\n    print('there', flush=True)\n    time.sleep(600)\n"
    with subprocess.Popen([sys.executable, "-c", program, *argv], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None and child.stdout.readline() == "there\n"
            yield child
        finally:
            child.kill()


MAKE = """
from mldeploy.bundle.scratch import scratch_folder
with scratch_folder() as made:
    (made / "sub").mkdir()
    (made / "sub" / "file").write_text("x" * 1000)
"""


def test_it_is_there_and_then_it_is_gone(place: Path) -> None:
    def fail() -> None:
        with scratch_folder() as made:
            (made / "file").write_text("x")
            assert made.parent == place and made.stat().st_mode & 0o777 == 0o700
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(place.iterdir()) == []
    with scratch_folder(place / ".."), scratch_folder(place / "..") as other:
        assert other.parent == place / ".."


def test_what_the_dead_left_is_removed_and_what_the_living_hold_is_not(place: Path) -> None:
    with running(MAKE) as living, running(MAKE) as dying:
        assert len(list(place.iterdir())) == 2
        dying.send_signal(signal.SIGKILL)
        dying.wait()
        assert len(list(place.iterdir())) == 2
        with scratch_folder() as mine:
            there = set(place.iterdir())
            assert len(there) == 2 and mine in there
            (theirs,) = there - {mine}
            assert (theirs / "sub" / "file").stat().st_size == 1000
        assert living.poll() is None
    with scratch_folder() as mine:
        assert list(place.iterdir()) == [mine]


def test_a_child_that_was_given_it_holds_it(place: Path) -> None:
    parent = (
        "import subprocess, sys, time\n"
        "from mldeploy.bundle.scratch import held_folder\n"
        "with held_folder() as held:\n"
        "    program = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "    child = subprocess.Popen(program, pass_fds=(held.lock,), stdout=subprocess.DEVNULL)\n"
        "    print(child.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        child = int(killed.stdout.readline())
        pidfd = os.pidfd_open(child)
        killed.kill()
        killed.wait()
    try:
        with scratch_folder():
            assert len(list(place.iterdir())) == 2
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], 30)[0]
    os.close(pidfd)
    with scratch_folder() as mine:
        assert list(place.iterdir()) == [mine]


def test_nothing_of_anybody_else_is_touched(place: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    (precious / "file").parent.mkdir()
    (precious / "file").write_text("mine")
    for name in ("mldeploy-notes", f"{PREFIX}notes", f"{PREFIX}{'a' * 17}", "other"):
        (place / name).mkdir()
    (place / f"{PREFIX}{'b' * 16}").symlink_to(precious)
    (place / f"{PREFIX}{'c' * 16}").write_text("a file")
    before = set(place.iterdir())
    with scratch_folder():
        pass
    assert set(place.iterdir()) == before
    assert (precious / "file").read_text() == "mine"


def test_many_at_once_take_nothing_from_each_other(place: Path) -> None:
    def one(number: int) -> bool:
        with held_folder() as held:
            (held.path / "mine").write_text(str(number))
            with scratch_folder() as other:
                return other.is_dir() and (held.path / "mine").read_text() == str(number)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(200)))
    assert list(place.iterdir()) == []


def test_a_pack_that_was_killed_leaves_nothing_beside_its_place_for_long(tmp_path: Path) -> None:
    out = tmp_path / "churn.bundle"
    code = f"""
from pathlib import Path
from mldeploy.bundle.files import new_folder
with new_folder(Path({str(out)!r})) as staging:
    (staging / {MANIFEST!r}).write_text("half")
"""
    with running(code):
        pass
    (left,) = tmp_path.glob(".churn.bundle.*.packing")
    with new_folder(tmp_path / "other.bundle") as staging:
        (staging / MANIFEST).write_text("other")
    assert left.is_dir()
    with running(code) as living:
        assert not left.exists()
        (theirs,) = tmp_path.glob(".churn.bundle.*.packing")
        with new_folder(out) as staging:
            assert staging.stat().st_mode & 0o777 == 0o777 & ~_umask()
            (staging / MANIFEST).write_text("whole")
        assert living.poll() is None and theirs.is_dir()
    assert (out / MANIFEST).read_text() == "whole"


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
