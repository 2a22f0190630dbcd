"""Which workers a new agent takes over: those that are what their status files say, and no others."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mldeploy.errors import DiskError
from mldeploy.runtime.process import read_status as read_status_there
from mldeploy_daemon import zygotes
from mldeploy_daemon.survivors import Survivors
from mldeploy_daemon.system import RUNTIME, runs_in, start_ticks
from mldeploy_daemon.worker_files import (
    RUN,
    Progress,
    credible,
    end_unconfined,
    log_of,
    make_folder,
    name_worker,
    read_status,
    status_of,
    statuses,
    tail,
)
from mldeploy_daemon.workers import Live, Workers
from mldeploy_daemon.zygotes import Zygotes
from tests.support.daemons import until

Adopted = dict[str, tuple[str, int, str, int]]


class Host:
    """A state folder with processes that look like workers: they have their logs open."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack

    def worker(self, name: str, **said: Any) -> tuple[str, int]:
        """Its id and pid. `said`: what its status file says instead of what is so."""
        digest = f"{name}-digest"
        identifier = f"{name_worker(name, 1, digest, 0, idle=False)}abcdef"
        make_folder(identifier)
        with (RUN / identifier / "log").open("wb") as log:
            process = self.stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", "input()", RUNTIME],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                )
            )
        self.stack.callback(process.kill)
        until(lambda: runs_in(process.pid, Path.cwd(), RUNTIME), "its command line is there")
        pid = said.get("pid", process.pid)
        told = {
            "id": identifier, "pid": pid, "start_ticks": start_ticks(pid), "model": name, "version": 1,
            "digest": digest, "replica": 0, "state": "ready",
        }  # fmt: skip
        Path(status_of(identifier)).write_text(json.dumps(told | said))
        return identifier, process.pid

    def adopted(self) -> Adopted:
        """What an agent takes over that starts now."""

        async def adopt() -> Adopted:
            workers = Workers(lambda: None)
            workers.adopt(lambda _: "e")
            for live in workers.live.values():
                os.close(live.pidfd)
            return {name: (w.model, w.version, w.digest, w.pid) for name, w in workers.live.items()}

        return asyncio.run(adopt())


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        yield Host(stack)


def test_a_worker_that_runs_is_adopted_as_what_it_is(host: Host) -> None:
    identifier, pid = host.worker("churn")
    assert host.adopted() == {identifier: ("churn", 1, "churn-digest", pid)}


@pytest.mark.parametrize(
    "said", [{"model": "fraud"}, {"version": 2}, {"digest": "other"}, {"replica": 1}, {"idle": True}]
)
def test_one_that_says_it_is_another_is_not(host: Host, said: dict[str, Any]) -> None:
    other, pid = host.worker("fraud")
    forger, _ = host.worker("churn", **said)
    assert host.adopted() == {other: ("fraud", 1, "fraud-digest", pid)}
    assert not (RUN / forger).exists()


def test_one_that_names_another_workers_process_is_not(host: Host) -> None:
    other, pid = host.worker("fraud")
    forger, _ = host.worker("churn", pid=pid)
    # an agent that starts ends what it does not believe in
    assert credible(forger) is None and credible(other) is not None
    assert host.adopted() == {other: ("fraud", 1, "fraud-digest", pid)}


def test_what_is_said_while_it_starts_makes_nobody_else_be_followed(host: Host) -> None:
    async def start(pid: int) -> tuple[str, int]:
        workers = Workers(lambda: None)
        live = Live("w", "churn", 1, "d", "e", 0, "loading", 0.0)
        workers.live["w"] = live
        workers._progress(live, Progress(state="loading", pid=pid, start_ticks=start_ticks(pid) or 0))
        return live.state, live.pidfd

    with subprocess.Popen(["sleep", "600"]) as bystander:
        assert asyncio.run(start(bystander.pid)) == ("gone", -1)
        bystander.kill()


@pytest.mark.parametrize(
    ("confine", "left"),
    [("require", ["full"]), ("best-effort", ["full", "part"]), ("off", ["free", "full", "part"])],
)
def test_what_is_confined_less_than_is_asked_for_now_is_ended(
    host: Host, confine: str, left: list[str]
) -> None:
    levels = {"full": "landlock-6+seccomp", "part": "seccomp", "free": "off"}
    workers = {name: host.worker(name, confinement=level) for name, level in levels.items()}
    end_unconfined(confine)
    until(lambda: sorted(name for name in levels if start_ticks(workers[name][1])) == left, "they are ended")
    assert sorted(model for model, *_ in host.adopted().values()) == left


def test_a_zygote_that_is_confined_less_than_is_asked_for_now_is_ended(host: Host) -> None:
    async def adopt(confine: str) -> list[str]:
        made = Zygotes(confine, lambda: None)
        made.adopt(["env"])
        return list(made.alive)

    identifier, pid = host.worker("churn")
    status = RUN / f"{Zygotes.stem('env')}.json"
    status.write_text(json.dumps({"pid": pid, "start_ticks": start_ticks(pid), "confinement": "seccomp"}))
    assert asyncio.run(adopt("best-effort")) == ["env"]
    assert asyncio.run(adopt("require")) == []
    until(lambda: start_ticks(pid) is None, f"{identifier} is ended")


def test_a_zygote_that_cannot_be_followed_is_not_left_running(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def full(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    idle = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(zygotes, "find_interpreter", lambda _: Path(sys.executable))
    monkeypatch.setattr(zygotes, "runtime_command", lambda *_: idle)
    monkeypatch.setattr(os, "pidfd_open", full)
    RUN.mkdir(parents=True)
    manifest: Any = SimpleNamespace(python="3.11", imports=())
    made = Zygotes("off", lambda: None)
    with pytest.raises(DiskError, match=r"cannot be followed: .*Too many open files"):
        asyncio.run(made.start("env", manifest))
    assert made.alive == {} and start_ticks(started[0]) is None


def test_no_link_and_no_pipe_is_read_in_place_of_what_a_worker_writes(host: Host, tmp_path: Path) -> None:
    """What it may not read would stand in the report; and a pipe would hold the agent for ever."""
    identifier, _ = host.worker("churn")
    assert read_status(identifier) is not None
    (tmp_path / "secret").write_text("the key")
    for path, read in ((log_of(identifier), tail), (status_of(identifier), read_status)):
        Path(path).unlink()
        Path(path).symlink_to(tmp_path / "secret")
        assert not read(identifier)
        Path(path).unlink()
        os.mkfifo(path)
        assert not read(identifier)


@pytest.mark.parametrize(
    "data", [b'{"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}", b"[]", b"\xff", b'{"pid":"x"}']
)
def test_a_status_file_that_makes_no_sense_is_not_there(host: Host, tmp_path: Path, data: bytes) -> None:
    """Nested so deeply that reading it raises what no file should: agent and keeper ended of it."""
    identifier, _ = host.worker("churn")
    Path(status_of(identifier)).write_bytes(data)
    said = read_status(identifier)
    assert said is None or (said.id, said.pid) == ("", 0)
    assert statuses() == []
    assert Survivors(tmp_path).left() >= set()
    assert read_status_there(status_of(identifier)).get("pid") != 1
