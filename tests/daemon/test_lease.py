"""The lease: a host that cannot read the head lends rollouts and shadows no traffic, until it can again."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from mldeploy.core import records
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import Log
from mldeploy.store.memory import MemoryStore
from mldeploy.store.objects import Fetched
from mldeploy_daemon import follow
from mldeploy_daemon.config import Config
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.follow import HEAD, LEASE, Follower
from tests.daemon.conftest import Place
from tests.support.daemons import until


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    disk = Disk(tmp_path)
    disk.prepare()
    return disk


def follower(disk: Disk) -> Follower:
    made = Follower(Config(store="memory://lease", state=str(disk.root)), disk, "h1", lambda: None)
    made.load()
    return made


def test_a_head_that_was_read_lends_for_two_minutes(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(follow.time, "monotonic", lambda: now)
    read = follower(disk)
    assert not read.leased  # nobody has read it yet
    read._note_fresh(now)
    now += LEASE
    assert read.leased
    now += 1
    assert not read.leased


def test_an_agent_started_again_knows_when_the_head_was_read(disk: Disk) -> None:
    follower(disk)._note_fresh(time.monotonic())
    assert follower(disk).leased
    follower(disk)._note_fresh(time.monotonic() - LEASE - 1)
    assert not follower(disk).leased
    old = time.time() - LEASE - 1
    os.utime(disk.root / HEAD, (old, old))
    assert not follower(disk).leased


def test_a_slow_look_lends_from_when_it_began(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(follow.time, "monotonic", lambda: now)

    class Slow(MemoryStore):
        def get(self, key: str) -> Fetched | None:
            nonlocal now
            now += 10.0
            return super().get(key)

    read = follower(disk)
    read.log = Log(Slow("memory://slow"))
    begun = now

    async def look() -> None:
        await asyncio.to_thread(read._look, asyncio.get_running_loop())

    asyncio.run(look())
    assert now > begun
    assert read.leased
    now = begun + LEASE + 1
    assert not read.leased


@pytest.mark.full
@pytest.mark.timeout(400)
def test_a_ramp_loses_its_traffic_while_the_store_is_away_and_gets_it_back(place: Place) -> None:
    place.push(1.0)
    daemon = place.daemon(poll=0.2, report=0.5).start()
    daemon.wait_ready()
    candidate = place.push(2.0, share=None)
    place.append(
        records.Promote(model="answer", version=candidate.version, steps=(5_000,), rollout=new_ulid())
    )

    def share() -> int:
        model = json.loads((daemon.state / "run/routes.json").read_bytes())["models"]["answer"]
        return int(model.get("share", 0)) if model.get("candidate") == candidate.version else -1

    until(lambda: share() == 5_000, "the candidate has half of the traffic")
    away = place.folder.with_name("away")
    place.folder.rename(away)
    until(lambda: share() == 0, "its traffic is back with stable", LEASE + 60, every=1.0)
    assert {daemon.ask()[1] for _ in range(30)} == {(1.0, 1)}
    assert daemon.ask(version=candidate.version) == (200, (2.0, candidate.version))  # it is loaded still
    away.rename(place.folder)
    until(lambda: share() == 5_000, "it goes on where it was")
