"""Following the log: who leaves checkpoints, and what a host goes on from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mldeploy.core import checkpoint
from mldeploy.core.controller import ranked
from mldeploy.errors import LogHoleError, StoreError
from mldeploy.store import checkpoints
from mldeploy.store.checkpoints import PREFIX, Named
from mldeploy.store.log import Log, record_key
from mldeploy.store.objects import ObjectStore, open_store
from mldeploy_daemon import config
from mldeploy_daemon.desired import CHECKPOINT
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.follow import TURN, Follower
from tests.support.big_log import HOSTS, long_log

RECORDS = dict(long_log(600, 5))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"), create=True)


class Hosts:
    """Followers in this process, each with its disk; `look` is one look of one of them."""

    def __init__(self, root: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.root, self.loop = root, loop
        self.all: dict[str, Follower] = {}

    def start(self, host: str) -> Follower:
        disk = Disk(self.root / host)
        disk.prepare()
        made = config.load(
            {"MLDEPLOYD": json.dumps({"store": str(self.root / "store"), "state": str(disk.root)})}
        )
        follower = self.all[host] = Follower(made, disk, host, lambda: None)
        follower.load()
        return follower

    def look(self, host: str) -> Follower:
        follower = self.all.get(host) or self.start(host)
        follower._look(self.loop)
        return follower


@pytest.fixture
def hosts(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> Iterator[Hosts]:
    made = Hosts(tmp_path, loop)
    yield made
    for follower in made.all.values():
        follower.close()
        follower.pool.shutdown()


def write(store: ObjectStore, first: int, last: int) -> None:
    for seq in range(first, last + 1):
        assert store.create(record_key(seq), RECORDS[seq])


def heads(store: ObjectStore) -> list[int]:
    return [named.head for entry in store.list(PREFIX) if (named := Named.parse(entry.key))]


def test_the_first_in_rank_leaves_checkpoints_and_the_next_where_it_is_dead(
    store: ObjectStore, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL", 100)
    first, second, third = ranked((f"host-{n}" for n in range(HOSTS)), "checkpoint")[:3]
    monkeypatch.setattr(Follower, "_join_action", lambda *_: [])  # they are members as the log has it
    write(store, 1, 120)
    for host in (third, second, first):  # all of them start at once, with nothing there
        hosts.look(host)
    assert heads(store) == [120]
    for last in range(130, 220, 10):
        write(store, last - 9, last)
        for host in (third, second, first):
            hosts.look(host)
    assert heads(store) == [120]
    write(store, 211, 230)
    for host in (third, second, first):
        hosts.look(host)
    assert heads(store) == [120, 230]
    # the first is seen no more: a hundred records, and one turn
    for last in range(240, 480, 10):
        write(store, last - 9, last)
        for host in (third, second):
            hosts.look(host)
    assert heads(store) == [120, 230, 400]
    assert 230 + 100 + TURN <= 400 < 230 + 100 + TURN + 10
    # a new host starts from there
    seen = hosts.look("host-49")
    assert seen.state is not None
    assert seen.state.head == 470
    assert (hosts.root / "host-49" / CHECKPOINT).exists()


def test_an_idle_host_asks_for_one_record_and_nothing_else(
    store: ObjectStore, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL", 50)
    write(store, 1, 120)
    hosts.look("h1")
    asked: list[str] = []
    inner = hosts.all["h1"].store
    assert inner is not None
    real = inner.get
    monkeypatch.setattr(inner, "get", lambda key: (asked.append(key), real(key))[1])
    for _ in range(3):
        hosts.look("h1")
    assert asked == [record_key(122)] * 3


def test_another_store_is_noticed(store: ObjectStore, hosts: Hosts) -> None:
    write(store, 1, 60)
    hosts.look("h1")
    again = Hosts(hosts.root, hosts.loop)
    store.delete(record_key(61))  # its join: another log has another record there
    store.create(record_key(61), RECORDS[61])
    with pytest.raises(StoreError, match="not the store this host has followed"):
        again.look("h1")


def test_after_an_upgrade_it_serves_what_it_knew_and_reads_anew(
    store: ObjectStore, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, 1, 300)
    known = hosts.look("h1").state
    assert known is not None
    monkeypatch.setattr(checkpoint, "FOLD", 99)
    checkpoint.fold_format.cache_clear()
    try:
        again = Hosts(hosts.root, hosts.loop)
        follower = again.start("h1")
        assert follower.state == known  # also with the store out of reach
        assert not follower.kept.exact
        kept = store.get(record_key(200))
        assert kept is not None
        store.delete(record_key(200))
        with pytest.raises(LogHoleError, match="record 200"):
            follower._look(again.loop)
        assert follower.state == known, "never back behind the head once seen"
        assert store.get(record_key(200)) is None, "nor is anything written there"
        store.create(record_key(200), kept.data)
        follower._look(again.loop)
        assert follower.state == known
        assert Follower(follower.config, Disk(again.root / "h1"), "h1", lambda: None).kept.load() == known
        follower.close()
        follower.pool.shutdown()
    finally:
        monkeypatch.undo()
        checkpoint.fold_format.cache_clear()


def test_a_hole_is_said_and_what_came_before_it_counts(
    store: ObjectStore, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL", 100)
    write(store, 1, 300)
    log = Log(store)
    log.refresh()
    assert log.checkpoint()
    for seq in range(250, 301):
        store.delete(record_key(seq))
    with pytest.raises(LogHoleError, match="record 250 is missing"):
        hosts.look("h1")
    state = hosts.all["h1"].state
    assert state is not None
    assert state.head == 249
    assert "h1" not in state.hosts, "nor was anything written"
    assert store.get(record_key(250)) is None
