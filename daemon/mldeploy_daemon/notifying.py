"""This host's part in telling people: which notices it is to send now, and the sending of one.

`plan` asks for nothing while nothing is pending. Of what is pending it asks for two objects, the notice's
record and this host's own report, for their times. Most notices are told at once by the first of an order
(`core/duty`); a host that is not among them asks only of one that has been pending for an hour as far as it
knows, and then not before its turn.
`send` reads the records of the story, composes, delivers in a process of its own, and says what to append.

Rules: times are the store's; the clock here only counts pauses. A target that was reached is not tried again,
by this host or, as far as its report says so, by the next. Left out: threads and appending (`notify.py`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from mldeploy.bundle.published import fetch_manifests
from mldeploy.core import duty
from mldeploy.core.fold import refusal
from mldeploy.core.policy import settings
from mldeploy.core.records import Notified
from mldeploy.core.state import Notice, State
from mldeploy.errors import MldeployError, NotificationError, StoreError
from mldeploy.reporting import compose
from mldeploy.reporting.deliver import Sent, deliver, first_mail
from mldeploy.reporting.message import Message, bare, message
from mldeploy.reporting.steps import Told
from mldeploy.reporting.values import LaunchReport
from mldeploy.reporting.words import clean
from mldeploy.store.history import records_at
from mldeploy.store.objects import MARKER, Marker, ObjectStore
from mldeploy.store.reports import HostReport, report_key
from mldeploy.store.tail import record_key
from mldeploy_daemon.told import Tellings

logger = logging.getLogger(__name__)
#: Seconds between looks with nothing pending; where the time is not known yet; and the least between two.
QUIET, SOON, SHORT = 900.0, 2.0, 1.0
#: Environments in which the report of a host that has left is looked for.
MANY = 8
_DAY = 86_400.0

#: How messages leave: `mldeploy.reporting.deliver.deliver`.
Deliver = Callable[[Message, Mapping[str, str], str], Sent]


class Plan(NamedTuple):
    """What one look came to: notices to be sent now, each in a turn; seconds until the next look."""

    due: tuple[tuple[Notice, int], ...]
    pause: float


class Outcome(NamedTuple):
    """What came of one notice: the record that closes it (None: it stays pending), and what failed."""

    closing: Notified | None
    errors: tuple[NotificationError, ...] = ()


def _deliver(made: Message, targets: Mapping[str, str], owner_at: str) -> Sent:
    return deliver(made, targets, owner_at=owner_at)


class _Rest(NamedTuple):
    """That this host has no turn for so many seconds, while it has this place among so many hosts."""

    place: int
    hosts: int
    begun: float  # by its clock
    seconds: float


class Notifying:
    """One host's. Both read the store, and `send` may take a minute: for a thread of their own."""

    def __init__(
        self,
        environment: str,
        host: str,
        store: ObjectStore,
        deliver: Deliver = _deliver,
        clock: Callable[[], float] = time.time,
        told: Tellings | None = None,
    ) -> None:
        self.environment, self.host, self.store = environment, host, store
        self.deliver, self.clock = deliver, clock
        self.told = told or Tellings()
        self._rests: dict[str, _Rest] = {}
        self._orders: dict[str, tuple[object, object, list[str]]] = {}  # and of which hosts, drained
        self._since: dict[str, float] = {}
        self._identity = ""

    def plan(self, state: State) -> Plan:
        """Look at what is pending. Raises StoreError."""
        # the day by this host's clock, a day ahead to be sure, says whether to ask for the store's time
        perhaps = duty.pending_for(state, self.environment, self.clock() + _DAY)
        if not any(self._concerns(state, notice) for notice in perhaps):
            # a warning that tomorrow's takes the place of is pending today: another may be about to send it
            today = duty.pending_for(state, self.environment, self.clock()) if self.told.reached else ()
            self._forget((*perhaps, *today))
            return Plan((), self._rest(QUIET))
        now = self._now()
        if not now:
            return Plan((), SOON)  # this host's first report is on its way
        pending = duty.pending_for(state, self.environment, now)
        self._forget(pending)
        found, pause = [], QUIET
        for notice in pending:
            order = self._order(state, notice)
            if self.host not in order or self._resting(notice, order):
                continue
            since = self._since_of(notice)
            if since is None:
                continue
            turn = duty.due(order, self.host, now - since, self.told.tried(notice.id))
            wait = duty.wait(order, self.host, now - since)
            if turn is not None:
                found.append((notice, turn))
            elif self.host not in order[: duty.SENDERS]:
                self._rests[notice.id] = self._rest_of(order, wait)
            pause = min(pause, wait)
        return Plan(tuple(found), self._rest(pause))

    def pending(self, state: State, notice: Notice) -> bool:
        """Whether nobody has closed it, as far as `state` goes."""
        return refusal(state, [Notified(notice=notice.id)]) is None

    def send(self, state: State, notice: Notice, turn: int) -> Outcome:
        """Send one notice to whoever it has not reached. Raises StoreError, and then nothing was sent."""
        targets = settings(state, notice.environment).notify
        order = self._order(state, notice)
        reached = {*self.told.reached.get(notice.id, ()), *self._reached_before(state, order, turn, notice)}
        left = {name: url for name, url in targets.items() if name not in reached}
        if not targets:
            return Outcome(Notified(notice=notice.id, reason="the policy names nobody to notify"))
        if not left:
            return Outcome(Notified(notice=notice.id))
        now, identity = self._now(), self._store_id()
        since = self._since_of(notice)
        age = now - since if now and since is not None else 0.0
        self.told.tries(notice.id, max(age, duty.begins(turn, len(order))))
        made = self._composed(state, notice, now, identity)
        made = msgspec.structs.replace(made, had=tuple(sorted(reached)))
        sent = self.deliver(made, left, first_mail(targets))
        self.told.has_reached(notice.id, {*reached, *sent.reached, *sent.took})
        return _outcome(notice, sent, late=age >= duty.GIVE_UP)

    def _composed(self, state: State, notice: Notice, now: float, identity: str) -> Message:
        """What is sent. Raises StoreError. What cannot be composed is told all the same, in short."""
        try:
            return message(self.report(state, notice, now), identity)
        except MldeployError:
            raise
        except Exception:
            logger.exception("notice %s cannot be composed", notice.id)
            return bare(notice, identity)

    def report(self, state: State, notice: Notice, now: float) -> LaunchReport:
        """What the notice tells. Raises StoreError."""
        versions = (notice.version, notice.previous)
        if not notice.seq:
            today = datetime.fromtimestamp(now, UTC).date()
            return compose.of_expiry(state, notice, today, {})
        told = [Told(*each) for each in records_at(self.store, compose.trail_of(state, notice))]
        manifests = fetch_manifests(self.store, state, notice.model, versions)
        return compose.of_notice(state, notice, told, manifests)

    def _concerns(self, state: State, notice: Notice) -> bool:
        """Whether to ask the store about it. Of a warning only the store's time says, by its day."""
        order = self._order(state, notice)
        if self.host not in order or self._resting(notice, order):
            return False
        if not notice.seq or self.host in order[: duty.SENDERS] or notice.id in self._rests:
            return True
        self._rests[notice.id] = self._rest_of(order, duty.LONGEST)
        return False

    def _resting(self, notice: Notice, order: Sequence[str]) -> bool:
        """Whether this host, which is not among the first, knows that its turn is not yet. Its turns are
        others once hosts have come or gone; and a clock that was put back ends it.
        """
        rest = self._rests.get(notice.id)
        if rest is None or (rest.place, rest.hosts) != (order.index(self.host), len(order)):
            return False
        return 0 <= self.clock() - rest.begun < rest.seconds

    def _rest_of(self, order: Sequence[str], seconds: float) -> _Rest:
        return _Rest(order.index(self.host), len(order), self.clock(), seconds)

    def _rest(self, pause: float) -> float:
        """Seconds until the next look: at most `pause`, and not beyond where some rest ends."""
        ends = [rest.begun + rest.seconds - self.clock() for rest in self._rests.values()]
        return max(min([pause, *(end for end in ends if end > 0)]), SHORT)

    def _order(self, state: State, notice: Notice) -> list[str]:
        hosts, drained, order = self._orders.get(notice.id, (None, None, []))
        if hosts is not state.hosts or drained is not state.drained:
            order = duty.senders(notice, duty.tellers(state, notice))
            self._orders[notice.id] = state.hosts, state.drained, order
        return order

    def _reached_before(self, state: State, order: Sequence[str], turn: int, notice: Notice) -> set[str]:
        """What others say they have reached: the hosts of earlier turns, those that were drained since, and
        whose record it is even where that one has left. And this host, for its disk may have been full.
        """
        found: set[str] = set()
        drained = [host for host in state.drained if host in state.hosts and host not in order]
        actor = [notice.actor.removeprefix("host:")] if notice.actor.startswith("host:") else []
        asked = dict.fromkeys([self.host, *actor, *duty.before(order, turn), *drained[: duty.SENDERS]])
        for host in asked:
            for environment in self._environments(state, host, notice):
                fetched = self.store.get(report_key(environment, host))
                if fetched is not None:
                    with contextlib.suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
                        report = msgspec.json.decode(fetched.data, type=HostReport)
                        found |= {*report.told.get(notice.id, ())}
        return found

    def _environments(self, state: State, host: str, notice: Notice) -> list[str]:
        """Where a host's report is; of one that has left, where it may be."""
        known = state.hosts.get(host)
        if known is not None:
            return [known.environment]
        where = {each.environment for each in state.hosts.values()}
        return [notice.environment] if notice.environment else sorted(where)[:MANY]

    def _now(self) -> float:
        """The store's time, at most one report old: when this host's own was written. 0.0 without one."""
        fetched = self.store.get(report_key(self.environment, self.host))
        return fetched.modified if fetched is not None else 0.0

    def _since_of(self, notice: Notice) -> float | None:
        """When it came to be, by the store; None where its record is not there."""
        if notice.id not in self._since:
            since = duty.since(notice)
            if since is None:
                fetched = self.store.get(record_key(notice.seq))
                since = fetched.modified if fetched is not None else None
            if since is None:
                return None
            self._since[notice.id] = since
        return self._since[notice.id]

    def _store_id(self) -> str:
        if not self._identity:
            fetched = self.store.get(MARKER)
            if fetched is None:
                raise StoreError(f"{self.store.url} has no {MARKER}", "is it mounted?")
            self._identity = msgspec.json.decode(fetched.data, type=Marker).id
        return self._identity

    def _forget(self, pending: Sequence[Notice]) -> None:
        """Nothing is kept of what is closed."""
        ids = {notice.id for notice in pending}
        self.told.keep(ids)
        self._since = {name: at for name, at in self._since.items() if name in ids}
        self._rests = {name: rest for name, rest in self._rests.items() if name in ids}
        self._orders = {name: order for name, order in self._orders.items() if name in ids}


def _outcome(notice: Notice, sent: Sent, *, late: bool) -> Outcome:
    """Closed where nothing is left to be tried, or it is too late; whom it did not reach is the reason."""
    failed = [(name, error.message, error.hint) for name, error in sorted(sent.failed.items())]
    failed += [(name, note, "see the addresses in the URL") for name, note in sorted(sent.notes.items())]
    errors = tuple(_named(notice, name, NotificationError(said, hint)) for name, said, hint in failed)
    if sent.failed and not late:
        return Outcome(None, errors)
    reason = "; ".join(f"{name}: {said}" for name, said, _ in failed)
    return Outcome(Notified(notice=notice.id, reason=clean(reason and f"not reached: {reason}")), errors)


def _named(notice: Notice, target: str, error: NotificationError) -> NotificationError:
    return NotificationError(f"notice {notice.id} did not reach {target}: {error.message}", error.hint)
