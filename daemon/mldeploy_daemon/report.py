"""What this host says of itself in the store: built from what the agent last saw, written by a thread.

A report goes out every so many seconds, and soon after anything in it that matters has changed, but never
more often than every half second. In a large fleet each host reports more rarely. A store that does not take
it is tried again with the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from mldeploy.core.controller import report_pause
from mldeploy.core.evidence import Measure
from mldeploy.core.host import Action, Desired, ModelRoute, Observed, Wish
from mldeploy.core.standing import Standing, Standings, by_digest, come_up, failing, next_step
from mldeploy.errors import MldeployError
from mldeploy.store.objects import ObjectStore
from mldeploy.store.reports import HostReport, ModelReport, VersionReport, WorkerReport, write_report
from mldeploy_daemon import clock
from mldeploy_daemon.config import Config
from mldeploy_daemon.fronts import Total
from mldeploy_daemon.ledger import weight
from mldeploy_daemon.system import boot_id
from mldeploy_daemon.workers import Workers

logger = logging.getLogger(__name__)
#: Seconds between two reports at the least.
SOONEST = 0.5
#: Seconds a host that stops tries to report.
PART_DEADLINE = 2.0
#: Lines of a failed worker's log that are told.
TAIL_LINES = 20


@dataclass(frozen=True)
class Seen:
    """What a report is made of: one tick of the agent."""

    desired: Desired
    observed: Observed
    actions: tuple[Action, ...]
    standings: Standings
    head: int
    ready: bool
    errors: tuple[str, ...]
    totals: dict[tuple[str, int], Total]
    watched: float = 0.0
    uses: dict[str, float] = field(default_factory=dict)
    members: int = 0
    told: dict[str, tuple[str, ...]] = field(default_factory=dict)
    measures: tuple[Measure, ...] = ()


class Reporter:
    """Writes reports until cancelled. `seen` gives the newest tick, `store` the store once it is open."""

    def __init__(
        self,
        config: Config,
        host: str,
        workers: Workers,
        seen: Callable[[], Seen | None],
        store: Callable[[], ObjectStore | None],
        failed: Callable[[MldeployError], None],
    ) -> None:
        self.config, self.host, self.workers = config, host, workers
        self.seen, self.store, self.failed = seen, store, failed
        self.pool = ThreadPoolExecutor(1, "report")
        self.due = asyncio.Event()
        self.told: object = None

    def look(self) -> None:
        """Something may have changed: send soon if it matters."""
        seen = self.seen()
        if seen is not None and self._matter(seen) != self.told:
            self.due.set()

    def _matter(self, seen: Seen) -> object:
        return (seen.standings, seen.observed.routes, seen.head, seen.ready, seen.errors, seen.told)

    async def run(self) -> None:
        """For ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.due.wait(), max(self.config.report, self._pause()))
            self.due.clear()
            await self.send()
            await asyncio.sleep(max(SOONEST, self._pause() / 2))

    def _pause(self) -> float:
        """The least seconds between reports of a fleet of this size."""
        seen = self.seen()
        return report_pause(seen.members) if seen is not None else 0.0

    async def send(self) -> None:
        """Write one report now, if there is anything to write and anywhere to write it."""
        seen, store = self.seen(), self.store()
        if seen is None or store is None:
            return
        self.told = self._matter(seen)
        loop = asyncio.get_running_loop()
        try:
            report = await loop.run_in_executor(self.pool, self._build, seen)
            await loop.run_in_executor(self.pool, write_report, store, report)
        except MldeployError as error:
            logger.debug("report: %s", error)
            self.failed(error)
        except Exception:
            logger.exception("the report")

    async def part(self) -> None:
        """One more report, if that is possible within PART_DEADLINE."""
        try:
            await asyncio.wait_for(self.send(), PART_DEADLINE)
        except TimeoutError:
            logger.warning("the last report did not arrive in time")

    def _build(self, seen: Seen) -> HostReport:
        return HostReport(
            host=self.host,
            environment=self.config.environment,
            hostname=socket.gethostname(),
            labels=self.config.labels,
            version=_version(),
            boot=boot_id(),
            pid=os.getpid(),
            listen=self.config.listen,
            head=seen.head,
            time=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            ready=seen.ready,
            pythons=tuple(sorted(seen.observed.pythons)),
            platform=seen.observed.platform,
            models=self._models(seen),
            errors=seen.errors,
            failed=failing(seen.standings),
            up=come_up(seen.standings),
            watched=seen.watched,
            uses=seen.uses,
            told=seen.told,
            measures=seen.measures,
        )

    def _models(self, seen: Seen) -> dict[str, ModelReport]:
        """What is said of each model; what it is looked up in is made once for all of them."""
        doing, pids, now = by_digest((*seen.observed.busy, *seen.actions)), self._pids(), clock.now()

        def of_version(name: str, standing: Standing) -> VersionReport:
            total = seen.totals.get((name, standing.version), Total())
            return _version_report(standing, total, pids.get(standing.digest, ()))

        def of_model(name: str, asked: Wish) -> ModelReport:
            route = seen.observed.routes.get(name, ModelRoute())
            return ModelReport(
                stable=route.stable,
                candidate=route.candidate,
                previous=route.previous,
                serving={each.version: of_version(name, each) for each in seen.standings.get(name, ())},
                next=next_step(asked, route, doing, seen.observed, now),
            )

        return {name: of_model(name, asked) for name, asked in sorted(seen.desired.models.items())}

    def _pids(self) -> dict[str, list[int]]:
        """The processes of workers, by the digest of their bundle."""
        found: dict[str, list[int]] = {}
        for live in list(self.workers.live.values()):
            if live.pid:
                found.setdefault(live.digest, []).append(live.pid)
        return found


def _version_report(standing: Standing, total: Total, pids: Sequence[int]) -> VersionReport:
    return VersionReport(
        state=standing.state,
        reason=standing.reason,
        stage=standing.stage,
        attempts=standing.attempts,
        retry_at=standing.retry_at and clock.to_wall(standing.retry_at),
        workers=tuple(_memory(pid) for pid in pids),
        requests=total.requests,
        failures=total.failures,
        last_used=total.last_used and clock.to_wall(total.last_used),
        log_tail=tuple(standing.log_tail.splitlines()[-TAIL_LINES:]),
    )


def _memory(pid: int) -> WorkerReport:
    """As the budget counts it."""
    total, private = weight(pid)
    return WorkerReport(pid=pid, private_bytes=private, pss_bytes=total)


def _version() -> str:
    try:
        return version("mldeploy")
    except PackageNotFoundError:
        return ""
