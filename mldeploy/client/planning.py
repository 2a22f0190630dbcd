"""`plan` and `apply`: what a file says against the state, as rows to show and as the actions of one record.

Rules: what is so already is left alone, a finished rollout and one under way on the terms that were given
included. A version whose last rollout was halted or rolled back is not begun again by a file that still names
it: whoever applies it every hour would undo the halt; promoting it by hand does. Left out: the file's form
(`plan_file.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import NamedTuple

import msgspec

from mldeploy.bundle.published import fetch_columns, fetch_manifest
from mldeploy.client import intents, plan_file
from mldeploy.client.connection import Connection
from mldeploy.client.describe import terms_of
from mldeploy.client.environments import warn_of_new
from mldeploy.client.hints import command
from mldeploy.client.keeping import breaks
from mldeploy.client.plan_file import Desired
from mldeploy.client.shadowing import EndShadow, ShadowTo
from mldeploy.client.terms import Terms, Wish, refuse_unmeasured, terms, terms_under_way
from mldeploy.client.types import Applied, Plan, Planned
from mldeploy.core.manifest import Rollout
from mldeploy.core.policy import settings
from mldeploy.core.records import Action, Freeze, Promote, Retire, Rollback, Unfreeze
from mldeploy.core.state import Ended, Serving, State
from mldeploy.core.types import FULL_SHARE, ModelRef, format_share
from mldeploy.errors import NotAllowedError, UsageError
from mldeploy.store.ids import new_ulid

_UNDONE = ("halted", "rolled back")
_NOT_NAMED = "not in the file"


class _Step(NamedTuple):
    """One row of the plan and its actions."""

    sign: str
    what: str
    actions: Sequence[Action]


class ApplyFile:
    """The intent: what the file says and is not so. `planned` and `warnings` are of the last state asked."""

    def __init__(
        self,
        desired: Sequence[Desired],
        prune: bool,
        terms_of: Callable[[State, Desired], Terms],
        today: date,
        new_id: Callable[[], str] = new_ulid,
    ) -> None:
        self._desired = desired
        self._prune = prune
        self._terms_of = terms_of
        self._today = today
        self._new_id = new_id
        self.planned: tuple[Planned, ...] = ()
        self.warnings: tuple[str, ...] = ()

    def __call__(self, state: State) -> Sequence[Action]:
        self.warnings = warn_of_new(state, (each.environment for each in self._desired))
        planned: list[Planned] = []
        actions: list[Action] = []
        for environment, model, step in self._steps(state):
            planned.append(Planned(sign=step.sign, environment=environment, model=model, what=step.what))
            # one version may be pruned from two environments
            actions += [action for action in step.actions if action not in actions]
        self.planned = tuple(planned)
        return actions

    def _steps(self, state: State) -> Iterator[tuple[str, str, _Step]]:
        for each in self._desired:
            if not each.model:  # an environment alone, which counts where what is not named goes
                continue
            for step in self._model(state, each):
                yield each.environment, each.model, step
        if self._prune:
            yield from self._pruned(state)

    def _model(self, state: State, wanted: Desired) -> Iterator[_Step]:
        environment, model = wanted.environment, wanted.model
        intents.find_model(state, model)
        now = intents.serving(state, environment, model)
        thaw = wanted.frozen is False and now.frozen is not None
        if thaw:
            yield _Step("~", "unfreeze", (Unfreeze(model=model, environment=environment),))
        # a shadow that is to take traffic ends with the promote, and could not be ended after it
        yield from self._ended(state, now, wanted)
        if wanted.version is not None:
            yield from self._version(state, now, wanted, ModelRef(model, wanted.version), thaw)
        yield from self._begun(state, now, wanted)
        reason = "" if wanted.frozen is True else wanted.frozen
        if isinstance(reason, str) and (now.frozen is None or (reason and now.frozen != reason)):
            freeze = Freeze(model=model, environment=environment, reason=reason)
            yield _Step("~" if now.frozen else "+", f"freeze{f': {reason}' if reason else ''}", (freeze,))

    def _version(
        self, state: State, now: Serving, wanted: Desired, ref: ModelRef, thaw: bool
    ) -> Iterator[_Step]:
        version = intents.find_version(state, ref)
        found = self._promote(state, now, wanted, ref)
        if found is None:
            return
        intents.refuse_gone(ref, version, self._today)
        if not thaw or wanted.environment in state.frozen:
            intents.refuse_frozen(state, wanted.environment, ref.name)
        promote = Promote(
            model=ref.name, version=ref.version, environment=wanted.environment, rollout=self._new_id(),
            **asdict(found),
        )  # fmt: skip
        new = now.stable is None and now.ramp is None
        what = _change(now, ref.version, found)
        if now.stable not in (None, ref.version):
            what += terms_of(promote, settings(state, wanted.environment))
        yield _Step("+" if new else "~", what, (promote,))

    def _promote(self, state: State, now: Serving, wanted: Desired, ref: ModelRef) -> Terms | None:
        """The terms on which the version is to be promoted; None where it is as the file says."""
        ramp = now.ramp
        if now.stable == ref.version:
            return Terms() if ramp is not None and ramp.version != ref.version else None
        if ramp is not None and ramp.version == ref.version:
            if wanted.rollout is None:
                return None
            found = self._terms_of(state, wanted)
            return None if found == terms_under_way(ramp) else found
        undone = _undone(now, ref.version)
        if undone is not None:
            why = f": {undone.reason}" if undone.reason else ""
            self.warnings += (
                f"{ref} was {undone.outcome} in {wanted.environment}{why}; it is not begun again by a file, "
                f"{command(f'promote {ref}', wanted.environment)} does it by hand",
            )
            return None
        return self._terms_of(state, wanted)

    def _ended(self, state: State, now: Serving, wanted: Desired) -> Iterator[_Step]:
        kept = {number for number, _ in wanted.shadows} if wanted.shadows is not None else None
        for shadow in now.shadows:
            if kept is not None and shadow.version not in kept:
                yield _end(state, wanted.environment, ModelRef(wanted.model, shadow.version))

    def _begun(self, state: State, now: Serving, wanted: Desired) -> Iterator[_Step]:
        there = {shadow.version for shadow in now.shadows}
        for number, on in wanted.shadows or ():
            ref = ModelRef(wanted.model, number)
            actions = ShadowTo(ref, wanted.environment, on, self._new_id(), self._today)(state)
            if actions:
                where = f" where {on.where}" if on.where else ""
                what = f"shadow {number} on {format_share(on.fraction)}{where}"
                yield _Step("~" if number in there else "+", what, actions)

    def _pruned(self, state: State) -> Iterator[tuple[str, str, _Step]]:
        named = {(each.environment, each.model) for each in self._desired}
        gone = [
            (environment, model, now)
            for environment in dict.fromkeys(each.environment for each in self._desired)
            for model, now in sorted(state.environments.get(environment, {}).items())
            if (environment, model) not in named
        ]
        places = {(environment, model) for environment, model, _ in gone}
        # retiring a version ends its rollouts and shadows everywhere: they go before
        for environment, model, now in gone:
            for shadow in now.shadows:
                yield environment, model, _end(state, environment, ModelRef(model, shadow.version))
            if now.ramp is not None:
                back = Rollback(model=model, environment=environment, reason=_NOT_NAMED)
                yield environment, model, _Step("-", f"rollout of {now.ramp.version}", (back,))
        for environment, model, now in gone:
            if now.stable is not None:
                ref = ModelRef(model, now.stable)
                _refuse_used(state, ref, places)
                here = {environment for environment, name in places if name == model}
                said = (f"{ref} is retired: {each}" for each in breaks(state, ref, besides=here))
                self.warnings = tuple(dict.fromkeys((*self.warnings, *said)))
                retire = Retire(model=model, version=ref.version, force=True, reason=_NOT_NAMED)
                yield environment, model, _Step("-", f"{now.stable} is retired, nothing serves", (retire,))


def _end(state: State, environment: str, ref: ModelRef) -> _Step:
    return _Step("-", f"shadow {ref.version}", EndShadow(ref, environment, _NOT_NAMED)(state))


def _undone(now: Serving, version: int) -> Ended | None:
    """How the version's last rollout ended, where that was with its traffic taken away."""
    rollouts = [past.ended for past in now.past if past.kind == "rollout"]
    ended = [*rollouts, *((now.ended,) if now.ended is not None else ())]
    last = max((each for each in ended if each.version == version), key=lambda each: each.seq, default=None)
    return last if last is not None and last.outcome in _UNDONE else None


