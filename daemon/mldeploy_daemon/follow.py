"""Follows the log: keeps the state it folds to, on disk too (`desired.py`), and the host's membership.

All of it runs in one thread of its own, because the log is for one thread and the store may take long to
answer. A store that cannot be reached is asked again for ever; what was known goes on being true. What cannot
be written to a full disk counts all the same: only the next start without the store does not know it.
It also leaves checkpoints in the store, where the rank of this host says that it is the one to do so.
Left out: what follows from the state (`mldeploy.core.host.wish`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import os
import random
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from mldeploy.core.controller import ranked
from mldeploy.core.records import Action, Join, Leave
from mldeploy.core.state import Host, State
from mldeploy.errors import (
    DaemonError,
    DiskError,
    LogHoleError,
    MldeployError,
    StoreError,
    StoreFormatError,
    UsageError,
)
from mldeploy.store.log import Appended, Intent, Log, record_key
from mldeploy.store.objects import ObjectStore, open_store
from mldeploy_daemon.config import Config
from mldeploy_daemon.desired import Kept
from mldeploy_daemon.disk import REWRITE, Disk
from mldeploy_daemon.troubles import Troubles

logger = logging.getLogger(__name__)
#: Touched when the head was read, so that a lease outlives the agent.
HEAD = "run/head"
#: Hosts that may poll one store in a second.
POLLS_PER_SECOND = 2000
#: Seconds a joining or leaving host tries to append.
JOIN_DEADLINE = 10.0
APPEND_DEADLINE = 10.0
LEAVE_DEADLINE = 2.0
#: Seconds without a fresh head after which rollouts lose their traffic, and between two notes of a fresh one.
LEASE, NOTE = 120.0, 10.0
#: Seconds in which a member says something new of itself once; doubled each time, up to a day.
REJOIN, LONGEST_REJOIN = 300.0, 86_400.0
#: Records that a host waits for those before it to leave a checkpoint.
TURN = 64


class Follower:
    """The log as this host knows it. `state` is None until there is anything to know."""

    def __init__(self, config: Config, disk: Disk, host: str, changed: Callable[[], None]) -> None:
        self.config, self.disk, self.host, self.changed = config, disk, host, changed
        self.kept = Kept(disk)
        self.pool = ThreadPoolExecutor(1, "log")
        self.state: State | None = None
        self.store: ObjectStore | None = None
        self.log: Log | None = None
        self.read_head = False  # whether the store's head has been read, ever
        self.unreachable = False  # whether the last attempt failed
        self.recovered = False  # whether the store came back; for the agent to take note of
        self.troubles = Troubles()
        self.woken = asyncio.Event()
        self.looked = asyncio.Event()  # once the store has been asked for the first time, answer or not
        self.refused: UsageError | None = None
        self._unwatch: Callable[[], None] | None = None
        self._fresh = -math.inf  # when the head was asked for that was read last, by the monotonic clock
        self._noted = -math.inf
        self._unsaved = -math.inf  # when it was found last that the state could not be written; -inf: it is
        self._said: Join | None = None  # when it joined last, in this run
        # how often it has said something new of itself as a member, and when it may again
        self._corrections, self._rejoin = 0, -math.inf
        self._ranked: tuple[object, int] = (None, 0)  # the hosts among which this one has that rank

    def load(self) -> None:
        """Start from what is on the disk."""
        self.state = self.kept.load()
        # an agent that is started again has not forgotten that the head was read a moment ago
        with contextlib.suppress(OSError):
            age = time.time() - (self.disk.root / HEAD).stat().st_mtime
            self._fresh = time.monotonic() - max(age, 0.0)

    def live(self, ref: str) -> bool:
        """Whether `churn@7` is published and not retired, as far as is known."""
        name, _, number = ref.rpartition("@")
        model = self.state.models.get(name) if self.state else None
        version = model.versions.get(int(number)) if model and number.isdecimal() else None
        return self.state is None or (version is not None and not version.retired)

    @property
    def drained(self) -> bool:
        """Whether this host is to take no traffic."""
        return self.state is not None and self.host in self.state.drained

    @property
    def leased(self) -> bool:
        """Whether the head is fresh enough for rollouts and shadows to have traffic."""
        return time.monotonic() - self._fresh <= LEASE

    def _note_fresh(self, asked: float) -> None:
        """A look that began at `asked` (monotonic) has read the head. It may have taken long to end, by reads
        that brought nothing: what others have written meanwhile it has not seen.
        """
        self._fresh = asked
        if asked - self._noted >= NOTE:
            self._noted = asked
            path, when = self.disk.root / HEAD, time.time() - (time.monotonic() - asked)
            with contextlib.suppress(OSError):
                path.touch()
                os.utime(path, (when, when))

    async def run(self) -> None:
        """Look at the log for ever; ends only where the store's URL makes no sense (`refused`)."""
        loop = asyncio.get_running_loop()
        while True:
            self.woken.clear()
            try:
                await loop.run_in_executor(self.pool, self._look, loop)
                self.recovered |= self.unreachable
                self.unreachable = False
            except UsageError as error:
                self.refused = error
                self.changed()
                return
            except MldeployError as error:
                self._failed(error)
            except Exception:
                logger.exception("following the log")
                self._failed(StoreError("the log cannot be followed: see the daemon's log"))
            self.looked.set()
            self.changed()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), self._pause())

    def _pause(self) -> float:
        hosts = len(self.state.hosts) if self.state else 0
        return max(self.config.poll, hosts / POLLS_PER_SECOND) * random.uniform(0.8, 1.2)

    def _failed(self, error: MldeployError) -> None:
        if not self.unreachable:
            logger.warning("the store: %s", error)
        self.unreachable = True
        self.note(error)

    def note(self, error: MldeployError) -> None:
        """Remember an error for the report."""
        self.troubles.note(error)

    @property
    def errors(self) -> tuple[str, ...]:
        """For the report."""
        return self.troubles.told()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """One look, in the thread."""
        log = self._open(loop)
        asked = time.monotonic()
        try:
            log.refresh()
        except (StoreFormatError, LogHoleError):
            self._take(log.state)  # a newer mldeploy's record, or a hole, stops us; what came before counts
            raise
        self._take(log.state)
        self.read_head = True
        self._note_fresh(asked)
        self._leave_checkpoint(log)
        if self._join_action(log.state):
            self._join(log)

    def _open(self, loop: asyncio.AbstractEventLoop) -> Log:
        if self.log is not None:
            return self.log
        store = open_store(self.config.store)
        known = self.state or State()
        if known.head:
            found = store.get(record_key(known.head))
            if found is None or hashlib.sha256(found.data).hexdigest() != known.head_sha256:
                raise StoreError(
                    f"{store.url} is not the store this host has followed up to record {known.head}",
                    "give the right --store, or a new --state folder for a new store",
                )
        start = known if self.kept.exact else State()  # what another version folded is nothing to go on from
        log = Log(store, state=start, seen=known.head, taken=self.kept.took)

        def wake() -> None:
            loop.call_soon_threadsafe(self.woken.set)

        self._unwatch = store.watch("log/", wake)
        self.store, self.log = store, log
        return log

    def _take(self, state: State) -> None:
        """From now on this is what the log says. Only at the head: old records are not acted on."""
        if self.state is not None and state.head < self.state.head:
            return  # read anew by another version, and stopped on the way: never back behind what was seen
        self.state = state  # first: a halt is heeded though there is no room to keep it
        now = time.monotonic()
        if now - self._unsaved < REWRITE:
            return  # after that it is written whole
        try:
            self.kept.save(state)
        except DiskError as error:
            if self._unsaved == -math.inf:
                logger.error("%s", error)
            self.note(error)
            self._unsaved = now
        else:
            self._unsaved = -math.inf

    def _leave_checkpoint(self, log: Log) -> None:
        if log.checkpoint_is_due():
            hosts = log.state.hosts
            if self._ranked[0] is not hosts:
                self._ranked = (hosts, ranked({*hosts, self.host}, "checkpoint").index(self.host))
            if log.checkpoint(late=TURN * self._ranked[1]):
                logger.info("left a checkpoint of record %d", log.state.head)

    def _actor(self) -> str:
        return f"host:{self.host}"

    def _join(self, log: Log) -> None:
        there = log.state.hosts.get(self.host)
        if self._said is not None and there is not None and not _says(there, self._said):
            error = DaemonError(
                f"host {self.host} is also another daemon, on {there.hostname} in {there.environment}",
                "stop the one whose state folder is a copy, delete host.json there, and start it again",
            )
            logger.error("%s", error)
            self.note(error)
        now = datetime.now(UTC)
        if log.append(self._join_action, actor=self._actor(), now=now, deadline=JOIN_DEADLINE) is not None:
            logger.info("joined %s as %s", self.config.environment, self.host)
            self._said = self._as_it_is()
            self._corrections += there is not None
            self._rejoin = time.monotonic() + min(LONGEST_REJOIN, REJOIN * 2.0 ** min(self._corrections, 20))
            self._take(log.state)

    def _as_it_is(self) -> Join:
        return Join(
            host=self.host,
            environment=self.config.environment,
            hostname=socket.gethostname(),
            labels=self.config.labels,
        )

    def _join_action(self, state: State) -> list[Action]:
        """Whoever is no member joins. A member says what is new of it, but not again and again: where a
        machine was copied, two of one id would take turns at it for ever.
        """
        there, join = state.hosts.get(self.host), self._as_it_is()
        if there is not None and (_says(there, join) or time.monotonic() < self._rejoin):
            return []
        return [join]

    async def append(self, intent: Intent) -> Appended | None:
        """Write what `intent` gives for the present state, in the log's own thread. Raises as Log.append."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, self._append, intent)

    def _append(self, intent: Intent) -> Appended | None:
        if self.log is None:
            return None
        now = datetime.now(UTC)
        appended = self.log.append(intent, actor=self._actor(), now=now, deadline=APPEND_DEADLINE)
        self._take(self.log.state)
        return appended

    async def leave(self) -> None:
        """Say good-bye, if that is possible within LEAVE_DEADLINE."""
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(loop.run_in_executor(self.pool, self._leave), LEAVE_DEADLINE + 0.5)
        except (MldeployError, TimeoutError) as error:
            logger.warning("could not leave: %s", error)

    def _leave(self) -> None:
        if self.log is None:
            return
        self._unsaved = -math.inf  # the last word

        def intent(state: State) -> list[Action]:
            return [Leave(host=self.host)] if self.host in state.hosts else []

        self.log.append(intent, actor=self._actor(), now=datetime.now(UTC), deadline=LEAVE_DEADLINE)
        self._take(self.log.state)

    def close(self) -> None:
        """Stop watching."""
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None


def _says(there: Host, join: Join) -> bool:
    """Whether the member is as that join says."""
    return (there.environment, there.labels, there.hostname) == (
        join.environment, join.labels, join.hostname,
    )  # fmt: skip
