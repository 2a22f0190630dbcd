"""The next actions of one host: (desired, observed) -> actions.

Rules: a worker is stopped only when it is in no table, published or acknowledged, and has nothing in flight,
or when the drain deadline has passed. What failed waits for its backoff. What nothing needs is removed after
a grace. Level-triggered: nothing is remembered between two calls, and asking again changes nothing.
Left out: which version takes which traffic (`placing.py`), carrying it out (the daemon's agent), and saying
it in words (`standing.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from mldeploy.core.host import (
    Action,
    BuildEnvironment,
    Desired,
    FetchBundle,
    KillWorker,
    Limits,
    ModelRoute,
    Observed,
    PublishTable,
    RemoveBlob,
    RemoveBundle,
    RemoveEnvironment,
    Rest,
    StartWorker,
    StartZygote,
    StopWorker,
    StopZygote,
    Wanted,
    Wish,
    Worker,
)
from mldeploy.core.memory import resting
from mldeploy.core.placing import failure, falls_back, is_out, places, replicas, routing


def plan(desired: Desired, observed: Observed, now: float, limits: Limits) -> tuple[Action, ...]:
    """What to do next, most urgent first. Actions in progress (`observed.busy`) are not given again."""
    rest = resting(desired, observed, now)
    routes = routing(desired, observed, now, rest)
    actions: list[Action] = []
    if routes != observed.routes:
        actions.append(PublishTable(routes=tuple(sorted(routes.items()))))
    running = _running(desired, observed, routes, now, rest)
    actions += _endings(observed, routes, running, now, limits)
    actions += _beginnings(desired, observed, running, now, limits)
    actions += _removals(observed, _needed(desired, observed, running), now, limits)
    actions = _apart(actions, observed)
    begun = {_subject(action) for action in observed.busy}
    chosen = {_subject(action): action for action in reversed(actions)}  # the most urgent of each
    return tuple(
        action for action in actions if chosen[_subject(action)] is action and _subject(action) not in begun
    )


def table(desired: Desired, observed: Observed, now: float) -> dict[str, ModelRoute]:
    """How every model is routed from now on, given how it is routed (`observed.routes`)."""
    return routing(desired, observed, now, resting(desired, observed, now))


def _subject(action: Action) -> object:
    """What an action is about: two that are about the same are never done at once."""
    match action:
        case FetchBundle():
            return FetchBundle, action.digest
        case BuildEnvironment() | StartZygote():
            return type(action), action.environment
    return action


def _running(
    desired: Desired, observed: Observed, routes: dict[str, ModelRoute], now: float, rest: Rest
) -> dict[Wanted, bool]:
    """The versions that are to have workers, and whether missing ones are started now."""
    found: dict[Wanted, bool] = {}
    for name, asked in desired.models.items():
        routed = routes[name].workers
        for version in (asked.stable, asked.candidate):
            # a backoff only keeps new workers from starting; out of rotation, those there go as well
            if version is not None and (version.version in routed or not is_out(version, observed, now)):
                found[version] = failure(version, observed, now) is None
        fallback = asked.fallback
        if fallback is not None and falls_back(asked, routes[name], observed, now):
            found[fallback] = failure(fallback, observed, now) is None
        if asked.previous in rest.pinned and asked.previous is not None:
            found[asked.previous] = failure(asked.previous, observed, now) is None
        for version in asked.idle:
            if not is_out(version, observed, now):
                found[version] = failure(version, observed, now) is None
    return {
        version: start and version not in rest.waiting
        for version, start in found.items()
        if version not in rest.asleep
    }


def _endings(
    observed: Observed,
    routes: dict[str, ModelRoute],
    running: dict[Wanted, bool],
    now: float,
    limits: Limits,
) -> Iterator[Action]:
    needed = {holder.id for version in running for holder in places(version, observed).values()}
    for worker in observed.workers:
        routed = any(
            table.get(worker.model, ModelRoute()).has(worker.id) for table in (routes, observed.routes)
        )
        if worker.state in ("stopping", "gone"):
            if worker.state == "stopping" and now - worker.since > limits.stop:
                yield KillWorker(worker=worker.id, reason="did not stop when asked")
        elif worker.state == "loading" and now - worker.since > limits.load:
            yield KillWorker(worker=worker.id, reason=f"not ready after {limits.load:g} s")
        elif worker.oldest_ms > limits.hang * 1000:
            yield KillWorker(
                worker=worker.id, reason=f"a request unanswered for {worker.oldest_ms / 1000:.0f} s"
            )
        elif worker.id not in needed and not routed and _drained(worker, observed, now, limits):
            yield StopWorker(worker=worker.id)


def _drained(worker: Worker, observed: Observed, now: float, limits: Limits) -> bool:
    """Whether no live front can send the worker anything, and it owes none an answer."""
    if worker.routed_last is None:
        return True
    if now >= worker.routed_until + limits.drain:
        return True
    return all(
        front.generation > worker.routed_last and not front.inflight.get(worker.id)
        for front in observed.fronts
        if worker.idle or not front.idle
    )


def _beginnings(
    desired: Desired,
    observed: Observed,
    running: dict[Wanted, bool],
    now: float,
    limits: Limits,
) -> Iterator[Action]:
    loading = sum(worker.state == "loading" for worker in observed.workers)
    for version, start in running.items():
        if not start:
            continue
        bundle = observed.bundles.get(version.digest)
        if bundle is None or bundle.environment not in observed.environments:
            yield from _files(version, observed, now)
        elif bundle.environment not in observed.zygotes:
            yield StartZygote(environment=bundle.environment, digest=version.digest)
        elif observed.zygotes[bundle.environment] == "ready":
            filled = places(version, observed)
            missing = replicas(version, observed) - len(filled)
            free = [replica for replica in range(replicas(version, observed)) if replica not in filled]
            for replica in free[:missing]:
                if loading < limits.loading:
                    loading += 1
                    yield StartWorker(
                        model=version.model,
                        version=version.version,
                        digest=version.digest,
                        replica=replica,
                        environment=bundle.environment,
                        idle=version.idle,
                    )
    for asked in desired.models.values():
        for spare in (asked.previous, asked.fallback):
            if spare is not None:
                yield from _files(spare, observed, now)


def _files(version: Wanted, observed: Observed, now: float) -> Iterator[Action]:
    """Bundle and environment onto the disk."""
    bundle = observed.bundles.get(version.digest)
    if failure(version, observed, now) is not None:
        return
    if bundle is None:
        yield FetchBundle(model=version.model, version=version.version, digest=version.digest)
    elif bundle.environment not in observed.environments and bundle.environment not in observed.building:
        yield BuildEnvironment(
            environment=bundle.environment,
            model=version.model,
            version=version.version,
            digest=version.digest,
        )


def references(desired: Desired, observed: Observed, now: float) -> frozenset[str]:
    """What is needed: digests of bundles, ids of environments, "zygote <environment>", "blob <sha256>".

    `Observed.unused` is to hold the time since when a thing on this host has not been in it.
    """
    rest = resting(desired, observed, now)
    return _needed(
        desired, observed, _running(desired, observed, routing(desired, observed, now, rest), now, rest)
    )


def _needed(desired: Desired, observed: Observed, running: Collection[Wanted]) -> frozenset[str]:
    wanted = {version.digest for version in running}
    for asked in desired.models.values():
        wanted |= {version.digest for version in asked.versions}
    wanted |= {worker.digest for worker in observed.workers}
    wanted |= {
        action.digest for action in observed.busy if isinstance(action, BuildEnvironment | FetchBundle)
    }
    needed = set(wanted)
    for digest in wanted & set(observed.bundles):
        needed.add(observed.bundles[digest].environment)
    needed |= {worker.environment for worker in observed.workers}
    for digest in [v.digest for v in running] + [worker.digest for worker in observed.workers]:
        if digest in observed.bundles:
            needed.add(f"zygote {observed.bundles[digest].environment}")
    if observed.blobs:
        for bundle in observed.bundles.values():
            needed |= {f"blob {sha256}" for sha256 in bundle.blobs}  # they go after the bundle has gone
    return frozenset(needed)


def _removals(observed: Observed, needed: frozenset[str], now: float, limits: Limits) -> Iterator[Action]:
    def idle(key: str, seconds: float) -> bool:
        return key not in needed and key in observed.unused and now - observed.unused[key] >= seconds

    for environment, state in observed.zygotes.items():
        if state == "ready" and idle(f"zygote {environment}", min(limits.idle_zygote, limits.grace)):
            yield StopZygote(environment=environment)
    for digest in sorted(observed.bundles):
        if idle(digest, limits.grace):
            yield RemoveBundle(digest=digest)
    for environment in sorted(observed.environments):
        if environment not in observed.zygotes and idle(environment, limits.grace):
            yield RemoveEnvironment(environment=environment)
    for sha256 in sorted(observed.blobs):
        if idle(f"blob {sha256}", limits.grace):
            yield RemoveBlob(sha256=sha256)


def _apart(actions: list[Action], observed: Observed) -> list[Action]:
    """Blobs are removed while nothing is made of blobs, and the other way round: which ones a bundle is made
    of is not known before it is there, and one that is in place is not fetched.
    """
    if any(isinstance(action, RemoveBlob) for action in observed.busy):
        return [action for action in actions if not isinstance(action, FetchBundle | BuildEnvironment)]
    if any(isinstance(action, FetchBundle | BuildEnvironment) for action in (*actions, *observed.busy)):
        return [action for action in actions if not isinstance(action, RemoveBlob)]
    return actions


def settled(desired: Desired, observed: Observed, now: float) -> bool:
    """Whether every stable version is routed, or sleeps, or has failed with nothing more to wait for."""
    rest = resting(desired, observed, now)
    routes = routing(desired, observed, now, rest)
    return all(_settled(asked, routes[name], observed, now, rest) for name, asked in desired.models.items())


def _settled(asked: Wish, route: ModelRoute, observed: Observed, now: float, rest: Rest) -> bool:
    if asked.stable is None and asked.candidate is not None:
        # nothing else is served here: a rollout on these hosts alone
        ready = route.candidate == asked.candidate.version
        return ready or failure(asked.candidate, observed, now) is not None
    if asked.stable is None or asked.stable in rest.waiting or asked.stable in rest.asleep:
        return True  # it waits for memory: that may take for ever
    if route.stable == asked.stable.version and route.workers.get(route.stable):
        return True
    if failure(asked.stable, observed, now) is None:
        return False
    if route.stable in route.workers or asked.fallback is None:
        return True
    return failure(asked.fallback, observed, now) is not None
