"""How busy a machine is, from what its kernel says."""

from __future__ import annotations

from pathlib import Path

from mldeploy_daemon.mirror.pressure import Pressure


def psi(path: Path, waited: float) -> None:
    path.write_text(
        f"some avg10=1.00 avg60=1.00 avg300=1.00 total={int(waited * 1e6)}\nfull avg10=0.00 total=0\n"
    )


def test_by_the_time_that_was_waited(tmp_path):
    path = tmp_path / "cpu"
    pressure = Pressure(path, tmp_path / "none")
    psi(path, 10.0)
    assert pressure.since_last(100.0) == 0.0
    psi(path, 10.5)
    assert pressure.since_last(102.0) == 0.25
    assert pressure.since_last(103.0) == 0.0
    psi(path, 20.0)
    assert pressure.since_last(104.0) == 1.0
    psi(path, 1.0)  # another kernel's
    assert pressure.since_last(105.0) == 0.0
    assert pressure.since_last(105.0) == 0.0


def stat(path: Path, user: int, nice: int, idle: int) -> None:
    path.write_text(f"cpu  {user} {nice} 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3\n")


def test_without_it_by_what_is_not_niced(tmp_path):
    path = tmp_path / "stat"
    pressure = Pressure(tmp_path / "none", path)
    stat(path, 100, 100, 100)
    assert pressure.since_last(1.0) == 0.0
    stat(path, 195, 100, 105)  # 95 % busy
    assert abs(pressure.since_last(2.0) - 0.5) < 1e-9
    stat(path, 205, 190, 105)  # 10 % busy, and shadows
    assert pressure.since_last(3.0) == 0.0
    path.write_text("nonsense")
    assert pressure.since_last(4.0) == 0.0


def test_this_kernel_says_something():
    pressure = Pressure()
    assert pressure.since_last(1.0) == 0.0
    assert 0.0 <= pressure.since_last(2.0) <= 1.0
