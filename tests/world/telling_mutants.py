"""Variants of the code that retires and tells people which break one rule each: see `variants.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from typing import Any
from unittest import mock

import msgspec

from mldeploy.core import fold, records, traffic
from mldeploy.core.draft import Draft
from mldeploy.core.lifecycle import Context
from mldeploy.core.notices import expiry_id, open_notice
from mldeploy.core.policy import Settings
from mldeploy.core.records import Notified
from mldeploy.core.retirement import _due
from mldeploy.core.state import Notice, State, Version
from mldeploy.reporting.message import Message, message
from mldeploy.reporting.values import LaunchReport
from mldeploy_daemon.notifying import Notifying, Outcome
from mldeploy_daemon.uses import Uses
from tests.world.days import WEEKEND, days
from tests.world.rollout_mutants import fleet, mild, slow
from tests.world.variants import Mutant, Patch, patched
from tests.world.world import Parts

# --- retirement


class Unused(Uses):
    """Nobody has asked for anything."""

    def since(self) -> dict[str, float]:
        return {}


def _all_of_them(state: State, today: str) -> Iterator[tuple[str, Version]]:
    for name, model in state.models.items():
        yield from ((name, version) for version in model.versions.values() if not version.retired)


# --- what the fold opens and closes


def _opening(with_: Callable[..., None]) -> tuple[Patch, ...]:
    """Notices are opened otherwise."""
    return tuple(patched(f"mldeploy.core.{where}.open_notice", with_) for where in ("notices", "traffic"))


def _but(left_out: str) -> tuple[Patch, ...]:
    """Of things of one kind nobody is told."""

    def opens(draft: Draft, kind: str, *given: Any, **more: Any) -> None:
        if kind != left_out:
            open_notice(draft, kind, *given, **more)

    return _opening(opens)


def _one_name(draft: Draft, kind: str, model: str, version: int, told: Context, **more: Any) -> None:
    """What happens to a version twice has the same name twice."""
    open_notice(draft, kind, model, version, told._replace(seq=1), **more)


def _advancing(also: Callable[[Draft, Context], None]) -> Patch:
    """An advance does something else as well."""

    def advance(draft: Draft, action: records.Advance, told: Context) -> None:
        traffic.advance(draft, action, told)
        also(draft, told)

    return lambda: mock.patch.dict(fold._APPLY, {records.Advance: advance})


def _told_too_early(draft: Draft, told: Context) -> None:
    open_notice(draft, "launched", "churn", 1, told, environment="production")


def _all_dropped(draft: Draft, told: Context) -> None:
    for name in [notice.id for notice in draft.notices.values()]:
        draft.notices.drop(name)


# --- telling


def _of_the_day_before(model: str, version: int, day: date) -> str:
    """The same warning, under another name."""
    return expiry_id(model, version, day - timedelta(days=1))


def _due_once(version: Version, said: Settings, today: date) -> date | None:
    """Who was warned once is not warned again."""
    return None if version.warned else _due(version, said, today)


class ClosesAnyway(Notifying):
    """What could not be sent is closed all the same."""

    reason = ""

    def send(self, state: State, notice: Notice, turn: int) -> Outcome:
        outcome = super().send(state, notice, turn)
        return outcome._replace(closing=Notified(notice=notice.id, reason=self.reason))


class ClosesWithReason(ClosesAnyway):
    """And it is said why."""

    reason = "not reached: it is down"


class SendsAnyway(Notifying):
    """What somebody else has closed meanwhile is sent."""

    def pending(self, state: State, notice: Notice) -> bool:
        return True


def _own_identity(report: LaunchReport, store: str) -> Message:
    made = message(report, store)
    return msgspec.structs.replace(made, identity=f"again.{made.identity}")


TELLING_MUTANTS: Mapping[str, Mutant] = {
    "uses are not counted": fleet("retired .* used", Parts(uses=Unused)),
    "what has not expired is retired": fleet(
        "retired .* which expires on", patches=(patched("mldeploy.core.retirement.expired", _all_of_them),)
    ),
    "nothing is retired": fleet(
        r"not done: (.*; )?\w+@\d+(;|$)",
        patches=(patched("mldeploy.core.controller.retirements", lambda *_: ()),),
    ),
    "nobody is told of a launch": fleet(
        "lost: .* was launched .*, and no notice", patches=_but("launched")
    ),
    "nobody is told of a halt": fleet(
        "lost: .* was halted .*, and no notice", patches=_but("halted")
    ),
    "nobody is told of a rollback": fleet(
        "lost: .* was rolled back .*, and no notice", patches=_but("rolled back")
    ),
    "nobody is told of a retirement": fleet(
        "lost: .* was retired .*, and no notice", patches=_but("retired")
    ),
    "a launch is told too early": fleet(
        "tells of what has not happened", patches=(_advancing(_told_too_early),)
    ),
    "what is pending is dropped": fleet(
        "is gone, and nobody has closed it", patches=(_advancing(_all_dropped),)
    ),
    "one name for all times": fleet("has come to be twice", patches=_opening(_one_name)),
    "nobody is warned": fleet(
        "not done: .*expiry", patches=(patched("mldeploy.core.duty.warnings", lambda *_: ()),)
    ),
    "warned once for all": Mutant(
        "lost: .* was due for .*, and nobody is warned", cast=WEEKEND, plot=days, weather=mild,
        patches=(patched("mldeploy.core.retirement._due", _due_once),),
    ),
    "warned under another name": fleet(
        "which is not due", patches=(patched("mldeploy.core.retirement.expiry_id", _of_the_day_before),)
    ),
    "closed, and not sent": fleet("lost: the notice", Parts(notifying=ClosesAnyway)),
    "closed with a reason, and not sent": fleet(
        "lost: the notice .* was closed by", Parts(notifying=ClosesWithReason)
    ),
    "sent, though closed": fleet(
        "again, which was closed", Parts(notifying=SendsAnyway), weather=slow,
    ),
    "another name each time": fleet(
        "nobody has said", patches=(patched("mldeploy_daemon.notifying.message", _own_identity),)
    ),
    "only the winner tells": fleet(
        r"not done: (.*; )?launched\.", patches=(patched("mldeploy.core.duty.ranked", lambda *_: []),)
    ),
}  # fmt: skip

#: Those that take many worlds.
SLOW_TO_TELL = {"uses are not counted", "sent, though closed"}
