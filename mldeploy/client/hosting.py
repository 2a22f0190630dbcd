"""`host list`, `host forget` and `host drain`: the members of the environments, and what each last said of
itself.

Rules: a member that has never reported is listed as well, and so is one that reports and is no member, or
that is drained and neither. A live host cannot be forgotten: it would join again at once. One that is
forgotten by hand is not drained any more. Left out: what a host serves (`why`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import structs

from mldeploy.client import fleet
from mldeploy.client.connection import Connection, Written
from mldeploy.client.environments import find_environment
from mldeploy.client.types import HostChange, HostEntry, Hosts
from mldeploy.core.records import Action, Drain, Forget, Undrain
from mldeploy.core.state import Host, State
from mldeploy.core.types import format_age
from mldeploy.errors import NotAllowedError


def list_hosts(at: Connection, environment: str | None) -> Hosts:
    """See Client.hosts."""
    state = at.refresh()
    if environment is not None:
        find_environment(state, environment)
    seen = {each.report.host: each for each in fleet.hosts(at, environment, everyone=True)}
    members = {host.id: host for host in state.hosts.values() if environment in (None, host.environment)}
    gone = set(state.drained) - set(state.hosts) if environment is None else set()
    entries = [_entry(state, name, members.get(name), seen.get(name)) for name in {*members, *seen, *gone}]
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
        drained=state.drained.get(name),
    )


@dataclass(frozen=True, slots=True)
class ForgetHost:
    """Forget the member `host` (an id), and that it is drained; nothing where it is neither."""

    host: str

    def __call__(self, state: State) -> Sequence[Action]:
        member = (Forget(host=self.host),) if self.host in state.hosts else ()
        return (*member, *UndrainHost(self.host)(state))


def forget(at: Connection, text: str, dry_run: bool, environment: str | None = None) -> HostChange:
    """See Client.forget_host."""
    found = _named(list_hosts(at, environment).hosts, text)
    if found.live:
        age = format_age(found.age or 0)
        raise NotAllowedError(
            f"{found.hostname} ({found.host[:8]}) reported {age} ago: it would join again",
            "stop its mldeployd, which leaves by itself",
        )
    written = at.change(ForgetHost(found.host), dry_run=dry_run)
    return _told(at, written, dry_run, found)


@dataclass(frozen=True, slots=True)
class DrainHost:
    """Drain the member `host` (an id). Without a `reason` one that it has stays."""

    host: str
    hostname: str
    reason: str

    def __call__(self, state: State) -> Sequence[Action]:
        if self.host not in state.hosts:
            raise NotAllowedError(
                f"{self.hostname or self.host} is no member",
                "only a host whose mldeployd runs can be drained",
            )
        if self.host in state.drained and self.reason in ("", state.drained[self.host]):
            return ()
        return (Drain(host=self.host, reason=self.reason),)


@dataclass(frozen=True, slots=True)
class UndrainHost:
    """Let `host` (an id) take traffic again; nothing where it is not drained."""

    host: str

    def __call__(self, state: State) -> Sequence[Action]:
        return (Undrain(host=self.host),) if self.host in state.drained else ()


def drain(
    at: Connection, text: str, reason: str, dry_run: bool, environment: str | None = None
) -> HostChange:
    """See Client.drain_host."""
    everyone = list_hosts(at, environment).hosts
    found = _named(everyone, text)
    written = at.change(DrainHost(found.host, found.hostname, reason), dry_run=dry_run)
    others = [
        each
        for each in everyone
        if each.environment == found.environment and each.host != found.host
        and each.live and each.ready and each.drained is None
    ]  # fmt: skip
    alone = () if others else (f"no other host of {found.environment} is ready to take its traffic",)
    return _told(at, written, dry_run, found, alone if written.actions else ())


def undrain(at: Connection, text: str, dry_run: bool, environment: str | None = None) -> HostChange:
    """See Client.undrain_host."""
    found = _named(list_hosts(at, environment).hosts, text)
    written = at.change(UndrainHost(found.host), dry_run=dry_run)
    return _told(at, written, dry_run, found)


def _told(
    at: Connection, written: Written, dry_run: bool, host: HostEntry, warnings: tuple[str, ...] = ()
) -> HostChange:
    told = at.told(
        written, dry_run, model="", version=None, environment=host.environment or None, warnings=warnings
    )
    return HostChange(**structs.asdict(told), host=host.host)


def _named(everyone: Sequence[HostEntry], text: str) -> HostEntry:
    """The host of that hostname, or whose id begins so. Raises NotFoundError, also where several do."""
    named = fleet.matching([(each.hostname, each.host) for each in everyone], text)
    hosts = [each for each in everyone if each.host in named]
    return fleet.one_of(hosts, everyone, text, lambda each: f"{each.hostname} ({each.host})")
