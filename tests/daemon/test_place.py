"""What a keeper finds in its state folder when it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mldeploy_daemon.place import Place


@pytest.fixture
def take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """What every start does."""
    monkeypatch.chdir(tmp_path)  # it goes there, and comes back with the test
    place = Place(tmp_path / "state")
    yield place.take
    place.release()


def test_the_table_of_the_run_before_is_set_aside(tmp_path: Path, take: Callable[[], None]) -> None:
    run = tmp_path / "state/run"
    run.mkdir(parents=True)
    (run / "routes.json").write_text('{"generation": 7}')
    (run / "routes.last.json").write_text('{"generation": 3}')
    take()
    assert (run / "routes.last.json").read_text() == '{"generation": 7}'
    assert not (run / "routes.json").exists()


@pytest.mark.parametrize("left", [b"", bytes(64), b'{"generation": 7, "mod', b"\xff"])
def test_a_table_that_a_power_cut_broke_does_not_replace_the_last_good_one(
    tmp_path: Path, take: Callable[[], None], left: bytes
) -> None:
    run = tmp_path / "state/run"
    run.mkdir(parents=True)
    (run / "routes.json").write_bytes(left)
    (run / "routes.last.json").write_text('{"generation": 3}')
    take()
    assert (run / "routes.last.json").read_text() == '{"generation": 3}'
    assert not (run / "routes.json").exists()
