"""What the methods of a Client return: all results, of which those that look are in `views.py`.

Every result encodes to JSON as it stands; the command line adds a `schema` field and nothing else. Shares are
hundredths of a percent, times RFC 3339 in UTC, durations seconds, sizes bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mldeploy.client.views import Candidate as Candidate
from mldeploy.client.views import Event as Event
from mldeploy.client.views import Expiring as Expiring
from mldeploy.client.views import ExpiringVersion as ExpiringVersion
from mldeploy.client.views import History as History
from mldeploy.client.views import HostEntry as HostEntry
from mldeploy.client.views import Hosts as Hosts
from mldeploy.client.views import HostStatus as HostStatus
from mldeploy.client.views import HostVersion as HostVersion
from mldeploy.client.views import ModelDetail as ModelDetail
from mldeploy.client.views import ModelStatus as ModelStatus
from mldeploy.client.views import ShadowStatus as ShadowStatus
from mldeploy.client.views import Status as Status
from mldeploy.client.views import VersionStatus as VersionStatus
from mldeploy.client.views import Which as Which
from mldeploy.client.views import WhichHost as WhichHost
from mldeploy.client.views import WhichShadow as WhichShadow
from mldeploy.client.views import Why as Why
from mldeploy.client.views import WhyModel as WhyModel
from mldeploy.client.views import WhyVersion as WhyVersion
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


class HostChange(Change, frozen=True, kw_only=True):
    """What was done to one host: its id."""

    host: str


class Extended(Change, frozen=True, kw_only=True):
    """What was done to an expiry: the day it is on now, or in a dry run would be."""

    expires: str


class Promoted(Change, frozen=True, kw_only=True):
    """What a promote did. `steps` are the shares the version takes: where nothing is stable, all at once."""

    steps: tuple[int, ...] = ()


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
    def ref(self) -> ModelRef:
        """`churn@7`; in a dry run the version that it would be."""
        assert self.version is not None
        return ModelRef(self.model, self.version)


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
    reports: int = 0  # of hosts that are gone
    report_bytes: int = 0
    no_longer_restorable: tuple[str, ...] = ()  # `churn@1`: it could be restored until now


class Arrival(_Result, frozen=True, kw_only=True):
    """How far one live host is with what is waited for."""

    host: str
    hostname: str
    arrived: bool
    why: str = ""


class WaitedStep(_Result, frozen=True, kw_only=True):
    """A step of a rollout that was over when the wait ended, and what its verdict rests on."""

    step: int  # from 0
    share: int  # 0: a shadow step
    requests: int  # answered by the candidate; at a shadow step copies compared
    hosts: int  # heard, of the `members` it is for
    members: int
    guards: tuple[GuardVerdict, ...]


class Waited(_Result, frozen=True, kw_only=True):
    """Every live host arrived. `seconds`: how long that took. `steps`: of the rollout that was followed.

    `version` is stable, or that of a rollout which stays at its last step.
    """

    store: str
    model: str
    environment: str
    version: int | None
    seq: int
    hosts: tuple[Arrival, ...]
    seconds: float
    steps: tuple[WaitedStep, ...] = ()


class HostWaited(_Result, frozen=True, kw_only=True):
    """A host said that it is `drained`, or that it is ready; or it `left`. `seconds`: how long that took."""

    store: str
    host: str
    hostname: str
    drained: bool
    left: bool
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
    warnings: tuple[str, ...] = ()
