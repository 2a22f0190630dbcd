"""What must be so of retirement and of notices: nothing used is retired, and everything is told.

Told of every record that takes effect, of every use of a version on a host, and of every message that is
delivered. Left out: what is to be told (`notices.py`), and rollouts (`rollouts.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from mldeploy.core.controller import freshness
from mldeploy.core.policy import settings
from mldeploy.core.records import Notified, Record, Retire
from mldeploy.core.state import State
from mldeploy.core.types import PRODUCTION
from tests.world.notices import due, happened, opened

#: Seconds of use that an agent may lose when it is killed, and then some.
LOST = 30.0
#: Seconds after which a notice may be closed though not everyone was reached.
GIVE_UP = 7 * 86_400.0
#: Seconds of a day within which somebody is warned, whoever's turn it is and whatever was down.
HALF_A_DAY = 43_200.0
_EXPIRY = re.compile(r"expiry\.(.+)\.(\d+)\.(\d{4}-\d{2}-\d{2})")


class Telling:
    """`wrong` is called with what is broken; `now` is the store's time; `store`: its id."""

    def __init__(self, wrong: Callable[[str], None], now: Callable[[], float], store: str) -> None:
        self.wrong, self.now, self.store = wrong, now, store
        self.counts: Counter[str] = Counter()
        self.uses: dict[tuple[str, str], list[float]] = {}  # (host, version) -> when it was asked for
        self.gone: dict[str, float] = {}  # version -> when it was retired last: hosts forget its use then
        self.opened: dict[str, float] = {}  # notice -> when it came to be
        self.closed: dict[str, float] = {}  # notice -> when it was closed
        self.reached: dict[str, set[str]] = {}  # notice -> the targets it has reached
        self.sent: Counter[str] = Counter()  # by identity
        self.state = State()  # after the last record
        self.day = self._today()  # up to which `due` is reckoned
        self.due: set[str] = set()  # the warnings that ever were
        self.since: dict[str, float] = {}  # warning that is not closed -> since when it is due
        self.warned: dict[tuple[str, int], str] = {}  # version -> the last day whose warning was closed

    # --- records

    def record(self, before: State, after: State, record: Record) -> None:
        """It has taken effect."""
        self._reckon(before)
        self._reckon(after)
        for action in record.actions:
            if isinstance(action, Retire):
                self._retired(before, action, record.actor)
            elif isinstance(action, Notified):
                self._notified(before, action, record.actor)
        self._opened(before, after, record)

    def _reckon(self, state: State) -> None:
        """The warnings that are due in it, on each day since the last time."""
        self.state, today, begun = state, self._today(), self.now()
        while True:
            self.due.update(_warnings(state, self.day))
            self.since = {name: self.since.get(name, begun) for name in self._unwarned(state, self.day)}
            if self.day >= today:
                return
            self.day += timedelta(days=1)
            begun = _midnight(self.day)
            for name, since in self.since.items():
                if begun - since >= HALF_A_DAY and state.hosts:
                    self.wrong(
                        f"lost: {name} was due for {(begun - since) / 3600:.0f} h, and nobody is warned"
                    )

    def _unwarned(self, state: State, today: date) -> list[str]:
        """The warnings that are due and not closed."""
        return [
            name
            for name, (version, day) in _warnings(state, today).items()
            if day.isoformat() > self.warned.get(version, "")
        ]

    def _opened(self, before: State, after: State, record: Record) -> None:
        """A notice of all that people are to be told, and none of anything else; and none is lost."""
        wanted = happened(before, after, record)
        for name, event in opened(before, after):
            if name in self.opened:
                self.wrong(f"the notice {name} has come to be twice")
            if event not in wanted:
                self.wrong(f"the notice {name} tells of what has not happened")
            wanted.remove(event)
            self.opened[name] = self.now()
            self.counts[f"notices of {event.kind}"] += 1
        for kind, where, model, version in sorted(wanted):
            self.wrong(f"lost: {model}@{version} was {kind} in {where or 'all'}, and no notice tells of it")
        closed = {action.notice for action in record.actions if isinstance(action, Notified)}
        for name in sorted(before.notices.keys() - after.notices.keys() - closed):
            self.wrong(f"lost: the notice {name} is gone, and nobody has closed it")

    def _retired(self, before: State, action: Retire, actor: str) -> None:
        ref = f"{action.model}@{action.version}"
        self.gone[ref], gone = self.now(), self.gone.get(ref, 0.0)
        if not actor.startswith("host:"):
            if not actor.startswith(("writer", "operator")):
                self.wrong(f"{actor} retired {ref}")
            return
        self.counts["retired by hosts"] += 1
        version, told = before.models[action.model].versions[action.version], action.evidence
        today = self._today().isoformat()
        if told is None or not version.expires < today:
            self.wrong(f"{actor} retired {ref}, which expires on {version.expires}: {told}")
            return
        where = [name for name, models in before.environments.items() if action.model in models]
        idle = max(settings(before, name).idle for name in where or [""])
        since, until = max(told.end - idle, gone) + LOST, told.end - freshness(len(before.hosts))
        for host in before.hosts:
            used = [at for at in self.uses.get((host, ref), ()) if since < at < until]
            if used:
                self.wrong(f"{actor} retired {ref}, which {host} used {told.end - used[-1]:.0f} s before")
        self.counts["retired by hosts, and routed"] += any(
            serving.stable == action.version
            for models in before.environments.values()
            for name, serving in models.items()
            if name == action.model
        )

    def _notified(self, before: State, action: Notified, actor: str) -> None:
        name = action.notice
        expiry = _EXPIRY.fullmatch(name)
        if expiry is not None:
            self._warned(expiry, actor)
        self.closed[name] = self.now()
        if not actor.startswith("host:"):
            self.opened.setdefault(name, self.now())
            return
        self.counts["closed by hosts"] += 1
        wanted, age = settings(before, PRODUCTION).notify, self.now() - self.opened.get(name, self.now())
        excused = bool(action.reason) and (not wanted or age >= GIVE_UP)
        if not excused and not self.reached.get(name, set()) >= set(wanted):
            self.wrong(f"lost: the notice {name} was closed by {actor} and reached {self.reached.get(name)}")

    def _warned(self, expiry: re.Match[str], actor: str) -> None:
        """The warnings up to a day are closed."""
        name, day = expiry[0], expiry[3]
        if name not in self.due:
            self.wrong(f"{actor} closes {name}, which is not due")
        version = expiry[1], int(expiry[2])
        self.warned[version] = max(day, self.warned.get(version, ""))
        if name not in self.opened:
            self.opened[name] = _midnight(date.fromisoformat(day))
            self.counts["notices of expiries"] += 1

    # --- what happens

    def used(self, host: str, ref: str) -> None:
        """A version was asked for on a host."""
        self.uses.setdefault((host, ref), []).append(self.now())

    def delivered(self, host: str, identity: str, targets: tuple[str, ...], looked: float) -> None:
        """A message has arrived at these targets. `looked`: when its sender began to read the log for it."""
        name, _, store = identity.rpartition("@")
        expiry = _EXPIRY.fullmatch(name)
        if store != self.store or (expiry is None and name not in self.opened):
            self.wrong(f"{host} tells of something that nobody has said: {identity}")
        self._reckon(self.state)
        if expiry is not None and name not in self.due:
            self.wrong(f"{host} warns of {name}, which is not due")
        if self.closed.get(name, float("inf")) < looked:
            self.wrong(f"{host} tells of {name} again, which was closed")
        self.sent[identity] += 1
        self.counts["messages"] += 1
        self.counts["messages that came again"] += self.sent[identity] > 1
        self.counts["messages after the end"] += name in self.closed
        self.reached.setdefault(name, set()).update(targets)

    # --- at the end

    def untold(self, state: State) -> list[str]:
        """The notices that are still to be delivered. Where there is no member, or nobody is named any more,
        nobody can close them.
        """
        if not state.hosts or not settings(state, PRODUCTION).notify:
            return []
        self._reckon(state)
        return [*(name for name in self.opened if name not in self.closed), *self.since]

    def overdue(self, state: State) -> list[str]:
        """Versions that are there, past their expiry, and that nobody has asked for in a long time.

        Not those that a rollout under way would give its traffic back to.
        """
        found = []
        now = self.now()
        today = self._today().isoformat()
        for name, model in state.models.items():
            where = [each for each, models in state.environments.items() if name in models]
            idle = max(settings(state, each).idle for each in where or [""])
            for version in model.versions.values():
                kept = any(
                    said.ramp is not None and said.stable == version.version
                    for said in (models[name] for models in state.environments.values() if name in models)
                )
                if version.retired or kept or not version.expires < today:
                    continue
                ref = f"{name}@{version.version}"
                last = max((self.uses[key][-1] for key in self.uses if key[1] == ref), default=0.0)
                if now - last > 2 * idle + 900:
                    found.append(ref)
        return found

    def _today(self) -> date:
        return datetime.fromtimestamp(self.now(), UTC).date()


def _warnings(state: State, today: date) -> dict[str, tuple[tuple[str, int], date]]:
    """By the name under which people are told: of which version, and of which day."""
    return {
        f"expiry.{model}.{version}.{day}": ((model, version), day)
        for (model, version), day in due(state, today).items()
    }


def _midnight(day: date) -> float:
    """When it begins."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
