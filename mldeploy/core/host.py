"""What one host shall do, what it is seen to do, and the actions between the two: the words of `plan.py`.

Everything is a frozen value. `Desired` comes from the log (`wish.py`), `Observed` from the disk and the
processes, actions go to whoever carries them out. Left out: the decisions (`plan.py`), and their telling
(`standing.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import msgspec


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Wanted(_Value, frozen=True, kw_only=True, cache_hash=True):
    """A version this host has to do with. Empty `python` or `platform` asks for nothing."""

    model: str
    version: int
    digest: str
    python: str = ""  # minor version of the interpreter
    platform: str = ""
    memory: int = 0  # bytes of one worker, as measured when it was published; 0: not measured
    idle: bool = False  # as a shadow: by workers of its own, which give way to all others

    @property
    def ref(self) -> str:
        """`churn@7`."""
        return f"{self.model}@{self.version}"


class Mirroring(_Value, frozen=True, kw_only=True):
    """A shadow: `version` (idle) answers copies of part of stable's traffic, and its answers are compared."""

    id: str  # ULID of the shadow, or of the rollout whose first step it is
    version: Wanted
    fraction: int  # hundredths of a percent of stable's requests
    where: str = ""  # `core/where.py`; "" is all
    salt: str = ""  # of the sticky choice
    scope: int = 0  # the number of the record that began it
    keep: int = 0  # pairs kept in the store, at the most


class Wish(_Value, frozen=True, kw_only=True):
    """What the log asks of this host for one model.

    `fallback` may serve while stable does not: the version routed last, also if it was retired since (but not
    by force), else the previous one. `previous` stays on the disk, and runs while requests name it.
    """

    stable: Wanted | None = None
    candidate: Wanted | None = None
    previous: Wanted | None = None
    fallback: Wanted | None = None
    share: int = 0  # hundredths of a percent for the candidate
    salt: str = ""  # of the sticky split: whoever is in at 1 % is in at 10 %
    scope: int = 0  # of the evidence: the number of the record that set the ramp's step; 0: no ramp
    shadows: tuple[Mirroring, ...] = ()

    @property
    def versions(self) -> tuple[Wanted, ...]:
        """Every version it names, each once, the most important first."""
        named = (self.stable, self.candidate, self.previous, self.fallback, *self.idle)
        return tuple(dict.fromkeys(version for version in named if version is not None))

    @property
    def rising(self) -> Wanted | None:
        """The version that a rollout under way is of: the candidate, or at a shadow step its shadow."""
        if self.candidate is not None or not self.scope:
            return self.candidate
        return next((shadow.version for shadow in self.shadows if shadow.scope == self.scope), None)

    @property
    def idle(self) -> tuple[Wanted, ...]:
        """The versions of its shadows, each once."""
        return tuple(dict.fromkeys(shadow.version for shadow in self.shadows))


class Desired(_Value, frozen=True, kw_only=True):
    """All models of the host's environment. A model that is not in it is to go."""

    models: dict[str, Wish] = {}

    @property
    def refs(self) -> frozenset[str]:
        """Every version it names, as `churn@7`."""
        return frozenset(version.ref for asked in self.models.values() for version in asked.versions)


class Bundle(_Value, frozen=True, kw_only=True):
    """A bundle on the disk, whole and verified."""

    environment: str
    replicas: int = 1
    python: str = ""
    memory: int = 0  # bytes of one worker, as the manifest states; 0: it does not
    blobs: frozenset[str] = frozenset()  # sha256 of its files, its manifest and its wheels


class Worker(_Value, frozen=True, kw_only=True):
    """A worker process that is alive, or (`gone`) has ended and is not yet judged."""

    id: str
    model: str
    version: int
    digest: str
    environment: str = ""
    replica: int = 0
    idle: bool = False  # a shadow's
    state: str = "loading"  # loading, ready, stopping (was told to stop), gone
    since: float = 0.0  # when it got into that state
    oldest_ms: float = 0.0  # age of its oldest unanswered request
    routed_last: int | None = None  # the last generation of the table that had it; None: none had
    routed_until: float = 0.0  # when it left the table
    memory: int = 0  # bytes: its proportional share (PSS); 0: not weighed yet
    private: int = 0  # bytes of that which its end gives back


