"""Which version answers a request, and which of its workers. Looks, and changes nothing but whose turn it is.

A request that names no version goes to stable, or to the candidate where the split says so and the candidate
has a worker: a rollout must not cost anyone an answer. Stable's traffic never goes to the candidate.
"""

from __future__ import annotations

from typing import NamedTuple

from mldeploy_daemon.front.exchange import Exchange
from mldeploy_daemon.front.routes import Model, Version
from mldeploy_daemon.front.upstream import Worker

_UNCONNECTED = 1 << 30


class Refusal(NamedTuple):
    """Why there is none, and the HTTP status that says so."""

    status: int
    message: str


def pick_version(model: Model, named: str | None, exchange: Exchange, most: int) -> Version | Refusal:
    """The version for `exchange`, which may name one: a number, stable, candidate or previous.

    `most`: see `KeyOf.of`.
    """
    if named is None:
        version = _split(model, exchange, most)
        if version is None:
            return Refusal(
                503, f"model {model.name!r} is not ready: {model.routes.reason or 'no version serves'}"
            )
    elif named in model.parts:
        version = model.parts[named]
        if version is None:
            return Refusal(404, f"model {model.name!r} has no {named} version here")
    else:
        version = model.versions.get(named)
        if version is None:
            return Refusal(404, f"model {model.name!r} has no version {named!r} here")
    return version if version.workers or version.routes.wakes else not_ready(model, version)


def not_ready(model: Model, version: Version) -> Refusal:
    """Why `version` cannot be asked now."""
    reason = version.routes.reason or model.routes.reason or f"it is {version.routes.state}"
    return Refusal(503, f"{version.ref} is not ready: {reason}")


def _split(model: Model, exchange: Exchange, most: int) -> Version | None:
    candidate, split = model.candidate, model.split
    if candidate is None or split is None or not candidate.workers:
        return model.stable
    return candidate if split.takes(model.key.of(exchange, most)) else model.stable


def pick_worker(version: Version, avoid: tuple[str, ...]) -> Worker | None:
    """The worker with the least in flight, connected ones first; None where all are full or to be avoided."""
    workers = version.workers
    count = len(workers)
    if count == 1 and not avoid:
        return None if workers[0].full else workers[0]
    version.turn = turn = (version.turn + 1) % count if count else 0
    best, least = None, 2 * _UNCONNECTED
    for index in range(count):
        worker = workers[(turn + index) % count]
        load = worker.inflight + (0 if worker.link else _UNCONNECTED)
        if load < least and worker.id not in avoid and not worker.full:
            best, least = worker, load
    return best
