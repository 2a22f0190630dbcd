"""One id, one daemon: what a copied machine is, and what two do that have the same id all the same."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mldeploy.core import records
from mldeploy.errors import DiskError
from mldeploy.store.log import Log
from mldeploy.store.memory import MemoryStore
from mldeploy_daemon import identity
from mldeploy_daemon.config import Config
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.follow import REJOIN, Follower
from mldeploy_daemon.identity import host_id
from tests.support.bundles import append


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    made = Disk(tmp_path / "state")
    made.prepare()
    return made


class Machine:
    """Whose id is where the daemon looks for it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def be(self, text: str) -> None:
        self.path.write_text(f"{text}\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path / "machine-id")
    monkeypatch.setattr(identity, "MACHINE_IDS", (tmp_path / "nowhere", made.path))
    made.be("a" * 32)
    return made


def test_a_host_is_the_same_on_its_machine_and_another_on_another(disk: Disk, machine: Machine) -> None:
    host = host_id(disk)
    disk.write("measures.json", b"{}")
    assert host_id(disk) == host
    assert "a" * 32 not in (disk.root / "host.json").read_text()
    machine.path.unlink()
    assert host_id(disk) == host  # a machine without an id says nothing
    machine.be("uninitialized")
    assert host_id(disk) == host
    assert disk.read("measures.json") == b"{}"
    machine.be("b" * 32)
    copy = host_id(disk)
    assert copy != host
    assert disk.read("measures.json") is None, "they are the other host's"
    assert host_id(disk) == copy


def test_the_id_of_an_older_daemon_is_kept_with_the_machine(
    disk: Disk, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write("host.json", b'{"host":"01old"}')
    with monkeypatch.context() as full:
        full.setattr(Disk, "write", _no_room)
        assert host_id(disk) == "01old"
    assert host_id(disk) == "01old"
    assert json.loads((disk.root / "host.json").read_bytes())["machine"]
    machine.be("b" * 32)
    assert host_id(disk) != "01old"


def _no_room(_: Disk, name: str, __: bytes) -> None:
    raise DiskError(f"{name}: No space left on device", "make room on that disk")


# --- two of one id


class Pair:
    """Two daemons that have the same id, on machines of other names."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = MemoryStore("memory://pair")
        self.now, self.here = 1_000.0, ""
        self.loop = asyncio.new_event_loop()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(socket, "gethostname", lambda: self.here)
        self.both: dict[str, Follower] = {}
        for name in ("vm-a", "vm-b"):
            disk = Disk(root / name)
            disk.prepare()
            config = Config(store="memory://pair", state=str(disk.root))
            self.both[name] = Follower(config, disk, "01clone", lambda: None)
            self.both[name].log = Log(self.store)

    def look(self, name: str, hostname: str = "") -> Follower:
        self.here = hostname or name
        self.both[name]._look(self.loop)
        return self.both[name]

    @property
    def head(self) -> int:
        log = Log(self.store)
        log.refresh()
        return log.state.head


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    with monkeypatch.context() as patched:
        made = Pair(tmp_path, patched)
        yield made
    made.loop.close()
    for each in made.both.values():
        each.pool.shutdown()


def test_two_daemons_of_one_id_do_not_fill_the_log_and_say_so(pair: Pair) -> None:
    for _ in range(86_400 // 10):
        for name in pair.both:
            pair.look(name)
        pair.now += 10
    assert pair.head < 25, "a day of corrections"
    for follower in pair.both.values():
        assert any("is also another daemon" in error for error in follower.errors)


def test_a_member_that_is_forgotten_joins_at_once_and_says_later_what_is_new(pair: Pair) -> None:
    pair.look("vm-a")
    append(pair.store, records.Forget(host="01clone"))
    state = pair.look("vm-a").state
    assert state is not None
    assert "01clone" in state.hosts
    for name in ("vm-new", "vm-newer"):
        assert pair.look("vm-a", name).state == state
        pair.now += REJOIN * 2
        state = pair.look("vm-a", name).state
        assert state is not None
        assert state.hosts["01clone"].hostname == name
        pair.now += REJOIN
    assert not pair.both["vm-a"].errors, "it is itself"
