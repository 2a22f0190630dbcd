"""`which`: the version that a routing key gets, by the fold and the hash that the fronts use.

By the log alone: a host that has not read it yet, or without a lease, may still give another version. Left
out: what hosts say of themselves (`looking.py`).
"""

from __future__ import annotations

from datetime import datetime

from mldeploy.bundle.published import fetch_manifests
from mldeploy.client import intents
from mldeploy.client.connection import Connection
from mldeploy.client.environments import looked_at
from mldeploy.client.hints import command
from mldeploy.client.types import Which, WhichHost, WhichShadow
from mldeploy.core.policy import Settings, settings
from mldeploy.core.records import format_time
from mldeploy.core.routing import choose
from mldeploy.core.state import Host, Ramp, Serving, State
from mldeploy.core.wish import meant
from mldeploy.errors import NotAllowedError


def which(at: Connection, model: str, key: str, moment: datetime | None) -> Which:
    """See Client.which."""
    state = looked_at(at)  # what was before the environment was is no reason to call it a typo
    state = state if moment is None else _then(at, moment)
    intents.find_model(state, model)
    now = intents.serving(state, at.environment, model)
    if now.stable is None:
        raise NotAllowedError(
            f"{model} has no stable version in {at.environment}",
            f"{command(f'promote {model}@N', at.environment)} gives it one",
        )
    ramp = now.ramp
    chosen = ramp is not None and choose(key, salt_of(ramp), ramp.share)
    members = sorted(
        (host for host in state.hosts.values() if host.environment == at.environment),
        key=lambda host: (host.hostname, host.id),
    )
    return Which(
        store=at.settings.store,
        head=state.head,
        at=format_time(moment) if moment is not None else None,
        model=model,
        environment=at.environment,
        key=key,
        key_from=_key_from(at, state, model, now.stable),
        version=ramp.version if ramp is not None and chosen else now.stable,
        role="candidate" if chosen else "stable",
        stable=now.stable,
        candidate=ramp.version if ramp is not None else None,
        share=ramp.share if ramp is not None else 0,
        salt=salt_of(ramp) if ramp is not None else "",
        on=ramp.on if ramp is not None else (),
        hosts=tuple(_host(host, now.stable, ramp, chosen) for host in members),
        shadows=_shadows(now, key, chosen, settings(state, at.environment)),
    )


def salt_of(ramp: Ramp) -> str:
    """What the split of a rollout is salted with, as the fronts do it."""
    return ramp.salt or ramp.rollout


def _then(at: Connection, moment: datetime) -> State:
    from mldeploy.client.past import state_then

    return state_then(at, moment)


def _key_from(at: Connection, state: State, model: str, version: int) -> str | None:
    manifest = fetch_manifests(at.store, state, model, (version,)).get(version)
    return manifest.routing.key or "request id" if manifest is not None else None


def _host(host: Host, stable: int, ramp: Ramp | None, chosen: bool) -> WhichHost:
    candidate = ramp is not None and chosen and meant(ramp, host.labels)
    return WhichHost(
        host=host.id, hostname=host.hostname, labels=host.labels,
        version=ramp.version if ramp is not None and candidate else stable,
    )  # fmt: skip


def _shadows(now: Serving, key: str, chosen: bool, said: Settings) -> tuple[WhichShadow, ...]:
    """The shadows that get a copy. Only stable's requests are copied; a criterion may still leave it out."""
    if chosen:
        return ()
    found = [
        WhichShadow(version=shadow.version, fraction=shadow.fraction, where=shadow.where)
        for shadow in now.shadows
        if choose(key, shadow.shadow, shadow.fraction)
    ]
    ramp = now.ramp
    if ramp is not None and not ramp.share:  # at a shadow step the candidate is one
        fraction = ramp.fraction or said.shadow_fraction
        if choose(key, salt_of(ramp), fraction):
            found.append(WhichShadow(version=ramp.version, fraction=fraction, where=""))
    return tuple(found)
