"""The state of the world: fold(record 1..n) and nothing else.

Rules: a record takes effect as a whole or not at all; one that does not fit the state it meets is void and
changes nothing but the head; a version number, once assigned, is never assigned again. The values here are
immutable to everyone who holds them: `fold` copies what it changes.
"""

from __future__ import annotations

import msgspec

from mldeploy.core.records import GENESIS


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    pass


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

    @property
    def share(self) -> int:
        """Hundredths of a percent."""
        return self.steps[self.step]


class Ended(_Value, frozen=True, kw_only=True):
    """How the last rollout ended."""

    rollout: str
    version: int
    outcome: str  # "completed", "halted", "rolled back", "superseded" (by another promote)
    reason: str
    seq: int


class Serving(_Value, frozen=True, kw_only=True):
    """What one model does in one environment."""

    stable: int | None = None
    previous: int | None = None
    ramp: Ramp | None = None
    ended: Ended | None = None
    frozen: str | None = None  # the reason while frozen ("" is a reason)
    seq: int = 0  # of the record that last changed its traffic: a freeze does not


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


class State(_Value, frozen=True, kw_only=True):
    """Everything the log has said up to `head`."""

    head: int = 0
    head_sha256: str = GENESIS
    models: dict[str, Model] = {}
    environments: dict[str, dict[str, Serving]] = {}  # environment -> model -> what it does
    frozen: dict[str, str] = {}  # environment -> reason, while every model of it is frozen
    hosts: dict[str, Host] = {}
    blobs: dict[str, Blob] = {}  # live blobs by sha256
    horizon: str = ""  # pushes with smaller ids are void
    voids: int = 0  # records that changed nothing
