"""Promote and rollback: from what the caller says to an intent, and what to warn of beforehand.

Rules: a promote without a wish follows the bundle's own rollout, else the policy's; a target that no live
host can run is warned of, never refused, because hosts come and go. Left out: what forbids it (`intents.py`
and the fold).
"""

from __future__ import annotations

import msgspec

from mldeploy.bundle.published import fetch_columns, fetch_manifest
from mldeploy.client import fleet, intents
from mldeploy.client.connection import Connection
from mldeploy.client.describe import rolled_back_to
from mldeploy.client.environments import warn_of_new
from mldeploy.client.past import record_at
from mldeploy.client.terms import Terms, Wish, refuse_unmeasured, terms
from mldeploy.client.types import Change, Promoted
from mldeploy.core.manifest import Rollout
from mldeploy.core.policy import settings
from mldeploy.core.records import Rollback
from mldeploy.core.state import Serving, State, Version
from mldeploy.core.types import FULL_SHARE, ModelRef, check_name, format_share
from mldeploy.core.wish import carries
from mldeploy.errors import NotAllowedError, UsageError
from mldeploy.store.ids import new_ulid


def promote(at: Connection, target: str, wish: Wish, source: str | None, dry_run: bool) -> Promoted:
    """See Client.promote."""
    name, number = _target(target, source)
    wish.check()
    state = at.refresh()
    ref = ModelRef(name, number) if number else _stable_in(state, name, source or "")
    version = intents.find_version(state, ref)

    def packed() -> Rollout:
        return fetch_manifest(at.store, state, ref.name, ref.version).rollout

    found = terms(wish, packed, settings(state, at.environment))
    refuse_unmeasured(found, version.metrics, lambda: fetch_columns(at.store, state, ref.name, ref.version))
    intent = intents.PromoteTo(ref, at.environment, found, new_ulid(), at.now().date())
    warnings = warnings_for(at, state, ref, version, found)
    written = at.change(intent, dry_run=dry_run)
    told = at.told(
        written, dry_run, model=ref.name, version=ref.version, environment=at.environment, warnings=warnings
    )
    # with nothing stable the fold makes one step of all of it
    steps = (
        found.steps if intents.serving(state, at.environment, ref.name).stable is not None else (FULL_SHARE,)
    )
    return Promoted(**msgspec.structs.asdict(told), steps=steps)


def _target(text: str, source: str | None) -> tuple[str, int | None]:
    if source is None:
        ref = ModelRef.parse(text)
        return ref.name, ref.version
    if "@" in text:
        raise UsageError(
            f"{text!r} names a version, and --from another", "give the model's name alone with --from"
        )
    check_name(source, "environment name")
    return check_name(text), None


def _stable_in(state: State, model: str, environment: str) -> ModelRef:
    intents.find_model(state, model)
    stable = intents.serving(state, environment, model).stable
    if stable is None:
        raise NotAllowedError(
            f"{model} has no stable version in {environment}", f"promote one in {environment} first"
        )
    return ModelRef(model, stable)


def warnings_for(
    at: Connection, state: State, ref: ModelRef, version: Version, found: Terms
) -> tuple[str, ...]:
    """What a promote should say beforehand."""
    now = intents.serving(state, at.environment, ref.name)
    said = [*warn_of_new(state, (at.environment,)), *ended_by(now, ref)]
    if now.stable is None and found.steps != (FULL_SHARE,):
        said.append(f"no version of {ref.name} is stable in {at.environment}: {ref} takes all its traffic")
    live = [host for host in fleet.hosts(at, at.environment) if host.live]
    hosts = [host for host in live if carries(host.report.labels, found.on)]
    if not hosts:
        which = f" has {', '.join(found.on)}" if live else ""
        said.append(f"no live host in {at.environment}{which}: it serves once one joins")
        return tuple(said)
    if not any(version.python in host.report.pythons for host in hosts):
        said.append(f"{ref} needs Python {version.python}, which no live host in {at.environment} has")
    if not any(version.platform == host.report.platform for host in hosts):
        said.append(f"{ref} is for {version.platform}, which no live host in {at.environment} is")
    return tuple(said)


def ended_by(now: Serving, ref: ModelRef) -> tuple[str, ...]:
    """The rollout of another version that a promote of `ref` ends, in words."""
    ramp = now.ramp
    if ramp is None or ramp.version == ref.version:
        return ()
    share = f"at {format_share(ramp.share)}" if ramp.share else "as shadow"
    on = f" on {', '.join(ramp.on)}" if ramp.on else ""
    return (f"it ends the rollout of {ref.name}@{ramp.version}, which is {share}{on}",)


def rollback(at: Connection, model: str, to: int | None, freeze: bool, reason: str, dry_run: bool) -> Change:
    """See Client.rollback."""
    environment = at.environment
    name, sign, version = model.partition("@")
    if sign:
        raise UsageError(
            f"{model!r} names a version, and a rollback goes to the one before",
            f"leave out @{version}, or say --to: {name} --to {version}",
        )

    def was_rollback(seq: int) -> bool:
        record = record_at(at, seq)
        return record is not None and intents.rolled_back_in(record.actions, model, environment)

    first = intents.serving(at.refresh(), environment, check_name(model))
    intent = intents.RollbackTo(model, environment, to, reason, freeze, first, was_rollback)
    written = at.change(intent, dry_run=dry_run)
    now = intents.serving(written.state, environment, model)
    after = now.stable
    if dry_run and any(isinstance(action, Rollback) for action in written.actions):
        after = rolled_back_to(to, now)
    return at.told(written, dry_run, model=model, version=after, environment=environment)


def goes_back(at: Connection, model: str) -> bool:
    """Whether a rollback of the model would take traffic from anything: what a hint may promise."""
    try:
        return not rollback(at, model, None, False, "", dry_run=True).already
    except NotAllowedError:
        return False
