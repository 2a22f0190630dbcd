"""What each command wants of a state: the actions to append, or none where it is so already.

Pure: a state and arguments in, actions out. Raises NotFoundError (with the nearest name), NotAllowedError and
UsageError with what to do about it. The log asks an intent again when another writer was first. Left out:
whether the actions fit is judged once more by the fold, which has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from difflib import get_close_matches
from typing import NamedTuple

from mldeploy.client.hints import command
from mldeploy.client.terms import Terms, terms_under_way
from mldeploy.core.records import Action, Freeze, Promote, Rollback
from mldeploy.core.retirement import takes_traffic
from mldeploy.core.state import Model, Ramp, Serving, State, Version
from mldeploy.core.types import FULL_SHARE, ModelRef, format_share
from mldeploy.errors import NotAllowedError, NotFoundError

Intent = Callable[[State], Sequence[Action]]


def find_model(state: State, name: str) -> Model:
    """The model, or NotFoundError naming the nearest one."""
    if name in state.models:
        return state.models[name]
    near = get_close_matches(name, state.models, 1, 0.5)
    known = f"models here: {', '.join(sorted(state.models)[:10])}" if state.models else "push one first"
    raise NotFoundError(
        f"there is no model {name!r} in this store", f"did you mean {near[0]!r}?" if near else known
    )


def find_version(state: State, ref: ModelRef) -> Version:
    """The version, or NotFoundError naming those there are."""
    model = find_model(state, ref.name)
    if ref.version in model.versions:
        return model.versions[ref.version]
    last = sorted(model.versions)[-5:]
    raise NotFoundError(
        f"there is no {ref}", f"the last versions are {', '.join(f'{ref.name}@{number}' for number in last)}"
    )


def serving(state: State, environment: str, model: str) -> Serving:
    """What the model does in the environment; nothing where it was never promoted."""
    return state.environments.get(environment, {}).get(model, Serving())


def refuse_frozen(state: State, environment: str, model: str) -> None:
    """Raise NotAllowedError while promotes of the model are refused there."""
    reason = serving(state, environment, model).frozen
    what, cure = model, f"unfreeze {model}"
    if reason is None:
        reason = state.frozen.get(environment)
        what, cure = "every model", "unfreeze --all"
    if reason is not None:
        why = f": {reason}" if reason else ""
        raise NotAllowedError(
            f"{what} is frozen in {environment}{why}",
            f"{command(cure, environment)} lets promotes through again",
        )


def refuse_gone(ref: ModelRef, version: Version, today: date) -> None:
    """Raise NotAllowedError for a version that is retired, or whose expiry has passed."""
    if version.retired:
        raise NotAllowedError(f"{ref} is retired", f"`mldeploy restore {ref}` brings it back")
    if version.expires < today.isoformat():
        raise NotAllowedError(
            f"{ref} expired on {version.expires}", f"`mldeploy extend {ref} 90d` moves its expiry"
        )


@dataclass(frozen=True, slots=True)
class PromoteTo:
    """Give `ref` traffic in `environment`. `today` judges its expiry."""

    ref: ModelRef
    environment: str
    terms: Terms
    rollout: str
    today: date

    def __call__(self, state: State) -> Sequence[Action]:
        version = find_version(state, self.ref)
        now = serving(state, self.environment, self.ref.name)
        if now.ramp is None and now.stable == self.ref.version:
            if self.terms.steps == (FULL_SHARE,) and not self.terms.on:
                return ()
            raise NotAllowedError(
                f"{self.ref} is stable in {self.environment}: it takes all traffic already",
                "promote the version that is to take some of it",
            )
        if now.ramp is not None and now.ramp.version == self.ref.version and self._under_way(now, now.ramp):
            return ()
        self._check(state, version)
        return (self.action(),)

    def action(self) -> Promote:
        """The action itself."""
        return Promote(
            model=self.ref.name, version=self.ref.version, environment=self.environment,
            rollout=self.rollout, **asdict(self.terms),
        )  # fmt: skip

    def _under_way(self, now: Serving, ramp: Ramp) -> bool:
        """Whether it is being rolled out on these terms."""
        # with nothing stable the fold makes one step of all of it
        terms = self.terms if now.stable is not None else replace(self.terms, steps=(FULL_SHARE,))
        return terms_under_way(ramp) == terms

    def _check(self, state: State, version: Version) -> None:
        # the fold cannot know the date, and for a frozen model it does not know our words
        refuse_gone(self.ref, version, self.today)
        refuse_frozen(state, self.environment, self.ref.name)


@dataclass(frozen=True, slots=True)
class RollbackTo:
    """End a running rollout; with none, make `to` (the previous version if None) stable. Then freeze if
    asked.

    `first` is what the model did when the command was given. Without `to`, that says which version is to
    lose its traffic: the candidate, else stable. Whatever others write meanwhile, no other version loses
    any: the hosts may just have halted the rollout, and then stable is what the caller wants to have.
    A rollback of the stable version swaps it with the previous one, so a second would undo the first:
    `was_rollback` says of a record number whether it already was this rollback.
    """

    model: str
    environment: str
    to: int | None
    reason: str
    freeze: bool
    first: Serving
    was_rollback: Callable[[int], bool]

    def __call__(self, state: State) -> Sequence[Action]:
        find_model(state, self.model)
        now = serving(state, self.environment, self.model)
        actions: list[Action] = []
        if not self._done(now):
            self._check(state, now)
            actions.append(
                Rollback(model=self.model, environment=self.environment, to=self.to, reason=self.reason)
            )
        if self.freeze and now.frozen is None:
            why = self.reason or "rolled back"
            actions.append(Freeze(model=self.model, environment=self.environment, reason=why))
        return actions

    def _done(self, now: Serving) -> bool:
        if self.to is not None:
            return now.ramp is None and now.stable == self.to
        gone = self.first.ramp.version if self.first.ramp is not None else self.first.stable
        if gone is not None and not takes_traffic(now, gone):
            return True
        return now.ramp is None and now.seq > 0 and self.was_rollback(now.seq)

    def _check(self, state: State, now: Serving) -> None:
        if self.to is not None:
            find_version(state, ModelRef(self.model, self.to))
            return
        if now.ramp is not None and self.first.ramp is None:
            raise NotAllowedError(
                f"a rollout of {self.model}@{now.ramp.version} has begun in {self.environment}",
                "a rollback ends that one: say it again if that is meant, or name a version with --to",
            )
        if now.ramp is None:
            self._check_stable(now)

    def _check_stable(self, now: Serving) -> None:
        """What forbids to take the traffic from stable."""
        what = f"{self.model}@{now.stable}"
        if now.stable is None:
            raise NotAllowedError(
                f"{self.model} has no stable version in {self.environment}", "there is nothing to roll back"
            )
        if now.previous is None:
            raise NotAllowedError(
                f"no version came before {what} in {self.environment}",
                "name one with --to, or promote another",
            )
        halted = _halted_last(now)
        if halted is not None:
            raise NotAllowedError(
                f"the rollout of {self.model}@{halted} in {self.environment} was halted: "
                f"{what} has its traffic",
                f"{command(f'rollback {self.model} --to {now.previous}', self.environment)} "
                f"takes it from {what} too",
            )


def _halted_last(now: Serving) -> int | None:
    """The version whose rollout was halted, where no other has become stable or been rolled back since."""
    ended = next((past.ended for past in reversed(now.past) if past.kind == "rollout"), None)
    return ended.version if ended is not None and ended.outcome == "halted" else None


def rolled_back_in(actions: Sequence[Action], model: str, environment: str) -> bool:
    """Whether a record of these actions rolled the model back to the version before."""
    return any(
        isinstance(action, Rollback)
        and (action.model, action.environment, action.to) == (model, environment, None)
        for action in actions
    )


class Use(NamedTuple):
    """What a version does in one environment; as text "candidate (25% on zone=a) in production"."""

    role: str  # "stable", "candidate", "shadow" or "previous"
    environment: str
    terms: str = ""

    @property
    def spare(self) -> bool:
        """Whether nobody gets its answers."""
        return self.role in ("shadow", "previous")

    def __str__(self) -> str:
        terms = f" ({self.terms})" if self.terms else ""
        return f"{self.role}{terms} in {self.environment}"


def uses(state: State, ref: ModelRef) -> list[Use]:
    """Where a version takes traffic, a copy of it, or stands ready to."""
    found = []
    for environment, models in sorted(state.environments.items()):
        now = models.get(ref.name)
        if now is None:
            continue
        if now.stable == ref.version:
            found.append(Use("stable", environment))
        if now.ramp is not None and now.ramp.version == ref.version:
            share = format_share(now.ramp.share) if now.ramp.share else "as shadow"
            share += f" on {', '.join(now.ramp.on)}" if now.ramp.on else ""
            found.append(Use("candidate", environment, share))
        found += [
            Use("shadow", environment, format_share(each.fraction))
            for each in now.shadows
            if each.version == ref.version
        ]
        if now.previous == ref.version and now.previous != now.stable:
            found.append(Use("previous", environment))
    return found
