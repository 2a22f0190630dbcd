"""Which workers answer for which version, and which version takes which traffic of a host.

Rules: a version takes traffic once all its replicas are ready, and keeps it while one is; until then what
serves now keeps serving; what failed takes none, and a failed candidate's share goes to stable. What
stable answers counts as evidence of a ramp while the candidate takes its share. Never is a worker routed
that is not ready; a version that sleeps is routed with no worker, and its requests wait.
Left out: starting and stopping workers (`plan.py`), and what sleeps (`memory.py`).
"""

from __future__ import annotations

import msgspec

from mldeploy.core.host import Bad, Desired, Mirroring, ModelRoute, Observed, Rest, Wanted, Wish, Worker


def routing(desired: Desired, observed: Observed, now: float, rest: Rest) -> dict[str, ModelRoute]:
    """How every model is routed from now on, given how it is routed (`observed.routes`) and what rests."""
    asleep = {(version.model, version.version, version.idle) for version in rest.asleep}
    if asleep:
        up = tuple(w for w in observed.workers if (w.model, w.version, w.idle) not in asleep)
        observed = msgspec.structs.replace(observed, workers=up)
    return {
        name: _route(asked, observed, observed.routes.get(name, ModelRoute()), now, rest)
        for name, asked in desired.models.items()
    }


def _route(asked: Wish, observed: Observed, current: ModelRoute, now: float, rest: Rest) -> ModelRoute:
    stable = _serving(asked, observed, current, now, rest)
    candidate = asked.candidate
    if candidate is not None and (
        candidate == stable or not _takes(candidate, observed, current.candidate, now)
    ):
        candidate = None
    served = [version for version in (stable, candidate) if version is not None]
    workers = {v.version: tuple(w.id for w in answering(v, observed)) for v in served}
    previous = asked.previous
    if previous is not None and previous not in served:
        if previous in rest.pinned and (ready := answering(previous, observed)):
            workers[previous.version] = tuple(w.id for w in ready)
        elif previous in rest.held:
            workers[previous.version] = ()
    shadows = _shadows(asked, observed, current, now) if stable else ()
    return ModelRoute(
        stable=stable.version if stable else _remembered(asked, current),
        candidate=candidate.version if candidate else None,
        previous=asked.previous.version if asked.previous else None,
        share=asked.share if candidate else 0,
        salt=asked.salt if candidate else "",
        # stable is counted from when the candidate takes its share here: both over the same window. A ramp's
        # shadow step has its scope from the shadow
        scope=asked.scope if candidate and asked.share else 0,
        workers=workers,
        shadows=shadows,
        idle={
            version.version: tuple(worker.id for worker in answering(version, observed))
            for version in dict.fromkeys(shadow.version for shadow in shadows)
        },
    )


def _remembered(asked: Wish, current: ModelRoute) -> int | None:
    """With nothing to answer, what did before is still named: else nobody would start it again."""
    fallback = asked.fallback
    return current.stable if fallback is not None and current.stable == fallback.version else None


def _shadows(asked: Wish, observed: Observed, current: ModelRoute, now: float) -> tuple[Mirroring, ...]:
    """Those with workers. One that fails is missing here, and nothing else changes for anybody."""
    routed = {shadow.version.version for shadow in current.shadows}
    return tuple(
        shadow
        for shadow in asked.shadows
        if _takes(shadow.version, observed, next(iter(routed & {shadow.version.version}), None), now)
    )


def has_come_up(version: Wanted, observed: Observed, now: float, rest: Rest) -> bool:
    """Whether the version of a rollout is up on this host: it takes what it is given, or sleeps.

    A shadow sleeps where memory is short, and so does what takes the stable share here: it has run, and wakes
    when it is asked. Any other candidate that waits for memory takes no traffic, and nothing wakes it.
    """
    route = observed.routes.get(version.model, ModelRoute())
    if _takes(version, observed, version.version if route.told(version) else None, now):
        return True
    if not (version.idle or route.stable == version.version):
        return False
    ran = version.digest in observed.memory.seen
    return version in rest.asleep or (version in rest.waiting and ran)


def _serving(asked: Wish, observed: Observed, current: ModelRoute, now: float, rest: Rest) -> Wanted | None:
    """The version that takes the stable share."""
    wanted, fallback = asked.stable, asked.fallback
    if wanted is None or _takes(wanted, observed, current.stable, now):
        return wanted
    if current.stable == wanted.version and wanted in rest.held:
        return wanted  # it sleeps: a previous version that was woken does not take its traffic
    if fallback is not None and answering(fallback, observed):
        return fallback
    # nothing better is there: some of its workers, unless it failed before it ever served
    usable = current.stable == wanted.version or not is_out(wanted, observed, now)
    return wanted if (usable and answering(wanted, observed)) or wanted in rest.held else None


def _takes(version: Wanted, observed: Observed, routed: int | None, now: float) -> bool:
    """Whether the version may take traffic: all replicas ready, or some while it is routed already."""
    ready = answering(version, observed)
    if not ready or is_out(version, observed, now):
        return False
    return routed == version.version or len(ready) >= replicas(version, observed)


def answering(version: Wanted, observed: Observed) -> list[Worker]:
    """The ready workers of a version that fill its replicas' places."""
    filled = places(version, observed)
    return [filled[replica] for replica in sorted(filled) if filled[replica].state == "ready"]


def places(version: Wanted, observed: Observed) -> dict[int, Worker]:
    """The worker that fills each replica's place, ready and routed ones first; any other is surplus."""
    filled: dict[int, Worker] = {}
    most = replicas(version, observed)
    for worker in observed.workers_of(version):
        if len(filled) < most:
            filled.setdefault(worker.replica, worker)
    return filled


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
    if broken is not None and broken.retry_at > now:
        return broken
    needs, budget = stated(version, observed) * replicas(version, observed), observed.memory.budget
    if bundle and 0 < budget < needs:
        text = f"needs {size(needs)} of memory; the budget of this host is {size(budget)}"
        return Bad(stage="memory", reason=text)
    return None


def stated(version: Wanted, observed: Observed) -> int:
    """Bytes one worker takes by its manifest, else by the measurement of its publisher; 0: nobody knows."""
    bundle = observed.bundles.get(version.digest)
    return (bundle.memory if bundle else 0) or version.memory


def size(count: int) -> str:
    """Bytes for people: 300 MiB, 1.5 GiB."""
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def falls_back(asked: Wish, route: ModelRoute, observed: Observed, now: float) -> bool:
    """Whether the fallback is to run: it serves, or stable failed and nothing better is in sight."""
    if asked.stable is None or asked.fallback is None:
        return False
    if route.stable == asked.fallback.version:
        return True
    bad = failure(asked.stable, observed, now)
    if bad is None or not bad.out:
        return False
    return route.stable is None or is_out(asked.stable, observed, now)


def is_out(version: Wanted, observed: Observed, now: float) -> bool:
    """Whether the version must not be routed for now."""
    bad = observed.bad.get(version.ref)
    return bad is not None and bad.digest == version.digest and bad.out and bad.retry_at > now
