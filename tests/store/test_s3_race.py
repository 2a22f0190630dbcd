"""Many processes append to one log over S3 through a proxy that cuts connections, and nothing is lost."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from mldeploy.store.log import Log
from mldeploy.store.objects import open_store
from tests.store.history_checker import Told, problems
from tests.store.racing import race, read_store
from tests.support.proxy import Action, Proxy, Request, Rule, chance
from tests.support.s3 import Server

DRIVERS = ["s3", "s3+fsspec"]


def cuts(seed: int) -> Rule:
    """Cuts a fifth of the writes and some of the reads of the log; the store itself can be opened."""
    writes, reads = chance(seed, 0.2), chance(seed, 0.03)

    def rule(request: Request) -> Action:
        if "/log/" not in request.target:
            return Action.PASS
        return writes(request) if request.method == "PUT" else reads(request)

    return rule


def check(url: str, told: list[Told], whole: bool) -> int:
    """No gap, loss, duplicate; every acknowledged record is there. How many records there are."""
    store = open_store(url)
    found = read_store(store)
    assert problems(found, told) == []
    log = Log(store)
    log.refresh()
    assert log.state.head == len(found)
    assert log.state.voids == 0
    if whole:
        assert len(found) == sum(len(one.acknowledged) for one in told)
    return len(found)


def lost(request: Request) -> bool:
    """A create whose answer never came, though the server may have done it."""
    return request.method == "PUT" and request.action in (Action.AFTER, Action.MEANWHILE)


def cut_race(
    server: Server, bucket: str, driver: str, scratch: Path, *, writers: int, each: int, kills: int,
    seconds: float = 280.0,
) -> None:  # fmt: skip
    url = f"{driver}://{bucket}/store"
    server.make_store(bucket, "store")
    with Proxy(server.endpoint.removeprefix("http://"), cuts(1)) as proxy:
        env = os.environ | server.through(f"http://{proxy.address}").environ
        told = race(
            url, scratch, writers, each, env=env, kills=random.Random(2), victims=kills, seconds=seconds
        )
        dropped = sum(lost(one) for one in proxy.requests)
    count = check(url, told, whole=not kills)
    assert count >= writers * each if kills else count == writers * each
    assert dropped > 0  # else nothing was tested


@pytest.mark.parametrize(("driver", "writers", "each"), [("s3", 5, 16), ("s3+fsspec", 3, 8)])
def test_writers_behind_cut_connections(
    s3_environ: Server, bucket: str, driver: str, writers: int, each: int, tmp_path: Path
) -> None:
    cut_race(s3_environ, bucket, driver, tmp_path, writers=writers, each=each, kills=0)


def test_writers_killed_behind_cut_connections(s3_environ: Server, bucket: str, tmp_path: Path) -> None:
    cut_race(s3_environ, bucket, "s3", tmp_path, writers=4, each=12, kills=3)


@pytest.mark.full
@pytest.mark.timeout(1900)
@pytest.mark.parametrize("kills", [0, 12])
@pytest.mark.parametrize("driver", DRIVERS)
def test_16_processes_append_200_records_each(
    s3_environ: Server, bucket: str, driver: str, kills: int, tmp_path: Path
) -> None:
    cut_race(s3_environ, bucket, driver, tmp_path, writers=16, each=200, kills=kills, seconds=1800)