def _refuse_used(state: State, ref: ModelRef, places: set[tuple[str, str]]) -> None:
    """Raise NotAllowedError where the version takes traffic in an environment it is not pruned from."""
    for environment, models in sorted(state.environments.items()):
        now = models.get(ref.name)
        if now is None or (environment, ref.name) in places:
            continue
        if ref.version in (now.stable, now.ramp.version if now.ramp else None):
            raise NotAllowedError(
                f"{ref} takes traffic in {environment} as well, so it cannot be retired",
                f"name {ref.name} in the file, or promote another version in {environment} first",
            )


def _change(now: Serving, version: int, found: Terms) -> str:
    if now.stable == version:
        return f"end the rollout of {now.ramp.version if now.ramp else ''}"
    before = f"{now.stable} → " if now.stable is not None else ""
    on = f" on {', '.join(found.on)}" if found.on else ""
    if found.steps == (FULL_SHARE,) or now.stable is None:
        return f"{before}{version}{on}"
    steps = ", ".join(format_share(step) if step else "shadow" for step in found.steps)
    instead = f", instead of the rollout of {now.ramp.version}" if now.ramp is not None else ""
    return f"{before}{version} by {steps}{on}{instead}"


def plan(at: Connection, file: Path, prune: bool) -> Plan:
    """See Client.plan."""
    intent = _intent(at, file, prune)
    written = at.change(intent, dry_run=True)
    return Plan(
        store=at.settings.store, head=written.state.head, file=str(file), changes=intent.planned,
        warnings=intent.warnings,
    )  # fmt: skip


def apply(at: Connection, file: Path, prune: bool, dry_run: bool) -> Applied:
    """See Client.apply."""
    intent = _intent(at, file, prune)
    written = at.change(intent, dry_run=dry_run)
    told = at.told(written, dry_run, model="", version=None, environment=None, warnings=intent.warnings)
    return Applied(**msgspec.structs.asdict(told), file=str(file), changes=intent.planned)


def _intent(at: Connection, file: Path, prune: bool) -> ApplyFile:
    def terms_of(state: State, wanted: Desired) -> Terms:
        def packed() -> Rollout:
            return fetch_manifest(at.store, state, wanted.model, wanted.version or 0).rollout

        def columns() -> tuple[str, ...]:
            return fetch_columns(at.store, state, wanted.model, wanted.version or 0)

        wish = wanted.rollout if wanted.rollout is not None else Wish()
        version = intents.find_version(state, ModelRef(wanted.model, wanted.version or 0))
        try:
            found = terms(wish, packed, settings(state, wanted.environment))
            refuse_unmeasured(found, version.metrics, columns)
        except UsageError as error:
            where = f"{plan_file.name_of(file)}: {wanted.environment}.{wanted.model}"
            raise UsageError(f"{where}: {error.message}", error.hint) from error
        return found

    return ApplyFile(plan_file.read(file), prune, terms_of, at.now().date())
