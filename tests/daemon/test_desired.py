"""The log's state on a host's disk: whole after a kill or an error at any step, and cheap to keep."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from mldeploy.core import checkpoint
from mldeploy.core.fold import Folding, fold_many
from mldeploy.core.state import State
from mldeploy.errors import DiskError
from mldeploy_daemon import desired
from mldeploy_daemon.desired import CHECKPOINT, Kept
from mldeploy_daemon.disk import Disk
from tests.faults import armed, fired, steps, striking
from tests.support.big_log import long_log

ROOT = Path(__file__).parents[2]
COUNT = 60
RECORDS = list(long_log(COUNT, 3))
STATES = [fold_many(State(), RECORDS[:count]) for count in range(COUNT + 1)]


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    made = Disk(tmp_path / "state")
    made.prepare()
    return made


def go_on(kept: Kept, start: State, upto: int, aloud: bool = False) -> None:
    """Take one record after another, as the follower does, saving each."""
    state = start
    for seq, data in RECORDS[start.head : upto]:
        folding = Folding(state)
        folding.take(seq, data)
        kept.took(seq, data)
        state = folding.state()
        kept.save(state)
        if aloud:
            print(seq, flush=True)


def files(disk: Disk) -> list[str]:
    return disk.names("desired.*")


def test_what_is_saved_is_loaded(disk: Disk) -> None:
    assert Kept(disk).load() is None
    go_on(Kept(disk), State(), 20)
    again = Kept(disk)
    assert again.load() == STATES[20]
    assert again.exact
    go_on(again, STATES[20], 40)
    assert Kept(disk).load() == STATES[40]
    assert files(disk) == ["desired.1.tail", CHECKPOINT]
    before = (disk.root / CHECKPOINT).stat().st_ino
    again.save(STATES[40])  # nothing new is nothing written
    assert (disk.root / CHECKPOINT).stat().st_ino == before


def test_a_record_costs_its_own_bytes_and_the_tail_ends(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desired, "SMALL", 10_000)
    kept = Kept(disk)
    written = []
    tail = 0
    state = State()
    for count, (seq, data) in enumerate(RECORDS, 1):
        kept.took(seq, data)
        before = (disk.root / CHECKPOINT).stat().st_ino if tail else 0
        state = STATES[count]
        kept.save(state)
        size = sum((disk.root / name).stat().st_size for name in files(disk) if name != CHECKPOINT)
        if size > tail and before == (disk.root / CHECKPOINT).stat().st_ino:
            assert size - tail == len(data) + 36
        else:
            written.append(seq)
        tail = size
        assert len(files(disk)) <= 2
        assert Kept(disk).load() == state
    assert 1 < len(written) < COUNT / 3


def test_many_records_at_once_or_a_leap_are_written_whole(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(disk)
    go_on(kept, State(), 5)
    for seq, data in RECORDS[5:20]:
        kept.took(seq, data)
    kept.save(STATES[20])
    assert Kept(disk).load() == STATES[20]
    # the reader went on from a checkpoint: what lies between was never taken
    for seq, data in RECORDS[50:]:
        kept.took(seq, data)
    kept.save(STATES[60])
    assert Kept(disk).load() == STATES[60]
    assert files(disk) == [CHECKPOINT]
    monkeypatch.setattr(desired, "SMALL", 100)  # nor does it gather what it will not add
    small = Kept(disk)
    small._room = 100
    small.took(61, bytes(200))
    assert small._new == []


@pytest.mark.parametrize("cut", [1, 3, 35, 36, 37, 100])
def test_a_torn_tail_is_read_as_far_as_it_is_whole(disk: Disk, cut: int) -> None:
    go_on(Kept(disk), State(), 20)
    path = disk.root / "desired.1.tail"
    whole = path.read_bytes()
    last = len(RECORDS[19][1]) + 36
    path.write_bytes(whole[:-cut])
    again = Kept(disk)
    state = again.load()
    assert state == STATES[19 if cut <= last else 18]
    go_on(again, state, 30)  # not after the torn end, where nobody would find it
    assert Kept(disk).load() == STATES[30]
    assert files(disk) == ["desired.20.tail", CHECKPOINT]


def test_garbage_is_not_believed(disk: Disk) -> None:
    go_on(Kept(disk), State(), 20)
    path = disk.root / "desired.1.tail"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    state = Kept(disk).load()
    assert state is not None
    assert state == STATES[state.head]
    assert 1 < state.head < 19
    (disk.root / "desired.1.tail").write_bytes(b"\xff" * 50)
    assert Kept(disk).load() == STATES[1]
    for data in (b"", b"{", (disk.root / CHECKPOINT).read_bytes()[:-1]):
        (disk.root / CHECKPOINT).write_bytes(data)
        assert Kept(disk).load() is None


def test_after_an_upgrade_the_old_state_serves_and_is_not_gone_on_from(disk: Disk) -> None:
    kept = Kept(disk)
    kept.save(STATES[40])
    data = (disk.root / CHECKPOINT).read_bytes()
    other = data.replace(checkpoint.fold_format().encode(), b"0" * 16, 1)
    (disk.root / CHECKPOINT).write_bytes(other)
    again = Kept(disk)
    assert again.load() == STATES[40]
    assert not again.exact
    for seq, record in RECORDS[:45]:  # the log is read from its beginning
        again.took(seq, record)
    again.save(STATES[45])
    last = Kept(disk)
    assert (last.load(), last.exact) == (STATES[45], True)
    # fields that this code does not have, or has and the other did not
    bare = msgspec.json.decode(msgspec.json.encode(checkpoint.header(data)))
    assert set(bare) == {"checkpoint", "fold", "head", "head_sha256", "size"}


@pytest.mark.parametrize("action", ["ENOSPC", "EIO"])
def test_an_error_at_any_step_loses_nothing(
    tmp_path: Path, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desired, "SMALL", 4_000)
    number = hits = 0
    while True:
        number += 1
        disk = Disk(tmp_path / str(number))
        disk.prepare()
        kept = Kept(disk)
        failed = 0
        with striking(disk.root, at=number, action=action) as struck:
            for count, (seq, data) in enumerate(RECORDS[:16], 1):
                kept.took(seq, data)
                try:
                    kept.save(STATES[count])
                except DiskError:
                    failed += 1
                    state = Kept(disk).load()
                    assert (state.head if state else 0) in (count - 1, count)
                    assert state is None or state == STATES[state.head]
        assert failed <= 1
        kept.save(STATES[16])  # the next look saves what could not be saved
        assert Kept(disk).load() == STATES[16]
        if not struck.step:
            break
        hits += failed
    assert number > 40
    assert hits > number * 0.5  # what is removed at last may fail unseen


SCRIPT = """
import sys
from pathlib import Path
from tests.daemon import test_desired as t
from mldeploy.core.state import State
from mldeploy_daemon import desired
from mldeploy_daemon.disk import Disk
desired.SMALL = 4_000
disk = Disk(Path(sys.argv[1]))
disk.prepare()
kept = desired.Kept(disk)
t.go_on(kept, kept.load() or State(), 16, aloud=True)
"""


def run(state: Path, scratch: Path, at: int) -> tuple[int, int]:
    """Its exit code, and the last record it said was safe."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(state)], env=armed(scratch, under=[state], at=at),
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    said = done.stdout.split()
    return done.returncode, int(said[-1]) if said else 0


def every_step(tmp_path: Path, stride: int) -> None:
    run(tmp_path / "whole", tmp_path / "counted", 0)
    count = len(steps(tmp_path / "counted"))
    assert count > 50
    for number in range(1, count + 1, stride):
        state, scratch = tmp_path / f"state-{number}", tmp_path / f"scratch-{number}"
        code, safe = run(state, scratch, number)
        assert (code, fired(scratch)) == (-signal.SIGKILL, True)
        left = Kept(Disk(state)).load()
        assert (left.head if left else 0) in (safe, safe + 1)
        assert left is None or left == STATES[left.head]
        assert run(state, scratch, number)[0] == 0
        assert Kept(Disk(state)).load() == STATES[16]


def test_killed_at_some_steps(tmp_path: Path) -> None:
    every_step(tmp_path, 29)


@pytest.mark.full
def test_killed_at_every_step(tmp_path: Path) -> None:
    every_step(tmp_path, 1)
