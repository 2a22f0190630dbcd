"""Which versions of a host sleep, so that those in use fit its memory budget, and which wake.

Rules. A worker counts as its share of memory (PSS) and at least as what its manifest states; one that loads
counts as what it is expected to take, and one that stops until it is gone. A version starts only if it fits.
For one that a request waits for, that never ran here, or that takes over from another, shadows make room, and
then the least recently used versions: never one with a request in flight, used or loaded within
`Memory.awake`, that serves the same model, or that is in a rollout. Others start where there is room, shadows
last. Nobody is put to sleep in vain. A previous version runs while requests name it, and sleeps when idle.
Left out: the drain of those put to sleep (`plan.py`, as for any worker no table names).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mldeploy.core.host import Desired, ModelRoute, Observed, Rest, StartWorker, Wanted, Wish, Worker
from mldeploy.core.placing import answering, failure, falls_back, places, replicas, size, stated

#: Seconds for which a request is taken to wait after a front last said so.
WAITS = 3.0


@dataclass(frozen=True)
class _Case:
    """A version that is to run, unless it sleeps. Bytes; `used` is when it last did anything for anyone."""

    version: Wanted
    role: str  # stable, candidate, fallback, previous, shadow
    filled: tuple[Worker, ...]
    need: int  # of the workers it lacks
    wanted: bool  # a request waits for it
    urgent: bool  # others make room for it
    routed: bool
    used: float


def resting(desired: Desired, observed: Observed, now: float) -> Rest:
    """What sleeps and what wakes, given what is there."""
    cases: list[_Case] = []
    asleep: set[Wanted] = set()
    pinned: set[Wanted] = set()
    for asked in desired.models.values():
        for role, version in _roles(asked, observed, now):
            case = _case(asked, role, version, observed, now)
            leaving = _leaving(case, observed)
            if leaving and not case.wanted:
                asleep |= {version} if role != "previous" else set()  # that is what it does anyway
            elif role != "previous" or _pinned(case, observed, now):
                cases.append(case)
                pinned |= {version} if role == "previous" else set()
    waiting: dict[Wanted, str] = {}
    if observed.memory.budget:
        put, waiting = _Admission(cases, desired, observed, now).decide()
        asleep |= put
    held = frozenset(_held(desired, observed, now, asleep, waiting))
    return Rest(asleep=frozenset(asleep), waiting=waiting, held=held, pinned=frozenset(pinned - asleep))


def _roles(asked: Wish, observed: Observed, now: float) -> Iterator[tuple[str, Wanted]]:
    """The versions that may run, each once, whose files are here and that may be tried."""
    route = observed.routes.get(next(iter(asked.versions)).model, ModelRoute()) if asked.versions else None
    fallback = asked.fallback if route and falls_back(asked, route, observed, now) else None
    roles = {"stable": asked.stable, "candidate": asked.candidate, "fallback": fallback}
    seen: set[Wanted] = set()
    shadows = [("shadow", version) for version in asked.idle]
    for role, version in (*roles.items(), ("previous", asked.previous), *shadows):
        if version is not None and version not in seen and _loadable(version, observed, now):
            seen.add(version)
            yield role, version


def _loadable(version: Wanted, observed: Observed, now: float) -> bool:
    bundle = observed.bundles.get(version.digest)
    here = bundle is not None and bundle.environment in observed.environments
    return here and failure(version, observed, now) is None


def _case(asked: Wish, role: str, version: Wanted, observed: Observed, now: float) -> _Case:
    memory, route = observed.memory, observed.routes.get(version.model, ModelRoute())
    filled = tuple(places(version, observed).values())
    routed = bool(route.told(version))
    wanted = not routed and now - memory.woken.get(version.ref, -WAITS) < WAITS
    takes_over = role == "stable" and route.stable != version.version
    loaded = [worker.since for worker in filled if worker.state == "ready"]
    return _Case(
        version=version,
        role=role,
        filled=filled,
        need=_expected(version, observed) * (replicas(version, observed) - len(filled)),
        wanted=wanted,
        urgent=wanted
        or role in ("candidate", "fallback")
        or takes_over
        or (role == "stable" and version.digest not in memory.seen),
        routed=routed,
        used=max(memory.used.get(version.ref, 0.0), memory.woken.get(version.ref, 0.0), *loaded, 0.0),
    )


def _leaving(case: _Case, observed: Observed) -> bool:
    """Whether it was put to sleep and its workers have not gone yet."""
    route = observed.routes.get(case.version.model, ModelRoute())
    told = route.told(case.version) == ()
    return told and any(w.state == "ready" and w.routed_last is not None for w in case.filled)


def _pinned(case: _Case, observed: Observed, now: float) -> bool:
    """Whether a previous version runs: a request names it, or has not too long ago."""
    route = observed.routes.get(case.version.model, ModelRoute())
    told = route.workers.get(case.version.version)
    if case.wanted or (told == () and case.filled):
        return True
    # what has just been replaced is not kept for that
    named = bool(told) and case.version.version not in (route.stable, route.candidate)
    return named and now - case.used < observed.memory.idle


def _held(
    desired: Desired, observed: Observed, now: float, asleep: set[Wanted], waiting: dict[Wanted, str]
) -> Iterator[Wanted]:
    """Those that requests may wait for: with no worker that answers, but able to get one."""
    for asked in desired.models.values():
        for version in asked.versions:
            if version.idle or not _loadable(version, observed, now):
                continue
            told = observed.routes.get(version.model, ModelRoute()).workers.get(version.version)
            rests = version in asleep or (version in waiting and not answering(version, observed))
            wakes = told == () and not answering(version, observed)
            if rests or wakes or (version == asked.previous and version != asked.stable):
                yield version


def _expected(version: Wanted, observed: Observed) -> int:
    """Bytes one worker will take. What grew beyond the budget may still run alone."""
    memory = observed.memory
    most = memory.budget // replicas(version, observed)
    return max(stated(version, observed), min(memory.seen.get(version.digest, 0), most))


class _Admission:
    """Who may start and who sleeps for it: `free` bytes now, `coming` from those on their way out."""

    def __init__(self, cases: list[_Case], desired: Desired, observed: Observed, now: float) -> None:
        self.cases, self.observed, self.now = cases, observed, now
        self.known = {v.digest: v for asked in desired.models.values() for v in asked.versions}
        kept = {worker.id for case in cases for worker in case.filled}
        there = [worker for worker in observed.workers if worker.state != "gone"]
        self.free = observed.memory.budget - sum(self._cost(worker) for worker in there)
        for action in observed.busy:
            if isinstance(action, StartWorker) and action.digest in self.known:
                self.free -= _expected(self.known[action.digest], observed)
        self.coming = sum(self._gain(worker) for worker in there if worker.id not in kept)
        self.sleepy = sorted((case for case in cases if self._may_sleep(case)), key=_age)
        self.asleep: set[Wanted] = set()

    def decide(self) -> tuple[set[Wanted], dict[Wanted, str]]:
        """Those put to sleep; and those that wait, with the reasons."""
        up = sum(bool(case.filled) for case in self.cases)
        if self.free + self.coming < 0:  # what runs has grown; one alone may stay, whatever it takes
            self._make_room(0, self.sleepy if len(self.sleepy) < up else self.sleepy[:-1])
        waiting: dict[Wanted, str] = {}
        starting = [case for case in self.cases if case.need or len(case.filled) < self._replicas(case)]
        for case in sorted(starting, key=self._turn):
            if case.need <= self.free and (case.urgent or not waiting):
                self.free -= case.need
                continue
            waiting[case.version] = self._reason(case)
            others = [each for each in self.sleepy if self._yields(each, case)]
            if case.urgent and self._make_room(case.need, others):
                self.coming -= case.need - self.free
                self.free = min(self.free, 0)  # spoken for; the rest of it comes
        return self.asleep, waiting

    def _replicas(self, case: _Case) -> int:
        return replicas(case.version, self.observed)

    def _turn(self, case: _Case) -> tuple[int, float, str]:
        """Who is asked for comes first, then what must, then what was awake, then what was used last."""
        told = self.observed.routes.get(case.version.model, ModelRoute()).told(case.version)
        if case.role == "shadow":
            return 4, -case.used, case.version.ref
        order = 0 if case.wanted else 1 if case.urgent else 3 if told == () else 2
        return order, -case.used, case.version.ref

    def _make_room(self, need: int, sleepy: list[_Case]) -> bool:
        """Put the least recently used to sleep until `need` bytes fit; nobody if that is not enough."""
        short, chosen = need - self.free - self.coming, []
        for case in sleepy:
            if short <= 0:
                break
            if case.version not in self.asleep:
                gain = sum(self._gain(worker) for worker in case.filled)
                chosen.append(case.version)
                short -= gain
                self.coming += gain
        if short > 0 and need:
            for case in sleepy:
                if case.version in chosen:
                    self.coming -= sum(self._gain(worker) for worker in case.filled)
            return False
        self.asleep |= set(chosen)
        return True

    def _may_sleep(self, case: _Case) -> bool:
        if case.role == "shadow":
            return bool(case.filled)  # copies are lost, and nobody waits for their answers
        fronts, memory = self.observed.fronts, self.observed.memory
        idle = not any(front.inflight.get(worker.id) for front in fronts for worker in case.filled)
        quiet = not case.wanted and self.now - case.used >= memory.awake
        loaded = bool(case.filled) and all(worker.state == "ready" for worker in case.filled)
        serves = self.observed.routes.get(case.version.model, ModelRoute()).stable == case.version.version
        return loaded and case.routed and idle and quiet and (case.role == "previous" or serves)

    @staticmethod
    def _yields(other: _Case, case: _Case) -> bool:
        """Whether `other` may make room for `case`: what serves a model never does for that model."""
        return other.version.model != case.version.model or other.role in ("previous", "shadow")

    def _cost(self, worker: Worker) -> int:
        version = self.known.get(worker.digest)
        bundle = self.observed.bundles.get(worker.digest)
        least = bundle.memory if bundle else 0
        if worker.state == "loading" and version is not None:
            least = _expected(version, self.observed)
        return max(worker.memory, least)

    def _gain(self, worker: Worker) -> int:
        """What the end of a worker frees: not the pages it shares."""
        shared = max(0, worker.memory - worker.private) if worker.private else 0
        return max(0, self._cost(worker) - shared)

    def _reason(self, case: _Case) -> str:
        total = _expected(case.version, self.observed) * self._replicas(case)
        text = f"waits for memory: needs {size(total)} of this host's budget of {size(self._budget)}"
        for other in self.cases:
            if other is not case and other.filled and not self._yields(other, case):
                beside = sum(self._cost(worker) for worker in other.filled)
                if case.need + beside > self._budget:
                    return f"{text}, which does not hold it beside {other.version.ref}, which serves"
        return text

    @property
    def _budget(self) -> int:
        return self.observed.memory.budget


def _age(case: _Case) -> tuple[bool, float, str]:
    return case.role != "shadow", case.used, case.version.ref
