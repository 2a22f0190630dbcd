"""Where each version stands on a host, and what comes next, in words: for reports, errors and people.

Pure; it tells what `plan.py` and `placing.py` decide, and decides nothing. States: absent, fetching,
installing, loading, ready, failed, sleeping (on the disk, with no process).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from mldeploy.core.host import (
    Action,
    Bad,
    BuildEnvironment,
    Desired,
    FetchBundle,
    ModelRoute,
    Observed,
    Rest,
    StartWorker,
    StartZygote,
    Wanted,
    Wish,
)
from mldeploy.core.memory import resting
from mldeploy.core.placing import answering, failure, has_come_up, replicas


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One version. `reason` says why it failed or what it waits for; the rest is set for failures.

    `up`: it is the one that a rollout is of, and has come up here; whatever else the state says.
    """

    version: int
    digest: str
    state: str
    reason: str = ""
    stage: str = ""
    attempts: int = 0
    retry_at: float = 0.0
    log_tail: str = ""
    up: bool = False


#: By model.
Standings = dict[str, tuple[Standing, ...]]


def come_up(told: Mapping[str, Sequence[Standing]]) -> tuple[str, ...]:
    """For the report: the versions of rollouts that have come up here, as `churn@7`."""
    return tuple(f"{name}@{each.version}" for name in sorted(told) for each in told[name] if each.up)


def failing(told: Mapping[str, Sequence[Standing]]) -> tuple[str, ...]:
    """For the report: versions that do not come up here, be it for good or more than by one accident.

    One whose files the store does not give is none of them: it has not been tried.
    """
    return tuple(
        f"{name}@{each.version}"
        for name in sorted(told)
        for each in told[name]
        # only what waiting does not help has no moment at which it is tried again
        if each.state == "failed" and each.stage != "fetch" and (each.attempts > 1 or not each.retry_at)
    )


def standings(desired: Desired, observed: Observed, now: float) -> Standings:
    """Every version each model has to do with, by model."""
    rest = resting(desired, observed, now)
    return {name: _of_model(asked, observed, now, rest) for name, asked in desired.models.items()}


def _of_model(asked: Wish, observed: Observed, now: float, rest: Rest) -> tuple[Standing, ...]:
    unique = {
        version.version: version for version in reversed(asked.versions)
    }  # a shadow only if nothing else
    active = {v.version for v in (asked.stable, asked.candidate, *asked.idle) if v is not None}
    found = {n: _standing(unique[n], observed, now, rest, active=n in active) for n in sorted(unique)}
    rising = asked.rising
    if rising is not None and found[rising.version].state != "failed":
        up = has_come_up(rising, observed, now, rest)
        found[rising.version] = msgspec.structs.replace(found[rising.version], up=up)
    return tuple(found.values())


def _standing(version: Wanted, observed: Observed, now: float, rest: Rest, *, active: bool) -> Standing:
    bad = failure(version, observed, now)
    ready = len(answering(version, observed))
    remembered = observed.bad.get(version.ref)
    if version in rest.asleep:
        return _say(version, "sleeping", remembered)
    if ready and (ready >= replicas(version, observed) or bad is None):
        return _say(version, "ready", remembered)  # that workers of it died is worth knowing
    if bad is not None:
        return _say(version, "failed", bad)
    if version in rest.waiting:
        # what never ran here is not known to work: it does not count as arrived
        state = "sleeping" if version.digest in observed.memory.seen and not ready else "loading"
        told = _say(version, state, remembered)
        return told if told.reason else msgspec.structs.replace(told, reason=rest.waiting[version])
    # a failure whose backoff has passed is still the best explanation of what is going on
    return _say(version, _progress(version, observed, active=active), remembered)


def _say(version: Wanted, state: str, bad: Bad | None) -> Standing:
    if bad is None or bad.digest not in ("", version.digest):
        return Standing(version=version.version, digest=version.digest, state=state)
    return Standing(
        version=version.version,
        digest=version.digest,
        state=state,
        reason=bad.reason,
        stage=bad.stage,
        attempts=bad.attempts,
        retry_at=bad.retry_at,
        log_tail=bad.log_tail,
    )


def _progress(version: Wanted, observed: Observed, *, active: bool) -> str:
    bundle = observed.bundles.get(version.digest)
    if bundle is None:
        return "fetching" if version.digest in observed.fetching else "absent"
    if bundle.environment not in observed.environments:
        return "installing"
    return "loading" if version.digest in observed.running or active else "sleeping"


def by_digest(actions: Iterable[Action]) -> dict[str, list[Action]]:
    """Actions about a bundle, by its digest: once for all models, which may have thousands under way."""
    found: dict[str, list[Action]] = {}
    for action in actions:
        digest = getattr(action, "digest", None)
        if digest is not None:
            found.setdefault(digest, []).append(action)
    return found


def next_step(
    asked: Wish, route: ModelRoute, doing: Mapping[str, Sequence[Action]], observed: Observed, now: float
) -> str:
    """What is done next for a model, in one line; "" when there is nothing to do. `doing`: what is under way
    and what the plan gave, `by_digest`.
    """
    named = {version.digest: version for version in reversed(asked.versions)}  # the most important of each
    texts = (_step(action, named[digest]) for digest in reversed(named) for action in doing.get(digest, ()))
    steps = [text for text in dict.fromkeys(texts) if text]
    for version in (asked.stable, asked.candidate, *asked.idle):
        bad = failure(version, observed, now) if version is not None else None
        if version is not None and bad is not None and bad.retry_at > now:
            steps.append(f"try {version.ref} again in {bad.retry_at - now:.0f} s")
        elif version is not None and bad is not None:
            steps.append(f"wait: {bad.reason}")
    if not steps and asked.stable is not None and route.stable != asked.stable.version:
        steps.append(f"wait until {asked.stable.ref} is ready")
    return ", ".join(steps)


def _step(action: Action, version: Wanted) -> str:
    match action:
        case FetchBundle():
            return f"fetch {version.ref}"
        case BuildEnvironment():
            return f"build the environment of {version.ref}"
        case StartZygote():
            return f"start the zygote of {version.ref}"
        case StartWorker():
            return f"start {version.ref}"
        case _:
            return ""


def why_unserved(asked: Wish, standing: tuple[Standing, ...]) -> str:
    """Why a model has nothing that serves, for its clients."""
    wanted = asked.stable or asked.candidate
    if wanted is None:
        return "no version is stable in this environment"
    found = next((each for each in standing if each.version == wanted.version), None)
    if found is None or not found.reason:
        return f"{wanted.ref} is {found.state if found else 'unknown'}"
    return f"{wanted.ref} is {found.state}: {found.reason}"
