"""The state of the world: fold(record 1..n) and nothing else.

Rules: a record takes effect as a whole or not at all; one that does not fit the state it meets is void and
changes nothing but the head; a version number, once assigned, is never assigned again. The values here are
immutable to everyone who holds them: `fold` copies what it changes.
"""

from __future__ import annotations

import msgspec

from mldeploy.core.records import GENESIS, Setting
from mldeploy.core.types import FULL_SHARE


class _Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """No value holds itself, so the cycle collector need not look at them: there may be a million."""


class Version(_Value, frozen=True, kw_only=True):
    """One published version."""

    version: int
    digest: str
    push: str
    blobs: tuple[str, ...]  # every blob it needs, its manifest's digest included
    size: int  # bytes of all its blobs
    owner: str
    expires: str  # ISO date
    python: str
    platform: str
    actor: str
    published: str  # RFC 3339
    seq: int  # of the record that published it
    packed: str = ""
    metrics: dict[str, float] = {}
    measured: dict[str, float] = {}
    retired: str = ""  # RFC 3339 when retired, else empty
    cut: bool = False  # retired by force: no host goes on with it until its successor is ready
    restored: int = 0  # seq of the record that brought it back last; 0: none
    warned: str = ""  # ISO date: warnings of its expiry due up to this day are closed


class Model(_Value, frozen=True, kw_only=True):
    """A model and its versions, ever."""

    name: str
    versions: dict[int, Version] = {}


class Ramp(_Value, frozen=True, kw_only=True):
    """A rollout under way (or paused): the candidate and the share it takes now."""

    rollout: str
    version: int
    steps: tuple[int, ...]
    step: int
    seq: int  # of the record that set the present step
    hold: int = 0
    guards: tuple[str, ...] = ()
    on: tuple[str, ...] = ()
    salt: str = ""  # of the sticky split: the id of the first of successive rollouts of this version
    paused: bool = False
    actor: str = ""
    started: str = ""  # RFC 3339
    begun: int = 0  # seq of the promote that began it, or of its last resume: the deadline counts from there
    min_requests: int = 200
    deadline: int = 0  # seconds; 0: the policy's
    fraction: int = 0  # of the traffic copied at a shadow step, hundredths of a percent; 0: the policy's
    trail: tuple[int, ...] = ()  # of the records that made it what it is: its promote first

    @property
    def share(self) -> int:
        """Hundredths of a percent; 0 at a shadow step."""
        return self.steps[self.step]

    @property
    def last(self) -> bool:
        """Whether it stands at its last step."""
        return self.step + 1 == len(self.steps)

    @property
    def stays(self) -> bool:
        """Whether its last step does not complete it: some traffic, or some hosts, have another version."""
        return self.steps[-1] < FULL_SHARE or bool(self.on)


class Shadowing(_Value, frozen=True, kw_only=True):
    """A shadow under way: the version some of the traffic is copied to."""

    shadow: str
    version: int
    seq: int  # of the record that began it: its scope
    fraction: int  # hundredths of a percent of the requests that `where` chooses
    where: str = ""
    lasts: int = 0  # seconds; 0: until it is ended
    keep: int = 0  # pairs kept in the store, at the most and by each host
    actor: str = ""
    started: str = ""  # RFC 3339


class Ended(_Value, frozen=True, kw_only=True):
    """How the last rollout ended."""

    rollout: str
    version: int
    outcome: str  # "completed", "halted", "rolled back", "superseded" (by another promote)
    reason: str
    seq: int
    trail: tuple[int, ...] = ()  # of the records that tell its story: its promote first, `seq` last


class Past(_Value, frozen=True, kw_only=True):
    """How a version's last rollout or shadow ended: what `report` tells of it."""

    kind: str = "rollout"  # or "shadow"
    ended: Ended


class Serving(_Value, frozen=True, kw_only=True):
    """What one model does in one environment."""

    stable: int | None = None
    previous: int | None = None
    ramp: Ramp | None = None
    ended: Ended | None = None
    shadows: tuple[Shadowing, ...] = ()
    frozen: str | None = None  # the reason while frozen ("" is a reason)
    seq: int = 0  # of the record that last changed its traffic: a freeze does not
    past: tuple[Past, ...] = ()  # the last ones, one of each version at the most, newest last


class Host(_Value, frozen=True, kw_only=True):
    """A member of an environment."""

    id: str
    environment: str
    hostname: str
    labels: dict[str, str]
    seq: int  # of its join
    joined: str  # RFC 3339


class Blob(_Value, frozen=True, kw_only=True):
    """A live blob: which push brought it (its key), and how long it is."""

    push: str
    size: int


class Notice(_Value, frozen=True, kw_only=True):
    """Something people are to be told, until `notified` closes it."""

    id: str  # the same on every host: Message-ID and idempotency key are made of it
    kind: str  # "launched", "halted", "rolled back", "retired"; "expiring", "overdue"
    environment: str  # empty where it is about all of them
    model: str
    version: int
    previous: int | None = None  # launched: what was stable before
    rollout: str = ""
    reason: str = ""
    seq: int = 0  # of the record that did it; 0: of none, a day is due
    actor: str = ""
    time: str = ""  # RFC 3339, or the day


class State(_Value, frozen=True, kw_only=True):
    """Everything the log has said up to `head`."""

    head: int = 0
    head_sha256: str = GENESIS
    models: dict[str, Model] = {}
    environments: dict[str, dict[str, Serving]] = {}  # environment -> model -> what it does
    frozen: dict[str, str] = {}  # environment -> reason, while every model of it is frozen
    hosts: dict[str, Host] = {}
    drained: dict[str, str] = {}  # host -> the reason, while it is to take no traffic; members or not
    blobs: dict[str, Blob] = {}  # live blobs by sha256
    horizon: str = ""  # pushes with smaller ids are void
    policy: dict[str, dict[str, Setting]] = {}  # environment ("": all) -> what is set there
    notices: dict[str, Notice] = {}  # pending, by id
    void: tuple[int, ...] = ()  # the numbers of the records that changed nothing, ascending

    @property
    def voids(self) -> int:
        """How many records changed nothing."""
        return len(self.void)
