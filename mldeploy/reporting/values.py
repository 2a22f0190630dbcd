"""The LaunchReport and what it is made of: all there is to say of one rollout or shadow.

It encodes to JSON as it stands. Shares of traffic are hundredths of a percent, rates and agreement shares
(0.01 is 1 %), times RFC 3339 in UTC by the store's clock, durations seconds, sizes bytes.
Left out: where it comes from (`compose.py`) and how it looks.
"""

from __future__ import annotations

import msgspec

from mldeploy.core.evidence import GuardVerdict


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    pass


class VersionFacts(_Value, frozen=True, kw_only=True):
    """One version, as the log knows it."""

    version: int
    digest: str
    owner: str
    expires: str  # ISO date
    published: str
    actor: str
    size: int
    python: str
    retired: str = ""
    metrics: dict[str, float] = {}  # the model's own
    measured: dict[str, float] = {}  # by gate 3


class Figures(_Value, frozen=True, kw_only=True):
    """What one version did in one window. Latencies are seconds; null where nothing was answered."""

    version: int
    role: str  # "stable", "candidate" or "shadow"
    requests: int
    failures: int
    refusals: int
    crashes: int
    memory: int  # bytes: the most private memory one worker was seen with; 0: not seen
    error_rate: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    mean: float | None
    latency: tuple[tuple[float, int], ...] = ()  # (upper edge of the bucket, count), ascending


class Agreement(_Value, frozen=True, kw_only=True):
    """Answers of a shadow beside those that were given."""

    pairs: int
    share: float | None  # of the pairs that agree: in class where answers name one, else within tolerance
    by: str  # "class" or "tolerance"
    exact: int
    within: int
    same_class: int
    classed: int
    failed: int
    rank: float | None  # Kendall's tau of the scores; null where none were compared
    offered: int
    dropped: int
    pauses: int
    paused: float  # seconds
    p50: float | None
    p95: float | None
    p99: float | None


class DriftColumn(_Value, frozen=True, kw_only=True):
    """Live values of one input or output against the bundle's baseline."""

    name: str
    psi: float
    values: int  # live ones
    bins: tuple[tuple[float, float], ...] = ()  # (baseline, live) share of each


class StepReport(_Value, frozen=True, kw_only=True):
    """One window: a step of a ramp, or a whole shadow, between two records of the log."""

    number: int  # of the step, from 1
    share: int  # of the traffic; 0: a shadow step
    copied: int = 0  # of the traffic, at a shadow step
    scope: int  # the record that began it
    start: str
    end: str | None  # null while it goes on
    seconds: float | None
    outcome: (
        str  # "advanced", "completed", "halted", "rolled back", "superseded", "paused", "ended", "under way"
    )
    actor: str = ""  # who ended it
    reason: str = ""
    hosts: int | None = None  # heard; null where the window has no evidence
    members: int | None = None
    candidate: Figures | None = None
    stable: Figures | None = None
    agreement: Agreement | None = None
    drift: tuple[DriftColumn, ...] = ()
    guards: tuple[GuardVerdict, ...] = ()


class Change(_Value, frozen=True, kw_only=True):
    """Something that two bundles do not have alike. Empty `before`: new; empty `after`: gone."""

    what: str
    before: str
    after: str


class Difference(_Value, frozen=True, kw_only=True):
    """What is not the same in two bundles. Sizes of files in bytes, requirements by version."""

    files: tuple[Change, ...] = ()
    requirements: tuple[Change, ...] = ()
    settings: tuple[Change, ...] = ()
    same_files: int = 0
    same_requirements: int = 0


class LaunchReport(_Value, frozen=True, kw_only=True):
    """The story of one rollout or shadow, from the record that began it to the one that ended it."""

    title: str  # in one line
    kind: str  # "rollout", "shadow", "retirement" or "expiry"
    model: str
    version: int
    beside: int | None  # the version it is compared with: stable's, or what was stable before
    environment: str  # empty: all
    #: "launched", "halted", "rolled back", "superseded", "ended", "retired", "under way", "paused", "expires"
    outcome: str
    reason: str = ""
    promoted_by: str = ""
    promoted_at: str = ""
    ended_by: str = ""
    ended_at: str | None = None
    seconds: float | None = None  # from the promote to the end, or to now
    steps: tuple[StepReport, ...] = ()
    planned: tuple[int, ...] = ()  # every share the rollout was to take
    hold: int = 0
    min_requests: int = 0
    on: tuple[str, ...] = ()  # a rollout's: the hosts with these labels; none: all
    where: str = ""  # a shadow's criterion
    waits: tuple[str, ...] = ()  # under way: what the next step waits for, in words
    candidate: VersionFacts | None = None
    stable: VersionFacts | None = None
    difference: Difference | None = None  # null where the manifests could not be read
    record: int = 0  # the last one of it
    rollout: str = ""
    notice: str = ""

    @property
    def ref(self) -> str:
        """`churn@8`"""
        return f"{self.model}@{self.version}"

    @property
    def beside_ref(self) -> str:
        """`churn@7`, or empty."""
        return f"{self.model}@{self.beside}" if self.beside is not None else ""
