"""`status` and `why`: the state of the log beside what the hosts say of themselves.

Read-only. Of a time that is past the log alone tells: what hosts said then is not kept. Left out: what a host
does next is its own word (the report's `next`), never guessed here.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

from mldeploy.client import fleet, intents
from mldeploy.client.arrival import Progress, progress
from mldeploy.client.connection import Connection
from mldeploy.client.environments import find_environment, in_use
from mldeploy.client.types import (
    Expiring,
    ExpiringVersion,
    ModelDetail,
    ModelStatus,
    Status,
    VersionStatus,
    Why,
    WhyModel,
    WhyVersion,
)
from mldeploy.client.underway import Underway, candidate_of, shadows_of
from mldeploy.core.host import Wanted, Wish
from mldeploy.core.records import format_time
from mldeploy.core.rollout import Decision
from mldeploy.core.state import Model, Serving, State, Version
from mldeploy.core.types import ModelRef
from mldeploy.core.wish import wish
from mldeploy.store.reports import ModelReport


def status(at: Connection, moment: datetime | None = None, only: str | None = None) -> Status:
    """See Client.status; `only`: one environment."""
    state, seen, today = _look(at, moment, only)
    decided = _decided(at, state, seen, only)
    models = tuple(
        model_in(state, environment, name, seen, today, decided.get((environment, name)))
        for name in sorted(state.models)
        for environment in _environments_of(state, name, only)
    )
    return Status(
        store=at.settings.store,
        head=state.head,
        models=models,
        hosts=tuple(host.status() for host in seen or () if host.member),
        frozen={name: why for name, why in state.frozen.items() if only in (None, name)},
        at=format_time(moment) if moment is not None else None,
        record=state.head if moment is not None else None,
        unpromoted=tuple(n for n in sorted(state.models) if not _environments_of(state, n)),
    )


def model_status(
    at: Connection, name: str, moment: datetime | None = None, only: str | None = None
) -> ModelDetail:
    """See Client.model_status; `only`: one environment."""
    state, seen, today = _look(at, moment, only)
    model = intents.find_model(state, name)
    decided = _decided(at, state, seen, only)
    return ModelDetail(
        store=at.settings.store,
        head=state.head,
        at=format_time(moment) if moment is not None else None,
        record=state.head if moment is not None else None,
        model=name,
        environments=tuple(
            model_in(state, e, name, seen, today, decided.get((e, name)))
            for e in _environments_of(state, name, only)
        ),
        versions=tuple(
            version_status(state, name, version, today)
            for _, version in sorted(model.versions.items(), reverse=True)
        ),
    )


def _look(
    at: Connection, moment: datetime | None, only: str | None
) -> tuple[State, list[fleet.Seen] | None, date]:
    """The state, the hosts beside it (None: of then nobody knows), and the day."""
    if moment is None:
        state = at.refresh()
        if only is not None:
            find_environment(state, only)
        return state, fleet.hosts(at, only), at.now().date()
    from mldeploy.client.past import state_then

    return state_then(at, moment), None, moment.date()


def version_status(state: State, name: str, version: Version, today: date) -> VersionStatus:
    """One version as the log knows it."""
    return VersionStatus(
        version=version.version,
        digest=version.digest,
        owner=version.owner,
        expires=version.expires,
        expired=version.expires < today.isoformat(),
        published=version.published,
        actor=version.actor,
        size=version.size,
        python=version.python,
        platform=version.platform,
        retired=version.retired,
        roles=tuple(map(str, intents.uses(state, ModelRef(name, version.version)))),
        metrics=version.metrics,
        measured=version.measured,
    )


def expiring(at: Connection, within: int) -> Expiring:
    """See Client.expiring."""
    state, today = at.refresh(), at.now().date()
    found = [
        ExpiringVersion(
            model=name, version=version.version, expires=version.expires, days=_days(version, today),
            owner=version.owner, roles=tuple(map(str, intents.uses(state, ModelRef(name, version.version)))),
        )
        for name, model in state.models.items()
        for version in model.versions.values()
        if not version.retired and _days(version, today) <= within
    ]  # fmt: skip
    ordered = sorted(found, key=lambda each: (each.expires, each.model, each.version))
    return Expiring(store=at.settings.store, head=state.head, within=within, versions=tuple(ordered))


def _days(version: Version, today: date) -> int:
    return (date.fromisoformat(version.expires) - today).days


def _decided(
    at: Connection, state: State, seen: list[fleet.Seen] | None, only: str | None
) -> dict[tuple[str, str], Decision]:
    """What each rollout does next, by environment and model; empty of a time that is past."""
    if seen is None:
        return {}
    judging = Underway(at)
    return {
        (environment, model): decision
        for environment in state.environments
        if only in (None, environment)
        for model, decision in judging.decisions(state, environment, seen).items()
    }


def model_in(
    state: State,
    environment: str,
    name: str,
    seen: list[fleet.Seen] | None,
    today: date,
    decision: Decision | None = None,
) -> ModelStatus:
    """One model in one environment; where nobody knows of the hosts (`seen` is None), without them."""
    now = intents.serving(state, environment, name)
    live = [host for host in seen or () if host.live and host.report.environment == environment]
    counted = fleet.counted(live)
    far = [(host, progress(host.report, name, now, now.seq)) for host in counted]
    shown = _shown_version(state.models[name], now)
    verdict, reason = _verdict(now, far) if seen is not None else ("", "")
    return ModelStatus(
        model=name,
        environment=environment,
        stable=now.stable,
        previous=now.previous,
        candidate=candidate_of(state, environment, now, decision),
        owner=shown.owner,
        expires=shown.expires,
        expired=shown.expires < today.isoformat(),
        days=_days(shown, today),
        hosts=len(counted),
        converged=sum(one.arrived for _, one in far),
        state=verdict,
        reason=reason,
        frozen=now.frozen,
        last=_last(name, now) if now.ended else "",
        serving=tuple(version for host in live for version in fleet.versions_on(host, name)),
        shadows=shadows_of(name, now, seen or [], environment),
    )


def _last(name: str, now: Serving) -> str:
    assert now.ended is not None
    because = f": {now.ended.reason}" if now.ended.reason else ""
    return f"the last rollout, of {name}@{now.ended.version}, was {now.ended.outcome}{because}"


def _shown_version(model: Model, now: Serving) -> Version:
    number = now.stable if now.stable is not None else max(model.versions)
    return model.versions[number]


def _verdict(now: Serving, far: list[tuple[fleet.Seen, Progress]]) -> tuple[str, str]:
    """The state in a word, and the reason where it is not well."""
    if now.stable is None and now.ramp is None:
        waiting = [(host, one) for host, one in far if not one.arrived]
        return ("converging", _words(waiting)) if waiting else ("not promoted", "")
    if not far:
        return "no hosts", "no live host has reported"
    failed = [(host, one) for host, one in far if one.failed]
    if failed:
        return "failing", _words(failed)
    waiting = [(host, one) for host, one in far if not one.arrived]
    return ("converging", _words(waiting)) if waiting else ("serving", "")


def _words(far: list[tuple[fleet.Seen, Progress]]) -> str:
    host, first = far[0]
    more = f" (and {len(far) - 1} more hosts)" if len(far) > 1 else ""
    return f"{host.report.hostname}: {first.why}{more}"


def _environments_of(state: State, name: str, only: str | None = None) -> list[str]:
    return sorted(
        environment
        for environment, models in state.environments.items()
        if only in (None, environment) and name in models and in_use(models[name])
    )


def why(at: Connection, host: str, model: str | None, only: str | None = None) -> Why:
    """See Client.why; `only`: a host of one environment."""
    state = at.refresh()
    if only is not None:
        find_environment(state, only)
    if model is not None:
        intents.find_model(state, model)
    found = fleet.find_host(at, host, only)
    environment = found.report.environment
    wanted = {
        name: now for name, now in state.environments.get(environment, {}).items()
        if now.stable is not None or now.ramp is not None or name in found.report.models
    }  # fmt: skip
    asked = wish(state, environment, found.report.labels, {}).models
    names = [model] if model is not None else sorted({*wanted, *found.report.models})
    return Why(
        store=at.settings.store,
        host=found.status(),
        head=state.head,
        models=tuple(_why_model(name, asked.get(name), found.report.models.get(name)) for name in names),
    )


def _why_model(name: str, asked: Wish | None, said: ModelReport | None) -> WhyModel:
    roles = {said.stable: "stable", said.candidate: "candidate"} if said else {}
    versions = sorted(said.serving.items()) if said else []
    return WhyModel(
        model=name,
        desired_stable=_number(asked.stable if asked else None),
        desired_candidate=_number(asked.candidate if asked else None),
        desired_shadows=tuple(shadow.version.version for shadow in asked.shadows) if asked else (),
        routed_stable=said.stable if said else None,
        routed_candidate=said.candidate if said else None,
        next=said.next if said else "the host says nothing of it yet",
        versions=tuple(
            WhyVersion(
                version=number,
                state=version.state,
                role=roles.get(number, ""),
                reason=version.reason,
                stage=version.stage,
                attempts=version.attempts,
                retry_at=_moment(version.retry_at) if version.retry_at else None,
                workers=len(version.workers),
                requests=version.requests,
                failures=version.failures,
                log_tail=tuple(version.log_tail),
            )
            for number, version in versions
        ),
    )


def _moment(seconds: float) -> str:
    return format_time(datetime.fromtimestamp(seconds, UTC))


def _number(wanted: Wanted | None) -> int | None:
    return wanted.version if wanted is not None else None
