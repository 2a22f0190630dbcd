"""What is done when an action fails: nothing is tried again at once, whatever the disk says."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import msgspec
import pytest

from mldeploy.core.host import (
    Action,
    BuildEnvironment,
    Bundle,
    Desired,
    FetchBundle,
    Limits,
    Observed,
    RemoveBundle,
    StartWorker,
    StartZygote,
    Wanted,
    Wish,
)
from mldeploy.core.plan import plan
from mldeploy.errors import DiskError, IntegrityError
from mldeploy_daemon import fetch
from mldeploy_daemon.book import FIRST_BACKOFF, Book
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.hands import REMOVE_AGAIN, Hands

READ_ONLY = DiskError("Read-only file system", "check the disk")
GRACE = 3600.0


class Host:
    """The plan and the hands of an agent, with a clock."""

    def __init__(self, disk: Disk, observed: Observed, desired: Desired | None = None) -> None:
        self.observed, self.desired = observed, desired or Desired()
        self.time = 10_000.0
        self.book = Book(disk, lambda: self.time)
        self.observer: Any = SimpleNamespace(
            busy=set(), unused=dict.fromkeys(("b", "e", "blob s"), 0.0), grace=GRACE,
            now=lambda: self.time, disk_changed=lambda: None, manifest=lambda _: "its manifest",
        )  # fmt: skip
        looked = SimpleNamespace(wait=AsyncMock())
        follower: Any = SimpleNamespace(state=None, store=None, looked=looked)
        nobody: Any = None
        self.hands = Hands(disk, follower, self.observer, nobody, nobody, self.book, lambda: None)

    async def ticks(self, number: int = 20) -> None:
        """Look, plan and do as often; what was begun ends before the next."""
        for _ in range(number):
            observed = msgspec.structs.replace(
                self.observed, bad=self.book.bad, busy=frozenset(self.observer.busy),
                unused=dict(self.observer.unused),
            )  # fmt: skip
            actions = plan(self.desired, observed, self.time, Limits(grace=GRACE))
            self.hands.do(actions)
            await asyncio.gather(*self.hands.tasks)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    made = Disk(tmp_path)
    made.prepare()
    return made


def test_what_cannot_be_removed_is_tried_again_in_a_minute(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: Counter[str] = Counter()

    def remove(_: Disk, name: str) -> None:
        tried[name.partition("/")[0]] += 1
        raise READ_ONLY

    monkeypatch.setattr(Disk, "remove", remove)
    host = Host(
        disk,
        Observed(
            bundles={"b": Bundle(environment="e")}, environments=frozenset({"e"}), blobs=frozenset({"s"})
        ),
    )

    async def live() -> None:
        for times in (1, 2):
            await host.ticks()
            assert tried == {"bundles": times, "environments": times, "blobs": times}
            host.time += REMOVE_AGAIN

    asyncio.run(live())


@pytest.mark.parametrize("error", [READ_ONLY, RuntimeError("a surprise")])
def test_files_that_cannot_be_verified_again_wait_for_their_backoff(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    host, tried = _unverified(disk, monkeypatch, error)

    async def live() -> None:
        for times in (1, 2):
            await host.ticks()
            assert len(tried) == times
            assert (host.book.bad["m@1"].stage, host.book.bad["m@1"].attempts) == ("load", times)
            host.time += FIRST_BACKOFF

    asyncio.run(live())


def test_files_that_were_altered_are_no_failure_of_the_version(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _ = _unverified(disk, monkeypatch, IntegrityError("altered", "it is fetched again by itself"))
    asyncio.run(host.ticks(1))
    assert host.book.bad == {}


def test_downloads_and_builds_keep_nothing_waiting_but_what_needs_them(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, done = threading.Event(), []

    def wait(*_: object, **__: object) -> None:
        there.wait()

    monkeypatch.setattr(fetch, "fetch_bundle", wait)
    monkeypatch.setattr(fetch, "verify_bundle", lambda *_: done.append("verified"))
    monkeypatch.setattr(fetch, "build_environment", lambda *_: done.append("built"))
    monkeypatch.setattr(Disk, "remove_bundle", lambda *_: done.append("removed"))
    monkeypatch.setattr(Disk, "broken_seals", lambda *_: ["model.pkl"])

    async def live() -> None:
        host = Host(disk, Observed())

        async def do(action: Action) -> None:
            before = set(host.hands.tasks)
            host.hands.do([action])
            async with asyncio.timeout(20):
                await asyncio.gather(*(host.hands.tasks - before))

        host.hands.do(FetchBundle(model="m", version=number, digest=f"b{number}") for number in range(10))
        await do(StartWorker(model="m", version=1, digest="b", replica=0, environment="e"))
        await do(BuildEnvironment(environment="e", model="m", version=1, digest="b"))
        await do(RemoveBundle(digest="b"))
        monkeypatch.setattr(fetch, "build_environment", wait)
        host.hands.do(
            BuildEnvironment(environment=f"e{number}", model="m", version=1, digest="b")
            for number in range(10)
        )
        await do(RemoveBundle(digest="b"))
        there.set()
        await asyncio.gather(*host.hands.tasks)

    try:
        asyncio.run(live())
    finally:
        there.set()
    assert done == ["verified", "built", "removed", "removed"]


@pytest.mark.parametrize(
    "action",
    [
        BuildEnvironment(environment="e", model="m", version=1, digest="b"),
        StartZygote(environment="e", digest="b"),
    ],
)
def test_what_is_to_be_made_of_a_bundle_that_has_gone_has_not_come_up(disk: Disk, action: Action) -> None:
    host = Host(disk, Observed())
    host.observer.manifest = lambda _: None
    host.book.failed("e", "", "install", "no wheel fits")

    async def live() -> None:
        host.hands.do([action])
        await asyncio.gather(*host.hands.tasks)

    asyncio.run(live())
    assert (host.book.bad["e"].attempts, host.book.bad["e"].stage) == (2, "fetch")


def _unverified(disk: Disk, monkeypatch: pytest.MonkeyPatch, error: Exception) -> tuple[Host, list[str]]:
    """A host with a bundle whose seals are broken, and when it was tried to verify it."""
    tried: list[str] = []

    def verify(_: Disk, __: object, digest: str) -> None:
        tried.append(digest)
        raise error

    monkeypatch.setattr(fetch, "verify_bundle", verify)
    monkeypatch.setattr(Disk, "broken_seals", lambda *_: ["model.pkl"])
    observed = Observed(
        bundles={"b": Bundle(environment="e")}, environments=frozenset({"e"}), zygotes={"e": "ready"}
    )
    asked = Desired(models={"m": Wish(stable=Wanted(model="m", version=1, digest="b"))})
    return Host(disk, observed, asked), tried
