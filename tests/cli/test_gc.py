"""`gc`: what it says and deletes, in both forms; what it cannot break."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from mldeploy.bundle.push import push
from mldeploy.client import Client
from mldeploy.core.collection import smallest_ulid
from mldeploy.core.records import Action, Forget, Retire
from mldeploy.errors import NotAllowedError, StoreError, UsageError
from mldeploy.store.file import FileStore

from .conftest import Ran, World

Cli = Callable[..., Ran]
NOW = datetime.now(UTC)


def publish(world: World, content: str, days: int) -> str:
    """Publish a version so many days ago."""
    then = NOW - timedelta(days=days)
    fresh = smallest_ulid(round(then.timestamp() * 1000))
    done = push(
        world.store, world.bundle(content=content), log=world.log, actor="setup", now=then, validate=False,
        ids=lambda: fresh,
    )  # fmt: skip
    return str(done.ref)


def say(world: World, days: int, *actions: Action) -> None:
    world.log.append(lambda _: actions, actor="setup", now=NOW - timedelta(days=days))


def blobs(world: World) -> int:
    return len(list(world.store.list("blobs/")))


@pytest.fixture
def old(world: World) -> World:
    """churn@1, retired 20 days ago; churn@2 is stable; a file of a push that was cut off long ago."""
    publish(world, "1", 30)
    publish(world, "22", 29)
    say(world, 20, Retire(model="churn", version=1))
    Client(world.url).promote("churn@2")
    world.store.create(f"blobs/sha256/ab/{'ab' * 32}.{'0' * 26}", b"cut off")
    return world


def test_it_says_what_would_go_and_then_what_went(old: World, cli: Cli) -> None:
    before, head = blobs(old), old.head()
    told = cli("gc", "--dry-run")
    assert (told.code, blobs(old), old.head()) == (0, before, head)
    assert "churn@1 could no longer be restored" in told.err
    assert "nothing was" in told.err
    done = cli("gc")
    assert done.code == 0
    assert done.out == told.out
    assert [line.split("\t")[:2] for line in done.out.splitlines()] == [["blobs", "2"], ["orphans", "1"]]
    assert "churn@1 can no longer be restored" in done.err
    assert f"deleted (record {head + 1})" in done.err
    assert blobs(old) == before - 3
    assert "sweep 2 blobs; pushes begun before 20" in cli("history").out
    refused = cli("restore", "churn@1")
    assert refused.code == 4
    assert "have been collected" in refused.err
    assert "push the bundle again" in refused.err


def test_nothing_to_do_is_success_and_says_so(old: World, cli: Cli) -> None:
    cli("gc")
    head = old.head()
    again = cli("gc")
    assert (again.code, again.out, again.err) == (0, "", "nothing to collect\n")
    assert cli("gc", "--dry-run").err == "nothing to collect\n"
    assert old.head() == head
    assert cli("gc", "--json").document["already"] is True


def test_reports_that_may_not_be_deleted_are_told_of(
    world: World, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.join()
    world.report()
    world.append(Forget(host="h1"))
    path = world.path / "hosts" / "production" / "h1.json"
    old = path.stat().st_mtime - 30 * 86_400
    os.utime(path, (old, old))

    def refuse(self: FileStore, key: str) -> None:
        raise StoreError("access denied", "ask for s3:DeleteObject")

    monkeypatch.setattr(FileStore, "delete", refuse)
    ran = cli("gc")
    assert ran.code == 0
    assert "warning: reports of hosts that are gone stay below hosts/: of 1 objects" in ran.err
    assert "access denied" in ran.err
    assert ran.err.endswith("nothing else to collect\n")
    assert cli("gc", "--json").document["already"] is False


def test_one_document(old: World, cli: Cli) -> None:
    told = cli("gc", "--json", "--dry-run").document
    done = cli("gc", "--json").document
    assert done["schema"] == told["schema"] == "mldeploy.gc/1"
    assert (told["seq"], done["seq"]) == (None, old.head())
    assert (told["dry_run"], done["dry_run"]) == (True, False)
    size = done["blob_bytes"]  # the pickle and the manifest
    assert size > 500
    assert (done["blobs"], done["orphans"], done["orphan_bytes"]) == (2, 1, 7)
    assert done["no_longer_restorable"] == ["churn@1"]
    assert done["actions"] == [f"delete 2 blobs ({size:,} bytes)", "delete 1 orphan (7 bytes)"]
    assert done["grace"] == 7 * 24 * 3600
    assert done["horizon"] == old.log.state.horizon
    assert done["warnings"] == []


def test_the_grace_keeps_what_is_younger(old: World, cli: Cli) -> None:
    assert cli("gc", "--grace", "25d", "--json").document["blobs"] == 0
    assert cli("gc", "--grace", "2w", "--json").document["blobs"] == 2


def test_no_grace_is_allowed_and_says_what_it_means(world: World, cli: Cli) -> None:
    publish(world, "1", 1)
    publish(world, "22", 1)
    cli("retire", "churn@1")
    assert cli("gc").err == "nothing to collect\n"
    done = cli("gc", "--grace", "0")
    assert done.code == 0
    assert "warning: with a grace of 0s a retired version cannot be restored" in done.err
    assert "churn@1 can no longer be restored" in done.err
    assert blobs(world) == 5


@pytest.mark.parametrize("grace", ["soon", "-1d", "7"])
def test_a_grace_that_is_none_is_a_wrong_call(world: World, cli: Cli, grace: str) -> None:
    ran = cli("gc", f"--grace={grace}")
    assert (ran.code, len(ran.err.splitlines())) == (2, 2)


def test_from_python(old: World) -> None:
    client = Client(old.url)
    with pytest.raises(UsageError, match="lies in the future"):
        client.collect(grace=timedelta(days=-1))
    assert client.collect(grace=timedelta(days=25), dry_run=True).blobs == 0
    done = client.collect()
    assert (done.blobs, done.orphans, done.already) == (2, 1, False)
    with pytest.raises(NotAllowedError):
        client.restore("churn@1")
    assert client.collect().already
