"""The routing table: what the agent tells the fronts, `run/routes.json`.

The agent writes it whole and replaces it by rename; a front reads it whole and replaces its own by one
assignment. `generation` grows by one whenever the content changes. Where the file cannot be written, because
the disk is full, the table goes with the word that there is a new one. The agent decides everything here:
which versions may be asked for, which worker serves which, how traffic is split; the front obeys. Unknown
keys are ignored, so that a newer agent and an older front get along during an upgrade.
Left out: how a version is chosen (`front/select.py`), and who the workers are to the agent (`workers.py`).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec

from mldeploy.core.manifest import Tensor
from mldeploy.core.types import FULL_SHARE

#: Where the table lies, relative to the state folder.
ROUTES = Path("run/routes.json")
#: Bytes that a line of a control socket may have, with a table or with all that a front has counted.
LONGEST_LINE = 64 << 20
#: Roles of a version in the evidence.
STABLE, CANDIDATE, SHADOW = "stable", "candidate", "shadow"
#: What VersionRoutes.platform says unless told otherwise.
PLATFORM = "mldeploy-python"
#: (scope, role): in which something is evidence.
Scopes = tuple[tuple[int, str], ...]


class WorkerRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that may be sent requests: its id, never reused, and its Unix socket relative to the state."""

    id: str
    socket: str


class VersionRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model. `workers` are the ready ones; none: it `wakes`, or 503 with `reason`."""

    workers: tuple[WorkerRoute, ...] = ()
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    platform: str = PLATFORM
    state: str = "ready"  # absent|fetching|installing|loading|ready|failed|sleeping, shown, never judged
    reason: str = ""  # why it has no worker, for the 503
    wakes: bool = False  # requests for it wait, and the agent is told: it is started for them
    sleeps: int = 0  # how often it was put to sleep since the agent started
    woken: int = 0  # how often it was woken
    baseline: str = ""  # the file of its baseline distributions, relative to the state; "": none


class ShadowRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A shadow of a model: copies of part of stable's requests go to its `workers`, by way of the mirror."""

    id: str
    version: int  # a key of `versions`
    fraction: int = FULL_SHARE  # hundredths of a percent of stable's requests
    where: str = ""  # `mldeploy.core.where`; "" is all
    salt: str = ""  # of the sticky choice
    scope: int = 0  # of the evidence
    keep: int = 0  # pairs to keep, at the most
    rtol: float = 1e-5  # within which numbers are taken for equal: relative to the primary's, and absolute
    atol: float = 1e-8
    workers: tuple[WorkerRoute, ...] = ()


class ModelRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """One model. `stable`, `candidate` and `previous` name keys of `versions`.

    `stable` may point to an older version that still serves while the new one loads.
    """

    stable: int | None = None
    candidate: int | None = None
    previous: int | None = None
    share: int = 0  # hundredths of a percent of unpinned requests for the candidate
    key: str = ""  # the routing key: "header:NAME", "input:NAME", "" (and where there is none) the request id
    salt: str = ""  # of the split: the rollout's id
    scope: int = 0  # of the evidence: the number of the record that set the ramp's step; 0: no ramp
    shadows: tuple[ShadowRoute, ...] = ()
    versions: dict[str, VersionRoutes] = {}  # by version number
    last: int | None = None  # what was stable here last, also while nothing serves: for the agent alone
    reason: str = ""  # why nothing serves, for the 503


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a front knows. `ready` is the host's own readiness, for the load balancer."""

    generation: int = 0
    ready: bool = False
    drained: bool = False  # by an operator: it is not ready then, and this is why
    environment: str = ""
    host: str = ""
    models: dict[str, ModelRoutes] = {}


def scopes_of(routes: ModelRoutes, version: int) -> Scopes:
    """(scope, role) in which what becomes of a version's requests, or of its copies, is evidence.

    Stable counts in the scope of every shadow too: a shadow is judged beside it over the same time.
    """
    shadows = [(shadow.scope, SHADOW) for shadow in routes.shadows if shadow.version == version]
    if version == routes.stable:
        scopes = (routes.scope, *(shadow.scope for shadow in routes.shadows))
        return (*((scope, STABLE) for scope in dict.fromkeys(scopes) if scope), *shadows)
    if version == routes.candidate and routes.scope:
        return ((routes.scope, CANDIDATE), *shadows)
    return tuple(shadows)


def scopes_in(table: Table, model: str, version: int) -> Scopes:
    """The same, of a model that the table may not have."""
    routes = table.models.get(model)
    return scopes_of(routes, version) if routes is not None else ()


_decoder = msgspec.json.Decoder(Table)


def encode_table(table: Table) -> bytes:
    """The bytes of `run/routes.json`."""
    return msgspec.json.encode(table)


def decode_table(data: bytes) -> Table:
    """Read those bytes. Raises msgspec.ValidationError or msgspec.DecodeError for anything else."""
    return _decoder.decode(data)


def read_table(path: Path = ROUTES) -> Table:
    """The table on disk. Raises FileNotFoundError, OSError, and what `decode_table` raises."""
    return decode_table(path.read_bytes())


def write_table(table: Table, path: Path = ROUTES) -> None:
    """Replace the table on disk by rename, so that a reader sees the old one or the new one. Raises OSError.

    It is not flushed to the disk: after a power cut the agent writes a new one before any front is told.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staged.write_bytes(encode_table(table))
        staged.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)  # half a table would take the room of a whole one
        raise


class Reading:
    """Which table to go by, as a process is told of new ones: the one that came with the word, else the file.

    A file with an earlier generation than a table that came with the word is what could not be replaced.
    """

    def __init__(self) -> None:
        self._told = 0  # the generation of the table that came with the last word; 0: it was the file's

    def read(self, told: Any = None) -> Table | None:
        """The table to go by; None: the one there is. `told` is what came with the word. Raises as
        `read_table`, and msgspec.ValidationError.
        """
        table = read_table() if told is None else msgspec.convert(told, Table)
        if told is None and table.generation < self._told:
            return None
        self._told = 0 if told is None else table.generation
        return table
