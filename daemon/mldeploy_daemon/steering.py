"""This host's part in steering its environment: which it has, what it reads for it, what it would append.

    looking      the first few members by hash (the watchers) read what all hosts say, and propose
    merging      in a large fleet one host of each group merges the reports of its group for the watchers
    standing by  every other host asks now and then whether the watchers are alive, and takes a place if not

How often: every few seconds while a rollout or a shadow with an end is under way, so often that a host makes
at most `RATE` requests a second for each of the two; every minute while a version is past its expiry; else
every quarter of an hour, and not before the first one has passed. Who stands by makes a handful of requests
a minute, or a quarter of an hour.

Rules: decides nothing (`mldeploy.core.controller` does) and writes nothing but merged reports; the second
and third watcher give the one before them time to act. Times are the store's; the clock here only counts
pauses.
Left out: threads and appending (`steer.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from mldeploy.core.controller import (
    WATCHERS,
    delay,
    freshness,
    members_of,
    on_duty,
    propose,
    ranked,
    report_pause,
    scopes,
)
from mldeploy.core.fold import refusal
from mldeploy.core.policy import settings
from mldeploy.core.records import Action, Advance, Complete, Forget, Halt, Retire
from mldeploy.core.retirement import expired, serving_since
from mldeploy.core.state import Ramp, State
from mldeploy.core.verdicts import BREACHED
from mldeploy.store.fleet import Fleet, group_of, groups_of, merged_key
from mldeploy.store.reports import report_key

#: Requests a second that a host makes for steering, at the most and on the average.
RATE = 10.0
#: Seconds between looks: of who stands by, or with something past its expiry; and with nothing to do. A
#: daemon that has just started looks at once only where its pace is shorter than both.
MINUTE, QUIET = 60.0, 900.0


class Turn(NamedTuple):
    """What one look came to."""

    actions: tuple[Action, ...]  # to be appended now, each for itself
    pause: float  # seconds until the next look, unless the log moves


@dataclass(frozen=True, slots=True)
class _Peers:
    """The members of an environment as one of them sees them."""

    members: int
    rank: int | None  # the host's own among those with duties; None: it is drained
    before: list[str]  # who comes before it, first the first
    group: int  # of those that are merged
    grouped: int  # hosts in it
    merges: int | None  # the host's rank among those that may merge it; None: it is not its part


class Steering:
    """One host's. `look` reads the store and may take long: it is for a thread of its own.

    `report` is the pause between reports, in seconds.
    """

    def __init__(
        self,
        environment: str,
        host: str,
        fleet: Fleet,
        report: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.environment, self.host, self.fleet, self.report = environment, host, fleet, report
        self.monotonic = monotonic
        self.now = 0.0  # the store's time, as of the last look
        self._started = monotonic()
        self._looked: dict[str, float] = {}  # when each duty was done last
        self._due: dict[tuple[object, ...], float] = {}  # actions that are due, and since when
        self._peers: tuple[object, object, _Peers | None] = (None, None, None)  # and what they were made of
        self._asked = 0  # requests of the last look for hosts that were not heard of
        self._place: int | None = None  # the watcher's place this host has taken while standing by

    def look(self, state: State) -> Turn:
        """Do what is to be done now, and say what is to be appended. Raises StoreError."""
        peers = self._looked_up(state)
        pace = self._pace(state, peers.members if peers else 0)
        if peers is None:
            return Turn((), min(pace, MINUTE))
        pauses = [self._merge(state, peers, pace)]
        rank = self._place_of(peers, len(state.hosts))
        if rank is None:
            self._due.clear()
            return Turn((), min([*pauses, max(pace, MINUTE)]))
        if self._due:
            pace = min(pace, self._again(peers.members))
        left = self._left("look", pace)
        if left > 0:
            return Turn((), min([*pauses, left]))
        self._looked["look"] = self.monotonic()
        today = self._today()
        everyone = any(True for _ in expired(state, today))
        reports, self.now = self.fleet.read(
            state, self.environment, everyone=everyone, scopes=scopes(state, self.environment, today)
        )
        self._asked = 2 * len(reports.silent)  # the own report of each, and perhaps when it joined
        actions = self._ripe(propose(state, reports, self.now) if self.now else (), rank, len(state.hosts))
        return Turn(actions, min([*pauses, pace, self._again(peers.members) if self._due else pace]))

    def _pace(self, state: State, members: int) -> float:
        """Seconds between looks."""
        if scopes(state, self.environment):
            return max(self.report / 2, report_pause(members) / 2, self._spent(members))
        if any(True for _ in expired(state, self._today())):
            return MINUTE
        return QUIET

    def _spent(self, members: int) -> float:
        """Seconds for which one look uses up what a host may ask for."""
        return ((groups_of(members) or members) + self._asked) / RATE

    def _again(self, members: int) -> float:
        """Seconds between looks while something is due and not ripe."""
        return max(delay(1), self._spent(members))

    def _today(self) -> str:
        return datetime.fromtimestamp(self.now or time.time(), UTC).date().isoformat()

    def _left(self, duty: str, pace: float) -> float:
        """Seconds until a duty is to be done again. At the slow paces not before the first pause is over."""
        first = self._started if pace >= MINUTE else -float("inf")
        return self._looked.get(duty, first) + pace - self.monotonic()

    def _looked_up(self, state: State) -> _Peers | None:
        """None where this host is no member. The same while no host comes, goes or is drained: ten thousand
        take a while.
        """
        if self._peers[0] is not state.hosts or self._peers[1] is not state.drained:
            self._peers = state.hosts, state.drained, _peers(state, self.environment, self.host)
        return self._peers[2]

    def _place_of(self, peers: _Peers, hosts: int) -> int | None:
        """The place of this host among the watchers; None if it is none of them. `hosts`: of the store."""
        if peers.rank is None or peers.rank < WATCHERS:
            return peers.rank
        return self._standing_by(peers.before, hosts)

    def _standing_by(self, before: list[str], hosts: int) -> int | None:
        """The place that is free because those before it are silent; None where there is none."""
        if self._left("stand by", MINUTE) > 0:
            return self._place
        self._looked["stand by"] = self.monotonic()
        alive = 0
        oldest = freshness(hosts)
        for start in range(0, len(before), WATCHERS):
            some = before[start : start + WATCHERS]
            keys = [report_key(self.environment, host) for host in some]
            ages = self.fleet.ages(self.environment, self.host, keys)
            alive += sum(age is not None and age <= oldest for age in ages)
            if alive >= WATCHERS:
                break
        self._place = alive if alive < WATCHERS else None
        return self._place

    def _merge(self, state: State, peers: _Peers, pace: float) -> float:
        """Merge this host's group where that is its part; returns the seconds until that is due again."""
        rank = peers.merges
        if rank is None:
            return pace
        own_pace = max(pace, peers.grouped / RATE if rank == 0 else MINUTE)
        left = self._left("merge", own_pace)
        if left > 0:
            return left
        self._looked["merge"] = self.monotonic()
        if rank > 0:
            (age,) = self.fleet.ages(self.environment, self.host, [merged_key(self.environment, peers.group)])
            if age is not None and age < freshness(len(state.hosts)) * min(rank, WATCHERS):
                return own_pace
        self.fleet.merge(state, self.environment, peers.group, self.host)
        return own_pace

    def _ripe(self, actions: tuple[Action, ...], rank: int, hosts: int) -> tuple[Action, ...]:
        """Those that have been due for as long as this place waits. `hosts`: of the store.

        A host is forgotten once it has had the time to report: where the store was away for everybody, the
        first to report again makes all others look silent.
        """

        def waits(action: Action) -> float:
            return delay(rank) + (freshness(hosts) if isinstance(action, Forget) else 0.0)

        now = self.monotonic()
        found = {_key(action): action for action in actions}
        self._due = {key: self._due.get(key, now) for key in found}
        return tuple(action for key, action in found.items() if now - self._due[key] >= waits(action))


