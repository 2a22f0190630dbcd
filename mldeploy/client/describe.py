"""Actions of the log in words, one line each: for `history`, dry runs and `--json`.

Pure. Left out: colour and layout (`cli/output.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import singledispatch
from typing import NamedTuple

from mldeploy.client.setting_texts import text_of
from mldeploy.client.types import WhyVersion
from mldeploy.core import records as r
from mldeploy.core.collection import began
from mldeploy.core.evidence import Evidence
from mldeploy.core.guards import NONE
from mldeploy.core.policy import Settings, setting_problem, settings
from mldeploy.core.state import Serving, State
from mldeploy.core.types import FULL_SHARE, format_duration, format_share
from mldeploy.reporting.words import verdict


class Thread(NamedTuple):
    """What a rollout or a shadow is of."""

    environment: str
    model: str
    version: int

    def __str__(self) -> str:
        return f"{self.model}@{self.version} in {self.environment}"


def describe(action: r.Action, names: Mapping[str, str] | None = None) -> str:
    """One line without a full stop. `names`: what to say for ids of rollouts, shadows, hosts."""
    text = _describe(action)
    for one in ids_of(action):
        if names and one in names:
            text = text.replace(one, names[one], 1)
    return text


def terms_of(action: r.Promote, policy: Settings) -> str:
    """On what terms a promote goes from step to step, after a comma; empty for all traffic at once."""
    if action.steps == (FULL_SHARE,):
        return ""
    guards = " and ".join(guard for guard in action.guards if guard != NONE)
    parts = (
        f"hold {format_duration(timedelta(seconds=action.hold))}",
        f"guards {guards}" if guards else "no guards",
        f"{action.min_requests:,} requests at each step",
        f"deadline {format_duration(timedelta(seconds=action.deadline or policy.deadline))}",
    )
    return f", {', '.join(parts)}"


def in_full(action: r.Action, state: State) -> str:
    """What a dry run says of an action besides `describe`: what the record holds, and what it comes to."""
    if isinstance(action, r.Promote):
        return terms_of(action, settings(state, action.environment))
    if isinstance(action, r.Rollback):
        now = state.environments.get(action.environment, {}).get(action.model)
        back = rolled_back_to(action.to, now) if now is not None else None
        return "" if action.to is not None or back is None else f", to {action.model}@{back}"
    return ""


def rolled_back_to(to: int | None, now: Serving) -> int | None:
    """The version that is stable after a rollback."""
    if to is not None:
        return to
    return now.previous if now.ramp is None else now.stable


def names_of(state: State) -> dict[str, str]:
    """What to say for the ids the state still knows: `churn@8 in production`, `vm (01m86ybe)`."""
    found = {one: str(thread) for one, thread in threads_of(state).items()}
    return found | {host.id: name_of_host(host.hostname, host.id) for host in state.hosts.values()}


def threads_of(state: State) -> dict[str, Thread]:
    """Of the ids of the rollouts and shadows that the state still knows."""
    found: dict[str, Thread] = {}
    for environment, models in state.environments.items():
        for model, now in models.items():
            ended = (*(past.ended for past in now.past), *((now.ended,) if now.ended is not None else ()))
            known = [(each.rollout, each.version) for each in ended]
            known += [(each.shadow, each.version) for each in now.shadows]
            known += [(now.ramp.rollout, now.ramp.version)] if now.ramp is not None else []
            # what a rollback ended without a rollout under way has no id
            found.update((one, Thread(environment, model, version)) for one, version in known if one)
    return found


def name_of_host(hostname: str, host: str) -> str:
    """A host as people know it: hostnames may stand twice."""
    return f"{hostname} ({host[:8]})" if hostname else host


def named_by(action: r.Action) -> dict[str, str]:
    """The names for ids that an action itself tells: those of what it begins."""
    if isinstance(action, r.Promote | r.Shadow):
        return {thread_of(action): str(Thread(action.environment, action.model, action.version))}
    return {action.host: name_of_host(action.hostname, action.host)} if isinstance(action, r.Join) else {}


def thread_of(action: r.Action) -> str:
    """The id of the rollout or shadow that an action is about; empty for others."""
    return getattr(action, "rollout", "") or getattr(action, "shadow", "")


def ids_of(action: r.Action) -> frozenset[str]:
    """The ids that an action is told by: of a rollout, a shadow or a host it does not begin."""
    if isinstance(action, r.Promote | r.Shadow | r.Join):
        return frozenset()
    return frozenset((thread_of(action), getattr(action, "host", ""))) - {""}


def models_of(action: r.Action) -> frozenset[str]:
    """The models an action names; empty where it names a rollout, a host or every model."""
    model = getattr(action, "model", "")
    return frozenset((model,)) if model else frozenset()


@singledispatch
def _describe(action: object) -> str:
    return type(action).__name__.lower()


@_describe.register
def _(action: r.Publish) -> str:
    new = sum(action.brought.values())
    return f"publish {action.model} ({action.digest[:12]}, {new:,} new bytes, expires {action.expires})"


@_describe.register
def _(action: r.Promote) -> str:
    where = f"promote {action.model}@{action.version} in {action.environment}"
    on = f" on {', '.join(action.on)}" if action.on else ""
    if action.steps == (FULL_SHARE,):
        return f"{where}{on}"
    return (
        f"{where} to {' → '.join(format_share(share) if share else 'shadow' for share in action.steps)}{on}"
    )


@_describe.register
def _(action: r.Advance) -> str:
    return f"advance {action.rollout} from step {action.step + 1}{_shown(action.evidence)}"


@_describe.register
def _(action: r.Complete) -> str:
    return f"complete {action.rollout}{_shown(action.evidence)}"


@_describe.register
def _(action: r.Halt) -> str:
    # the reason has the numbers of the guard that was breached
    return f"halt {action.rollout}{_because(action.reason)}{_heard(action.evidence)}"


@_describe.register
def _(action: r.Pause) -> str:
    return f"pause {action.rollout}{_because(action.reason)}"


@_describe.register
def _(action: r.Resume) -> str:
    return f"resume {action.rollout}"


@_describe.register
def _(action: r.Rollback) -> str:
    to = f" to {action.model}@{action.to}" if action.to is not None else ""
    return f"roll back {action.model} in {action.environment}{to}{_because(action.reason)}"


@_describe.register
def _(action: r.Shadow) -> str:
    where = f" where {action.where}" if action.where else ""
    share = format_share(action.fraction)
    return f"shadow {action.model}@{action.version} in {action.environment} on {share}{where}"


@_describe.register
def _(action: r.Unshadow) -> str:
    return f"end shadow {action.shadow}{_because(action.reason)}{_heard(action.evidence)}"


@_describe.register
def _(action: r.Policy) -> str:
    wanted = [name for name, value in action.settings.items() if value is not None]
    gone = [name for name, value in action.settings.items() if value is None]
    said = [f"set {', '.join(_setting(name, action.settings[name]) for name in wanted)}"] if wanted else []
    said += [f"unset {', '.join(gone)}"] if gone else []
    return f"{' and '.join(said) or 'set nothing'} for {action.environment or 'every environment'}"


def _setting(name: str, value: r.Setting) -> str:
    if setting_problem(name, value):
        return name  # of a void record, perhaps
    # a URL may hold what somebody should not have put there: targets go by their names
    targets = f" ({', '.join(sorted(value))})" if isinstance(value, dict) else ""
    return f"{name}{targets}" if targets else f"{name}={text_of(name, value)}"


@_describe.register
def _(action: r.Notified) -> str:
    return f"notice {action.notice} {'given up' + _because(action.reason) if action.reason else 'sent'}"


@_describe.register
def _(action: r.Retire) -> str:
    force = " by force" if action.force else ""
    unused = action.evidence.unused if action.evidence is not None else 0
    idle = f", unused for {format_duration(timedelta(seconds=unused))}" if unused else ""
    return f"retire {action.model}@{action.version}{force}{idle}{_because(action.reason)}"


@_describe.register
def _(action: r.Restore) -> str:
    return f"restore {action.model}@{action.version}"


@_describe.register
def _(action: r.Extend) -> str:
    return f"extend {action.model}@{action.version} to {action.expires}"


@_describe.register
def _(action: r.Freeze) -> str:
    # the command line ends the reason with it
    until = f" until {action.until}" if action.until and action.until not in action.reason else ""
    return f"freeze {action.model or 'every model'} in {action.environment}{until}{_because(action.reason)}"


@_describe.register
def _(action: r.Unfreeze) -> str:
    return f"unfreeze {action.model or 'every model'} in {action.environment}"


@_describe.register
def _(action: r.Join) -> str:
    return f"host {action.hostname or action.host} joins {action.environment}"


@_describe.register
def _(action: r.Leave) -> str:
    return f"host {action.host} leaves"


@_describe.register
def _(action: r.Forget) -> str:
    return f"forget host {action.host}"


@_describe.register
def _(action: r.Drain) -> str:
    return f"drain host {action.host}{_because(action.reason)}"


@_describe.register
def _(action: r.Undrain) -> str:
    return f"undrain host {action.host}"


@_describe.register
def _(action: r.Sweep) -> str:
    count = f"{len(action.blobs):,} blob{'s' if len(action.blobs) != 1 else ''}"
    return f"sweep {count}; pushes begun before {began(action.horizon)} are void"


def _shown(evidence: Evidence | None) -> str:
    """What a verdict rests on: requests, hosts, and each guard with its numbers."""
    if evidence is None:
        return ""
    guards = [f"{each.guard} {each.verdict}{_because(verdict(each))}" for each in evidence.guards]
    return "; ".join((_heard(evidence), *guards))


def _heard(evidence: Evidence | None) -> str:
    if evidence is None:
        return ""
    ours = [measure for measure in evidence.measures if measure.role != "stable"]
    compared = sum(each.comparison.pairs for each in ours if each.comparison is not None)
    requests = sum(each.tally.requests for each in ours)
    counted = [f"{requests:,} requests"] if requests else []
    counted += [f"{compared:,} compared answers"] if compared else []
    return f"; {', '.join((*counted, f'{evidence.hosts} of {evidence.members} hosts heard'))}"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def why_version(version: WhyVersion) -> str:
    """How a version stands on a host."""
    parts = [version.state, f"routed as {version.role}" if version.role else ""]
    if version.stage or version.reason:
        parts.append(": ".join(part for part in (version.stage, version.reason) if part))
    if version.attempts:
        parts.append(f"{version.attempts} attempt{'s' if version.attempts != 1 else ''}")
    if version.retry_at is not None:
        parts.append(f"not tried again before {version.retry_at[:19].replace('T', ' ')} UTC")
    if version.workers or version.requests:
        parts.append(f"{version.workers} workers, {version.requests:,} requests, {version.failures:,} failed")
    return "; ".join(part for part in parts if part)
