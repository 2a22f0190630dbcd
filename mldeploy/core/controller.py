"""Control without a controller: what the hosts of an environment, each by itself, propose to the log.

`propose` is pure: the same state, reports and time give the same actions on every host, and the fold makes
one of what several propose. So it does not matter who acts, only that somebody does: `ranked` orders the
members by hash for each matter, the first few look at reports (`WATCHERS`), and each of those acts so much
later than the one before (`delay`) that usually one alone has to.

Rules: at most one action of each rollout. Every time is the store's: of records, of reports, and for now
the newest of what was read. An advance needs the fresh reports of 95 % of the members a rollout is for, a
halt of none; a retirement of all; a report that is not fresh counts for its counts alone. Rollouts do not
wait for a host that is drained, and it has no duties, unless all are.
Left out: reading reports and writing records.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from hashlib import blake2b

import msgspec

from mldeploy.core.evidence import Evidence, Measure
from mldeploy.core.policy import settings
from mldeploy.core.records import Action, Forget, Unshadow
from mldeploy.core.retirement import Heard, expired, retirements, serving_since
from mldeploy.core.rollout import Decision, Watch, decide
from mldeploy.core.state import Host, Serving, State
from mldeploy.core.wish import meant

#: How many hosts look at the reports of others, for each environment and matter.
WATCHERS = 3
#: Seconds each of them waits longer than the one before.
STAGGER = 20.0


class Reports(msgspec.Struct, frozen=True, kw_only=True):
    """What was read of the hosts: the newest report of each, fresh or not, and their counts, merged."""

    environment: str
    heard: tuple[Heard, ...] = ()
    measures: tuple[Measure, ...] = ()  # of this environment's hosts alone
    #: By host, the versions of rollouts that have come up there (`churn@7`). Who is not in it does not say.
    up: dict[str, tuple[str, ...]] = {}
    #: Of the members not heard of for as long as `silence` says those that were asked, each for itself: store
    #: time of its own report, unix seconds; 0.0: there is none. No others are proposed to be forgotten.
    silent: dict[str, float] = {}
    began: dict[int, float] = {}  # store time of records, as far as it is known, unix seconds
    everyone: bool = False  # whether the hosts of every environment were asked, not of this one alone


def freshness(members: int) -> float:
    """Seconds for which a report counts as fresh. The more hosts, the more rarely each of them reports.

    `members`: of the whole store, however few of them are in an environment, as in `report_pause`.
    """
    return 120.0 + 5 * report_pause(members)


def report_pause(members: int) -> float:
    """The least seconds between two reports of a host: those of a store write about a hundred a second."""
    return members / 100


def silence(state: State, environment: str) -> float:
    """Seconds after which a member that has not reported is silent: the policy's `host_ttl`, and never less
    than a report may be old and still fresh.
    """
    return max(settings(state, environment).host_ttl, freshness(len(state.hosts)))


def propose(state: State, reports: Reports, now: float) -> tuple[Action, ...]:
    """What is to be appended now, each action as a record of its own. `now`: store time, unix seconds."""
    found: list[Action] = [
        decision.action for decision in decisions(state, reports, now).values() if decision.action is not None
    ]
    for model, serving in state.environments.get(reports.environment, {}).items():
        found.extend(_over(state, model, serving, reports, now))
    found.extend(_silent(state, reports, now))
    if reports.everyone:
        found.extend(
            retirements(state, _fresh(state, state.hosts.values(), reports, now), reports.began, now)
        )
    return tuple(found)


def decisions(state: State, reports: Reports, now: float) -> dict[str, Decision]:
    """What each rollout of the environment does next, or waits for, by model."""
    under_way = list(ramps(state, reports.environment))
    if not under_way:
        return {}
    said = settings(state, reports.environment)
    fresh = {each.host: each for each in _fresh(state, members_of(state, reports.environment), reports, now)}
    members = on_duty(state, reports.environment)
    by_model: dict[str, list[Measure]] = {}
    for measure in reports.measures:
        by_model.setdefault(measure.model, []).append(measure)
    same: dict[tuple[str, ...], frozenset[str]] = {}  # most hosts say the same
    up = {host: same.get(refs) or same.setdefault(refs, frozenset(refs)) for host, refs in reports.up.items()}
    found = {}
    for model, serving in under_way:
        if serving.ramp is None:
            continue
        ramp = serving.ramp
        asked = [host for host in members if meant(ramp, host.labels)] if ramp.on else members
        there = [fresh[host.id] for host in asked if host.id in fresh]
        heard = [each for each in there if each.head >= ramp.seq]
        ref = f"{model}@{ramp.version}"
        watch = Watch(
            now=now,
            since=reports.began.get(ramp.seq),
            begun=reports.began.get(ramp.begun),
            members=len(asked),
            heard=len(heard),
            up=_up(ref, heard, up),
            failed=sum(ref in each.failed for each in heard),
            measures=by_model.get(model, ()),
        )
        decision = decide(serving, state.models[model].versions, said, watch)
        if decision is not None:
            found[model] = decision
    return found


def _up(ref: str, heard: Iterable[Heard], up: Mapping[str, Collection[str]]) -> int:
    """On how many of these a version has come up. Of a daemon too old to say it, that it has not failed is
    taken for it: else no rollout went on while a fleet is upgraded.
    """
    return sum(ref in up[each.host] if each.host in up else ref not in each.failed for each in heard)


def on_duty(state: State, environment: str) -> list[Host]:
    """The members that rollouts wait for and that have duties: those not drained, or all where all are."""
    members = members_of(state, environment)
    return [host for host in members if host.id not in state.drained] or members


def members_of(state: State, environment: str) -> list[Host]:
    """The members of an environment."""
    return [host for host in state.hosts.values() if host.environment == environment]


def ramps(state: State, environment: str) -> Iterator[tuple[str, Serving]]:
    """The models with a rollout under way."""
    for model, serving in state.environments.get(environment, {}).items():
        if serving.ramp is not None:
            yield model, serving


def scopes(state: State, environment: str, today: str = "") -> set[int]:
    """The numbers of the records whose store time `propose` asks for in `Reports.began`.

    `today`: the day (ISO) by which versions are past their expiry; "" where none is to be retired.
    """
    found: set[int] = set()
    for model, version in expired(state, today):
        found.update(serving_since(state, model, version.version))
    for serving in state.environments.get(environment, {}).values():
        if serving.ramp is not None:
            found |= {serving.ramp.seq, serving.ramp.begun}
        found.update(shadow.seq for shadow in serving.shadows if shadow.lasts)
    return found


def ranked(hosts: Iterable[str], matter: str) -> list[str]:
    """Host ids in the order in which they take care of a matter, the same on every host."""
    return sorted(hosts, key=lambda host: blake2b(f"{matter}\0{host}".encode(), digest_size=8).digest())


def delay(rank: int) -> float:
    """Seconds for which an action must have been due before the host of this rank does it."""
    return STAGGER * rank


def _fresh(state: State, hosts: Iterable[Host], reports: Reports, now: float) -> list[Heard]:
    """The fresh reports of these hosts."""
    wanted = {host.id for host in hosts}
    oldest = now - freshness(len(state.hosts))
    return [each for each in reports.heard if each.host in wanted and each.at >= oldest]


def _over(state: State, model: str, serving: Serving, reports: Reports, now: float) -> Iterator[Unshadow]:
    """The end of shadows whose time is over."""
    for shadow in serving.shadows:
        began = reports.began.get(shadow.seq)
        if shadow.lasts and began is not None and now >= began + shadow.lasts:
            ours = {host.id for host in members_of(state, reports.environment)}
            heard = sum(each.host in ours for each in reports.heard)
            # one record may begin shadows of many models, and then they all have its number
            measures = tuple(m for m in reports.measures if (m.model, m.scope) == (model, shadow.seq))
            evidence = Evidence(hosts=heard, start=began, end=now, measures=measures)
            yield Unshadow(shadow=shadow.shadow, reason="its time is over", evidence=evidence)


def _silent(state: State, reports: Reports, now: float) -> Iterator[Forget]:
    """Members of the environment that were asked and are silent for too long."""
    longest = silence(state, reports.environment)
    for name, at in reports.silent.items():
        host = state.hosts.get(name)
        if host is None or host.environment != reports.environment:
            continue
        # one that joined and never reported is silent since then
        last = max(at, reports.began.get(host.seq, 0.0))
        if last and now > last + longest:
            yield Forget(host=host.id)
