"""What the methods of a Client return.

Every result encodes to JSON as it stands; the command line adds a `schema` field and nothing else. Shares are
hundredths of a percent, times RFC 3339 in UTC, durations seconds, sizes bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mldeploy.core.evidence import GuardVerdict
from mldeploy.core.manifest import Manifest
from mldeploy.core.types import ModelRef


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Change(_Result, frozen=True, kw_only=True):
    """What a mutation did. `seq` is the record it wrote; None where it wrote none.

    `already`: the state was so before. `dry_run`: `actions` is what would have been written.
    """

    store: str
    model: str = ""  # empty where it concerns every model
    version: int | None = None
    environment: str | None = None  # None where it concerns every environment
    seq: int | None = None
    already: bool = False
    dry_run: bool = False
    actions: tuple[str, ...] = ()  # in words
    warnings: tuple[str, ...] = ()


class Pushed(Change, frozen=True, kw_only=True):
    """What a push did. With `already` the bundle was published before, as this version."""

    digest: str
    new: bool  # a version was assigned
    promoted: bool = False
    uploaded_bytes: int = 0
    reused_bytes: int = 0
    uploaded_blobs: int = 0
    reused_blobs: int = 0

    @property
    def ref(self) -> ModelRef | None:
        """`churn@7`; None in a dry run of a version not yet assigned."""
        return ModelRef(self.model, self.version) if self.version is not None else None


class Planned(_Result, frozen=True, kw_only=True):
    """One thing that a file wants otherwise. `sign`: "+" begins, "~" changes, "-" ends."""

    sign: str
    environment: str
    model: str
    what: str  # in words


class Plan(_Result, frozen=True, kw_only=True):
    """What `apply` would change at this head; nothing where the state is as the file says."""

    store: str
    head: int
    file: str
    changes: tuple[Planned, ...]
    warnings: tuple[str, ...] = ()


class Applied(Change, frozen=True, kw_only=True):
    """What was made as a file says, in one record."""

    file: str
    changes: tuple[Planned, ...]


class Shadowed(Change, frozen=True, kw_only=True):
    """What became of a shadow: the terms it is under way on, or (`shadow` is None) that it is over."""

    shadow: str | None = None
    fraction: int = 0  # of the requests that `where` chooses
    where: str = ""
    lasts: int = 0  # seconds; 0: until it is ended
    keep: int = 0  # pairs of answers kept for study, at the most and by each host


class PolicySetting(_Result, frozen=True, kw_only=True):
    """One setting that counts. `source`: "default", "store" (its policy for all), or "environment"."""

    name: str
    value: Any  # as it stands in the log: seconds, hundredths of a percent, texts
    text: str  # as `policy set` takes it
    source: str


class PolicyShown(_Result, frozen=True, kw_only=True):
    """What counts in one environment where neither a promote nor the bundle says otherwise."""

    store: str
    head: int
    environment: str
    settings: tuple[PolicySetting, ...]


class Collected(Change, frozen=True, kw_only=True):
    """What a collection of garbage deleted, or in a dry run would delete.

    `seq` is its last sweep; None where only leftovers of earlier ones were deleted. `already`: there was
    nothing. `orphans`: objects below blobs/ that no state calls live, left by pushes and collections that
    were cut off. `leftovers`: of killed probes.
    """

    grace: int
    horizon: str  # pushes with smaller ids are void; empty before the first collection
    blobs: int = 0
    blob_bytes: int = 0
    orphans: int = 0
    orphan_bytes: int = 0
    leftovers: int = 0
    leftover_bytes: int = 0
    checkpoints: int = 0  # superseded by newer ones
    checkpoint_bytes: int = 0
    no_longer_restorable: tuple[str, ...] = ()  # `churn@1`: it could be restored until now


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
    retry_at: float | None = None
    workers: int = 0
    requests: int = 0
    failures: int = 0
    log_tail: tuple[str, ...] = ()


class WhyModel(_Result, frozen=True, kw_only=True):
    """What the log wants of a model on a host, what the host has, and what it does next."""

    model: str
    desired_stable: int | None
    desired_candidate: int | None
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


class Arrival(_Result, frozen=True, kw_only=True):
    """How far one live host is with what is waited for."""

    host: str
    hostname: str
    arrived: bool
    why: str = ""


class Waited(_Result, frozen=True, kw_only=True):
    """Every live host arrived. `seconds`: how long that took."""

    store: str
    model: str
    environment: str
    version: int | None
    seq: int
    hosts: tuple[Arrival, ...]
    seconds: float


class Prediction(_Result, frozen=True, kw_only=True):
    """An answer: `response` is the body (Open Inference Protocol v2)."""

    model: str
    version: str
    url: str
    response: dict[str, Any]
    request_id: str
    seconds: float


class Inspected(_Result, frozen=True, kw_only=True):
    """A bundle, in a folder or in the store."""

    source: str
    digest: str
    size: int  # files and wheels
    manifest: Manifest
    published: VersionStatus | None = None
    metrics: dict[str, float] = {}  # the model's own
    measured: dict[str, float] = {}  # by gate 3, where it was packed


class Validated(_Result, frozen=True, kw_only=True):
    """What the gates said. `ok` where there is no finding."""

    source: str
    digest: str
    ok: bool
    findings: tuple[dict[str, str], ...]
    gates_run: tuple[str, ...]
    gates_skipped: dict[str, str]
    measured: dict[str, float]


class Packed(_Result, frozen=True, kw_only=True):
    """A bundle that was made."""

    folder: str
    name: str
    digest: str
    size: int
    gates_run: tuple[str, ...] = ()
    gates_skipped: dict[str, str] = {}
    measured: dict[str, float] = {}


class Served(_Result, frozen=True, kw_only=True):
    """A folder that is served locally. `seconds`: from the change until it answered."""

    model: str
    version: int
    url: str
    curl: str
    seconds: float


class Scaffolded(_Result, frozen=True, kw_only=True):
    """A model folder to start from. `written` leaves out the files that were there and were kept."""

    folder: str
    name: str
    files: tuple[str, ...]
    written: tuple[str, ...]
    dry_run: bool = False
