"""Many processes append to one folder at the same time, and nothing is lost; and the checker that says so."""

from __future__ import annotations

import hashlib
import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mldeploy.core.records import GENESIS, Join, Record, encode
from mldeploy.errors import StoreError
from mldeploy.store.log import Log
from mldeploy.store.objects import open_store
from mldeploy.store.probe import probe
from tests.store.history_checker import Told, problems, read_folder
from tests.store.racing import race
from tests.store.stores import BrokenStore


@pytest.mark.parametrize(("writers", "each"), [(8, 60), pytest.param(16, 200, marks=pytest.mark.full)])
def test_processes_append_and_nothing_is_lost(tmp_path: Path, writers: int, each: int) -> None:
    store = open_store(str(tmp_path / "store"), create=True)
    told = race(str(tmp_path / "store"), tmp_path, writers, each)
    found = read_folder(tmp_path / "store")
    assert problems(found, told) == []
    assert sorted(found) == list(range(1, writers * each + 1))
    log = Log(store)
    assert log.refresh() == writers * each
    assert log.state.voids == 0
    assert set(log.state.hosts) == {f"w{w}-{number}" for w in range(writers) for number in range(each)}
    assert [path.name for path in (tmp_path / "store" / ".tmp").iterdir()] == []


def test_the_checker_finds_a_broken_driver(tmp_path: Path) -> None:
    """Two writers stand between looking and writing at the same moment, and both are told that they won."""
    meet = threading.Barrier(2, timeout=30)
    told = [Told(), Told()]

    def write(number: int) -> None:
        log = Log(BrokenStore(tmp_path, meet.wait))
        appended = log.append(lambda _: [Join(host=f"h{number}")], actor="me", now=datetime.now(UTC))
        assert appended is not None
        told[number].acknowledged.append((appended.id, appended.seq))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kinds = {problem.partition(":")[0] for problem in problems(read_folder(tmp_path), told)}
    assert {"lost", "double"} <= kinds


def test_the_checker_finds_a_broken_driver_among_processes(tmp_path: Path) -> None:
    told = race(str(tmp_path), tmp_path, 8, 50, "broken")
    assert problems(read_folder(tmp_path), told) != []


def test_the_probe_refuses_a_broken_driver(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not fit to be a store"):
        probe(BrokenStore(tmp_path))


# --- the checker against fabricated histories


def fabricated(count: int) -> tuple[dict[int, bytes], list[Told]]:
    found, prev = {}, GENESIS
    told = [Told(), Told()]
    for seq in range(1, count + 1):
        record = Record(
            seq=seq,
            id=f"id{seq}",
            prev=prev,
            time="2026-01-01T00:00:00Z",
            actor="me",
            actions=(Join(host="h"),),
        )
        found[seq] = encode(record)
        prev = hashlib.sha256(found[seq]).hexdigest()
        told[seq % 2].acknowledged.append((f"id{seq}", seq))
    return found, told


def kinds(found: dict[int, bytes], told: list[Told]) -> set[str]:
    return {problem.partition(":")[0] for problem in problems(found, told)}


def test_a_whole_history_is_whole() -> None:
    found, told = fabricated(9)
    assert problems(found, told) == []
    told[0].acknowledged.pop()
    told[0].tried.add("id8")  # its outcome was unknown
    assert problems(found, told) == []
    assert problems({}, []) == []


def test_it_finds_what_was_lost() -> None:
    found, told = fabricated(9)
    del found[9]
    assert kinds(found, told) == {"lost"}
    found, told = fabricated(9)
    found[5] = found[5].replace(b'"id5"', b'"idX"')
    assert kinds(found, told) == {"lost", "chain", "ghost"}


def test_it_finds_a_gap() -> None:
    found, told = fabricated(9)
    del found[5]
    assert kinds(found, told) == {"gap", "lost"}


def test_it_finds_a_broken_chain() -> None:
    found, told = fabricated(9)
    found[4] += b" "
    assert kinds(found, told) == {"chain"}
    found, told = fabricated(2)
    found[1] = found[1].replace(GENESIS.encode(), b"1" * 64)
    assert kinds(found, told) == {"chain"}


def test_it_finds_a_duplicate() -> None:
    found, told = fabricated(9)
    found[10] = (
        found[9]
        .replace(b'"seq":9', b'"seq":10')
        .replace(json.loads(found[9])["prev"].encode(), hashlib.sha256(found[9]).hexdigest().encode())
    )
    assert kinds(found, told) == {"duplicate"}


def test_it_finds_a_number_told_twice_and_a_ghost_and_garbage() -> None:
    found, told = fabricated(9)
    told[0].acknowledged.append(("mine", 5))
    assert kinds(found, told) == {"lost", "double"}
    found, told = fabricated(9)
    told[1].acknowledged.remove(("id9", 9))
    assert kinds(found, told) == {"ghost"}
    found, told = fabricated(9)
    found[9] = b""
    assert kinds(found, told) == {"garbage", "lost"}
    found, told = fabricated(8)
    found[8] = found[8].replace(b'"seq":8', b'"seq":7')
    assert kinds(found, told) == {"garbage"}
