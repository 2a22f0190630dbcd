"""What retire, restore, extend, freeze, unfreeze, pause and resume want of a state.

Pure, as `intents.py`: actions to append, or none where it is so already.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date

from mldeploy.client.environments import find_environment
from mldeploy.client.hints import command
from mldeploy.client.intents import find_model, find_version, serving, uses
from mldeploy.core.records import Action, Extend, Freeze, Pause, Restore, Resume, Retire, Unfreeze
from mldeploy.core.state import Ramp, State
from mldeploy.core.types import ModelRef, format_share
from mldeploy.errors import NotAllowedError, UsageError

#: The end of a freeze's reason that says until when.
_UNTIL = re.compile(r"(?:^|, )until \d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True, slots=True)
class RetireVersion:
    """Retire `ref`; while it takes traffic only with `force`, which cuts it off at once everywhere."""

    ref: ModelRef
    force: bool
    reason: str

    def __call__(self, state: State) -> Sequence[Action]:
        version = find_version(state, self.ref)
        if version.retired and (version.cut or not self.force):
            return ()
        takes = [str(use) for use in uses(state, self.ref) if not use.spare]
        if takes and not self.force:
            raise NotAllowedError(
                f"{self.ref} is {' and '.join(takes)}: {'; '.join(breaks(state, self.ref))}",
                "promote another version first, or say --force",
            )
        return (Retire(model=self.ref.name, version=self.ref.version, force=self.force, reason=self.reason),)


def breaks(state: State, ref: ModelRef, besides: Collection[str] = ()) -> tuple[str, ...]:
    """What retiring a version ends, environment by environment (`besides` these), in words."""
    found = []
    for environment, models in sorted(state.environments.items()):
        now = models.get(ref.name)
        if now is None or environment in besides:
            continue
        if now.stable == ref.version:
            found.append(_silence(ref.name, environment, now.ramp))
            found += [f"the shadow {ref.name}@{each.version} there ends" for each in now.shadows]
        if now.ramp is not None and now.ramp.version == ref.version:
            back = f"{ref.name}@{now.stable}" if now.stable is not None else "nothing"
            found.append(f"its rollout in {environment} ends, with the traffic back at {back}")
        if any(each.version == ref.version for each in now.shadows):
            found.append(f"its shadow in {environment} ends")
        if now.previous == ref.version != now.stable:
            found.append(f"a rollback of {ref.name} in {environment} has no version to go back to any more")
    return tuple(found)


def _silence(model: str, environment: str, ramp: Ramp | None) -> str:
    """What is left where stable is retired: the share of a rollout under way, and how to make it all."""
    if ramp is None or not ramp.share:
        return f"nothing answers {model} in {environment} any more"
    candidate, share = f"{model}@{ramp.version}", format_share(ramp.share)
    share += f" on {', '.join(ramp.on)}" if ramp.on else ""
    return (
        f"nothing but {candidate}, with its {share}, answers {model} in {environment} any more: "
        f"{command(f'promote {candidate} --now', environment)} gives it the rest"
    )


@dataclass(frozen=True, slots=True)
class RestoreVersion:
    """Make a retired version available again, where its files are still in the store."""

    ref: ModelRef

    def __call__(self, state: State) -> Sequence[Action]:
        if not find_version(state, self.ref).retired:
            return ()
        return (Restore(model=self.ref.name, version=self.ref.version),)


@dataclass(frozen=True, slots=True)
class ExtendTo:
    """Move the expiry of `ref`."""

    ref: ModelRef
    expires: date
    today: date

    def __call__(self, state: State) -> Sequence[Action]:
        version = find_version(state, self.ref)
        if version.expires == self.expires.isoformat():
            return ()
        if self.expires < self.today:
            raise UsageError(
                f"{self.expires} lies in the past", "give a date ahead, or a duration such as 90d"
            )
        if version.retired:
            raise NotAllowedError(f"{self.ref} is retired", f"`mldeploy restore {self.ref}` brings it back")
        return (Extend(model=self.ref.name, version=self.ref.version, expires=self.expires.isoformat()),)


@dataclass(frozen=True, slots=True)
class FreezeModel:
    """Refuse promotes of `model` (all if empty). The day `until` ends the reason, so that it is seen."""

    model: str
    environment: str
    reason: str
    until: date | None
    today: date

    def __call__(self, state: State) -> Sequence[Action]:
        if self.until is not None and self.until < self.today:
            raise UsageError(f"{self.until} lies in the past", "give a day ahead, or a duration such as 7d")
        now = frozen(state, self.model, self.environment)
        reason = self._reason(now or "")
        if now is not None and reason == now:
            return ()
        until = self.until.isoformat() if self.until is not None else ""
        return (Freeze(model=self.model, environment=self.environment, reason=reason, until=until),)

    def _reason(self, now: str) -> str:
        """The reason, where none is said that of now, and the day, likewise."""
        if self.until is None:
            return self.reason or now
        why = self.reason or _UNTIL.sub("", now)
        return f"{why}, until {self.until}" if why else f"until {self.until}"


@dataclass(frozen=True, slots=True)
class UnfreezeModel:
    """Allow promotes of `model` (all if empty) again."""

    model: str
    environment: str

    def __call__(self, state: State) -> Sequence[Action]:
        if frozen(state, self.model, self.environment) is None:
            if self.model and self.environment in state.frozen:
                raise NotAllowedError(
                    f"every model is frozen in {self.environment}",
                    f"{command('unfreeze --all', self.environment)} allows promotes again",
                )
            return ()
        return (Unfreeze(model=self.model, environment=self.environment),)


def frozen(state: State, model: str, environment: str) -> str | None:
    """The reason of the model's own freeze (of everybody's where `model` is empty), None where not frozen."""
    if not model:
        return state.frozen.get(environment)
    find_model(state, model)
    return serving(state, environment, model).frozen


@dataclass(frozen=True, slots=True)
class HoldRollout:
    """Pause the running rollout of a model, or resume it."""

    model: str
    environment: str
    pause: bool
    reason: str = ""

    def __call__(self, state: State) -> Sequence[Action]:
        find_environment(state, self.environment)
        find_model(state, self.model)
        ramp = serving(state, self.environment, self.model).ramp
        if ramp is None:
            raise NotAllowedError(
                f"no rollout of {self.model} is under way in {self.environment}",
                f"{command('status', self.environment)} shows what is",
            )
        if ramp.paused == self.pause:
            return ()
        if self.pause:
            return (Pause(rollout=ramp.rollout, reason=self.reason),)
        return (Resume(rollout=ramp.rollout),)
