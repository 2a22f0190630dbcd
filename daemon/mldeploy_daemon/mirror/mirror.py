"""The mirror of one host: what fronts copy to it goes to shadows and into the counts for drift.

Rules: it reads the same table as the fronts and answers the agent like one, so that no worker is stopped
while a copy is at it. It pauses by itself (`core/pausing.py`) and tells the fronts, so that nothing is even
copied then. What it has counted of a scope is kept for an hour after the scope's end, and goes on where the
scope comes back (after a lease that was lost). Killed, it takes copies with it and nothing else. Everything
runs on one event loop, at the lowest priority.
Left out: sockets (`__main__.py`, `inbox.py`), and what is counted for drift (`sampling.py`).
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any, Protocol

import msgspec

from mldeploy.core.evidence import Measure, merge
from mldeploy.core.pausing import ENOUGH, Load, Marks, Pausing, look
from mldeploy.runtime.frames import Frame
from mldeploy_daemon.copies import PAUSE, RESUME, Copy, Pulse
from mldeploy_daemon.front.config import Limits
from mldeploy_daemon.front.exchange import Exchange
from mldeploy_daemon.front.upstream import Handlers, Pool
from mldeploy_daemon.mirror.lane import Job, Lane
from mldeploy_daemon.mirror.pressure import Pressure
from mldeploy_daemon.mirror.sampling import KEPT, Sampling
from mldeploy_daemon.table import SHADOW, Reading, ShadowRoute, Table

#: Seconds between two looks at the host.
LOOK = 0.25
#: Shadows whose copies may come before the table that names them.
_EARLY = 1_000

log = logging.getLogger(__name__)


class Peer(Protocol):
    """A front that is connected."""

    def tell(self, status: int) -> None:
        """Pause or resume."""


class Mirror:
    """See the module."""

    def __init__(self, marks: Marks | None = None, pressure: Pressure | None = None) -> None:
        self.marks = marks or Marks()
        self.table = Table()
        self._reading = Reading()
        self.pool = Pool(Handlers(self._answered, self._lost), Limits())
        self.lanes: dict[str, Lane] = {}
        self.past: list[Lane] = []
        self.sampling = Sampling()
        self.peers: set[Peer] = set()
        self.pausing = Pausing()
        self._pressure = pressure or Pressure()
        self._answers: dict[str, tuple[int, float]] = {}  # by `churn@7`: too few yet to be a latency
        self._early: dict[str, list[int]] = {}  # by shadow: copies, and open ones, that came before the table
        self._looked = 0.0
        self._started = time.time()

    # the table

    def swap(self, table: Table, now: float) -> None:
        """Go by `table` from now on."""
        shadows = [(name, routes, each) for name, routes in table.models.items() for each in routes.shadows]
        self.pool.route(worker for _, _, shadow in shadows for worker in shadow.workers)
        lanes = {}
        for name, routes, shadow in shadows:
            before = self._lane_of(name, shadow)
            lane = before or Lane(name, shadow)
            lane.counts.pauses += self._begins_paused(before)
            lane.route(shadow, routes, self.pool)
            lane.missed(*self._early.pop(shadow.id, (0, 0)))
            lanes[shadow.id] = lane
        self.past = [lane for lane in self.past if lane not in lanes.values()]
        for lane in self.lanes.values():
            if lane not in lanes.values():
                lane.end(now)
                self.past.append(lane)
        self.lanes, self.table = lanes, table
        self._answers = {ref: sums for ref, sums in self._answers.items() if _names(table, ref)}
        self.past = [lane for lane in self.past if lane.ended is None or now - lane.ended < KEPT]
        self.sampling.route(table, now)
        self._pump(now)

    def _lane_of(self, model: str, shadow: ShadowRoute) -> Lane | None:
        """The one there is, or was within the hour: a lease that was lost ends no shadow."""
        for lane in (*self.lanes.values(), *self.past):
            if (lane.model, lane.id, lane.version, lane.scope) == (
                model, shadow.id, shadow.version, shadow.scope,
            ):  # fmt: skip
                return lane
        return None

    def _begins_paused(self, before: Lane | None) -> bool:
        """Whether a shadow begins, or comes back, in a pause that it was not there for."""
        if before is not None and (before.ended is None or before.ended >= self.pausing.since):
            return False
        return self.pausing.paused

    def reload(self, told: Any = None) -> dict[str, Any]:
        """Read the table again, or take the one that came along; one that cannot be read leaves the old one
        in place.
        """
        try:
            if (table := self._reading.read(told)) is not None:
                self.swap(table, time.monotonic())
        except FileNotFoundError:
            return {"ok": False, "error": "no routing table yet", **self._acknowledged()}
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            log.error("the routing table cannot be used: %s", error)
            return {"ok": False, "error": str(error), **self._acknowledged()}
        return {"ok": True, **self._acknowledged()}

    def _acknowledged(self) -> dict[str, Any]:
        return {"generation": self.table.generation, "inflight": self.pool.inflight()}

    # what comes

    def take(self, copy: Copy, request: bytes, answer: bytes) -> None:
        """A copy of an answered request has come. Whatever is in it, others come after it."""
        try:
            self._take(copy, request, answer)
        except Exception:
            log.exception("a copy of a request to %s@%d", copy.model, copy.version)

    def _take(self, copy: Copy, request: bytes, answer: bytes) -> None:
        now = time.monotonic()
        key = (copy.model, copy.version)
        read = not copy.binary and not copy.answer_binary
        sampled = copy.sampled and read and key in self.sampling.versions
        reader = self.sampling.reader(key)
        needed = read and reader is not None and (copy.open or sampled)
        inputs = reader.request(request) if needed and reader is not None else None
        chosen = [self.lanes[ident] for ident in copy.shadows if ident in self.lanes]
        for ident in (*copy.shadows, *copy.open):
            if ident not in self.lanes:
                self._miss(ident, open_=ident in copy.open)
        for ident in copy.open:
            lane = self.lanes.get(ident)
            if lane is not None and lane.wants(copy.headers, inputs):
                lane.counts.offered += 1
                chosen.append(lane)
        for lane in chosen:
            if self._rests:  # the fronts have not heard yet; and a queue that fills would make it longer
                lane.counts.dropped += 1
                continue
            lane.put(Job(lane, request, copy.binary, answer, read, now), copy.version)
            lane.pump(now)
        if sampled:
            self.sampling.count(key, inputs, answer, now)

    def _miss(self, ident: str, *, open_: bool) -> None:
        """A copy for a shadow that the fronts know and we do not: yet, or any more."""
        for lane in self.past:
            if lane.id == ident:
                lane.missed(int(not open_), int(open_))
                return
        if ident in self._early or len(self._early) < _EARLY:
            self._early.setdefault(ident, [0, 0])[open_] += 1

    def heard(self, pulse: Pulse) -> None:
        """A front says how long its primaries' answers took."""
        for ref, (count, seconds) in pulse.answers.items():
            before = self._answers.get(ref, (0, 0.0))
            self._answers[ref] = before[0] + count, before[1] + seconds

    def _answered(self, exchange: Exchange, frame: Frame) -> None:
        now = time.monotonic()
        job = self._release(exchange)
        try:
            job.lane.answered(job, frame, now)
        except Exception:
            log.exception("an answer of %s@%d cannot be compared", job.lane.model, job.lane.version)
        if not self._rests:
            job.lane.pump(now)

    def _lost(self, exchange: Exchange) -> None:
        routed = exchange.worker is not None and exchange.worker.routed
        job = self._release(exchange)
        job.lane.lost(job, routed=routed)

    def _release(self, exchange: Exchange) -> Job:
        worker, exchange.worker = exchange.worker, None
        if worker is not None:
            worker.inflight -= 1
            if not worker.routed:
                self.pool.settle(worker)
        assert isinstance(exchange, Job)  # nothing else is given to this pool
        return exchange

    # pausing

    def look(self, now: float) -> None:
        """Look at the host: pause or resume, and let go of what has waited for too long."""
        since, self._looked = now - self._looked, now
        load = Load(
            pressure=self._pressure.since_last(now),
            queue=max((lane.fill for lane in self.lanes.values()), default=0.0),
            latency=self._latencies(),
        )
        before = self.pausing
        if self.lanes or before.paused:
            self.pausing = look(before, load, now, self.marks)
        for lane in self.lanes.values():
            lane.expire(now)
            lane.pairs.tick(now)
            if before.paused:
                lane.counts.paused_ms += int(since * 1_000)
        if self.pausing.paused != before.paused:
            self._turn(now)

    def _latencies(self) -> dict[str, float]:
        """Of the versions of which enough answers came together; the rest go on adding up."""
        enough = {ref: sums for ref, sums in self._answers.items() if sums[0] >= ENOUGH}
        for ref in enough:
            del self._answers[ref]
        return {ref: seconds / count for ref, (count, seconds) in enough.items()}

    def _turn(self, now: float) -> None:
        paused = self.pausing.paused
        self._answers.clear()  # with copies and without them: two latencies
        log.info("shadows %s", f"pause: {self.pausing.why}" if paused else "go on")
        for peer in self.peers:
            peer.tell(self.word)
        for lane in self.lanes.values():
            lane.counts.pauses += paused
            if self._rests:
                lane.clear()  # it would be old by then
        if not paused:
            for exchange in self.pool.exchanges():
                exchange.assigned = now  # who was starved does not hang
        self._pump(now)

    @property
    def _rests(self) -> bool:
        """Whether nothing is sent to shadows either. A full queue is worked off."""
        return self.pausing.paused and self.pausing.why != "queue"

    def _pump(self, now: float) -> None:
        if not self._rests:
            for lane in self.lanes.values():
                lane.pump(now)

    @property
    def word(self) -> int:
        """What a front is told."""
        return PAUSE if self.pausing.paused else RESUME

    # what is told

    def measures(self) -> tuple[Measure, ...]:
        """Everything counted, of scopes under way and of those that ended within the hour."""
        found = [
            Measure(
                model=lane.model, version=lane.version, scope=lane.scope, role=SHADOW,
                comparison=lane.counts.value(), drift=lane.drift(),
            )
            for lane in (*self.past, *self.lanes.values())
        ]  # fmt: skip
        return merge((*found, *self.sampling.measures()))

    def drift(self) -> list[dict[str, Any]]:
        """Of the last half to whole hour, by model, version and column."""
        found, now = self.sampling.current(), time.monotonic()
        for lane in self.lanes.values():
            if lane.drifting is not None:
                found.setdefault((lane.model, lane.version), lane.drifting)
        return [
            {"model": model, "version": version, "tensor": name, "psi": column.psi(), "values": column.total}
            for (model, version), drifting in found.items()
            for name, column in drifting.recent(now).columns.items()
        ]

    def stats(self) -> dict[str, Any]:
        """What the agent and the fronts want to know; the keys of a front's, and `drift`, `paused`, `why`."""
        return {
            "pid": os.getpid(),
            "started": self._started,
            "counters": [],
            "measures": self.measures(),
            # an idle worker on a busy machine may take for ever, and does not hang for it
            "oldest_ms": {} if self.pausing.paused else self.pool.oldest_ms(time.monotonic()),
            "drift": self.drift(),
            "paused": self.pausing.paused,
            "why": self.pausing.why,
            "pauses": self.pausing.pauses,
            "queued": sum(len(lane.queue) for lane in self.lanes.values()),
            **self._acknowledged(),
        }

    def drain(self) -> None:
        """Nothing is prepared for a drain: copies have no clients."""

    def close(self) -> None:
        """Let go of the workers, and finish the files of pairs."""
        for lane in self.lanes.values():
            lane.pairs.finish()
        self.pool.close()


def _names(table: Table, ref: str) -> bool:
    """Whether `ref`, as `churn@7`, is in that table."""
    model, _, number = ref.rpartition("@")
    return model in table.models and number in table.models[model].versions
