"""The control loop of a host: look, plan, do, say; again whenever something has happened.

    follow.py   what the log asks for          plan (mldeploy.core)   what to do next
    observe.py  what is on this host           hands.py               doing it
    publish.py, fronts.py  telling the fronts  report.py              telling the fleet
    steer.py    what this host proposes to the log     notify.py   telling people

No request passes through here. It may be killed at any instruction: the next one starts from the disk and
the processes, adopts what runs and goes on. It sleeps until something happens: the log moved, a worker or a
zygote said something or ended, a front answered, something long has ended, or a moment it waits for has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from mldeploy.core.host import Action, Desired, Limits, Observed, PublishTable
from mldeploy.core.plan import plan, settled
from mldeploy.core.standing import Standings, standings
from mldeploy.core.wish import wish, without_lease
from mldeploy.errors import DiskError, MldeployError, UsageError
from mldeploy_daemon import clock
from mldeploy_daemon.background import Background
from mldeploy_daemon.book import Book
from mldeploy_daemon.chronicle import Chronicle
from mldeploy_daemon.config import Config, load
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.fates import Fates
from mldeploy_daemon.follow import LEASE, Follower
from mldeploy_daemon.fronts import Fronts
from mldeploy_daemon.hands import Hands
from mldeploy_daemon.identity import host_id
from mldeploy_daemon.ledger import Ledger
from mldeploy_daemon.measures import Measures
from mldeploy_daemon.notify import Notifier
from mldeploy_daemon.observe import Observer
from mldeploy_daemon.pairs import Shipper
from mldeploy_daemon.publish import Publisher
from mldeploy_daemon.report import Reporter, Seen
from mldeploy_daemon.steer import Steerer
from mldeploy_daemon.system import RUNTIME, processes_in
from mldeploy_daemon.uses import Uses
from mldeploy_daemon.worker_files import end_unconfined, statuses
from mldeploy_daemon.workers import Workers
from mldeploy_daemon.zygotes import Zygotes

logger = logging.getLogger(__name__)
#: Seconds the loop sleeps while nothing of the log is known; and while it waits for requests in flight, or
#: for an adopted worker.
BLIND, SHORT = 5.0, 0.05
#: Seconds after which it looks again once it has done something.
SOON = 0.01
#: Seconds between questions to the fronts.
STATS = 2.0


class Agent:
    """One run of the agent. Nothing is opened before `run`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.now = clock.now
        self.limits = Limits(
            grace=config.grace,
            drain=config.drain_deadline,
            hang=config.hang,
            load=config.load_timeout,
            loading=max(4, os.cpu_count() or 1),
        )
        self.ready = False
        self.seen: Seen | None = None
        self.stopping = False
        self.leased = True
        self.announced = False
        self._asked = 0.0
        self.chronicle = Chronicle()

    async def run(self) -> int:
        """Work until told to stop. Returns the exit code."""
        self.awake = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop)
        self._set_up()
        background = Background(
            self.follower.run, self.reporter.run, self.steerer.run, self.notifier.run, self.shipper.run
        )
        try:
            while not self.stopping and self.follower.refused is None:
                self.awake.clear()
                pause = await self._tick()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.awake.wait(), pause)
        finally:
            background.close()
        return await self._finish()

    def _set_up(self) -> None:
        """Everything in its place, from the disk. Raises DiskError."""
        config, wake = self.config, self._wake
        self.disk = Disk(Path())
        self.disk.prepare()
        host = host_id(self.disk)
        self.book = Book(self.disk, self.now)
        self.book.load()
        self.follower = Follower(config, self.disk, host, wake)
        self.follower.load()
        self.publisher = Publisher(config.environment, host, self.now)
        self.publisher.load()
        self.uses = Uses(self.disk, self.follower.live)
        self.uses.load()
        self.measures = Measures(self.disk, self.now)
        self.measures.load()
        self.fronts = Fronts(config.fronts, wake, self.measures.heard)
        self.fronts.generation = self.publisher.table.generation
        self.workers = Workers(wake, self.now)
        self.fates = Fates(self.workers, self.publisher, self.book, self.measures, self.now)
        self.zygotes = Zygotes(config.confine, wake)
        self.ledger = Ledger(config, self.disk, self.now, wake)
        self.ledger.load()
        self.ledger.listen()
        self.observer = Observer(
            self.disk, self.workers, self.zygotes, self.fronts, self.publisher, self.book, self.ledger,
            grace=config.grace, now=self.now,
        )  # fmt: skip
        self.hands = Hands(
            self.disk, self.follower, self.observer, self.workers, self.zygotes, self.book, wake
        )
        self.reporter = Reporter(
            config, host, self.workers, lambda: self.seen, lambda: self.follower.store, self.follower.note
        )
        self.steerer = Steerer(config, host, self.follower)
        self.notifier = Notifier(config, host, self.follower)
        self.notifier.load()
        self.shipper = Shipper(config.environment, host, lambda: self.follower.store)
        self.zygotes.adopt(self.disk.environments())
        end_unconfined(config.confine)
        self._end_strays()
        # ready once is ready until the keeper stops: a restart of the agent is nobody's business
        self.ready = self.disk.read("run/ready") == config.boot.encode()

    def _end_strays(self) -> None:
        """Kill what a former agent started and did not live to see: it has no status file yet."""
        known = {zygote.pid for zygote in self.zygotes.alive.values()}
        known |= {status.pid for status in statuses()}
        for pid in processes_in(Path.cwd(), RUNTIME):
            if pid not in known:
                logger.info("process %d was started and forgotten: it is ended", pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _wake(self) -> None:
        self.awake.set()

    def _stop(self) -> None:
        self.stopping = True
        self.awake.set()

    async def _tick(self) -> float:
        """Look, plan, do. Returns how long nothing needs to be done unless something happens, seconds."""
        state = self.follower.state
        if self.follower.recovered:
            self.follower.recovered = False
            self.book.try_fetching()
        self.fates.note()
        if state is None:
            return BLIND
        try:
            desired = self._leased(
                wish(state, self.config.environment, self.config.labels, self.publisher.routed())
            )
            self.book.keep(desired.refs)
            observed = await self.observer.look(desired)
            actions = plan(desired, observed, self.now(), self.limits)
            told = standings(desired, observed, self.now())
            self._publish(desired, observed, actions, told)
        except MldeployError as error:
            logger.error("%s", error)
            self._troubled(error)
            return 1.0
        self.hands.do(actions)
        self._tell(desired, observed, actions, told, state.head)
        # what was just done may call for more
        return SOON if actions else self._pause(observed)

    def _troubled(self, error: MldeployError) -> None:
        """Say so in the report, also while there is nothing else to say that is new."""
        self.follower.note(error)
        if self.seen is not None:
            self.seen = replace(self.seen, errors=self.follower.errors)
            self.reporter.look()

    def _leased(self, desired: Desired) -> Desired:
        """What the log asks for, less what is only lent: while a halt of it could not be heard of."""
        if self.leased != self.follower.leased:
            self.leased = not self.leased
            if not self.leased:
                logger.warning("no fresh head for %g s: rollouts have no traffic here", LEASE)
        return desired if self.leased else without_lease(desired)

    def _publish(
        self, desired: Desired, observed: Observed, actions: tuple[Action, ...], told: Standings
    ) -> None:
        """Routes first, then readiness: the table is told to the fronts if it says anything new."""
        routes = observed.routes
        for action in actions:
            if isinstance(action, PublishTable):
                routes = dict(action.routes)
        known = self.follower.read_head or self.follower.unreachable
        if not self.ready and known and settled(desired, observed, self.now()):
            self.ready = True
        drained, before = self.follower.drained, self.publisher.unwritten
        news = self.publisher.publish(routes, desired, told, self.observer.manifest, self.ready, drained)
        error = self.publisher.unwritten
        self.fronts.unwritten = self.publisher.table if error is not None else None
        if error is not None:
            self.follower.note(error)
            if before is None:
                logger.error("%s; the fronts are told all the same", error)
        if news:
            self.fronts.tell(self.publisher.table.generation)
        self.chronicle.routed(observed.routes, routes)
        self.chronicle.stand(told, self.book.bad)
        state = self.follower.state
        self.chronicle.drained(drained, state.drained.get(self.follower.host, "") if state else "")
        fronts = [front for front in observed.fronts if not front.idle]
        if self.ready and not self.announced and fronts:
            generation = self.publisher.table.generation
            if all(front.generation >= generation for front in fronts):
                self._announce()

    def _announce(self) -> None:
        """Tell the keeper, once every front has that table: a host that is drained has started as well."""
        self.announced = True
        try:
            self.disk.write("run/ready", self.config.boot.encode())
        except DiskError as error:
            logger.error("%s", error)  # an agent that is started again has to find out anew
            self.follower.note(error)
        if self.config.ready_fd >= 0:
            with contextlib.suppress(OSError):
                os.write(self.config.ready_fd, b"ready\n")

    def _tell(
        self, desired: Desired, observed: Observed, actions: tuple[Action, ...], told: Standings, head: int
    ) -> None:
        hurry = observed.draining or self.ledger.waited()
        if time.monotonic() - self._asked > (SHORT if hurry else STATS):
            self._asked = time.monotonic()
            self.fronts.ask()
        totals = self.fronts.totals()
        self.uses.note(totals, self.ledger.woken)
        for worker in observed.workers:
            if worker.private:
                self.measures.weighed(
                    self.publisher.table, worker.model, worker.version, worker.private, idle=worker.idle
                )
        self.measures.keep(self.publisher.table)
        self.seen = Seen(
            desired=desired,
            observed=observed,
            actions=actions,
            standings=told,
            head=head,
            ready=self.ready and not self.follower.drained,
            errors=self.follower.errors,
            totals=totals,
            watched=self.uses.watched,
            uses=self.uses.since(),
            members=len(self.follower.state.hosts) if self.follower.state else 0,
            told=self.notifier.told,
            measures=self.measures.all(),
        )
        self.reporter.look()
        self.steerer.look()
        self.notifier.look()

    def _pause(self, observed: Observed) -> float:
        """Until the next moment that no event tells of."""
        if observed.draining or self.workers.waiting() or self.ledger.waited():
            return SHORT
        now = self.now()
        moments = [bad.retry_at - now for bad in observed.bad.values() if bad.retry_at > now]
        moments += [since + self.limits.grace - now for since in observed.unused.values()]
        return min([STATS, *(max(SHORT, moment) for moment in moments if moment > 0)])

    async def _finish(self) -> int:
        """Leave in good order. Workers are the keeper's to stop, after the fronts."""
        if self.follower.refused is not None:
            print(f"error: {self.follower.refused}\nhint: {self.follower.refused.hint}", file=sys.stderr)
            return os.EX_CONFIG  # the keeper does not start us again
        self.uses.write()  # before anything is asked of the store: the keeper does not wait for long
        self.measures.write()
        await self.follower.leave()
        await self.reporter.part()
        self.fronts.close()
        self.ledger.close()
        return 0


def main() -> None:
    """The process of the agent, which does not return."""
    asyncio.run(_process())


async def _process() -> None:
    """However the agent ends, the process ends here and now: its threads may be in the middle of a download,
    and everything they do may be cut off at any point; `asyncio.run` would wait for some of them.
    """
    code = 1
    try:
        config = load()
        faulthandler.enable()
        logging.basicConfig(
            stream=sys.stderr, level=config.log_level.upper(), format="agent: %(levelname)s %(message)s"
        )
        code = await Agent(config).run()
    except MldeployError as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        code = os.EX_CONFIG if isinstance(error, UsageError) else 1  # the keeper does not start us again
    except BaseException:
        logger.exception("the agent ends, to be started again")
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
