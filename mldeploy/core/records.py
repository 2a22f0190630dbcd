"""What can be said in the log: records and their actions, and their bytes (`encode`, `decode`).

A record holds one or more actions and takes effect as a whole or not at all. Its bytes are frozen before it
is appended; the sha256 of the bytes of record n-1 stands in record n as `prev`. Times are the writers' own
clocks: they are shown to people and stand in what a record decided, but they never order anything.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec

from mldeploy.core.evidence import Evidence
from mldeploy.core.types import FULL_SHARE, PRODUCTION
from mldeploy.errors import IntegrityError, StoreFormatError, UsageError

#: The newest record format this code reads. A record of a newer one stops a reader; it guesses nothing.
FORMAT = 1
#: `prev` of record 1.
GENESIS = "0" * 64


class _Action(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="action",
):
    pass


class Publish(_Action, frozen=True, kw_only=True, tag="publish"):
    """A bundle becomes the next version of its model. Void if it reuses a blob that is not live."""

    model: str
    digest: str  # of the manifest, which is itself a blob
    push: str  # ULID of the push that brought the new blobs
    brought: dict[str, int]  # sha256 -> bytes; stored as blobs/sha256/ab/<sha256>.<push>
    reused: tuple[str, ...] = ()  # sha256 of blobs that are live already
    owner: str
    expires: str  # ISO date, absolute
    python: str
    platform: str
    packed: str = ""  # RFC 3339, when the bundle was made
    metrics: dict[str, float] = {}  # the model's own, for example auc
    measured: dict[
        str, float
    ] = {}  # load_ms, latency_ms, memory_bytes … from gate 3; empty where it could not run


class Promote(_Action, frozen=True, kw_only=True, tag="promote"):
    """Give a version traffic in an environment, step by step.

    One step of 10,000 makes it stable at once, and so do any steps where nothing is stable yet: there is
    nobody else to answer the rest. A last step below 10,000 holds there until another promote. With `on` it
    is a ramp in any case, on the hosts with these labels alone (where nothing is stable yet, of one step of
    10,000), and stays at its last step until another promote. A rollout under way is superseded. A first
    step of 0 is a shadow step: `fraction` of the traffic is copied to the candidate, and its answers are
    compared and thrown away.
    """

    model: str
    version: int
    environment: str = PRODUCTION
    steps: tuple[int, ...] = (FULL_SHARE,)
    hold: int = 0  # seconds at each step
    guards: tuple[str, ...] = ()  # none: the policy's; ("none",): no guard at all
    on: tuple[str, ...] = ()  # host labels; none means every host
    rollout: str  # ULID that names this rollout
    min_requests: int = 200  # of the candidate at each step, before it goes on
    deadline: int = 0  # seconds from here, or from its last resume, to the last step; 0: the policy's
    fraction: int = 0  # hundredths of a percent of the traffic copied at a shadow step; 0: the policy's


class Advance(_Action, frozen=True, kw_only=True, tag="advance"):
    """The rollout goes from `step` (index) to the next."""

    rollout: str
    step: int
    evidence: Evidence | None = None


class Complete(_Action, frozen=True, kw_only=True, tag="complete"):
    """The rollout, standing at `step` (its last, of 10,000, on every host), makes its version stable."""

    rollout: str
    step: int
    evidence: Evidence | None = None


class Halt(_Action, frozen=True, kw_only=True, tag="halt"):
    """The rollout is over: traffic is with stable. Fits any step."""

    rollout: str
    reason: str
    evidence: Evidence | None = None


class Pause(_Action, frozen=True, kw_only=True, tag="pause"):
    """The rollout keeps its share until resumed."""

    rollout: str
    reason: str = ""


class Resume(_Action, frozen=True, kw_only=True, tag="resume"):
    """A paused rollout goes on from where it stands."""

    rollout: str


class Rollback(_Action, frozen=True, kw_only=True, tag="rollback"):
    """A running rollout ends; with none running, stable becomes `to` (the previous one if None).

    With a rollout running and `to` given, both happen.
    """

    model: str
    environment: str = PRODUCTION
    to: int | None = None
    reason: str = ""


class Shadow(_Action, frozen=True, kw_only=True, tag="shadow"):
    """Copy some of a model's live traffic to a version; its answers are recorded and never returned."""

    model: str
    version: int
    environment: str = PRODUCTION
    shadow: str  # ULID that names this shadow
    fraction: int = FULL_SHARE  # hundredths of a percent of the requests that `where` chooses
    where: str = ""  # an expression over header and input; empty: every request
    lasts: int = 0  # seconds; 0: until it is ended
    keep: int = 0  # pairs of answers kept in the store for study, at the most and by each host


class Unshadow(_Action, frozen=True, kw_only=True, tag="unshadow"):
    """The shadow is over."""

    shadow: str
    reason: str = ""
    evidence: Evidence | None = None


class Retire(_Action, frozen=True, kw_only=True, tag="retire"):
    """The version takes no traffic any more and its files may be collected. In use: only with force.

    A host on which its successor is not ready goes on with it until it is; with force it does not.
    """

    model: str
    version: int
    force: bool = False
    reason: str = ""
    evidence: Evidence | None = None  # that no host uses it, where nobody asked for it by hand


class Restore(_Action, frozen=True, kw_only=True, tag="restore"):
    """A retired version whose blobs are still live may be promoted again."""

    model: str
    version: int


class Extend(_Action, frozen=True, kw_only=True, tag="extend"):
    """A new expiry."""

    model: str
    version: int
    expires: str  # ISO date


class Freeze(_Action, frozen=True, kw_only=True, tag="freeze"):
    """Promotes of the model (all models if empty) are refused until unfrozen."""

    model: str = ""
    environment: str = PRODUCTION
    reason: str = ""
    until: str = ""  # RFC 3339, shown; the log decides by `unfreeze`


