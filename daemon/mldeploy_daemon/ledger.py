"""What workers weigh, when versions were used last, and which ones requests wait for: for `core/memory.py`.

What a version took when it last ran is kept in memory.json, so that a restart knows what fits.
Left out: what follows from it (`mldeploy.core.memory`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from mldeploy.core.host import Memory, ModelRoute, Worker
from mldeploy.core.memory import WAITS
from mldeploy.errors import DiskError
from mldeploy_daemon.config import Config
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.fronts import Total
from mldeploy_daemon.workers import Live

logger = logging.getLogger(__name__)
#: Where fronts say that requests wait, relative to the state folder.
EAR = Path("run/agent.sock")
#: Seconds between two weighings of a worker; and where there is no budget to hold, but guards may ask.
WEIGH, SELDOM = 1.0, 10.0
#: What a version takes is written down when it has changed by this part.
CHANGE = 0.25
_LONGEST = 4096


class Wake(msgspec.Struct, frozen=True):
    """The datagram of a front: `{"wake": [model, version]}`."""

    wake: tuple[str, int]


class Ledger:
    """One host's. `changed` is called when a request waits for a version."""

    def __init__(
        self, config: Config, disk: Disk, now: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self.config, self.disk, self.now, self.changed = config, disk, now, changed
        self.seen: dict[str, int] = {}
        self.woken: dict[str, float] = {}
        self._written: dict[str, int] = {}
        # by worker: when it was weighed, in what state; its share, and what of that is private
        self._weights: dict[str, tuple[float, str, int, int]] = {}
        self._ear: socket.socket | None = None

    def load(self) -> None:
        """Read memory.json."""
        data = self.disk.read("memory.json")
        if data is not None:
            with contextlib.suppress(msgspec.MsgspecError):
                self.seen = msgspec.json.decode(data, type=dict[str, int])
        self._written = dict(self.seen)

    # who waits

    def listen(self) -> None:
        """Hear the fronts. Raises DiskError."""
        staged = EAR.with_name(f".{EAR.name}.{os.getpid()}")
        staged.unlink(missing_ok=True)
        self._ear = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        try:
            self._ear.bind(str(staged))
            staged.chmod(0o600)
            staged.replace(EAR)
        except OSError as error:
            raise DiskError(f"{EAR}: {error.strerror}", "make room on that disk") from error
        asyncio.get_running_loop().add_reader(self._ear, self._hear, self._ear)

    def _hear(self, ear: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := ear.recv(_LONGEST):
                try:
                    model, version = msgspec.json.decode(data, type=Wake).wake
                except msgspec.MsgspecError as error:
                    logger.warning("%s: %s", EAR, error)
                    continue
                self.woken[f"{model}@{version}"] = self.now()
                self.changed()

    def close(self) -> None:
        """Hear no more."""
        if self._ear is not None:
            asyncio.get_running_loop().remove_reader(self._ear)
            self._ear.close()
            EAR.unlink(missing_ok=True)

    def waited(self) -> bool:
        """Whether a request has waited for a version just now."""
        return any(self.now() - moment < WAITS for moment in self.woken.values())

    # what they weigh

    def weigh(self, live: Collection[Live]) -> None:
        """Weigh those that have not been for a while; seldom without a budget: it costs the worker time."""
        now, pause = time.monotonic(), WEIGH if self.config.memory else SELDOM
        for worker in live:
            when, state, _, _ = self._weights.get(worker.id, (-pause, "", 0, 0))
            if worker.pid and (now - when >= pause or state != worker.state):
                total, private = weight(worker.pid)
                if total:
                    self._weights[worker.id] = now, worker.state, total, private
                    if worker.state == "ready":
                        self.seen[worker.digest] = total
        ids = {worker.id for worker in live}
        self._weights = {key: value for key, value in self._weights.items() if key in ids}

    def weighed(self, worker: Worker) -> Worker:
        """The worker with what it weighs."""
        _, _, total, private = self._weights.get(worker.id, (0.0, "", 0, 0))
        return msgspec.structs.replace(worker, memory=total, private=private)

    def view(
        self,
        totals: Mapping[tuple[str, int], Total],
        routes: Mapping[str, ModelRoute],
        digests: Collection[str],
    ) -> Memory:
        """Everything as one value; `digests` are the bundles on the disk: others are forgotten."""
        used = {
            f"{model}@{version}": min(total.last_used, self.now())
            for (model, version), total in totals.items()
        }
        # who is awake is waited for no more, and has to be waited for again once it sleeps
        awake = {
            f"{name}@{version}" for name, route in routes.items() for version, w in route.workers.items() if w
        }
        self.woken = {
            ref: moment
            for ref, moment in self.woken.items()
            if self.now() - moment < WAITS and ref not in awake
        }
        self.seen = {digest: total for digest, total in self.seen.items() if digest in digests}
        self._write()
        return Memory(
            budget=self.config.memory,
            awake=self.config.awake,
            idle=self.config.idle,
            seen=dict(self.seen),
            used=used,
            woken=dict(self.woken),
        )

    def _write(self) -> None:
        known = self._written.keys() == self.seen.keys()
        if known and all(abs(self.seen[d] - was) <= CHANGE * was for d, was in self._written.items()):
            return
        self._written = dict(self.seen)
        try:
            self.disk.write("memory.json", msgspec.json.encode(self.seen))
        except DiskError as error:
            logger.error("%s", error)  # it is measured again when they run again


def weight(pid: int) -> tuple[int, int]:
    """A process's proportional share of memory, and what its end would take off that; zeros if it is gone.

    Clean pages of a file that nobody else has mapped are among the latter: they go from its share too.
    """
    fields: dict[str, int] = {}
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    for line in lines:
        name, _, rest = line.partition(":")
        if rest.endswith("kB"):
            fields[name] = int(rest.split()[0]) * 1024
    swap = fields.get("SwapPss", 0)
    huge = fields.get("Private_Hugetlb", 0)  # no part of PSS
    private = fields.get("Private_Dirty", 0) + fields.get("Private_Clean", 0)
    return fields.get("Pss", 0) + huge + swap, private + huge + swap
