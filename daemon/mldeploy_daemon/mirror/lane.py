"""One shadow in the mirror: a bounded queue of copies, a few of them at its workers, and what came of them.

Rules: a full queue drops what comes, a copy that has waited too long is dropped, and both are counted. An
answer with an error, or none because a worker ended, is a failure of the shadow. One that came too late
because others had the processor is none and is dropped, as is one where the primary's cannot be read.
Left out: which copies come here (`mirror.py`).
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from pathlib import Path

from mldeploy.core.baseline import INPUTS, OUTPUTS
from mldeploy.core.criterion import Criterion, evaluate
from mldeploy.core.evidence import Drift, bucket
from mldeploy.core.where import parse
from mldeploy.errors import UsageError
from mldeploy.runtime.frames import Frame
from mldeploy_daemon.front.exchange import Exchange
from mldeploy_daemon.front.upstream import Pool, Worker
from mldeploy_daemon.mirror.answers import Arrays, Reader, element
from mldeploy_daemon.mirror.compare import Comparing
from mldeploy_daemon.mirror.drift import Drifting, read_baseline
from mldeploy_daemon.mirror.pairs import Pair, Pairs, raw
from mldeploy_daemon.table import SHADOW, ModelRoutes, ShadowRoute, VersionRoutes

#: Copies that wait for one shadow, and bytes of them.
QUEUE, QUEUE_BYTES = 256, 64 << 20
#: Copies at one worker at a time: enough to fill a batch.
WINDOW = 8
#: Copies a second that are counted for drift, as the shadow reads and answers them.
SAMPLES = 50.0
#: Seconds from a copy's coming to the shadow's answer.
PATIENCE = 30.0

_idents = itertools.count(1)


class Job(Exchange):
    """A copy on its way to a shadow and back. To the pool it is an exchange without a client."""

    def __init__(
        self, lane: Lane, request: bytes, binary: int, answer: bytes, read: bool, now: float
    ) -> None:
        super().__init__(None)
        self.lane = lane
        self.body = request
        self.header = binary
        self.answer = answer  # of the primary
        self.read = read  # both are JSON
        self.deadline = now + PATIENCE
        self.primary = 0  # the version that gave the answer
        self.begun = now  # when it was given to a worker; `assigned` begins anew with a pause's end
        self.expired = False

    @property
    def bytes(self) -> int:
        """What it holds in memory."""
        return len(self.body) + len(self.answer)


class Lane:
    """See the module. The same one goes on through new tables, for as long as its shadow does."""

    def __init__(self, model: str, shadow: ShadowRoute) -> None:
        self.model, self.id, self.version, self.scope = model, shadow.id, shadow.version, shadow.scope
        self.counts = Comparing(shadow.rtol, shadow.atol)
        self.pairs = Pairs(shadow.id, shadow.keep)
        self.queue: deque[Job] = deque()
        self.bytes = 0
        self.flying: set[Job] = set()
        self.workers: tuple[Worker, ...] = ()
        self.ended: float | None = None
        self._criterion: Criterion | None = None
        self._primaries: dict[int, Reader] = {}
        self._inputs = self._outputs = Reader(())
        self.drifting: Drifting | None = None
        self._baseline = ""
        self._due = 0.0

    def route(self, shadow: ShadowRoute, routes: ModelRoutes, pool: Pool) -> None:
        """The newest table has it like this, perhaps again."""
        self.ended = None
        self.workers = tuple(pool.workers[worker.id] for worker in shadow.workers)
        try:
            self._criterion = parse(shadow.where) if shadow.where else None
        except UsageError:  # of a newer agent; the fronts send nothing then
            self._criterion = None
        versions = routes.versions
        mine = versions.get(str(self.version), VersionRoutes())
        self._inputs, self._outputs = Reader(mine.inputs), Reader(mine.outputs)
        if mine.baseline and mine.baseline != self._baseline:
            self._baseline = mine.baseline
            baseline = read_baseline(Path(mine.baseline))
            self.drifting = Drifting(baseline, mine.inputs, mine.outputs) if baseline else None
        self._primaries = {int(number): Reader(version.outputs) for number, version in versions.items()}

    def wants(self, headers: dict[str, str], inputs: Arrays | None) -> bool:
        """What its criterion says where headers did not decide. Inputs that were not read have no values."""
        if self._criterion is None:
            return True
        arrays = inputs or {}
        return evaluate(self._criterion, headers.get, lambda name, place: element(arrays, name, place))

    @property
    def fill(self) -> float:
        """How full its queue is, 0 to 1."""
        return max(len(self.queue) / QUEUE, self.bytes / QUEUE_BYTES)

    def put(self, job: Job, primary: int) -> None:
        """Queue a copy of what version `primary` answered, or drop it."""
        if len(self.queue) >= QUEUE or self.bytes + job.bytes > QUEUE_BYTES or not self.workers:
            self.counts.dropped += 1
            return
        job.primary = primary
        self.queue.append(job)
        self.bytes += job.bytes

    def pump(self, now: float) -> None:
        """Send what may be sent."""
        while self.queue and len(self.flying) < WINDOW * len(self.workers):
            free = [worker for worker in self.workers if not worker.full]
            if not free:
                return
            job = self.queue.popleft()
            self.bytes -= job.bytes
            if job.deadline <= now:
                self.counts.dropped += 1
                continue
            worker = min(free, key=lambda worker: worker.inflight)
            job.worker, job.ident, job.assigned, job.begun = worker, next(_idents), now, now
            worker.inflight += 1
            self.flying.add(job)
            worker.take(job, now)

    def expire(self, now: float) -> None:
        """Wait no longer for what has been away for too long: it was starved, not wrong."""
        for job in tuple(self.flying):
            if job.deadline <= now:
                job.expired = True
                self.counts.dropped += 1
                self.flying.discard(job)
        while self.queue and self.queue[0].deadline <= now:
            self.bytes -= self.queue.popleft().bytes
            self.counts.dropped += 1

    def answered(self, job: Job, frame: Frame, now: float) -> None:
        """The shadow has answered."""
        if job.expired:
            return
        self.flying.discard(job)
        if frame.status == 504:  # its time ran out in the worker's queue
            self.counts.dropped += 1
            return
        body = bytes(frame.body)
        if frame.status != 200:
            self._timed(job, now)
            self.counts.failure()
            self._keep(job, frame.status, body, within=False, now=now)
            return
        primary = self._primaries.get(job.primary)
        ours = primary.answer(job.answer) if job.read and primary else None
        if ours is None:  # its version has left the table: there is nothing to hold the shadow against
            self.counts.dropped += 1
            return
        self._timed(job, now)
        readable = not frame.header
        theirs = self._outputs.answer(body) if readable else None
        within = self.counts.pair(ours, theirs)
        self._keep(job, frame.status, body, within=within, now=now)
        if self.drifting is not None and readable and now >= self._due:
            self._due = now + 1 / SAMPLES
            sides = {INPUTS: self._inputs.request(job.body) or {}, OUTPUTS: theirs or {}}
            self.drifting.count(sides, ((self.scope, SHADOW),), now)

    def _timed(self, job: Job, now: float) -> None:
        index = bucket(now - job.begun)
        self.counts.latency[index] = self.counts.latency.get(index, 0) + 1

    def drift(self) -> Drift | None:
        """What was counted for drift; None where the version has no baseline."""
        return self.drifting.scoped().get((self.scope, SHADOW)) if self.drifting else None

    def _keep(self, job: Job, status: int, body: bytes, *, within: bool, now: float) -> None:
        if self.pairs.most and job.read and self.ended is None:  # an ended one's files are finished
            request, given, answer = raw(job.body), raw(job.answer), raw(body)
            self.pairs.keep(Pair(time.time(), job.primary, request, given, status, answer, within), now)

    def lost(self, job: Job, *, routed: bool) -> None:
        """No answer will come: its worker ended, or (not `routed`) was taken away."""
        if job.expired:
            return
        self.flying.discard(job)
        if routed and job.sent:
            self.counts.failure()
        else:
            self.counts.dropped += 1

    def missed(self, copies: int, open_: int) -> None:
        """So many came for it while it was not here, and `open_` more that it might have been chosen for."""
        self.counts.offered += open_
        self.counts.dropped += copies + open_

    def clear(self) -> None:
        """Drop what waits."""
        self.counts.dropped += len(self.queue)
        self.queue.clear()
        self.bytes = 0

    def end(self, now: float) -> None:
        """No table names it any more."""
        self.clear()
        self.pairs.finish()
        self.ended, self.workers = now, ()
