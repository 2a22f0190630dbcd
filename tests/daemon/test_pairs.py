"""Kept pairs on their way to the store, and what is kept at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mldeploy.errors import StoreError
from mldeploy.store.objects import open_store
from mldeploy_daemon.mirror.pairs import FILE_BYTES, LINES, PER_SECOND, SECONDS, Pair, Pairs, raw
from mldeploy_daemon.pairs import Shipper


def pair(within: bool = False, request: bytes = b'{"x": 1}') -> Pair:
    return Pair(1.0, 1, raw(request), raw(b"{}"), 200, raw(b"{}"), within)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(folder: Path, pattern: str = "*/*.jsonl") -> list[dict]:
    paths = sorted((folder / "pairs").glob(pattern))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_a_few_of_each_second_and_never_more_than_asked_for(here):
    pairs = Pairs("s", 1_000)
    for turn in range(100):
        pairs.keep(pair(within=turn % 2 == 0), 5.0 + turn / 1_000)
    pairs.finish()
    assert [line["within"] for line in lines(here)].count(True) == 1
    assert len(lines(here)) == 1 + PER_SECOND
    less = Pairs("t", 3)
    for turn in range(10):
        less.keep(pair(), float(turn))
    assert len(lines(here, "t/*.jsonl")) == 3
    again = Pairs("t", 3)  # the mirror was restarted
    again.keep(pair(), 1.0)
    assert len(lines(here, "t/*.jsonl")) == 3


def test_files_are_finished_by_lines_and_by_time(here):
    pairs = Pairs("s", 10_000)
    for turn in range(LINES + 5):
        pairs.keep(pair(), float(turn))
    assert len(lines(here)) == LINES
    pairs.tick(LINES + 1.0)
    assert len(lines(here)) == LINES
    pairs.tick(LINES + SECONDS + 2)
    assert len(lines(here)) == LINES + 5


def test_pairs_of_a_killed_mirror_count_and_a_torn_line_is_none(here):
    pairs = Pairs("s", 3)
    for turn in range(2):
        pairs.keep(pair(), float(turn))
    assert pairs._file is not None
    pairs._file.close()  # as the kernel does; and then a line that was cut
    (part,) = (here / "pairs" / "s").glob("*.part")
    with part.open("ab") as file:
        file.write(b'{"time":2.0,"ver')
    again = Pairs("s", 3)
    for turn in range(5):
        again.keep(pair(), float(turn))
    again.finish()
    assert len(lines(here)) == 3
    assert Pairs("s", 3)._begin() == 3


def test_a_file_of_long_pairs_is_finished_before_it_is_huge(here):
    pairs = Pairs("s", 10_000)
    long = pair(request=b'{"x": "%b"}' % (b"1" * (FILE_BYTES // 4)))
    for turn in range(9):
        pairs.keep(long, float(turn))
    pairs.finish()
    sizes = [path.stat().st_size for path in (here / "pairs" / "s").glob("*.jsonl")]
    assert len(sizes) == 3
    assert max(sizes) < 1.3 * FILE_BYTES


def test_an_id_that_is_a_path_names_no_folder(here):
    for ident in ("../../out", "/tmp/out", "..", "a/b", ""):
        pairs = Pairs(ident, 3)
        pairs.keep(pair(), 1.0)
        pairs.finish()
    assert list(here.iterdir()) == []


def test_what_a_killed_mirror_left_is_shipped(here):
    pairs = Pairs("s", 10)
    pairs.keep(pair(), 1.0)
    assert not lines(here)
    assert pairs._file is not None
    pairs._file.close()  # as the kernel does
    again = Pairs("s", 10)
    again.keep(pair(), 1.0)
    again.finish()
    assert len(lines(here)) == 2
    assert len(list((here / "pairs/s").glob("*.jsonl"))) == 2


def test_bodies_that_are_no_json_are_text(here):
    pairs = Pairs("s", 1)
    pairs.keep(pair(request=b"\xff{"), 1.0)
    assert lines(here)[0]["request"] == "\ufffd{"


def test_a_body_over_several_lines_is_one_line_of_the_file(here):
    body = b'{\r\n  "x": [1.0, 2e5,\n 0.10000000000000000555],\n  "city": "a\\nb \xc3\xa9"\n}\n'
    pairs = Pairs("s", 2)
    pairs.keep(pair(request=body), 1.0)
    assert pairs._file is not None
    pairs._file.close()  # as the kernel does
    again = Pairs("s", 2)
    assert again._begin() == 1
    (line,) = lines(here)
    assert line["request"] == {"x": [1.0, 2e5, 0.1], "city": "a\nb é"}
    assert "[1.0,2e5,0.10000000000000000555]" in next((here / "pairs/s").glob("*.jsonl")).read_text()


def test_json_with_bytes_that_are_no_text_is_text(here):
    pairs = Pairs("s", 1)
    pairs.keep(pair(request=b'["\xff"]'), 1.0)
    assert lines(here)[0]["request"] == '["\ufffd"]'


class Unreachable:
    def create(self, key: str, data: bytes) -> bool:
        raise StoreError("out of reach")


def test_files_go_to_the_store_once_it_is_there(here):
    pairs = Pairs("s", 2)
    for _ in range(2):
        pairs.keep(pair(), 1.0)
    store = open_store(str(here / "store"), create=True)
    shipper = Shipper("production", "h1", lambda: store)
    shipper.ship(Unreachable())  # type: ignore[arg-type]
    assert len(lines(here)) == 2
    shipper.ship(store)
    assert not lines(here)
    (entry,) = store.list("pairs/")
    assert entry.key.startswith("pairs/production/s/h1-")
    found = store.get(entry.key)
    assert found is not None
    assert len(found.data.splitlines()) == 2
    shipper.ship(store)
