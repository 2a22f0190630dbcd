"""`host list` and `host forget`: the members of the environments, and what each last said of itself.

Rules: a member that has never reported is listed as well, and so is one that reports and is no member. A live
host cannot be forgotten: it would join again at once. Left out: what a host serves (`why`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mldeploy.client import fleet
from mldeploy.client.connection import Connection
from mldeploy.client.types import Change, HostEntry, Hosts
from mldeploy.core.records import Action, Forget
from mldeploy.core.state import Host, State
from mldeploy.errors import NotAllowedError


def list_hosts(at: Connection, environment: str | None) -> Hosts:
    """See Client.hosts."""
    state = at.refresh()
    seen = {each.report.host: each for each in fleet.hosts(at, environment)}
    members = {host.id: host for host in state.hosts.values() if environment in (None, host.environment)}
    entries = [_entry(state, name, members.get(name), seen.get(name)) for name in {*members, *seen}]
    ordered = sorted(entries, key=lambda each: (each.environment, each.hostname, each.host))
    return Hosts(store=at.settings.store, head=state.head, hosts=tuple(ordered))


def _entry(state: State, name: str, member: Host | None, seen: fleet.Seen | None) -> HostEntry:
    report = seen.report if seen is not None else None
    return HostEntry(
        host=name,
        hostname=report.hostname if report is not None else member.hostname if member is not None else "",
        environment=report.environment if report else member.environment if member else "",
        labels=member.labels if member is not None else report.labels if report is not None else {},
        member=member is not None and (seen is None or seen.member),
        live=seen is not None and seen.live,
        age=round(seen.age, 1) if seen is not None else None,
        ready=report.ready if report is not None else False,
        head=report.head if report is not None else None,
        behind=max(0, state.head - report.head) if report is not None else None,
        version=report.version if report is not None else "",
        address=report.listen if report is not None else "",
        errors=report.errors if report is not None else (),
    )


@dataclass(frozen=True, slots=True)
class ForgetHost:
    """Forget the member `host` (an id); nothing where it is none."""

    host: str

    def __call__(self, state: State) -> Sequence[Action]:
        return (Forget(host=self.host),) if self.host in state.hosts else ()


def forget(at: Connection, text: str, dry_run: bool) -> Change:
    """See Client.forget_host."""
    everyone = list_hosts(at, None).hosts
    named = fleet.matching([(each.hostname, each.host) for each in everyone], text)
    hosts = [each for each in everyone if each.host in named]
    found = fleet.one_of(hosts, everyone, text, lambda each: f"{each.hostname} ({each.host})")
    if found.live:
        raise NotAllowedError(
            f"{found.hostname} ({found.host[:8]}) reported {found.age:.0f} s ago: it would join again",
            "stop its mldeployd, which leaves by itself",
        )
    written = at.change(ForgetHost(found.host), dry_run=dry_run)
    return at.told(written, dry_run, model="", version=None, environment=found.environment)
