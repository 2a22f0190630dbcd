"""The zygotes of this host: one process for each environment, which forks its workers.

Started with the environment's own interpreter, adopted after a restart of the agent, ended when idle. A
zygote that ends takes no worker with it. Left out: when there should be one (`mldeploy.core.plan`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from mldeploy.bundle.environment import find_interpreter
from mldeploy.bundle.launch import model_environ, runtime_command
from mldeploy.core.manifest import Manifest
from mldeploy.errors import BuildError, DiskError
from mldeploy.runtime.reading import NOT_JSON
from mldeploy_daemon.system import STATUS, read_theirs
from mldeploy_daemon.worker_files import (
    RUN,
    TAIL,
    fits,
    follow,
    make_folder,
    remove_files,
    scratch_of,
)

logger = logging.getLogger(__name__)
#: Seconds a zygote has to import its packages.
START = 120.0


class _Status(msgspec.Struct):
    pid: int = 0
    start_ticks: int = 0
    confinement: str = "off"
    state: str = ""
    reason: str = ""


@dataclass
class Zygote:
    """One of them. `state` is starting or ready."""

    environment: str
    state: str = "starting"
    pid: int = 0
    pidfd: int = -1
    process: subprocess.Popen[bytes] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Zygotes:
    """All of them by environment. `changed` is called when there is something new to look at."""

    def __init__(self, confine: str, changed: Callable[[], None]) -> None:
        self.confine, self.changed = confine, changed
        self.alive: dict[str, Zygote] = {}

    def seen(self) -> dict[str, str]:
        """State by environment."""
        return {name: zygote.state for name, zygote in self.alive.items()}

    @staticmethod
    def stem(environment: str) -> str:
        """The name of its files in run/workers/, without an ending."""
        return f"zygote-{environment[:16]}"

    def socket(self, environment: str) -> str:
        """Where it takes requests, relative to the state folder."""
        return f"{RUN}/{self.stem(environment)}.sock"

    async def start(self, environment: str, manifest: Manifest) -> None:
        """Start it and wait until it listens. Raises BuildError or DiskError, with its last words."""
        zygote = Zygote(environment)
        self.alive[environment] = zygote
        try:
            await asyncio.to_thread(self._launch, zygote, manifest)
            if zygote.pidfd >= 0:
                asyncio.get_running_loop().add_reader(zygote.pidfd, self._gone, zygote)
            await asyncio.wait_for(self._listening(zygote), START)
        except TimeoutError:
            self._signal(zygote, signal.SIGKILL)
            raise BuildError(f"the zygote did not listen within {START:g} s", self._words(zygote)) from None
        except BaseException:
            if self.alive.get(environment) is zygote and zygote.pidfd < 0:
                del self.alive[environment]
            raise
        finally:
            self.changed()
        zygote.state = "ready"

    def _launch(self, zygote: Zygote, manifest: Manifest) -> None:
        interpreter = find_interpreter(manifest.python)
        if interpreter is None:
            raise BuildError(f"Python {manifest.python} is not installed", f"install python{manifest.python}")
        stem = RUN / self.stem(zygote.environment)
        for suffix in (".sock", ".json"):
            stem.with_suffix(suffix).unlink(missing_ok=True)
        remove_files(stem.name)
        options = {
            "environment": f"environments/{zygote.environment}",
            "socket": f"{stem}.sock",
            "status": f"{stem}.json",
            "imports": list(manifest.imports),
            "confine": self.confine,
            "read": ["bundles"],
            "write": [str(RUN)],
            "scratch": scratch_of(stem.name),
        }
        try:
            make_folder(stem.name)
            Path(scratch_of(stem.name)).mkdir()
            with stem.with_suffix(".log").open("wb") as log:
                process = subprocess.Popen(
                    runtime_command(interpreter, "zygote", options),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=model_environ(os.environ),
                    start_new_session=True,
                )
        except OSError as error:
            raise DiskError(f"the zygote cannot be started: {error}", "it is tried again") from error
        zygote.process, zygote.pid = process, process.pid
        try:
            zygote.pidfd = os.pidfd_open(process.pid)
        except OSError as error:  # no descriptor is left: nobody would know of it
            process.kill()
            process.wait()
            raise DiskError(f"the zygote cannot be followed: {error}", "it is tried again") from error

    async def _listening(self, zygote: Zygote) -> None:
        path = RUN / f"{self.stem(zygote.environment)}.json"
        while True:
            status = _read(path)
            if status is not None and status.pid == zygote.pid and status.state != "failed":
                return
            with contextlib.suppress(TimeoutError):  # no event tells that it listens; its end is one
                await asyncio.wait_for(zygote.ended.wait(), 0.02)
                status = _read(path)
                reason = status.reason if status and status.pid == zygote.pid else ""
                raise BuildError(
                    f"the zygote ended at once: {reason or self._words(zygote) or 'without a word'}",
                    "see its log in the state folder under run/workers/",
                )

    def _words(self, zygote: Zygote) -> str:
        """The last line of its log."""
        try:
            said = read_theirs(RUN / f"{self.stem(zygote.environment)}.log", TAIL)
        except OSError:
            return ""
        return said.decode("utf-8", "replace").strip().rpartition("\n")[2][-500:]

    def _gone(self, zygote: Zygote) -> None:
        asyncio.get_running_loop().remove_reader(zygote.pidfd)
        os.close(zygote.pidfd)
        zygote.pidfd = -2
        if zygote.process is not None:
            zygote.process.wait()  # it has ended: this reaps it
        zygote.ended.set()
        if self.alive.get(zygote.environment) is zygote:
            del self.alive[zygote.environment]
            remove_files(self.stem(zygote.environment))
        self.changed()

    def stop(self, environment: str) -> None:
        """End an idle one."""
        zygote = self.alive.get(environment)
        if zygote is not None:
            self._signal(zygote, signal.SIGTERM)

    def kill(self, environment: str) -> None:
        """End one that does not answer."""
        zygote = self.alive.get(environment)
        if zygote is not None:
            self._signal(zygote, signal.SIGKILL)

    @staticmethod
    def _signal(zygote: Zygote, number: signal.Signals) -> None:
        if zygote.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(zygote.pidfd, number)

    def adopt(self, environments: Iterable[str]) -> None:
        """Take over the zygotes that a former agent started and that still run; end those that are confined
        less than is asked for now.
        """
        for environment in environments:
            status = _read(RUN / f"{self.stem(environment)}.json")
            pidfd = follow(status.pid, status.start_ticks) if status is not None else None
            if status is None or pidfd is None:
                continue
            if not fits(status.confinement, self.confine):
                logger.warning(
                    "a zygote confined by %s is ended: --confine %s", status.confinement, self.confine
                )
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)
                continue
            zygote = Zygote(environment, "ready", status.pid, pidfd)
            asyncio.get_running_loop().add_reader(pidfd, self._gone, zygote)
            self.alive[environment] = zygote


def _read(path: Path) -> _Status | None:
    try:
        return msgspec.json.decode(read_theirs(path, STATUS), type=_Status)
    except (OSError, *NOT_JSON):
        return None