class Front(_Value, frozen=True, kw_only=True):
    """A front that is alive: the generation it acknowledged (0: none yet) and its requests in flight.

    The mirror is one too, which sends to `idle` workers alone: nobody else's end waits for it.
    """

    index: int
    idle: bool = False  # the mirror
    generation: int = 0
    inflight: dict[str, int] = {}


class Bad(_Value, frozen=True, kw_only=True):
    """A version (key `model@version`) or an environment (key: its id) that failed here.

    It is not tried again before `retry_at`. `out`: until then it is not routed either.
    """

    digest: str = ""
    reason: str = ""
    stage: str = ""  # fetch, install, zygote, load, samples, warmup, serve
    attempts: int = 1
    retry_at: float = 0.0
    out: bool = True
    log_tail: str = ""


class ModelRoute(_Value, frozen=True, kw_only=True):
    """How one model is routed: versions by number, and the workers that answer for each.

    A version with no workers in `workers` sleeps or wakes: requests for it wait.
    """

    stable: int | None = None
    candidate: int | None = None
    previous: int | None = None
    share: int = 0
    salt: str = ""
    scope: int = 0
    workers: dict[int, tuple[str, ...]] = {}
    shadows: tuple[Mirroring, ...] = ()  # those that run
    idle: dict[int, tuple[str, ...]] = {}  # the workers of shadows, which only copies are sent to

    def all_workers(self) -> frozenset[str]:
        """Every worker that requests or copies may be sent to."""
        return frozenset(
            worker for part in (self.workers, self.idle) for ids in part.values() for worker in ids
        )

    def has(self, worker: str) -> bool:
        """Whether requests or copies may be sent to that worker."""
        return worker in self.all_workers()

    def told(self, version: Wanted) -> tuple[str, ...] | None:
        """The workers that answer for a version; None where none may be asked."""
        return (self.idle if version.idle else self.workers).get(version.version)


class Memory(_Value, frozen=True, kw_only=True):
    """What `memory.py` decides by. Bytes, and seconds of the host's clock."""

    budget: int = 0  # for all workers together; 0: no limit
    awake: float = 10.0  # a version used, or loaded, in the last so many seconds is not put to sleep
    idle: float = 300.0  # a previous version that was woken sleeps again after so long
    seen: dict[str, int] = {}  # by digest: bytes of one worker when it last ran here
    used: dict[str, float] = {}  # by `churn@7`: its last request
    woken: dict[str, float] = {}  # by `churn@7`, not routed now: when a request last waited for it


class Rest(_Value, frozen=True, kw_only=True):
    """What `memory.py` decides: which versions rest, and which of them requests may wait for."""

    asleep: frozenset[Wanted] = frozenset()  # to have no workers: those there are drained and stopped
    waiting: dict[Wanted, str] = {}  # not to be started for now, and why
    held: frozenset[Wanted] = frozenset()  # requests for them wait for them to wake
    pinned: frozenset[Wanted] = frozenset()  # previous versions that run because requests name them


