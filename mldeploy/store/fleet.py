"""What the hosts of a fleet say, read by a bounded number of requests: for `core/controller.py`.

Up to `GROUP` hosts, each one's report is got by its key: the members are known from the log, and nothing is
listed. Beyond, the members are divided into groups by hash; in each of them one host gets the reports of its
group and writes them as one object, hosts/<environment>/merged-<k>.json, and whoever steers gets those.
Counts merge by addition and each host is in one group, so it does not matter who merged what.

Rules: what is missing or cannot be read is left out, and counts as not heard; only counts of scopes under
way are kept. A merged object made for another number of groups is not used: hosts would be counted twice. Of
members that were not heard of for long, the own report is got as well, of some of them at a time.
Where another environment cannot be read, only what takes the word of every host waits for it.
Left out: who does it and when (`mldeploy_daemon`), and what follows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from hashlib import blake2b
from typing import TypeVar

import msgspec

from mldeploy.core.controller import Reports, members_of, silence
from mldeploy.core.evidence import Measure, merge, plausible
from mldeploy.core.retirement import Heard
from mldeploy.core.state import State
from mldeploy.core.types import check_name
from mldeploy.errors import StoreError
from mldeploy.store.objects import Fetched, ObjectStore
from mldeploy.store.reports import report_key
from mldeploy.store.tail import record_key

logger = logging.getLogger(__name__)
_T = TypeVar("_T")
#: Hosts whose reports one host reads.
GROUP = 100
#: Requests at the same time.
THREADS = 8


class _Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a HostReport here; the rest of it is skipped, not decoded."""

    host: str
    environment: str
    head: int = 0
    failed: tuple[str, ...] = ()
    up: tuple[str, ...] | None = None
    watched: float = 0.0
    uses: dict[str, float] = {}
    measures: tuple[Measure, ...] = ()


