"""The next actions of one host: (desired, observed) -> actions, and which worker answers for which model.

Rules. A version is routed once all its replicas are ready; until then what serves now keeps serving. A worker
is stopped only when it is in no table, published or acknowledged, and has nothing in flight, or when the
drain deadline has passed. What failed waits for its backoff. What nothing needs is removed after a grace.
Level-triggered: nothing is remembered between two calls, and asking again changes nothing.
Left out: carrying it out (the daemon's agent), and saying it in words (`standing.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from mldeploy.core.host import (
    Action,
    Bad,
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
    StartWorker,
    StartZygote,
    StopWorker,
    StopZygote,
    Wanted,
    Wish,
    Worker,
)


def plan(desired: Desired, observed: Observed, now: float, limits: Limits) -> tuple[Action, ...]:
    """What to do next, most urgent first. Actions in progress (`observed.busy`) are not given again."""
    routes = table(desired, observed, now)
    actions: list[Action] = []
    if routes != observed.routes:
        actions.append(PublishTable(routes=tuple(sorted(routes.items()))))
    running = _running(desired, observed, routes, now)
    actions += _endings(observed, routes, running, now, limits)
    actions += _beginnings(desired, observed, running, now, limits)
    actions += _removals(desired, observed, running, now, limits)
    begun = {_subject(action) for action in observed.busy}
    chosen = {_subject(action): action for action in reversed(actions)}  # the most urgent of each
    return tuple(
        action for action in actions if chosen[_subject(action)] is action and _subject(action) not in begun
    )


def _subject(action: Action) -> object:
    """What an action is about: two that are about the same are never done at once."""
    match action:
        case FetchBundle():
            return FetchBundle, action.digest
        case BuildEnvironment() | StartZygote():
            return type(action), action.environment
    return action


def table(desired: Desired, observed: Observed, now: float) -> dict[str, ModelRoute]:
    """How every model is routed from now on, given how it is routed (`observed.routes`)."""
    return {
        name: _route(asked, observed, observed.routes.get(name, ModelRoute()), now)
        for name, asked in desired.models.items()
    }


def _route(asked: Wish, observed: Observed, current: ModelRoute, now: float) -> ModelRoute:
    stable = _serving(asked, observed, current, now)
    candidate = asked.candidate
    if candidate is not None and (
        candidate == stable or not _takes(candidate, observed, current.candidate, now)
    ):
        candidate = None
    served = [version for version in (stable, candidate) if version is not None]
    workers = {v.version: tuple(w.id for w in answering(v, observed)) for v in served}
    return ModelRoute(
        stable=stable.version if stable else None,
        candidate=candidate.version if candidate else None,
        previous=asked.previous.version if asked.previous else None,
        share=asked.share if candidate else 0,
        salt=asked.salt if candidate else "",
        workers=workers,
    )


def _serving(asked: Wish, observed: Observed, current: ModelRoute, now: float) -> Wanted | None:
    """The version that takes the stable share."""
    wanted, fallback = asked.stable, asked.fallback
    if wanted is None or _takes(wanted, observed, current.stable, now):
        return wanted
    if fallback is not None and answering(fallback, observed):
        return fallback
    # nothing better is there: some of its workers, unless it failed before it ever served
    usable = current.stable == wanted.version or not _out(wanted, observed, now)
    return wanted if usable and answering(wanted, observed) else None


def _takes(version: Wanted, observed: Observed, routed: int | None, now: float) -> bool:
    """Whether the version may take traffic: all replicas ready, or some while it is routed already."""
    ready = answering(version, observed)
    if not ready or _out(version, observed, now):
        return False
    return routed == version.version or len(ready) >= replicas(version, observed)


def answering(version: Wanted, observed: Observed) -> list[Worker]:
    """The ready workers of a version that fill its replicas' places."""
    places = _places(version, observed)
    return [places[replica] for replica in sorted(places) if places[replica].state == "ready"]


def _places(version: Wanted, observed: Observed) -> dict[int, Worker]:
    """The worker that fills each replica's place, ready and routed ones first; any other is surplus."""
    places: dict[int, Worker] = {}
    for worker in _by_preference(observed, version):
        if len(places) < replicas(version, observed):
            places.setdefault(worker.replica, worker)
    return places


def replicas(version: Wanted, observed: Observed) -> int:
    """How many workers the version asks for; 1 until its bundle is here."""
    bundle = observed.bundles.get(version.digest)
    return max(1, bundle.replicas) if bundle else 1