class Unfreeze(_Action, frozen=True, kw_only=True, tag="unfreeze"):
    """Promotes of the model (all models if empty) are allowed again."""

    model: str = ""
    environment: str = PRODUCTION


#: A setting of a policy: seconds, counts, shares; steps, guards, days; names and URLs. None: it is not set.
Setting = int | tuple[int | str, ...] | dict[str, str] | None


class Policy(_Action, frozen=True, kw_only=True, tag="policy"):
    """Settings of an environment, or (with none named) of all. Those that are not named stay as they are.

    `core/policy.py` has their names and types.
    """

    environment: str = ""
    settings: dict[str, Setting]


class Notified(_Action, frozen=True, kw_only=True, tag="notified"):
    """A notice reached who it was for, or (with a reason) is given up."""

    notice: str  # its id
    reason: str = ""


class Join(_Action, frozen=True, kw_only=True, tag="join"):
    """A host is a member of its environment."""

    host: str  # random id, kept on its disk
    environment: str = PRODUCTION
    hostname: str = ""
    labels: dict[str, str] = {}


class Leave(_Action, frozen=True, kw_only=True, tag="leave"):
    """The host stopped cleanly."""

    host: str


class Forget(_Action, frozen=True, kw_only=True, tag="forget"):
    """A host silent for too long is no member any more; it joins again if it returns."""

    host: str


class Drain(_Action, frozen=True, kw_only=True, tag="drain"):
    """The host is to take no traffic: it tells load balancers so, and answers what still comes.

    Until `undrain`, also over restarts, `leave`, `forget` and `join`. Meanwhile no rollout waits for it, and
    the others do what it did for the fleet.
    """

    host: str
    reason: str = ""


class Undrain(_Action, frozen=True, kw_only=True, tag="undrain"):
    """The host takes traffic again. It need not be a member: one that is gone for good is forgotten so."""

    host: str


class Sweep(_Action, frozen=True, kw_only=True, tag="sweep"):
    """These blobs are live no more, and pushes begun before the horizon are void.

    Only what was brought by pushes older than the horizon can be swept: so a push whose blobs were swept
    can never publish again, and no key is needed twice.
    """

    horizon: str  # ULID: a push id smaller than this is too old
    blobs: tuple[str, ...] = ()


Action = (
    Publish | Promote | Advance | Complete | Halt | Pause | Resume | Rollback | Retire | Restore | Extend
    | Freeze | Unfreeze | Join | Leave | Forget | Drain | Undrain | Sweep | Shadow | Unshadow | Policy
    | Notified
)  # fmt: skip


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry of the log. `signature` covers the canonical bytes without it; empty where unsigned."""

    format: int = FORMAT
    seq: int
    id: str  # ULID, the writer's own: how it recognises its record
    prev: str  # sha256 of the bytes of record seq-1
    time: str  # RFC 3339 UTC, the writer's clock
    actor: str
    actions: tuple[Action, ...]
    signature: str = ""


_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|\+00:00)", re.ASCII)
#: Bytes. A longer one is void: no record that says something comes near it.
MAX_RECORD = 16 << 20


class _Format(msgspec.Struct, frozen=True):
    format: int


_ENCODER = msgspec.json.Encoder()
_RECORD = msgspec.json.Decoder(Record)
_ANY_FORMAT = msgspec.json.Decoder(_Format)


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC to the millisecond, as it stands in records: 2026-11-23T22:59:01.123Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode(record: Record) -> bytes:
    """The bytes of a record, to be frozen before it is appended.

    Raises UsageError for what would not be read back the same (an infinite metric, no actions, …).
    """
    try:
        data = _ENCODER.encode(record)
        if decode(data, record.seq) == record:
            return data
    except (IntegrityError, StoreFormatError, msgspec.MsgspecError, OverflowError, UnicodeError) as error:
        raise UsageError(f"this cannot be written as a record: {error}", _SAYABLE) from error
    raise UsageError("this would not be read back as it was written", _SAYABLE)


_SAYABLE = "give finite numbers, whole texts and at least one action"


def decode(data: bytes, seq: int) -> Record:
    """The record in `data`, which was found at number `seq`.

    Raises IntegrityError for anything but a record of this number (readers count it as void), and
    StoreFormatError for one of a newer format (readers stop). Whether it fits the state and the chain is
    judged in `core/fold.py`.
    """
    if len(data) > MAX_RECORD:
        raise IntegrityError(f"record {seq} is longer than {MAX_RECORD >> 20} MiB", _IGNORED)
    try:
        record = _RECORD.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        _refuse_newer(data, seq)
        raise IntegrityError(f"record {seq} cannot be read: {error}", _IGNORED) from error
    if record.format > FORMAT:
        _refuse_newer(data, seq)
    if record.format != FORMAT:
        raise IntegrityError(f"record {seq} has the unknown format {record.format}", _IGNORED)
    if record.seq != seq:
        raise IntegrityError(f"record {seq} says that it is number {record.seq}", _IGNORED)
    if not record.actions or not record.id or not _TIME.fullmatch(record.time):
        raise IntegrityError(f"record {seq} has no actions, id or time", _IGNORED)
    return record


_IGNORED = "it counts for nothing and harms nothing; find out who wrote it"


def _refuse_newer(data: bytes, seq: int) -> None:
    try:
        found = _ANY_FORMAT.decode(data).format
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return
    if found > FORMAT:
        raise StoreFormatError(
            f"record {seq} has format {found}, and this mldeploy reads up to {FORMAT}",
            "upgrade mldeploy here; until then it goes on with what it knew before that record",
        )
