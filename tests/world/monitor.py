"""What must be true at every moment of a world, and at its end.

The monitor sees every change of the bucket as it happens and hears all that is said to the actors. It
folds the log by itself, record by record, as they come to stand there: `truth[n]` is the state after
record n. To add an invariant: a method here that somebody calls with what has happened, and
`self.wrong(...)` where it is broken.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable

from mldeploy.core.fold import Folding, Verdict
from mldeploy.core.records import Publish
from mldeploy.core.state import State
from mldeploy.store.blobs import blob_key
from mldeploy.store.log import record_key
from tests.store.history_checker import Told, problems
from tests.world.bucket import Bucket, Change
from tests.world.clients import Clients
from tests.world.rollouts import Rollouts
from tests.world.scheduler import FailedError
from tests.world.telling import Telling


class BrokenError(FailedError):
    """An invariant does not hold."""


class Monitor:
    """Raises BrokenError at the first thing that is wrong."""

    def __init__(
        self, bucket: Bucket, trace: Callable[[str, str], None], clients: Clients, store: str
    ) -> None:
        self.bucket = bucket
        self.truth: list[State] = [State()]
        self.verdicts: list[Verdict | None] = [None]
        self.ids: dict[str, int] = {}  # record id -> its number
        self.told = Told()
        self.refusals: dict[str, str] = {}  # record id -> why nothing was written
        self.garbage: set[bytes] = set()  # what vandals write
        self.counts: Counter[str] = Counter()
        self.rollouts = Rollouts(self.wrong, bucket.now, self.truth, clients)
        self.telling = Telling(self.wrong, bucket.now, store)
        self._trace = trace
        bucket.watchers.append(self._changed)

    @property
    def head(self) -> State:
        """The state of the world, as nobody in it can know it."""
        return self.truth[-1]

    def wrong(self, what: str) -> None:
        """An invariant is broken."""
        self._trace("monitor", what)
        raise BrokenError(what)

    # --- what the actors are told

    def tries(self, record_id: str, who: str) -> None:
        """Somebody is about to append."""
        self.told.tried.add(record_id)
        self.counts["appends"] += 1

    def acknowledged(self, record_id: str, seq: int, state: State) -> None:
        """Somebody was told that the record stands at `seq`: it does, from now on for ever."""
        self.counts["acknowledged"] += 1
        self.told.acknowledged.append((record_id, seq))
        verdict = self.verdicts[seq] if seq < len(self.verdicts) else None
        if verdict is None or verdict.record is None or verdict.record.id != record_id:
            self.wrong(f"lost: {record_id} was acknowledged at {seq}, which is not there")
        elif state.head != seq:
            self.wrong(f"the state after record {seq} has the head {state.head}")

    def unknown(self, record_id: str) -> None:
        """Somebody was told that nobody knows."""
        self.counts["unknown"] += 1

    def refused(self, record_id: str, error: Exception | None) -> None:
        """Somebody was told that nothing was written: nothing is, from now on for ever."""
        kind = type(error).__name__ if error is not None else "nothing to do"
        self.counts[f"not written: {kind}"] += 1
        self.refusals[record_id] = kind
        if record_id in self.ids:
            self.wrong(f"ghost: {record_id} was not written ({kind}), and stands at {self.ids[record_id]}")

    def reads(self, who: str, before: int, state: State) -> None:
        """Somebody knows the log up to state.head, after having known it up to `before`."""
        self.counts["reads"] += 1
        if state.head < before:
            self.wrong(f"{who} went back from record {before} to {state.head}")
        if state.head >= len(self.truth):
            self.wrong(f"{who} knows record {state.head}, which is not there")
        if state.head_sha256 != self.truth[state.head].head_sha256:
            self.wrong(f"{who} has read another record {state.head} than stands there")

    def same(self, who: str, state: State) -> None:
        """`state` is what everyone folds to at its head. (Compared in full, which takes a while.)"""
        if state != self.truth[state.head]:
            self.wrong(f"{who} folds the log up to {state.head} to another state")

    def garbles(self, data: bytes) -> None:
        """Somebody is about to write this as a record."""
        self.garbage.add(data)

    # --- what happens in the bucket

    def _changed(self, change: Change) -> None:
        self._trace(change.who, f"* {change.verb} {change.key}")
        if change.key.startswith("log/"):
            self._log_changed(change)
        elif change.key.startswith("blobs/"):
            self._blob_changed(change)
        elif change.key.startswith("hosts/") and change.after is not None and "/merged-" not in change.key:
            self.rollouts.reported(change.after)

    def _log_changed(self, change: Change) -> None:
        seq = int(change.key.removeprefix("log/").removesuffix(".json"))
        if change.before is not None or change.after is None:
            self.wrong(f"{change.who} changed record {seq}")
            return
        if seq != len(self.truth):
            self.wrong(f"gap: {change.who} wrote record {seq} after record {len(self.truth) - 1}")
        folding = Folding(self.head)
        verdict = folding.take(seq, change.after)
        self.truth.append(folding.state())
        self.verdicts.append(verdict)
        self._judge(verdict)

    def _judge(self, verdict: Verdict) -> None:
        self.counts["records"] += 1
        record = verdict.record
        if verdict.void is not None:
            self.counts["void"] += 1
            if self.bucket.objects[record_key(verdict.seq)].data not in self.garbage:
                self.wrong(f"record {verdict.seq} is void: {verdict.void}")
            return
        assert record is not None
        if self.ids.setdefault(record.id, verdict.seq) != verdict.seq:
            self.wrong(f"duplicate: {record.id} stands at {self.ids[record.id]} and at {verdict.seq}")
        if record.id in self.refusals:
            why = self.refusals[record.id]
            self.wrong(f"ghost: {record.id} was not written ({why}), and stands at {verdict.seq}")
        for action in record.actions:
            name = type(action).__name__.lower()
            self.counts[f"action {name}"] += 1
            if isinstance(action, Publish):
                self._whole(verdict.seq, (*action.brought, *action.reused))
        before, after = self.truth[-2:]
        self.rollouts.record(before, after, record)
        self.telling.record(before, after, record)

    def _whole(self, seq: int, blobs: tuple[str, ...]) -> None:
        """Every blob of what is visible from now on is there. (With the right bytes: see `_blob_changed`.)"""
        for sha256 in blobs:
            key = blob_key(sha256, self.head.blobs[sha256].push)
            if key not in self.bucket.objects:
                self.wrong(f"lost blob: record {seq} publishes {key}, which is not there")

    def _blob_changed(self, change: Change) -> None:
        sha256, _, push = change.key.rpartition("/")[2].partition(".")
        self.counts["blobs removed" if change.after is None else "blobs written"] += 1
        if change.after is not None:
            if hashlib.sha256(change.after).hexdigest() != sha256:
                self.wrong(f"{change.who} wrote other bytes to {change.key}")
            return
        live = self.head.blobs.get(sha256)
        if live is not None and live.push == push:
            # live is more than needed: whoever pushes may reuse it in the next record
            self.wrong(f"lost blob: {change.who} removed {change.key}, which is live")

    # --- at the end

    def unfinished(self) -> list[str]:
        """What ought to be over and is not: rollouts, notices, and versions that nobody uses."""
        state, telling = self.head, self.telling
        return [*self.rollouts.under_way(state), *telling.untold(state), *telling.overdue(state)]

    def finish(self) -> None:
        """All that was on its way has arrived, and everyone has read the log to its end."""
        left = self.unfinished()
        if left:
            self.wrong(f"not done: {'; '.join(left)}")
        found = {seq: self.bucket.objects[record_key(seq)].data for seq in range(1, len(self.truth))}
        garbage = {f"garbage: record {seq} cannot be read" for seq in found if found[seq] in self.garbage}
        wrong = [problem for problem in problems(found, [self.told]) if problem not in garbage]
        if wrong:
            self.wrong("; ".join(wrong))
        for sha256, blob in self.head.blobs.items():
            if blob_key(sha256, blob.push) not in self.bucket.objects:
                self.wrong(f"lost blob: {sha256} of push {blob.push} is live and not there")
        for model in self.head.models.values():
            for version in model.versions.values():
                gone = [] if version.retired else [b for b in version.blobs if b not in self.head.blobs]
                if gone:
                    self.wrong(
                        f"lost blob: {model.name}@{version.version} needs {gone[0]}, which is not live"
                    )
