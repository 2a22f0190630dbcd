"""What `shadow` and `unshadow` do to a Draft.

Rules: a shadow takes no traffic of its own; a version that is stable or the candidate is none, and becoming
either ends its shadow. Each function changes the draft, or raises NotAllowedError or NotFoundError and the
whole record is void. Left out: the copying and comparing, and the end of those that last only so long.
"""

from __future__ import annotations

import msgspec

from mldeploy.core import records, where
from mldeploy.core.draft import Draft
from mldeploy.core.lifecycle import Context, find_live, refuse, valid_name
from mldeploy.core.past import without_shadow
from mldeploy.core.state import Shadowing
from mldeploy.core.types import FULL_SHARE
from mldeploy.errors import NotFoundError, UsageError

_MAX_LASTS = 366 * 86_400  # seconds
_MAX_KEEP = 1_000_000  # pairs
_MAX_SHADOWS = 8  # of one model: each costs a copy of its share of the traffic


def shadow(draft: Draft, action: records.Shadow, told: Context) -> None:
    """Some of the model's traffic is copied to the version from now on."""
    model, environment = action.model, action.environment
    find_live(draft, model, action.version)
    valid_name(environment, "environment")
    serving = draft.serving(environment, model)
    _check(draft, action)
    here = f"{model}@{action.version}"
    if serving.stable is None:
        refuse(f"{model} has no stable version in {environment}", "promote one first: it answers")
    if action.version == serving.stable or (
        serving.ramp is not None and serving.ramp.version == action.version
    ):
        refuse(f"{here} takes traffic in {environment}", "a shadow is a version that does not")
    if any(other.version == action.version for other in serving.shadows):
        refuse(f"{here} is a shadow in {environment} already", "end that one first")
    if len(serving.shadows) >= _MAX_SHADOWS:
        refuse(f"{model} has {_MAX_SHADOWS} shadows in {environment}", "end one first")
    begun = Shadowing(
        shadow=action.shadow,
        version=action.version,
        seq=told.seq,
        fraction=action.fraction,
        where=action.where,
        lasts=action.lasts,
        keep=action.keep,
        actor=told.actor,
        started=told.time,
    )
    shadows = (*serving.shadows, begun)
    draft.put_serving(environment, model, msgspec.structs.replace(serving, shadows=shadows, seq=told.seq))


def unshadow(draft: Draft, action: records.Unshadow, told: Context) -> None:
    """The shadow is over."""
    found = draft.under_way(action.shadow)
    serving = draft.serving(*found) if found else None
    over = [each for each in serving.shadows if each.shadow == action.shadow] if serving else []
    if found is None or serving is None or not over:
        raise NotFoundError(f"no shadow {action.shadow[:40]!r} is under way", "it may have ended")
    draft.put_serving(*found, without_shadow(serving, over[0], action.reason, told.seq))


def _check(draft: Draft, action: records.Shadow) -> None:
    if not action.shadow or draft.under_way(action.shadow) is not None:
        refuse("the shadow's id is missing or in use", "give a new id")
    if not 1 <= action.fraction <= FULL_SHARE:
        refuse(f"a fraction of {action.fraction}", "write more than 0 % and at most 100 %")
    if not 0 <= action.lasts <= _MAX_LASTS:
        refuse(f"a shadow of {action.lasts} seconds", "write at most 366 days")
    if not 0 <= action.keep <= _MAX_KEEP:
        refuse(f"{action.keep} pairs to keep", f"write at most {_MAX_KEEP:,}")
    if action.where:
        try:
            where.parse(action.where)
        except UsageError as error:
            refuse(error.message, error.hint)