class Merged(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The reports of one group as one."""

    environment: str
    group: int
    groups: int
    by: str  # the host that merged them
    heard: tuple[Heard, ...] = ()
    measures: tuple[Measure, ...] = ()
    up: dict[str, tuple[str, ...]] = {}  # by host; one whose daemon does not say is not in it


class _Said(msgspec.Struct, frozen=True):
    """What some hosts say. `newest` is the store's time of the newest object, 0.0 where none is."""

    heard: tuple[Heard, ...] = ()
    measures: tuple[Measure, ...] = ()
    up: dict[str, tuple[str, ...]] = {}
    newest: float = 0.0


_REPORT = msgspec.json.Decoder(_Report)
_MERGED = msgspec.json.Decoder(Merged)


def merged_key(environment: str, group: int) -> str:
    """hosts/<environment>/merged-<k>.json"""
    return f"hosts/{check_name(environment, 'environment')}/merged-{group}.json"


def groups_of(members: int) -> int:
    """Into how many groups that many hosts are divided; 0: each is read by itself."""
    return -(-members // GROUP) if members > GROUP else 0


def group_of(host: str, groups: int) -> int:
    """The group a host is in."""
    return int.from_bytes(blake2b(host.encode(), digest_size=8).digest()) % groups


class Fleet:
    """Reads reports. Remembers when records were written, which never changes, and what it has told."""

    def __init__(self, store: ObjectStore, pool: Callable[[int], Executor] = ThreadPoolExecutor) -> None:
        self._store = store
        self._pool = pool(THREADS)
        self._began: dict[int, float] = {}
        self._refused: frozenset[str] = frozenset()  # environments that could not be read the last time

    def close(self) -> None:
        """End its threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def read(
        self, state: State, environment: str, *, everyone: bool = False, scopes: Collection[int] = ()
    ) -> tuple[Reports, float]:
        """What the members of `environment` (with `everyone`: of all) say, and the store's time.

        What is counted is of `environment` alone: elsewhere the same scope is another rollout.
        An environment beside it that cannot be read is left out, and then not everyone was asked.
        The time is the newest of what was read: at most as old as the newest report. 0.0 where nothing was.
        `scopes` are the records whose time is wanted. Raises StoreError.
        """
        found = {environment: self._environment(state, environment)}
        if everyone:
            others = {host.environment for host in state.hosts.values()} - {environment}
            found |= self._elsewhere(state, sorted(others))
            everyone = others <= found.keys()
        heard = [each for said in found.values() for each in said.heard]
        # of the others neither counts nor what has come up: one record may begin rollouts of a version in
        # several environments, whose scope is the same
        ours = found[environment]
        now = max((said.newest for said in found.values()), default=0.0)
        silent, newest = self._silent(state, environment, heard, now)
        now = max(now, newest)
        # when a member joined counts where it was not heard of since: it may just have come back
        oldest = now - silence(state, environment)
        joined = [state.hosts[host].seq for host, at in silent.items() if at < oldest or not at]
        began = self.began([*scopes, *joined])
        reports = Reports(
            environment=environment,
            heard=tuple(heard),
            measures=merge(ours.measures),
            up=ours.up,
            silent=silent,
            began=began,
            everyone=everyone,
        )
        return reports, max([now, *began.values()])

    def ages(self, environment: str, host: str, keys: list[str]) -> list[float | None]:
        """Seconds by which each object is older than that host's own report; None for what is not there."""
        own, *others = self._get([report_key(environment, host), *keys])
        now = own.modified if own is not None else 0.0
        return [None if other is None else max(0.0, now - other.modified) for other in others]

    def merge(self, state: State, environment: str, group: int, by: str) -> None:
        """Write the reports of one group as one object. Raises StoreError."""
        members = _members(state, environment)
        groups = groups_of(len(members))
        ours = [host for host in members if group_of(host, groups) == group]
        said = self._hosts(environment, ours, _under_way(state, environment))
        merged = Merged(
            environment=environment,
            group=group,
            groups=groups,
            by=by,
            heard=said.heard,
            measures=merge(said.measures),
            up=said.up,
        )
        self._store.put(merged_key(environment, group), msgspec.json.encode(merged))

    def began(self, records: Iterable[int]) -> dict[int, float]:
        """When these records were written, by the store; those that are not there are left out."""
        wanted = dict.fromkeys(records)
        missing = [seq for seq in wanted if seq not in self._began]
        for seq, fetched in zip(missing, self._get([record_key(seq) for seq in missing]), strict=True):
            if fetched is not None:
                self._began[seq] = fetched.modified
        self._began = {seq: at for seq, at in self._began.items() if seq in wanted}
        return dict(self._began)

    def _elsewhere(self, state: State, environments: Iterable[str]) -> dict[str, _Said]:
        """What is said in these, as far as they can be read."""
        found, refused = {}, {}
        for each in environments:
            try:
                found[each] = self._environment(state, each)
            except StoreError as error:
                refused[each] = str(error)
        if refused.keys() - self._refused:
            for each, said in refused.items():
                logger.warning("no version is retired for not being used: reports of %s: %s", each, said)
        self._refused = frozenset(refused)
        return found

    def _silent(
        self, state: State, environment: str, heard: Collection[Heard], now: float
    ) -> tuple[dict[str, float], float]:
        """Members not heard of for as long as `silence` says, `GROUP` at the most, and when each of them
        wrote its own report (0.0: there is none); and the newest of these times.

        That merged reports do not tell of a host says nothing of it: all of them are missing when a fleet has
        grown into another number of groups, and as old as their makers' pause in a quiet one.
        """
        at = {each.host: each.at for each in heard}
        oldest = now - silence(state, environment)
        members = _members(state, environment)
        # who is gone has been silent for the longest, and is not behind those who are not for ever
        silent = [host for host in members if host not in at or at[host] < oldest]
        silent.sort(key=lambda host: at.get(host, 0.0))
        found = dict.fromkeys(silent[:GROUP], 0.0)
        if not groups_of(len(members)):
            return {host: at.get(host, 0.0) for host in found}, now  # their own was read
        own = self._hosts(environment, list(found), set())
        return found | {each.host: each.at for each in own.heard}, own.newest

    def _environment(self, state: State, environment: str) -> _Said:
        members = _members(state, environment)
        groups = groups_of(len(members))
        scopes = _under_way(state, environment)
        if not groups:
            return self._hosts(environment, members, scopes)
        heard: list[Heard] = []
        measures: list[Measure] = []
        up: dict[str, tuple[str, ...]] = {}
        now = 0.0
        known = set(members)
        for fetched in self._get([merged_key(environment, group) for group in range(groups)]):
            merged = _decoded(fetched, _MERGED)
            if fetched is None or merged is None or not plausible(merged.measures):
                continue
            now = max(now, fetched.modified)
            if (merged.environment, merged.groups) == (environment, groups):
                heard.extend(each for each in merged.heard if each.host in known)
                measures.extend(m for m in merged.measures if (m.model, m.scope) in scopes)
                up.update((host, refs) for host, refs in merged.up.items() if host in known)
        return _Said(tuple(heard), tuple(measures), up, now)

    def _hosts(self, environment: str, hosts: list[str], scopes: set[tuple[str, int]]) -> _Said:
        heard: list[Heard] = []
        measures: list[Measure] = []
        up: dict[str, tuple[str, ...]] = {}
        now = 0.0
        for host, fetched in zip(hosts, self._get([report_key(environment, h) for h in hosts]), strict=True):
            report = _decoded(fetched, _REPORT)
            if fetched is None or report is None or not plausible(report.measures):
                continue
            if (report.host, report.environment) != (host, environment):
                continue
            now = max(now, fetched.modified)
            heard.append(
                Heard(
                    host=host,
                    at=fetched.modified,
                    head=report.head,
                    failed=report.failed,
                    watched=report.watched,
                    uses=report.uses,
                )
            )
            measures.extend(m for m in report.measures if (m.model, m.scope) in scopes)
            if report.up is not None:
                up[host] = report.up
        return _Said(tuple(heard), tuple(measures), up, now)

    def _get(self, keys: list[str]) -> list[Fetched | None]:
        futures = [self._pool.submit(self._store.get, key) for key in keys]
        return [future.result() for future in futures]


def _members(state: State, environment: str) -> list[str]:
    return sorted(host.id for host in members_of(state, environment))


def _under_way(state: State, environment: str) -> set[tuple[str, int]]:
    """Model and scope of the rollouts and shadows under way."""
    found = set()
    for model, serving in state.environments.get(environment, {}).items():
        if serving.ramp is not None:
            found.add((model, serving.ramp.seq))
        found.update((model, shadow.seq) for shadow in serving.shadows)
    return found


def _decoded(fetched: Fetched | None, decoder: msgspec.json.Decoder[_T]) -> _T | None:
    try:
        return decoder.decode(fetched.data) if fetched is not None else None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