def failure(version: Wanted, observed: Observed, now: float) -> Bad | None:
    """Why the version is not tried now: a failure still backing off, or an interpreter it lacks."""
    bad = observed.bad.get(version.ref)
    if bad is not None and bad.digest == version.digest and bad.retry_at > now:
        return bad
    bundle = observed.bundles.get(version.digest)
    if version.platform and version.platform != observed.platform:
        return Bad(stage="install", reason=f"built for {version.platform}; this host is {observed.platform}")
    if version.python and version.python not in observed.pythons:
        return Bad(stage="install", reason=f"Python {version.python} is not installed on this host")
    broken = observed.bad.get(bundle.environment) if bundle else None
    return broken if broken is not None and broken.retry_at > now else None


def _out(version: Wanted, observed: Observed, now: float) -> bool:
    """Whether the version must not be routed for now."""
    bad = observed.bad.get(version.ref)
    return bad is not None and bad.digest == version.digest and bad.out and bad.retry_at > now


def _by_preference(observed: Observed, version: Wanted) -> list[Worker]:
    route = observed.routes.get(version.model, ModelRoute())
    mine = [
        w
        for w in observed.workers
        if (w.model, w.version, w.digest) == (version.model, version.version, version.digest)
        and w.state != "stopping"
    ]
    return sorted(mine, key=lambda w: (w.state != "ready", not route.has(w.id), w.id))


def _running(
    desired: Desired, observed: Observed, routes: dict[str, ModelRoute], now: float
) -> dict[Wanted, bool]:
    """The versions that are to have workers, and whether missing ones are started now."""
    found: dict[Wanted, bool] = {}
    for name, asked in desired.models.items():
        routed = routes[name].workers
        for version in (asked.stable, asked.candidate):
            # a backoff only keeps new workers from starting; out of rotation, those there go as well
            if version is not None and (version.version in routed or not _out(version, observed, now)):
                found[version] = failure(version, observed, now) is None
        fallback = asked.fallback
        if fallback is not None and _falls_back(asked, routes[name], observed, now):
            found[fallback] = failure(fallback, observed, now) is None
    return found


def _falls_back(asked: Wish, route: ModelRoute, observed: Observed, now: float) -> bool:
    """Whether the fallback is to run: it serves, or stable failed and nothing better is in sight."""
    if asked.stable is None or asked.fallback is None:
        return False
    if route.stable == asked.fallback.version:
        return True
    bad = failure(asked.stable, observed, now)
    if bad is None or not bad.out:
        return False
    return route.stable is None or _out(asked.stable, observed, now)


def _endings(
    observed: Observed,
    routes: dict[str, ModelRoute],
    running: dict[Wanted, bool],
    now: float,
    limits: Limits,
) -> Iterator[Action]:
    needed = {holder.id for version in running for holder in _places(version, observed).values()}
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
            places = _places(version, observed)
            missing = replicas(version, observed) - len(places)
            free = [replica for replica in range(replicas(version, observed)) if replica not in places]
            for replica in free[:missing]:
                if loading < limits.loading:
                    loading += 1
                    yield StartWorker(
                        model=version.model,
                        version=version.version,
                        digest=version.digest,
                        replica=replica,
                        environment=bundle.environment,
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
    elif bundle.environment not in observed.environments and not _building(bundle.environment, observed):
        yield BuildEnvironment(
            environment=bundle.environment,
            model=version.model,
            version=version.version,
            digest=version.digest,
        )


def _building(environment: str, observed: Observed) -> bool:
    return any(isinstance(a, BuildEnvironment) and a.environment == environment for a in observed.busy)


def references(desired: Desired, observed: Observed, now: float) -> frozenset[str]:
    """What is needed: digests of bundles, ids of environments, "zygote <environment>", "blob <sha256>".

    `Observed.unused` is to hold the time since when a thing on this host has not been in it.
    """
    running = _running(desired, observed, table(desired, observed, now), now)
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


def _removals(
    desired: Desired,
    observed: Observed,
    running: dict[Wanted, bool],
    now: float,
    limits: Limits,
) -> Iterator[Action]:
    needed = references(desired, observed, now)

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
    if not any(isinstance(action, FetchBundle | BuildEnvironment) for action in observed.busy):
        for sha256 in sorted(observed.blobs):
            if idle(f"blob {sha256}", limits.grace):
                yield RemoveBlob(sha256=sha256)


def settled(desired: Desired, observed: Observed, now: float) -> bool:
    """Whether every stable version is routed, or has failed with nothing more to wait for."""
    routes = table(desired, observed, now)
    return all(_settled(asked, routes[name], observed, now) for name, asked in desired.models.items())


def _settled(asked: Wish, route: ModelRoute, observed: Observed, now: float) -> bool:
    if asked.stable is None or route.stable == asked.stable.version:
        return True
    if failure(asked.stable, observed, now) is None:
        return False
    if route.stable is not None or asked.fallback is None:
        return True
    return failure(asked.fallback, observed, now) is not None
