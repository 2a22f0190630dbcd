"""The worker processes of this host: forked through zygotes, adopted after a restart, signalled, mourned.

A worker is known by its status file (worker_files.py), its pid with its start ticks, and while it lives by a
pidfd, whose end wakes the agent. Workers outlive the agent; what a former agent started is adopted whenever
its status file is seen. What happened to a worker comes out as one `Ending`.
Left out: which workers there should be (`mldeploy.core.plan`) and what an ending means (`book.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from mldeploy.core.host import StartWorker, Worker
from mldeploy.core.manifest import Manifest
from mldeploy.runtime.reading import NOT_JSON
from mldeploy_daemon.system import give_way
from mldeploy_daemon.worker_files import (
    Progress,
    Status,
    credible,
    follow,
    identifiers,
    log_of,
    make_folder,
    name_worker,
    read_status,
    remove_files,
    scratch_of,
    socket_of,
    status_of,
    tail,
)

logger = logging.getLogger(__name__)
#: Seconds a dead worker's zygote has to say in its status file how it died.
LAST_WORDS = 1.0


@dataclass
class Live:
    """A worker that is alive, or about to be."""

    id: str
    model: str
    version: int
    digest: str
    environment: str
    replica: int
    state: str  # loading, ready, stopping, gone
    since: float
    pid: int = 0
    pidfd: int = -1
    adopted: bool = False
    idle: bool = False  # a shadow's
    ready_at: float = 0.0  # 0: never was
    told: str = ""  # why we ended it: "stop", or the reason it was killed for
    stage: str = ""
    reason: str = ""
    fork: asyncio.Task[None] | None = None

    @property
    def ref(self) -> str:
        """`churn@7`."""
        return f"{self.model}@{self.version}"


@dataclass(frozen=True)
class Ending:
    """A worker is gone. `lived`: seconds since it was ready; None if it never was."""

    worker: Live
    lived: float | None
    asked: bool  # we stopped it in good order
    stage: str
    reason: str
    log_tail: str


class Workers:
    """All of them by id. `changed` is called when there is something new to look at."""

    def __init__(self, changed: Callable[[], None], now: Callable[[], float] = time.time) -> None:
        self.changed, self.now = changed, now
        self.live: dict[str, Live] = {}
        self.endings: list[Ending] = []
        self.came_up: list[Live] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def seen(self) -> tuple[Worker, ...]:
        """The workers as values, without what the fronts know of them."""
        return tuple(
            Worker(
                id=w.id,
                model=w.model,
                version=w.version,
                digest=w.digest,
                environment=w.environment,
                replica=w.replica,
                idle=w.idle,
                state=w.state,
                since=w.since,
            )
            for w in self.live.values()
        )

    def start(self, action: StartWorker, manifest: Manifest, zygote: str) -> None:
        """Ask the zygote at that socket for a worker."""
        name = name_worker(action.model, action.version, action.digest, action.replica, idle=action.idle)
        identifier = f"{name}{secrets.token_hex(3)}"
        live = Live(
            id=identifier,
            model=action.model,
            version=action.version,
            digest=action.digest,
            environment=action.environment,
            replica=action.replica,
            state="loading",
            since=self.now(),
            idle=action.idle,
        )
        self.live[identifier] = live
        spec = {
            "id": identifier,
            "model": action.model,
            "version": action.version,
            "digest": action.digest,
            "bundle": f"bundles/{action.digest}",
            "socket": socket_of(identifier),
            "status": status_of(identifier),
            "log": log_of(identifier),
            "scratch": scratch_of(identifier),
            "replica": action.replica,
            "idle": action.idle,
            "threads": manifest.resources.threads,
            "max_batch": manifest.batching.max_size,
            "hold": True,
        }
        live.fork = self._task(self._fork(live, spec, zygote))

    async def _fork(self, live: Live, spec: dict[str, Any], zygote: str) -> None:
        writer = None
        try:
            make_folder(live.id)
            reader, writer = await asyncio.open_unix_connection(zygote)
            writer.write(msgspec.json.encode({"op": "fork", "worker": spec}) + b"\n")
            while line := await reader.readline():
                self._progress(live, msgspec.json.decode(line, type=Progress))
        except (OSError, ValueError, *NOT_JSON) as error:
            live.reason = live.reason or f"it cannot be started: {error}"
        finally:
            if writer is not None:
                writer.close()
        if live.pidfd < 0:  # else the pidfd tells
            live.stage = live.stage or "zygote"
            live.reason = live.reason or "its zygote ended"
            self._gone(live)

    def _progress(self, live: Live, said: Progress) -> None:
        if said.pid and live.pidfd < 0 and live.id in self.live:
            self._follow(live, follow(said.pid, said.start_ticks), said.pid)
        if said.error or said.reason:
            live.reason = said.error or said.reason
        if said.stage:
            live.stage = said.stage
        if said.state == "ready":
            self._ready(live)
        self.changed()

    def _ready(self, live: Live) -> None:
        if live.state == "loading":
            live.state, live.since = "ready", self.now()
            live.ready_at = live.since
            if live.idle and live.pid:
                give_way(live.pid)
            self.came_up.append(live)
            self.changed()

    def _follow(self, live: Live, pidfd: int | None, pid: int) -> None:
        """Be told when the process ends."""
        live.pid = pid
        if pidfd is None:
            self._gone(live)
            return
        live.pidfd = pidfd
        asyncio.get_running_loop().add_reader(live.pidfd, self._gone, live)

    def _gone(self, live: Live) -> None:
        if live.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(live.pidfd)
            os.close(live.pidfd)
            live.pidfd = -2
        if self.live.get(live.id) is live and live.state != "gone":
            was, live.state = live.state, "gone"
            self._task(self._mourn(live, was))

    async def _mourn(self, live: Live, was: str) -> None:
        """Find out why it ended, remove what it left, and say so."""
        asked = was == "stopping" and live.told == "stop"
        status = read_status(live.id)
        deadline = time.monotonic() + LAST_WORDS
        while not asked and live.pid and status is not None and status.state not in ("failed", "exited"):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.02)  # the zygote writes it when it reaps; there is no event for that
            status = read_status(live.id)
        reason, stage = live.reason, live.stage
        if status is not None and status.state in ("failed", "exited"):
            reason, stage = status.reason or reason, status.stage or stage
        if live.told not in ("", "stop"):
            reason = live.told
        lived = self.now() - live.ready_at if live.ready_at else None
        self.endings.append(
            Ending(
                worker=live,
                lived=lived,
                asked=asked,
                stage="serve" if live.ready_at else stage or "load",
                reason=reason or "its process ended without a word",
                log_tail=tail(live.id),
            )
        )
        remove_files(live.id)
        self.live.pop(live.id, None)
        self.changed()

    def stop(self, identifier: str) -> None:
        """SIGTERM: it answers what it has received, and goes."""
        self._end(identifier, signal.SIGTERM, "stop")

    def kill(self, identifier: str, reason: str) -> None:
        """SIGKILL."""
        live = self.live.get(identifier)
        if live is not None:
            logger.warning("%s (%s) is killed: %s", live.ref, live.id, reason)
        self._end(identifier, signal.SIGKILL, "stop" if live and live.told == "stop" else reason)

    def _end(self, identifier: str, number: signal.Signals, told: str) -> None:
        live = self.live.get(identifier)
        if live is None or live.state == "gone":
            return
        live.state, live.since, live.told = "stopping", self.now(), told
        if live.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(live.pidfd, number)
        elif live.fork is not None:  # not forked yet; should it appear after all, it is adopted as surplus
            live.fork.cancel()
            live.reason, live.stage = told, "zygote"
            self._gone(live)

    def adopt(self, environment_of: Callable[[str], str]) -> None:
        """Take over every worker that lives and is not known yet; remove what dead ones left."""
        for identifier in identifiers():
            known = self.live.get(identifier)
            if known is not None:
                if known.adopted and known.state == "loading":
                    self._look_again(known)
                continue
            status = credible(identifier)
            pidfd = follow(status.pid, status.start_ticks) if status is not None else None
            if status is not None and pidfd is not None:
                self._take_over(status, pidfd, environment_of(status.digest))
            else:
                remove_files(identifier)

    def _take_over(self, status: Status, pidfd: int, environment: str) -> None:
        now = self.now()
        live = Live(
            id=status.id,
            model=status.model,
            version=status.version,
            digest=status.digest,
            environment=environment,
            replica=status.replica,
            state="loading",
            since=now,
            idle=status.idle,
            adopted=True,
        )
        self.live[live.id] = live
        self._follow(live, pidfd, status.pid)
        if status.state == "ready":
            self._ready(live)
        logger.info("%s goes on as %s (pid %d)", live.ref, live.id, status.pid)

    def _look_again(self, live: Live) -> None:
        status = read_status(live.id)
        if status is not None and status.state == "ready":
            self._ready(live)

    def waiting(self) -> bool:
        """Whether an adopted worker loads: its file has to be looked at, for it tells nobody else."""
        return any(live.adopted and live.state == "loading" for live in self.live.values())

    def _task(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task
