"""What the methods of a Client that look return: the state of models, versions, hosts and the log.

They encode as `types.py` says, which has all results. Left out: where the values come from.
"""

from __future__ import annotations

import msgspec

from mldeploy.core.evidence import GuardVerdict


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Candidate(_Result, frozen=True, kw_only=True):
    """A rollout under way. A step of 0 is a shadow step; `step` counts from 0."""

    version: int
    share: int
    steps: tuple[int, ...]
    paused: bool
    since: str
    actor: str
    rollout: str
    step: int
    hold: int
    deadline: int  # seconds from the promote, or from the last resume
    min_requests: int
    on: tuple[str, ...] = ()  # the hosts with these labels; none: all
    requests: int = 0  # answered at this step; at a shadow step copies compared
    waits: tuple[str, ...] = ()  # what it waits for, in words
    next: str = ""  # "advance", "complete" or "halt", where a host is about to do it
    guarded: tuple[str, ...] = ()  # the guards that count
    guards: tuple[GuardVerdict, ...] = ()  # what the hosts' numbers say of them now


class ShadowStatus(_Result, frozen=True, kw_only=True):
    """A shadow under way, with what the hosts have compared up to now."""

    version: int
    shadow: str
    fraction: int  # of the requests that `where` chooses
    where: str
    lasts: int
    keep: int
    since: str
    actor: str
    pairs: int = 0
    agreement: float | None = None  # share of the compared answers; None: none yet
    failed: int = 0
    dropped: int = 0
    pauses: int = 0


class VersionStatus(_Result, frozen=True, kw_only=True):
    """One version, as the log knows it."""

    version: int
    digest: str
    owner: str
    expires: str
    expired: bool
    published: str
    actor: str
    size: int
    python: str
    platform: str
    retired: str
    roles: tuple[str, ...]  # "stable in production", "candidate (25%) in staging"
    metrics: dict[str, float]
    measured: dict[str, float]


class HostVersion(_Result, frozen=True, kw_only=True):
    """How one version stands on one live host."""

    host: str
    hostname: str
    version: int
    state: str
    reason: str = ""
    routed: str = ""  # "stable", "candidate", "previous" or empty


class ModelStatus(_Result, frozen=True, kw_only=True):
    """One model in one environment.

    `state`: "serving", "converging", "failing", "no hosts" or "not promoted"; empty of a time that is past.
    """

    model: str
    environment: str
    stable: int | None
    candidate: Candidate | None
    previous: int | None
    owner: str
    expires: str  # of the stable version, else the newest
    expired: bool
    days: int  # until then; negative once it is past
    hosts: int  # live and not drained (where all are drained: live)
    converged: int
    state: str
    reason: str = ""
    frozen: str | None = None
    last: str = ""  # how the last rollout ended
    serving: tuple[HostVersion, ...] = ()
    shadows: tuple[ShadowStatus, ...] = ()


class HostStatus(_Result, frozen=True, kw_only=True):
    """One host that has reported."""

    host: str
    hostname: str
    environment: str
    live: bool
    age: float  # seconds of store time since its report
    head: int
    ready: bool
    address: str
    errors: tuple[str, ...] = ()
    drained: str | None = None  # the reason, while it is to take no traffic
    member: bool = True


class Status(_Result, frozen=True, kw_only=True):
    """Every model in every environment, and the hosts."""

    store: str
    head: int
    models: tuple[ModelStatus, ...]
    hosts: tuple[HostStatus, ...]
    frozen: dict[str, str] = {}
    unpromoted: tuple[str, ...] = ()  # models with versions and no environment
    at: str | None = None  # the time that was asked for; hosts are left out then
    record: int | None = None  # the last that the store had at that time


class ExpiringVersion(_Result, frozen=True, kw_only=True):
    """A version that is not retired and expires soon, or has."""

    model: str
    version: int
    expires: str
    days: int  # until then; negative once it is past
    owner: str
    roles: tuple[str, ...]


class Expiring(_Result, frozen=True, kw_only=True):
    """The versions that expire within so many days, the first to expire first."""

    store: str
    head: int
    within: int
    versions: tuple[ExpiringVersion, ...]


class ModelDetail(_Result, frozen=True, kw_only=True):
    """One model: its environments and its versions, newest first."""

    store: str
    head: int
    model: str
    environments: tuple[ModelStatus, ...]
    versions: tuple[VersionStatus, ...]
    at: str | None = None  # as in Status
    record: int | None = None


class Event(_Result, frozen=True, kw_only=True):
    """One record of the log that concerns what was asked."""

    seq: int
    time: str  # by the writer's clock
    stored: str  # by the store's: what `since` and `until` compare
    actor: str
    actions: tuple[str, ...]  # in words
    id: str
    void: bool = False


class History(_Result, frozen=True, kw_only=True):
    """Records, newest first. `more`: older ones were left out by the limit."""

    store: str
    head: int
    events: tuple[Event, ...]
    more: bool = False


class WhyVersion(_Result, frozen=True, kw_only=True):
    """One version on a host."""

    version: int
    state: str
    role: str = ""
    reason: str = ""
    stage: str = ""
    attempts: int = 0
    retry_at: str | None = None  # by the host's clock
    workers: int = 0
    requests: int = 0
    failures: int = 0
    log_tail: tuple[str, ...] = ()


class WhyModel(_Result, frozen=True, kw_only=True):
    """What the log wants of a model on a host with its labels, what the host has, and what it does next."""

    model: str
    desired_stable: int | None
    desired_candidate: int | None  # where it is to take traffic
    desired_shadows: tuple[int, ...] = ()  # a candidate at its shadow step included
    routed_stable: int | None
    routed_candidate: int | None
    next: str
    versions: tuple[WhyVersion, ...]


class Why(_Result, frozen=True, kw_only=True):
    """Why a host serves what it serves."""

    store: str
    host: HostStatus
    head: int  # of the log now; host.head is what the host has seen
    models: tuple[WhyModel, ...]


class WhichHost(_Result, frozen=True, kw_only=True):
    """A member of the environment, and the version the key gets there."""

    host: str
    hostname: str
    labels: dict[str, str]
    version: int


class WhichShadow(_Result, frozen=True, kw_only=True):
    """A shadow that gets a copy of the key's requests, of those that `where` chooses."""

    version: int
    fraction: int
    where: str


class Which(_Result, frozen=True, kw_only=True):
    """The version a routing key gets. With `on`, on the hosts with these labels; elsewhere stable."""

    store: str
    head: int
    at: str | None
    model: str
    environment: str
    key: str
    key_from: str | None  # "header:NAME", "input:NAME" or "request id"; None: the manifest cannot be read
    version: int
    role: str  # "stable" or "candidate"
    stable: int
    candidate: int | None
    share: int
    salt: str
    on: tuple[str, ...]
    hosts: tuple[WhichHost, ...]
    shadows: tuple[WhichShadow, ...]


class HostEntry(_Result, frozen=True, kw_only=True):
    """A member, or a host that reports without being one. None: it has never reported."""

    host: str
    hostname: str
    environment: str
    labels: dict[str, str]
    member: bool
    live: bool
    age: float | None  # seconds of store time since its report
    ready: bool
    head: int | None
    behind: int | None  # records
    version: str  # of the daemon
    address: str
    errors: tuple[str, ...] = ()
    drained: str | None = None  # the reason, while it is to take no traffic


class Hosts(_Result, frozen=True, kw_only=True):
    """Hosts, by environment and hostname."""

    store: str
    head: int
    hosts: tuple[HostEntry, ...]
