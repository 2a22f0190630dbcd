"""Shadows: from what the caller says to an intent that begins one, gives it other terms, or ends it.

Rules: the criterion is read before anything else is; the names in it are held against the version's signature
where its manifest can be read, and against none where it cannot: a host that cannot evaluate it copies
nothing. Other terms than those of the shadow under way begin it anew, so that its figures are of one kind.
Left out: what forbids it besides (`core/shadows.py`), and the copying.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date

import msgspec

from mldeploy.bundle.published import fetch_manifests
from mldeploy.client import intents
from mldeploy.client.connection import Connection, Written
from mldeploy.client.hints import command
from mldeploy.client.types import Shadowed
from mldeploy.core import where
from mldeploy.core.records import Action, Shadow, Unshadow
from mldeploy.core.state import Shadowing, State
from mldeploy.core.types import FULL_SHARE, ModelRef, parse_duration, parse_share
from mldeploy.errors import NotAllowedError, UsageError
from mldeploy.store.ids import new_ulid


@dataclass(frozen=True, slots=True)
class Asked:
    """The terms of a shadow: `fraction` in hundredths of a percent, `lasts` in seconds (0: until ended)."""

    fraction: int = FULL_SHARE
    where: str = ""
    lasts: int = 0
    keep: int = 0


def asked(fraction: int | float | str | None, criterion: str, lasts: int | str | None, keep: int) -> Asked:
    """What the caller says as terms. Raises UsageError, for a bad criterion with a caret under the place."""
    share = FULL_SHARE if fraction is None else parse_share(str(fraction))
    if not share:
        raise UsageError("a shadow of 0 % copies nothing", "give more than 0 %, or end it with --end")
    if criterion.strip():
        where.parse(criterion)
    seconds = lasts if isinstance(lasts, int) else int(parse_duration(lasts).total_seconds()) if lasts else 0
    if seconds < 0 or keep < 0:
        raise UsageError(
            "less than nothing makes no sense", "give a duration such as 7d, and a count of pairs"
        )
    return Asked(share, criterion.strip(), seconds, keep)


@dataclass(frozen=True, slots=True)
class ShadowTo:
    """Copy traffic to `ref` on these terms; `shadow` is the id of a new one. `today` judges its expiry."""

    ref: ModelRef
    environment: str
    terms: Asked
    shadow: str
    today: date

    def __call__(self, state: State) -> Sequence[Action]:
        version = intents.find_version(state, self.ref)
        under_way = find_shadow(state, self.environment, self.ref)
        if under_way is not None and _terms(under_way) == self.terms:
            return ()
        intents.refuse_gone(self.ref, version, self.today)
        begin = Shadow(
            model=self.ref.name, version=self.ref.version, environment=self.environment, shadow=self.shadow,
            **asdict(self.terms),
        )  # fmt: skip
        if under_way is None:
            return (begin,)
        return (Unshadow(shadow=under_way.shadow, reason="begun anew on other terms"), begin)


@dataclass(frozen=True, slots=True)
class EndShadow:
    """End the shadow of `ref`; nothing where none is under way."""

    ref: ModelRef
    environment: str
    reason: str = ""

    def __call__(self, state: State) -> Sequence[Action]:
        intents.find_version(state, self.ref)
        under_way = find_shadow(state, self.environment, self.ref)
        if under_way is not None:
            return (Unshadow(shadow=under_way.shadow, reason=self.reason),)
        ramp = intents.serving(state, self.environment, self.ref.name).ramp
        if ramp is not None and ramp.version == self.ref.version and not ramp.share:
            raise NotAllowedError(
                f"{self.ref} is at the shadow step of its rollout in {self.environment}",
                f"{command(f'rollback {self.ref.name}', self.environment)} ends the rollout",
            )
        return ()


def find_shadow(state: State, environment: str, ref: ModelRef) -> Shadowing | None:
    """The shadow of that version under way; a rollout's shadow step is none."""
    shadows = intents.serving(state, environment, ref.name).shadows
    return next((each for each in shadows if each.version == ref.version), None)


def _terms(shadow: Shadowing) -> Asked:
    return Asked(shadow.fraction, shadow.where, shadow.lasts, shadow.keep)


def shadow(at: Connection, ref: ModelRef, terms: Asked, dry_run: bool) -> Shadowed:
    """See Client.shadow."""
    if terms.where:
        _check_names(at, at.refresh(), ref, terms.where)
    intent = ShadowTo(ref, at.environment, terms, new_ulid(), at.now().date())
    return _told(at, at.change(intent, dry_run=dry_run), ref, dry_run)


def unshadow(at: Connection, ref: ModelRef, reason: str, dry_run: bool) -> Shadowed:
    """See Client.unshadow."""
    return _told(at, at.change(EndShadow(ref, at.environment, reason), dry_run=dry_run), ref, dry_run)


def _check_names(at: Connection, state: State, ref: ModelRef, criterion: str) -> None:
    intents.find_version(state, ref)
    manifest = fetch_manifests(at.store, state, ref.name, (ref.version,)).get(ref.version)
    if manifest is not None:
        where.parse(criterion, manifest.signature.inputs)


def _told(at: Connection, written: Written, ref: ModelRef, dry_run: bool) -> Shadowed:
    begun = next((action for action in written.actions if isinstance(action, Shadow)), None)
    # where nothing is written, what is under way is what was asked for
    shown = begun or (None if written.actions else find_shadow(written.state, at.environment, ref))
    told = at.told(written, dry_run, model=ref.name, version=ref.version, environment=at.environment)
    terms = Asked(0) if shown is None else Asked(shown.fraction, shown.where, shown.lasts, shown.keep)
    shadow = shown.shadow if shown is not None else None
    return Shadowed(**msgspec.structs.asdict(told), **asdict(terms), shadow=shadow)