class Observed(_Value, frozen=True, kw_only=True, dict=True):
    """What is on this host now. `unused` says since when a file or zygote has been needed by nothing."""

    bundles: dict[str, Bundle] = {}
    environments: frozenset[str] = frozenset()
    zygotes: dict[str, str] = {}  # environment -> "starting" or "ready"
    workers: tuple[Worker, ...] = ()
    fronts: tuple[Front, ...] = ()
    routes: dict[str, ModelRoute] = {}  # as last published
    bad: dict[str, Bad] = {}
    busy: frozenset[Action] = frozenset()  # actions in progress
    pythons: frozenset[str] = frozenset()
    platform: str = ""
    blobs: frozenset[str] = frozenset()
    unused: dict[str, float] = {}  # key of `references` -> time
    memory: Memory = Memory()

    def workers_of(self, version: Wanted) -> Sequence[Worker]:
        """Its workers that were not told to stop: ready ones first, of these the routed ones."""
        return self._by_version.get((version.model, version.version, version.digest, version.idle), ())

    @cached_property
    def draining(self) -> bool:
        """Whether a worker has left the table and is still waited for."""
        return any(
            worker.routed_last is not None
            and worker.state == "ready"
            and not self.routes.get(worker.model, ModelRoute()).has(worker.id)
            for worker in self.workers
        )

    @cached_property
    def fetching(self) -> frozenset[str]:
        """The digests of the bundles that are being fetched."""
        return frozenset(action.digest for action in self.busy if isinstance(action, FetchBundle))

    @cached_property
    def building(self) -> frozenset[str]:
        """The environments that are being built."""
        return frozenset(action.environment for action in self.busy if isinstance(action, BuildEnvironment))

    @cached_property
    def running(self) -> frozenset[str]:
        """The digests of the bundles that some worker runs, or loads."""
        return frozenset(worker.digest for worker in self.workers if worker.state != "stopping")

    @cached_property
    def _by_version(self) -> dict[tuple[str, int, str, bool], list[Worker]]:
        # made once: a look at a host with a thousand workers asks for them ten thousand times
        found: dict[tuple[str, int, str, bool], list[Worker]] = {}
        for worker in self.workers:
            if worker.state != "stopping":
                key = worker.model, worker.version, worker.digest, worker.idle
                found.setdefault(key, []).append(worker)
        for (model, *_), mine in found.items():
            routed = self.routes.get(model, ModelRoute()).all_workers()
            mine.sort(key=lambda each: (each.state != "ready", each.id not in routed, each.id))
        return found


class Limits(_Value, frozen=True, kw_only=True):
    """Seconds, unless said otherwise."""

    grace: float = 3600.0
    drain: float = 30.0
    hang: float = 60.0
    load: float = 300.0
    stop: float = 30.0
    idle_zygote: float = 60.0
    loading: int = 4  # workers that load at the same time


class FetchBundle(_Value, frozen=True, kw_only=True):
    """Bring a bundle's files from the store."""

    model: str
    version: int
    digest: str


class BuildEnvironment(_Value, frozen=True, kw_only=True):
    """Build an environment from the wheels of the bundle `digest`."""

    environment: str
    model: str
    version: int
    digest: str


class StartZygote(_Value, frozen=True, kw_only=True):
    """Start the process that forks workers of an environment."""

    environment: str
    digest: str  # a bundle of that environment: its imports are imported ahead


class StartWorker(_Value, frozen=True, kw_only=True):
    """Fork one replica of a version."""

    model: str
    version: int
    digest: str
    replica: int
    environment: str
    idle: bool = False


class StopWorker(_Value, frozen=True, kw_only=True):
    """Ask a worker to finish what it has and go."""

    worker: str


class KillWorker(_Value, frozen=True, kw_only=True):
    """End a worker that does not answer."""

    worker: str
    reason: str


class PublishTable(_Value, frozen=True, kw_only=True):
    """Tell the fronts a new routing."""

    routes: tuple[tuple[str, ModelRoute], ...]

    def __hash__(self) -> int:
        return hash(repr(self.routes))


class StopZygote(_Value, frozen=True, kw_only=True):
    """End an idle zygote."""

    environment: str


class RemoveBundle(_Value, frozen=True, kw_only=True):
    """Remove a bundle's folder."""

    digest: str


class RemoveEnvironment(_Value, frozen=True, kw_only=True):
    """Remove an environment's folder."""

    environment: str


class RemoveBlob(_Value, frozen=True, kw_only=True):
    """Remove a blob."""

    sha256: str


Action = (
    FetchBundle | BuildEnvironment | StartZygote | StartWorker | StopWorker | KillWorker | PublishTable
    | StopZygote | RemoveBundle | RemoveEnvironment | RemoveBlob
)  # fmt: skip
