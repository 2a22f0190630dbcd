"""Settings of the store and of its environments: their names, types and defaults, and which one counts.

Rules: what is said nearer counts: the flags of a promote, then the bundle's manifest, the environment's
policy, the store's policy, and last the defaults here. Types are held at the command and again by the fold,
by the same code. A setting can be taken back (null), and then the next one counts.
Left out: flags and manifests (whoever promotes reads those).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from difflib import get_close_matches

import msgspec

from mldeploy.core.draft import Draft
from mldeploy.core.guards import guards_problem
from mldeploy.core.lifecycle import Context, refuse, valid_name
from mldeploy.core.manifest_check import steps_problem
from mldeploy.core.records import Policy, Setting
from mldeploy.core.state import State
from mldeploy.core.types import FULL_SHARE, format_duration

#: Not by `str.isprintable`: versions of Python differ on what can be printed, and hosts must fold alike.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DAY = 86_400
_YEAR = 366 * _DAY


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What counts in one environment. Seconds unless said otherwise; shares in hundredths of a percent."""

    steps: tuple[int, ...] = (FULL_SHARE,)  # of a promote; a first step of 0 is a shadow step
    hold: int = 600  # at each step
    guards: tuple[str, ...] = ("error_rate < 1.5x", "p99 < 1.5x", "crashes < 1")
    min_requests: int = 200  # of the candidate, at each step
    deadline: int = _DAY  # for a ramp, beside its holds
    shadow_fraction: int = 1_000  # of the traffic, at a shadow step
    host_ttl: int = 3_600  # a host silent for so long is forgotten
    idle: int = 7 * _DAY  # an expired version nobody has used for so long is retired
    warn: tuple[int, ...] = (30, 7, 1)  # days before an expiry at which the owner is warned
    notify: dict[str, str] = {}  # where notices go: Apprise URLs by name


def settings(state: State, environment: str) -> Settings:
    """What counts in `environment` ("": what the store's policy says for all)."""
    named: dict[str, Setting] = {}
    for scope in dict.fromkeys(("", environment)):
        named.update(state.policy.get(scope, {}))
    return msgspec.convert(named, Settings)


def setting_problem(name: str, value: Setting) -> tuple[str, str] | None:
    """What is wrong with one setting, as (message, hint); None if nothing. Null takes a setting back."""
    check = _CHECKS.get(name)
    if check is None:
        near = get_close_matches(name, _CHECKS, 1)
        hint = f"did you mean {near[0]}?" if near else f"settings are {', '.join(_CHECKS)}"
        return f"there is no setting {name[:40]!r}", hint
    hint = check(value) if value is not None else ""
    return (f"{name}: {str(value)[:80]!r} does not fit", hint) if hint else None


def set_policy(draft: Draft, action: Policy, told: Context) -> None:
    """The settings it names are set, or taken back where they are null."""
    if action.environment:
        valid_name(action.environment, "environment")
    for name, value in action.settings.items():
        problem = setting_problem(name, value)
        if problem:
            refuse(*problem)
    before = draft.policy.get(action.environment) or {}
    after = {**before, **action.settings}
    after = {name: after[name] for name in sorted(after) if after[name] is not None}
    if after == before:
        refuse("these settings are set already", "there is nothing to do")
    if after:
        draft.policy.put(action.environment, after)
    else:
        draft.policy.drop(action.environment)


def _seconds(low: int, high: int = _YEAR) -> Callable[[Setting], str]:
    hint = f"write {_words(low)} to {_words(high)}"
    return lambda value: hint if _whole(low, high, "seconds")(value) else ""


def _words(seconds: int) -> str:
    return format_duration(timedelta(seconds=seconds))


def _whole(low: int, high: int, unit: str) -> Callable[[Setting], str]:
    def check(value: Setting) -> str:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return "" if fits else f"write {low:,} to {high:,} {unit}"

    return check


def _steps(value: Setting) -> str:
    if not isinstance(value, tuple) or not all(isinstance(step, int) for step in value):
        return "write the steps as hundredths of a percent, for example [100, 1000, 10000]"
    problem = steps_problem(tuple(step for step in value if isinstance(step, int)))
    return problem[1] if problem else ""


def _guards(value: Setting) -> str:
    if not isinstance(value, tuple) or not all(isinstance(guard, str) for guard in value):
        return 'write the guards as texts, for example ["error_rate < 1%"]'
    problem = guards_problem([guard for guard in value if isinstance(guard, str)])
    return ": ".join(problem) if problem else ""


def _days(value: Setting) -> str:
    hint = "write days before the expiry, for example [30, 7, 1]"
    if not isinstance(value, tuple) or len(value) > 20:
        return hint
    return "" if all(isinstance(day, int) and 0 < day <= 366 for day in value) else hint


def _urls(value: Setting) -> str:
    if not isinstance(value, Mapping) or len(value) > 50:
        return "write names and URLs, at most 50"
    for url in value.values():
        if "://" not in url or len(url) > 2_000 or _CONTROL.search(url):
            return "write Apprise URLs, for example mailto://mail.example.com"
    return ""


_CHECKS: dict[str, Callable[[Setting], str]] = {
    "steps": _steps,
    "hold": _seconds(0),
    "guards": _guards,
    "min_requests": _whole(0, 10**9, "requests"),
    "deadline": _seconds(1),
    "shadow_fraction": _whole(1, FULL_SHARE, "hundredths of a percent"),
    "host_ttl": _seconds(60),
    "idle": _seconds(60),
    "warn": _days,
    "notify": _urls,
}