def _peers(state: State, environment: str, host: str) -> _Peers | None:
    members = [each.id for each in members_of(state, environment)]
    if host not in members:
        return None
    order = ranked((each.id for each in on_duty(state, environment)), environment)
    rank = order.index(host) if host in order else None
    groups = groups_of(len(members))
    group = group_of(host, groups) if groups else 0
    grouped = [each for each in members if groups and group_of(each, groups) == group]
    able = set(order)
    # a group all of whose hosts are drained has nobody else to merge it
    merging = ranked([each for each in grouped if each in able] or grouped, f"{environment} merged")
    return _Peers(
        members=len(members),
        rank=rank,
        before=order[: rank or 0],
        group=group,
        grouped=len(grouped),
        merges=merging.index(host) if host in merging else None,
    )


def still(state: State, proposed: Action, seen: State) -> tuple[Action, ...]:
    """The action, if it still fits and what it was proposed for is still so; else nothing.

    A rollout that was paused and resumed meanwhile stands at the same step, but its evidence begins anew. A
    version that was extended, brought back or promoted since is not the one that nobody needs, and a host
    that has joined since may need it; one that has joined again is not silent.
    """
    if isinstance(proposed, Advance | Complete | Halt):
        now, then = _ramp(state, proposed.rollout), _ramp(seen, proposed.rollout)
        if now is None or then is None or now.begun != then.begun:
            return ()
        # paused, it is late for nothing; where its candidate does not come up, the next look says so again
        if isinstance(proposed, Halt) and now.paused and not then.paused and not _breached(proposed):
            return ()
        # what is wrong at one step is wrong at the next; what holds at one is not shown for the next
        if now.seq != then.seq and not isinstance(proposed, Halt):
            return ()
    if isinstance(proposed, Retire):
        joined = {host.seq for host in state.hosts.values()} - {host.seq for host in seen.hosts.values()}
        if joined or _needed(state, proposed) != _needed(seen, proposed):
            return ()
    if isinstance(proposed, Forget) and state.hosts.get(proposed.host) != seen.hosts.get(proposed.host):
        return ()
    return (proposed,) if refusal(state, [proposed]) is None else ()


def _breached(halt: Halt) -> bool:
    return halt.evidence is not None and any(each.verdict == BREACHED for each in halt.evidence.guards)


def _needed(state: State, proposed: Retire) -> tuple[object, ...]:
    """What says whether a version is to be retired: its expiry, since when it is at work, what is idle."""
    version = state.models[proposed.model].versions[proposed.version]
    since = serving_since(state, proposed.model, proposed.version)
    idle = [settings(state, environment).idle for environment in state.environments]
    return (version.expires, version.retired, since, idle)


def _ramp(state: State, rollout: str) -> Ramp | None:
    for models in state.environments.values():
        for serving in models.values():
            if serving.ramp is not None and serving.ramp.rollout == rollout:
                return serving.ramp
    return None


def _key(action: Action) -> tuple[object, ...]:
    """What makes two proposals the same, whatever their evidence."""
    names = ("rollout", "step", "shadow", "host", "model", "version")
    return (type(action).__name__, *(getattr(action, name, None) for name in names))
