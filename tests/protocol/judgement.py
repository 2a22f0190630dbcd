"""What the log means in the small world: an abstract copy of the fold, whose rules can be switched off.

Blobs, pushes and horizons are small integers: push p began before push p+1, and a push is below horizon h
when p < h. Logs are interned: log 0 is empty, every other is a parent and one record more, so that what a
log means is worked out once. test_judgement.py holds this copy to the real fold on every log that the worlds
reach.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Rules:
    """The rules that the protocol rests on. Each can be taken out, and then the check has to fail."""

    reuse_needs_live: bool = True  # a publish that reuses a blob no longer live is void
    old_pushes_are_void: bool = True  # a publish whose push is below the horizon is void
    keys_carry_the_push: bool = True  # so no key is used twice
    state_decides_what_exists: bool = True  # never a HEAD or a listing
    sweep_before_deletes: bool = True
    sweep_only_older: bool = True  # only blobs that were brought by pushes below the horizon
    delete_only_older: bool = True  # only keys of pushes below the folded horizon
    needed_stays: bool = True  # what an unretired version needs cannot be swept
    restore_needs_live: bool = True  # a version whose blobs were swept cannot be restored
    horizon_never_goes_back: bool = True
    same_number_until_known: bool = True  # after a timeout the same bytes at the same number
    unknown_is_not_failed: bool = True  # so nothing is undone
    taken_is_read: bool = True  # "taken" may be one's own record, or another's: reading tells
    intent_is_asked_again: bool = True  # after a lost race
    reached_state_decides_deletes: bool = True  # not what had been planned
    push_begins_after_horizon: bool = True  # however slow its clock is
    resume_only_above_horizon: bool = True  # else a new push id
    journal_counts_for_its_own_id: bool = True  # what went up under another push id has to go up again
    create_is_exclusive: bool = True  # the one thing that is asked of a store

    def without(self, *names: str) -> Rules:
        return dataclasses.replace(self, **dict.fromkeys(names, False))


class Publish(NamedTuple):
    bundle: int
    push: int
    brought: int  # a mask of blobs
    reused: int
    kind: str = "publish"  # or tuples of two kinds could be equal


class Retire(NamedTuple):
    version: int  # counted over all models, from 0
    kind: str = "retire"


class Restore(NamedTuple):
    version: int
    kind: str = "restore"


class Sweep(NamedTuple):
    horizon: int
    blobs: int
    kind: str = "sweep"


Action = Publish | Retire | Restore | Sweep


class Record(NamedTuple):
    """`base`: the log whose last record it chains to. `seq`: the number it is created at."""

    writer: str
    seq: int
    base: int
    action: Action


class Version(NamedTuple):
    bundle: int
    blobs: int
    retired: bool


class Judged(NamedTuple):
    """What a log has come to. `live`: for each blob the push whose key is the live one, or -1; `swept`: the
    blobs that a sweep took and no push has brought back.
    """

    length: int
    versions: tuple[Version, ...]
    live: tuple[int, ...]
    horizon: int
    applied: frozenset[int]  # records that were not void
    swept: int = 0


def needed(judged: Judged) -> int:
    """The blobs that versions need which are not retired."""
    mask = 0
    for version in judged.versions:
        if not version.retired:
            mask |= version.blobs
    return mask


def judge(rules: Rules, bundles: tuple[int, ...], judged: Judged, action: Action) -> Judged | None:
    """The state after `action`; None where it is void."""
    if isinstance(action, Publish):
        return _publish(rules, bundles, judged, action)
    if isinstance(action, Sweep):
        return _sweep(rules, judged, action)
    versions = list(judged.versions)
    if action.version >= len(versions):
        return None
    version = versions[action.version]
    if isinstance(action, Retire):
        if version.retired:
            return None
        versions[action.version] = version._replace(retired=True)
    else:
        live = all(push >= 0 for blob, push in enumerate(judged.live) if version.blobs >> blob & 1)
        if not version.retired or has_live(judged, version.bundle) or (rules.restore_needs_live and not live):
            return None
        versions[action.version] = version._replace(retired=False)
    return judged._replace(versions=tuple(versions))


def has_live(judged: Judged, bundle: int) -> bool:
    """Whether a version of this bundle is not retired."""
    return any(version.bundle == bundle and not version.retired for version in judged.versions)


def _publish(rules: Rules, bundles: tuple[int, ...], judged: Judged, action: Publish) -> Judged | None:
    if has_live(judged, action.bundle):
        return None
    if rules.old_pushes_are_void and action.push < judged.horizon:
        return None
    live = list(judged.live)
    for blob, push in enumerate(live):
        if rules.reuse_needs_live and action.reused >> blob & 1 and push < 0:
            return None
        if action.brought >> blob & 1 and push < 0:
            live[blob] = action.push
    version = Version(action.bundle, bundles[action.bundle], False)
    swept = judged.swept & ~action.brought
    return judged._replace(versions=(*judged.versions, version), live=tuple(live), swept=swept)


def _sweep(rules: Rules, judged: Judged, action: Sweep) -> Judged | None:
    back = action.horizon < judged.horizon and rules.horizon_never_goes_back
    if back or (action.horizon == judged.horizon and not action.blobs):
        return None
    kept = needed(judged) if rules.needed_stays else 0
    live = list(judged.live)
    for blob, push in enumerate(live):
        if not action.blobs >> blob & 1:
            continue
        if push < 0 or kept >> blob & 1 or (rules.sweep_only_older and push >= action.horizon):
            return None
        live[blob] = -1
    return judged._replace(live=tuple(live), horizon=action.horizon, swept=judged.swept | action.blobs)


def plan(rules: Rules, judged: Judged, horizon: int) -> Sweep | None:
    """What a collector appends that has settled on this horizon; None where there is nothing to do."""
    if rules.horizon_never_goes_back:
        horizon = max(horizon, judged.horizon)
    kept = needed(judged) if rules.needed_stays else 0
    blobs = 0
    for blob, push in enumerate(judged.live):
        if push >= 0 and not kept >> blob & 1 and (push < horizon or not rules.sweep_only_older):
            blobs |= 1 << blob
    return Sweep(horizon, blobs) if blobs or horizon != judged.horizon else None


class Book:
    """Every log and every record that was met, by number."""

    def __init__(self, rules: Rules, bundles: tuple[int, ...], blobs: int) -> None:
        self.rules, self.bundles = rules, bundles
        self.records: list[Record] = []
        self.logs: list[tuple[int, int]] = [(0, -1)]  # parent, record
        self.judged = [Judged(0, (), (-1,) * blobs, 0, frozenset())]
        self._records: dict[Record, int] = {}
        self._logs: dict[tuple[int, int], int] = {}

    def record(self, record: Record) -> int:
        """The number of a record."""
        found = self._records.get(record)
        if found is None:
            found = self._records[record] = len(self.records)
            self.records.append(record)
        return found

    def child(self, log: int, record: int) -> int:
        """`log` with one record more."""
        found = self._logs.get((log, record))
        if found is None:
            found = self._logs[log, record] = len(self.logs)
            self.logs.append((log, record))
            self.judged.append(self._judge(log, record))
        return found

    def at(self, log: int, seq: int) -> int:
        """The record that stands at a number of this log, which is that long at least."""
        return self.logs[self.prefix(log, seq)][1]

    def prefix(self, log: int, length: int) -> int:
        """The first records of a log."""
        while self.judged[log].length > length:
            log = self.logs[log][0]
        return log

    def _judge(self, log: int, number: int) -> Judged:
        before, record = self.judged[log], self.records[number]
        after = judge(self.rules, self.bundles, before, record.action) if record.base == log else None
        if after is None:  # void: it keeps its number and changes nothing
            return before._replace(length=before.length + 1)
        return after._replace(length=before.length + 1, applied=before.applied | {number})
