"""A full disk: what the log says is heeded, the fronts hear of it, and what makes room is removed."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from mldeploy.core import records
from mldeploy.core.host import (
    Bundle,
    Desired,
    Front,
    Limits,
    ModelRoute,
    Observed,
    PublishTable,
    RemoveBundle,
    Worker,
)
from mldeploy.core.state import State
from mldeploy.errors import DiskError
from mldeploy.store.log import Log
from mldeploy.store.memory import MemoryStore
from mldeploy_daemon import agent as agents
from mldeploy_daemon import publish
from mldeploy_daemon.agent import Agent
from mldeploy_daemon.chronicle import Chronicle
from mldeploy_daemon.config import Config
from mldeploy_daemon.desired import Kept
from mldeploy_daemon.disk import REWRITE, Disk
from mldeploy_daemon.follow import LEASE, Follower
from mldeploy_daemon.front.control import Control
from mldeploy_daemon.fronts import AGAIN, Fronts
from mldeploy_daemon.measures import Measures
from mldeploy_daemon.publish import Publisher
from mldeploy_daemon.table import Reading, Table, read_table, write_table
from mldeploy_daemon.uses import Uses
from tests.core.strategies import ulid
from tests.core.test_actions import after
from tests.core.test_actions import promote as promoted
from tests.core.test_actions import publish as published
from tests.support.bundles import append

RAMP = after(
    records.Join(host="h"), published(1), published(2), promoted(1, 1), promoted(2, 2, steps=(5000, 10000))
)
HALTED = after(records.Halt(rollout=ulid(2), reason="error_rate < 1.5x"), state=RAMP)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.chdir(tmp_path)
    made = Disk(Path())
    made.prepare()
    return made


class Room:
    """Whether there is any, for the table and for the small files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = True
        self.time = 1_000.0

        def table(written: Table) -> None:
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            write_table(written)

        for method in (Disk.write, Disk.append):
            monkeypatch.setattr(Disk, method.__name__, self._small(method))
        monkeypatch.setattr(publish, "write_table", table)
        monkeypatch.setattr(time, "monotonic", lambda: self.time)

    def _small(self, method: Callable[[Disk, str, bytes], None]) -> Callable[[Disk, str, bytes], None]:
        def write(disk: Disk, name: str, data: bytes) -> None:
            if not self.left:
                raise DiskError(f"{name}: No space left on device", "make room on that disk")
            method(disk, name, data)

        return write


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    return Room(monkeypatch)


# --- the log


def test_a_record_that_cannot_be_kept_counts_and_is_kept_when_there_is_room(disk: Disk, room: Room) -> None:
    store = MemoryStore("memory://full")
    follower = Follower(Config(store="memory://full", state="."), disk, "h1", lambda: None)
    follower.log = Log(store, taken=follower.kept.took)
    loop = asyncio.new_event_loop()

    def look() -> State:
        follower._look(loop)
        assert follower.state is not None
        return follower.state

    assert look().head == 1  # it has joined
    room.left = False
    append(store, records.Join(host="h2"))
    for _ in range(5):
        room.time += LEASE / 2
        assert look().head == 2
        assert follower.leased, "the head is read: nothing is amiss with the store"
    append(store, records.Join(host="h3"))
    assert look().head == 3
    files = [error.removesuffix(": No space left on device") for error in follower.errors]
    assert files == ["desired.0.tail", "desired.checkpoint"], "each said once"
    room.left = True
    room.time += REWRITE
    assert look() == Kept(disk).load()
    loop.close()
    follower.pool.shutdown()


# --- the table


def publishes(publisher: Publisher, routes: dict[str, ModelRoute]) -> bool:
    return publisher.publish(routes, Desired(), {}, lambda _: None, True)


ONE = {"m": ModelRoute(stable=1, workers={1: ("w1",)})}
TWO = {"m": ModelRoute(stable=2, workers={2: ("w2",)})}


