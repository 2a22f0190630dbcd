"""Notices: what people are to be told, each under one id that every host says alike.

Rules: a notice of something in the log (a launch, a halt, a retirement) is opened by the record that did it,
and is pending in the state until `notified` closes it. A warning of an expiry has no record of its own: its
id is made of the version and the day it is due, and the version remembers the last day closed. Where the
policy names nobody to notify, nothing is opened.
Left out: which are due now (`core/retirement.py`), the text, and the sending.
"""

from __future__ import annotations

import re
from datetime import date

import msgspec

from mldeploy.core import lifecycle, records
from mldeploy.core.draft import Draft
from mldeploy.core.lifecycle import Context, find_live, find_version, refuse
from mldeploy.core.state import Notice, Serving

_EXPIRY = re.compile(r"expiry\.([a-z0-9][a-z0-9._-]{0,99})\.([1-9][0-9]{0,8})\.([0-9]{4}-[0-9]{2}-[0-9]{2})")


def expiry_id(model: str, version: int, day: date) -> str:
    """The id of the warning due on `day`: `expiry.churn.7.2027-05-31`."""
    return f"expiry.{model}.{version}.{day.isoformat()}"


def open_notice(
    draft: Draft,
    kind: str,
    model: str,
    version: int,
    told: Context,
    *,
    environment: str = "",
    previous: int | None = None,
    rollout: str = "",
    reason: str = "",
) -> None:
    """Something happened that people are to be told: pending from now on, if there is anybody to tell."""
    if not _anybody(draft, environment):
        return
    # a record may do two things to one model (a halt and a rollback), and the same in several environments
    name = f"{kind.replace(' ', '-')}.{model}.{version}.{told.seq}"
    pending = draft.notices.get(name)
    if pending is not None and pending.environment != environment:
        name = f"{name}.{environment}"
    draft.notices.put(
        name,
        Notice(
            id=name,
            kind=kind,
            environment=environment,
            model=model,
            version=version,
            previous=previous,
            rollout=rollout,
            reason=reason,
            seq=told.seq,
            actor=told.actor,
            time=told.time,
        ),
    )


def launched(draft: Draft, environment: str, model: str, before: Serving, told: Context) -> None:
    """Open the notice of a launch, if what the model serves has changed from `before`."""
    now = draft.serving(environment, model)
    if now.stable is not None and now.stable != before.stable:
        rollout = before.ramp.rollout if before.ramp is not None and before.ramp.version == now.stable else ""
        open_notice(
            draft, "launched", model, now.stable, told,
            environment=environment, previous=before.stable, rollout=rollout,
        )  # fmt: skip


def retire(draft: Draft, action: records.Retire, told: Context) -> None:
    """`lifecycle.retire`, and its notice."""
    before = find_version(draft, action.model, action.version)
    lifecycle.retire(draft, action, told)
    if before.retired:
        return  # it was told when it was retired; now it is cut off where it still went on
    open_notice(
        draft, "retired", action.model, action.version, told,
        environment=_concerned(draft, action.model), reason=action.reason,
    )  # fmt: skip


def notified(draft: Draft, action: records.Notified, told: Context) -> None:
    """A pending notice is closed, or an expiry's warnings up to a day."""
    if action.notice in draft.notices:
        draft.notices.drop(action.notice)
        return
    match = _EXPIRY.fullmatch(action.notice)
    if match is None:
        refuse(f"no notice {action.notice[:80]!r} is pending", "it was closed already")
    model, number, day = match[1], int(match[2]), match[3]
    find_version(draft, model, number)
    version = find_live(draft, model, number)
    try:
        date.fromisoformat(day)
    except ValueError:
        refuse(f"{day!r} is not a day", "write YYYY-MM-DD")
    if day <= version.warned:
        refuse(f"{model}@{number} was warned of up to {version.warned}", "there is nothing to do")
    draft.put_version(model, msgspec.structs.replace(version, warned=day))


def _concerned(draft: Draft, model: str) -> str:
    """Whose people are told of what is done in every environment: the store's (""); where its policy names
    nobody, those of the first environment by name that has the model and names somebody.
    """
    if _anybody(draft, ""):
        return ""
    having = (where for where in draft.environments() if draft.serving(where, model) != Serving())
    return min((where for where in having if _anybody(draft, where)), default="")


def _anybody(draft: Draft, environment: str) -> bool:
    """Whether the policy of the environment, or that of the store, says whom to notify."""
    for scope in (environment, ""):
        named = draft.policy.get(scope) or {}
        if "notify" in named:
            return bool(named["notify"])
    return False
