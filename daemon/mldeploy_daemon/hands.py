"""Does what the plan says. Short things at once, long ones in a few threads, so that nothing waits for a
download but what needs it.

Every failure ends in the book with the stage it happened at, but for removals, which are put off for a
while; nothing is decided here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from mldeploy.core.host import (
    Action,
    BuildEnvironment,
    FetchBundle,
    KillWorker,
    PublishTable,
    RemoveBlob,
    RemoveBundle,
    RemoveEnvironment,
    StartWorker,
    StartZygote,
    StopWorker,
    StopZygote,
)
from mldeploy.core.manifest import Manifest
from mldeploy.errors import IntegrityError, MldeployError, NotFoundError, StoreError
from mldeploy_daemon import fetch
from mldeploy_daemon.book import Book
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.follow import Follower
from mldeploy_daemon.observe import Observer
from mldeploy_daemon.workers import Workers
from mldeploy_daemon.zygotes import Zygotes

logger = logging.getLogger(__name__)
#: Fetches, builds, and of the rest, at the same time: each has threads of its own.
THREADS = 3
#: What says that the store did not give a file, or gave another: no fault of what was to be built of it.
LACKING = (StoreError, NotFoundError, IntegrityError)
#: Seconds until what could not be removed is tried again: a disk that takes nothing is asked for ever.
REMOVE_AGAIN = 60.0
#: Not the very idlest: the threads share the agent's interpreter lock.
NICE = 10


class Hands:
    """Carries actions out. `changed` is called when one has ended."""

    def __init__(
        self,
        disk: Disk,
        follower: Follower,
        observer: Observer,
        workers: Workers,
        zygotes: Zygotes,
        book: Book,
        changed: Callable[[], None],
    ) -> None:
        self.disk, self.follower, self.observer = disk, follower, observer
        self.workers, self.zygotes, self.book, self.changed = workers, zygotes, book, changed
        self.pools = {
            kind: ThreadPoolExecutor(THREADS, kind, initializer=_step_back)
            for kind in ("fetch", "build", "work")
        }
        self.tasks: set[asyncio.Task[None]] = set()

    def do(self, actions: Iterable[Action]) -> None:
        """Begin every action; PublishTable has been done by whoever calls."""
        for action in actions:
            match action:
                case StopWorker():
                    self.workers.stop(action.worker)
                case KillWorker():
                    self._kill(action)
                case StartWorker():
                    self._start_worker(action)
                case StopZygote():
                    self.zygotes.stop(action.environment)
                case StartZygote():
                    self._long(action, self._start_zygote(action))
                case PublishTable():
                    pass
                case _:
                    self._long(action, self._in_thread(action))

    def _kill(self, action: KillWorker) -> None:
        live = self.workers.live.get(action.worker)
        if live is not None and live.pid == 0:
            self.zygotes.kill(live.environment)  # it was asked for this worker and never answered
        self.workers.kill(action.worker, action.reason)

    def _start_worker(self, action: StartWorker) -> None:
        manifest = self.observer.manifest(action.digest)
        if manifest is None:
            return
        try:
            broken = self.disk.broken_seals(action.digest, manifest)
        except MldeployError as error:
            self.book.failed(f"{action.model}@{action.version}", action.digest, "load", str(error))
            return
        if broken:
            self._long(action, self._in_thread(action))
        else:
            self.workers.start(action, manifest, self.zygotes.socket(action.environment))

    async def _start_zygote(self, action: StartZygote) -> None:
        manifest = self._manifest(action.digest)
        await self.zygotes.start(action.environment, manifest)

    def _manifest(self, digest: str) -> Manifest:
        """Raises IntegrityError: it has gone since the action was given, or is not what it was."""
        manifest = self.observer.manifest(digest)
        if manifest is None:
            raise IntegrityError(f"bundle {digest} is not in its place", "it is fetched again by itself")
        return manifest

    async def _in_thread(self, action: Action) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(action, FetchBundle | BuildEnvironment):
            await self.follower.looked.wait()
        try:
            await loop.run_in_executor(self.pools[_kind(action)], partial(self._work, action))
        finally:
            self.observer.disk_changed()

    def _work(self, action: Action) -> None:
        """The long ones, in a thread."""
        match action:
            case FetchBundle():
                fetch.fetch_bundle(self._source(), self.disk, model=action.model, digest=action.digest)
            case BuildEnvironment():
                fetch.build_environment(self._source(), self.disk, self._manifest(action.digest))
            case StartWorker():
                fetch.verify_bundle(self.disk, self._manifest(action.digest), action.digest)
            case RemoveBundle():
                self.disk.remove_bundle(action.digest)
            case RemoveEnvironment():
                self.disk.remove(f"environments/{action.environment}")
            case RemoveBlob():
                self.disk.remove(f"blobs/sha256/{action.sha256[:2]}/{action.sha256}")

    def _source(self) -> fetch.Source:
        state = self.follower.state
        return fetch.Source(self.follower.store, state.blobs if state else {})

    def _long(self, action: Action, work: Coroutine[Any, Any, None]) -> None:
        self.observer.busy.add(action)
        task = asyncio.get_running_loop().create_task(self._finish(action, work))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _finish(self, action: Action, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except MldeployError as error:
            text = f"{error}" + (f" ({error.hint})" if error.hint else "")
            self._failed(action, text, lacking=isinstance(error, LACKING))
        except Exception as error:
            logger.exception("%s", action)
            self._failed(action, f"unexpected: {error!r}")
        else:
            self._succeeded(action)
        finally:
            self.observer.busy.discard(action)
            self.changed()

    def _failed(self, action: Action, reason: str, *, lacking: bool = False) -> None:
        """`lacking`: for want of a file."""
        match action:
            case FetchBundle():
                self.book.failed(f"{action.model}@{action.version}", action.digest, "fetch", reason)
            case BuildEnvironment():
                self.book.failed(action.environment, "", "fetch" if lacking else "install", reason)
            case StartZygote():
                self.book.failed(action.environment, "", "fetch" if lacking else "zygote", reason)
            case StartWorker() if not lacking:  # else its files were not what they should be: fetched again
                self.book.failed(f"{action.model}@{action.version}", action.digest, "load", reason)
            case _:
                logger.error("%s: %s", action, reason)
                self._put_off(action)

    def _put_off(self, action: Action) -> None:
        """To be removed in a while, as if its grace ended only then."""
        when = self.observer.now() + REMOVE_AGAIN - self.observer.grace
        match action:
            case RemoveBundle():
                self.observer.unused[action.digest] = when
            case RemoveEnvironment():
                self.observer.unused[action.environment] = when
            case RemoveBlob():
                self.observer.unused[f"blob {action.sha256}"] = when

    def _succeeded(self, action: Action) -> None:
        match action:
            case FetchBundle():
                self.book.came_up(f"{action.model}@{action.version}")
            case BuildEnvironment() | StartZygote():
                self.book.came_up(action.environment)


def _kind(action: Action) -> str:
    """Of which threads it takes one."""
    match action:
        case FetchBundle():
            return "fetch"
        case BuildEnvironment():
            return "build"
    return "work"


def _step_back() -> None:
    """Lower the priority of the calling thread, and so of what it starts: serving comes first."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