def test_a_table_that_cannot_be_written_is_published_and_written_later(disk: Disk, room: Room) -> None:
    publisher = Publisher("production", "h", lambda: room.time)
    assert publishes(publisher, ONE)
    room.left = False
    assert publishes(publisher, TWO)
    assert publisher.unwritten is not None
    assert (publisher.routes, publisher.table.generation, read_table().generation) == (TWO, 2, 1)
    assert not publishes(publisher, TWO)
    room.left = True
    assert not publishes(publisher, TWO)
    assert read_table().generation == 1, "not at every look"
    room.time += REWRITE + 1
    assert not publishes(publisher, TWO)
    assert (publisher.unwritten, read_table()) == (None, publisher.table)


def test_half_a_table_takes_no_room(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(Table(generation=1))

    def half(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", half)
        with pytest.raises(OSError, match="No space"):
            write_table(Table(generation=2))
    assert [path.name for path in (disk.root / "run").iterdir() if path.is_file()] == ["routes.json"]


def test_the_next_agent_believes_the_fronts_that_there_was_a_later_table(disk: Disk, room: Room) -> None:
    first = Publisher("production", "h", lambda: room.time)
    assert publishes(first, ONE)
    room.left = False
    assert publishes(first, TWO)  # and w2 takes requests now
    again = Publisher("production", "h", lambda: room.time)
    again.load()
    worker = Worker(id="w2", model="m", version=2, digest="d")
    again.adopted([worker])
    again.overtaken([Front(index=0), Front(index=1, generation=2)])
    again.adopted([worker])
    assert again.placed(worker, 0.0).routed_last == 2, "a front may still send it something"
    assert publishes(again, ONE), "told anew, though it is what the disk has"
    assert again.table.generation == 3


def test_a_table_that_came_with_the_word_is_not_given_up_for_an_earlier_one(disk: Disk) -> None:
    reading = Reading()
    write_table(Table(generation=4))
    assert reading.read() == Table(generation=4)
    told = msgspec.to_builtins(Table(generation=6, ready=True))
    assert reading.read(told) == Table(generation=6, ready=True)
    assert reading.read() is None  # the disk has 4
    write_table(Table(generation=7))
    assert reading.read() == Table(generation=7)
    write_table(Table(generation=1))  # of an agent that found no table: the disk is all there is
    assert reading.read() == Table(generation=1)


# --- what is counted


def test_that_it_cannot_be_kept_is_logged_once_in_a_row(
    disk: Disk, room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    measures, uses = Measures(disk, lambda: 0.0), Uses(disk, lambda _: True)

    def said() -> int:
        caplog.clear()
        for _ in range(10):
            measures.write()
            uses.write()
        return len([record for record in caplog.records if record.levelname == "ERROR"])

    room.left = False
    assert said() == 2
    assert said() == 0
    room.left = True
    assert said() == 0
    room.left = False
    assert said() == 2


# --- the fronts


class Told:
    """A front that notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[int | None] = []
        self.generation = 0

    def reload(self, told: Any = None) -> dict[str, Any]:
        self.heard.append(None if told is None else told["generation"])
        self.generation = self.generation if told is None else told["generation"]
        return {"ok": True, "generation": self.generation, "inflight": {}}

    def stats(self) -> dict[str, Any]:
        return {"generation": self.generation}

    def drain(self) -> None:
        pass


async def _until(condition: Callable[[], bool], again: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await again()
            await asyncio.sleep(0.01)


def test_the_fronts_are_handed_what_the_disk_does_not_have(disk: Disk) -> None:
    big = Table(generation=7, environment="x" * 1_000_000)

    async def talk() -> None:
        front = Told()
        control = Control(front, Path("run/front-0.sock"))
        await control.start()
        now = 0.0
        fronts = Fronts(1, lambda: None, monotonic=lambda: now)
        fronts.generation = 6
        await _until(lambda: front.heard == [None], fronts.look)
        fronts.unwritten = big
        fronts.tell(7)
        await _until(lambda: front.heard == [None, 7], fronts.look)
        front.generation, now = 6, now + AGAIN  # it did not take it in
        fronts.ask()
        await _until(lambda: front.heard == [None, 7, 7], fronts.look)
        fronts.close()  # as when it is lost
        await _until(lambda: front.heard == [None, 7, 7, 7], fronts.look)
        fronts.unwritten = None
        fronts.tell(8)
        await _until(lambda: front.heard[-1] is None, fronts.look)
        fronts.close()
        control.close()

    asyncio.run(talk())


# --- the agent


def agent(publisher: Publisher, observed: Callable[[], Observed], state: State) -> tuple[Any, list[Any]]:
    """An agent of which only the look and what follows from it is real, and what it did and told."""
    done: list[Any] = []

    async def look(_: Desired) -> Observed:
        return observed()

    made: Any = Agent.__new__(Agent)
    made.config = SimpleNamespace(environment="production", labels={}, boot="b", ready_fd=-1)
    made.limits, made.now, made.seen = Limits(), lambda: 10_000.0, None
    made.leased = made.ready = made.announced = True
    made.follower = SimpleNamespace(
        host="h",
        state=state, leased=True, recovered=False, read_head=True, unreachable=False, drained=False,
        note=lambda error: done.append(str(error)),
    )  # fmt: skip
    made.publisher, made.observer = publisher, SimpleNamespace(look=look, manifest=lambda _: None)
    made.book = SimpleNamespace(keep=lambda _: None, bad={})
    made.fates = SimpleNamespace(note=lambda: None)
    made.fronts = SimpleNamespace(tell=lambda number: done.append(("tell", number)), unwritten=None)
    made.chronicle = Chronicle()
    made.hands = SimpleNamespace(do=lambda actions: done.extend(actions))
    made._tell = lambda *_: done.append("report")
    made._pause = lambda _: 1.0
    return made, done


def test_with_the_disk_full_a_halt_reaches_the_fronts_and_what_nothing_needs_is_removed(
    disk: Disk, room: Room
) -> None:
    publisher = Publisher("production", "h", lambda: room.time)
    digests = {number: version.digest for number, version in RAMP.models["churn"].versions.items()}

    def observed() -> Observed:
        return Observed(
            bundles={digest: Bundle(environment="e") for digest in (*digests.values(), "old")},
            environments=frozenset({"e"}),
            zygotes={"e": "ready"},
            workers=tuple(
                Worker(
                    id=f"w{n}", model="churn", version=n, digest=digests[n], environment="e", state="ready"
                )
                for n in (1, 2)
            ),
            routes=publisher.routes,
            pythons=frozenset({"3.11"}),
            platform="linux-x86_64",
            unused={"old": 0.0},
        )

    made, done = agent(publisher, observed, RAMP)
    asyncio.run(made._tick())
    assert publisher.table.models["churn"].candidate == 2
    done.clear()
    room.left = False
    made.follower.state = HALTED
    asyncio.run(made._tick())
    assert made.fronts.unwritten == publisher.table
    assert publisher.table.models["churn"].candidate is None
    assert read_table().models["churn"].candidate == 2
    errors = [each for each in done if isinstance(each, str) and "routes.json" in each]
    assert len(errors) == 1
    assert ("tell", 2) in done
    assert RemoveBundle(digest="old") in done
    assert "report" in done
    assert not any(isinstance(each, PublishTable) for each in done[done.index("report") :])
    room.left, room.time = True, room.time + REWRITE + 1
    asyncio.run(made._tick())
    assert (made.fronts.unwritten, read_table()) == (None, publisher.table)


def test_what_cannot_be_looked_at_is_in_the_report(disk: Disk, room: Room) -> None:
    def observed() -> Observed:
        raise DiskError("bundles: Input/output error", "check the disk")

    made, done = agent(Publisher("production", "h", lambda: 0.0), observed, RAMP)
    made.seen = agents.Seen(
        desired=Desired(),
        observed=Observed(),
        actions=(),
        standings={},
        head=1,
        ready=True,
        errors=(),
        totals={},
    )
    made.follower.errors = ("bundles: Input/output error",)
    made.reporter = SimpleNamespace(look=lambda: done.append("report"))
    asyncio.run(made._tick())
    assert made.seen.errors == ("bundles: Input/output error",)
    assert done == ["bundles: Input/output error", "report"]
