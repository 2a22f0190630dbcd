"""Expiry and use: what is retired, and who is warned of what.

A version that is past its expiry and that no host has been asked for during its idle period is retired. Past
its expiry and in use, it goes on, and its owner is warned: some days before the expiry, and every day after
it.

Rules: nothing is retired without the fresh word of every member, of all environments, that it has watched for
the whole idle period and was not asked for the version in it, pinned or not. A missing or stale report, or a
host that has not watched for so long, keeps it. So does a promote, a rollback or a shadow that has put it to
work less than the idle period ago, or a restore that has brought it back: nobody can have asked for it
before. So does a rollout of another version where it is stable, at whatever share: its traffic goes back
there if the rollout is halted. Days are those of the store's time, in UTC.
Left out: hosts' counting, and the notices' text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import msgspec

from mldeploy.core.evidence import Evidence
from mldeploy.core.notices import expiry_id
from mldeploy.core.policy import Settings, settings
from mldeploy.core.records import Retire
from mldeploy.core.state import Notice, Serving, State, Version


class Heard(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a report says, for deciding.

    `uses` has the seconds, when it was written, since each version (`churn@7`) was asked for. One that is not
    in it was not asked for since the host began to watch, `watched` seconds before.
    """

    host: str
    at: float  # store time of the report, unix seconds
    head: int
    failed: tuple[str, ...] = ()  # versions that do not come up there
    watched: float = 0.0
    uses: dict[str, float] = {}

    def unused(self, ref: str) -> float:
        """Seconds before the report for which the host is known not to have been asked for a version."""
        return self.uses.get(ref, self.watched)


def retirements(
    state: State, heard: Sequence[Heard], began: Mapping[int, float], now: float
) -> tuple[Retire, ...]:
    """What is to be retired. `heard`: the fresh reports of members of every environment; `began`: the store's
    time of the records that `serving_since` names, as far as it is known.
    """
    if not state.hosts or {each.host for each in heard} < set(state.hosts):
        return ()
    today = datetime.fromtimestamp(now, UTC).date().isoformat()
    found = []
    for model, version in expired(state, today):
        if _goes_back(state, model, version.version):
            continue
        idle = max(settings(state, where).idle for where in _environments(state, model))
        ref = f"{model}@{version.version}"
        unused = min(each.unused(ref) for each in heard)
        since = [began.get(seq, now) for seq in serving_since(state, model, version.version)]
        if min([unused, *(now - each for each in since)]) < idle:
            continue
        evidence = Evidence(hosts=len(heard), members=len(state.hosts), end=now, unused=unused)
        found.append(
            Retire(
                model=model,
                version=version.version,
                # stable or candidate, it takes what traffic there is: there is none
                force=serves(state, model, version.version),
                reason=f"expired on {version.expires} and unused",
                evidence=evidence,
            )
        )
    return tuple(found)


def expired(state: State, today: str) -> Iterator[tuple[str, Version]]:
    """Versions past their expiry and not retired, with the name of their model; none where `today` is ""."""
    if not today:
        return
    for name, model in state.models.items():
        for version in model.versions.values():
            if not version.retired and version.expires < today:
                yield name, version


def serving_since(state: State, model: str, version: int) -> list[int]:
    """The records since which a version takes traffic, or copies of it, as it does now; and the one that has
    brought it back.
    """
    since = [
        serving.seq
        for serving in _servings(state, model)
        if takes_traffic(serving, version) or any(shadow.version == version for shadow in serving.shadows)
    ]
    restored = state.models[model].versions[version].restored
    return [*since, restored] if restored else since


def serves(state: State, model: str, version: int) -> bool:
    """Whether a version is stable or the candidate in some environment."""
    return any(takes_traffic(serving, version) for serving in _servings(state, model))


def takes_traffic(serving: Serving, version: int) -> bool:
    """Whether a version is stable or the candidate here."""
    return serving.stable == version or (serving.ramp is not None and serving.ramp.version == version)


def _goes_back(state: State, model: str, version: int) -> bool:
    """Whether some rollout under way would give its traffic back to this version."""
    found = _servings(state, model)
    return any(serving.ramp is not None and serving.stable == version for serving in found)


def _servings(state: State, model: str) -> Iterator[Serving]:
    """What a model does in each environment that has it."""
    return (models[model] for models in state.environments.values() if model in models)


def warnings(state: State, now: float) -> tuple[Notice, ...]:
    """The warnings of expiries that are due and not closed, at most one of each version.

    Versions that serve in an environment whose policy says whom to notify. The newest due day alone is told:
    one warning that comes late stands for those before it. Of several environments it is of the one with the
    newest day, then of one that has hosts, then of the first by name: by what the state says and not by the
    order in which it was folded or read, so that every host names the same.
    """
    today = datetime.fromtimestamp(now, UTC).date()
    found: dict[tuple[str, int], list[tuple[str, date]]] = {}
    for where, models in state.environments.items():
        said = settings(state, where)
        for model, serving in models.items() if said.notify else ():
            for version in state.models[model].versions.values() if model in state.models else ():
                day = _due(version, said, today) if takes_traffic(serving, version.version) else None
                if day is not None:
                    found.setdefault((model, version.version), []).append((where, day))
    if not found:
        return ()
    peopled = {host.environment for host in state.hosts.values()}
    chosen = []
    for (model, number), choices in sorted(found.items()):
        where, day = min(choices, key=lambda each: (-each[1].toordinal(), each[0] not in peopled, each[0]))
        chosen.append(_warning(where, model, state.models[model].versions[number], day))
    return tuple(chosen)


def _due(version: Version, said: Settings, today: date) -> date | None:
    """The newest day up to `today` on which a warning of this version is due, if it is not closed."""
    if version.retired:
        return None
    expires = date.fromisoformat(version.expires)
    if today > expires:
        day = today
    else:
        days = [expires - timedelta(days=before) for before in said.warn]
        day = max((day for day in days if day <= today), default=date.min)
    return day if day > date.min and day.isoformat() > version.warned else None


def _warning(where: str, model: str, version: Version, day: date) -> Notice:
    past = day.isoformat() > version.expires
    return Notice(
        id=expiry_id(model, version.version, day),
        kind="overdue" if past else "expiring",
        environment=where,
        model=model,
        version=version.version,
        reason=f"{'expired' if past else 'expires'} on {version.expires}",
        time=day.isoformat(),
    )


def _environments(state: State, model: str) -> list[str]:
    """The environments a model serves in; the store's policy alone ("") where there is none."""
    return [where for where, models in state.environments.items() if model in models] or [""]
