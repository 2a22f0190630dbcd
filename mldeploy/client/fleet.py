"""The hosts of an environment, by what they last reported.

Rules: a host is live when it is a member by the log and its report is younger than a minute (more in a large
store, where each host reports more rarely), by the clock of the store alone: a report's age is the store's
time now minus the store's time of the report. The members' reports are got by their keys; those of hosts that
are gone, of which there may be thousands, only for whoever asks for everyone.
Left out: what follows from it (`looking.py`, `waiting.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mldeploy.client.connection import Connection
from mldeploy.client.environments import environments
from mldeploy.client.types import HostStatus, HostVersion
from mldeploy.core.controller import freshness
from mldeploy.errors import NotFoundError, OutcomeUnknownError, StoreError
from mldeploy.store.reports import HostReport, read_reports

_T = TypeVar("_T")


def gone_after(members: int) -> float:
    """Seconds of store time after which a silent host counts as gone. `members`: of the whole store."""
    return freshness(members) / 2


@dataclass(frozen=True, slots=True)
class Seen:
    """A host and its last report. `age` is seconds of store time, `modified` when it was written."""

    report: HostReport
    age: float
    member: bool
    modified: float = 0.0
    drained: str | None = None  # the reason, while it is to take no traffic
    lasts: float = gone_after(0)  # seconds for which it counts as there after a report

    @property
    def live(self) -> bool:
        """Whether it is there."""
        return self.member and self.age < self.lasts

    def status(self) -> HostStatus:
        """For showing."""
        report = self.report
        return HostStatus(
            host=report.host, hostname=report.hostname, environment=report.environment, live=self.live,
            age=round(self.age, 1), head=report.head, ready=report.ready, address=report.listen,
            errors=tuple(report.errors), drained=self.drained, member=self.member,
        )  # fmt: skip


def hosts(at: Connection, environment: str | None = None, *, everyone: bool = False) -> list[Seen]:
    """The members that have reported (in one environment, or in all), by hostname; with `everyone`, also
    those that report and are no members, and those that are gone.
    """
    state = at.log.state
    names = [environment] if environment else environments(state)
    members: dict[str, list[str]] = {name: [] for name in names}
    for host in state.hosts.values():
        members.get(host.environment, []).append(host.id)
    asked = [read_reports(at.store, name, None if everyone else members[name]) for name in names]
    return _seen(at, [pair for found in asked for pair in found])


def _seen(at: Connection, found: Sequence[tuple[HostReport, float]]) -> list[Seen]:
    state = at.log.state
    if not found:
        return []
    now = store_time(at, [modified for _, modified in found])
    seen, lasts = [], gone_after(len(state.hosts))
    for report, modified in found:
        member = state.hosts.get(report.host)
        belongs = member is not None and member.environment == report.environment
        drained = state.drained.get(report.host)
        seen.append(Seen(report, max(0.0, now - modified), belongs, modified, drained, lasts))
    return sorted(seen, key=lambda host: (host.report.hostname, host.report.host))


def counted(seen: Iterable[Seen]) -> list[Seen]:
    """Those that are to be waited for: the live hosts, without the drained ones unless all are."""
    live = [host for host in seen if host.live]
    return [host for host in live if host.drained is None] or live


def find_host(at: Connection, text: str, environment: str | None = None) -> Seen:
    """The host of that hostname, or whose id begins so, in an environment (None: in any): a member, else one
    that is gone. Raises NotFoundError, also where several do.
    """
    there = [
        host for host in at.log.state.hosts.values() if environment is None or host.environment == environment
    ]
    members = matching([(host.hostname, host.id) for host in there], text)
    if len(members) == 1:
        (member,) = (at.log.state.hosts[host] for host in members)
        found = _seen(at, read_reports(at.store, member.environment, members))
        if found:
            return found[0]
    everyone = hosts(at, environment, everyone=True)
    named = matching([(host.report.hostname, host.report.host) for host in everyone], text)
    found = [host for host in everyone if host.report.host in named]
    live = [host for host in found if host.live]
    return one_of(live if len(live) == 1 else found, everyone, text, _name)


def _name(host: Seen) -> str:
    return f"{host.report.hostname} ({host.report.host})"


def matching(names: Sequence[tuple[str, str]], text: str) -> set[str]:
    """Of hosts as (hostname, id), the ids of those called `text`, else of those whose id begins so."""
    named = {name for hostname, name in names if text in (hostname, name)}
    return named or {name for _, name in names if text and name.startswith(text.lower())}


def one_of(found: Sequence[_T], everyone: Sequence[_T], text: str, name: Callable[[_T], str]) -> _T:
    """The one that was found. Raises NotFoundError for none and for several, with their names."""
    if len(found) == 1:
        return found[0]
    names = ", ".join(name(host) for host in (found or everyone)[:10])
    if found:
        raise NotFoundError(
            f"{len(found)} hosts are called {text!r}", f"give its --environment, or more of the id: {names}"
        )
    raise NotFoundError(
        f"no host {text!r} has reported", f"hosts: {names}" if names else "none has; start mldeployd"
    )


def store_time(at: Connection, modified: list[float]) -> float:
    """The time by the store's own clock, seconds since the epoch.

    It is asked by writing a hint and reading when the store says it was written, once per Connection; where
    we may not write, the youngest report stands in, and hosts that died together look alive.
    """
    if at.clock is None:
        try:
            at.store.put("hints/clock", b"")
            fetched = at.store.get("hints/clock")
        except (StoreError, OutcomeUnknownError):
            fetched = None
        if fetched is None:
            return max(modified)
        at.clock = fetched.modified - time.monotonic()
    return max(at.clock + time.monotonic(), *modified)


def versions_on(host: Seen, model: str) -> list[HostVersion]:
    """How the versions of a model stand on a host."""
    report = host.report.models.get(model)
    if report is None:
        return []
    roles = {report.stable: "stable", report.candidate: "candidate"}
    return [
        HostVersion(
            host=host.report.host, hostname=host.report.hostname, version=number, state=version.state,
            reason=version.reason, routed=roles.get(number, ""),
        )
        for number, version in sorted(report.serving.items())
    ]  # fmt: skip
