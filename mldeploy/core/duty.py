"""Who tells people what, and when: the duty of notices, decided by every host alike.

The time since a notice came to be is divided into turns, short ones first; each turn belongs to one host: the
first to the one whose record did it, the next ones to the others by hash. The host whose turn it is sends,
once in it, while the notice is pending. So one that died after its record is replaced after `PATIENCE`, and a
target that is down is tried again by one host after the other, ever more rarely.

Every host has a turn, for few may hold a target's secrets. Most notices are told by one of the first
`SENDERS`, and only these look from the beginning. After their turns, about half a day, those of the others
follow: in a fleet so large that an hour each would not do within a week, shorter ones.

A notice of an environment without members is told by the hosts of the others, as is one that names none.

Rules: pure; a host that looks late sends late and not more often; two hosts never have the same turn. That
somebody sends twice all the same (it died after it had sent, or its clock stood still) is why every notice
has one identity. Left out: what was reached already, and the sending.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime

from mldeploy.core.controller import on_duty, ranked
from mldeploy.core.retirement import warnings
from mldeploy.core.state import Notice, State

#: Seconds of the first turn, for sending and for the record that says so. Each is twice the one before …
PATIENCE = 120.0
#: … up to this.
LONGEST = 3_600.0
#: Hosts that look at a notice from the beginning.
SENDERS = 16
#: Hosts for which an hour each is short enough, with a margin, that all have had a turn when it is given up;
#: and the least seconds of a turn where there are more (the reports of a large fleet are older).
HOURLY, LEAST = 128, 2 * PATIENCE
#: Seconds after which a notice that some target does not take is given up by whoever has tried.
GIVE_UP = 7 * 86_400.0

_DOUBLINGS = math.ceil(math.log2(LONGEST / PATIENCE))


def pending_for(state: State, environment: str, now: float) -> tuple[Notice, ...]:
    """What the hosts of `environment` are to tell people, in turns. `now`: store time, unix seconds."""
    found = (*state.notices.values(), *warnings(state, now))
    if all(each.environment in (environment, "") for each in found):
        return found
    peopled = {host.environment for host in state.hosts.values()}
    return tuple(
        each for each in found if each.environment in (environment, "") or each.environment not in peopled
    )


def tellers(state: State, notice: Notice) -> list[str]:
    """The hosts that may tell it: those on duty in its environment, or in all where that has no members."""
    own = on_duty(state, notice.environment) if notice.environment else []
    if own:
        return [host.id for host in own]
    everywhere = {host.environment for host in state.hosts.values()}
    return [host.id for environment in everywhere for host in on_duty(state, environment)]


def begins(turn: int, hosts: int) -> float:
    """When a turn (from 0) begins, in seconds since the notice came to be. `hosts`: how many there are."""
    first = min(turn, SENDERS)
    doubled = min(first, _DOUBLINGS)
    return PATIENCE * float((1 << doubled) - 1) + LONGEST * (first - doubled) + _later(hosts) * (turn - first)


def _later(hosts: int) -> float:
    """Seconds of a turn after the first `SENDERS`; whole, so that turns end where the next ones begin."""
    return max(LEAST, LONGEST // max(1, math.ceil(hosts / HOURLY)))


def turn_at(age: float, hosts: int) -> int:
    """The turn that is on at that age (seconds; a negative one counts as 0)."""
    for turn, length in ((SENDERS, _later(hosts)), (_DOUBLINGS, LONGEST)):
        late = age - begins(turn, hosts)
        if late >= 0:
            return turn + int(late // length)
    turn = int(math.log2(max(age, 0.0) / PATIENCE + 1))
    # rounding must not open a turn early, nor leave one late
    return turn if begins(turn, hosts) <= max(age, 0.0) else turn - 1


def senders(notice: Notice, hosts: Collection[str]) -> list[str]:
    """All of `hosts` in the order of their turns: the winner first, if it is one of them."""
    winner = notice.actor.removeprefix("host:") if notice.actor.startswith("host:") else ""
    others = ranked((host for host in hosts if host != winner), notice.id)
    return [winner, *others] if winner in hosts else others


def due(order: Sequence[str], host: str, age: float, tried: float | None) -> int | None:
    """The turn in which `host` is to send now; None if it is not its turn, or it has sent in it.

    `tried`: the age at which it did so last.
    """
    turn = turn_at(age, len(order))
    if not order or order[turn % len(order)] != host:
        return None
    return None if tried is not None and tried >= begins(turn, len(order)) else turn


def wait(order: Sequence[str], host: str, age: float) -> float:
    """Seconds until the next turn of `host` begins; infinity where it has none."""
    if host not in order:
        return math.inf
    turn = turn_at(age, len(order)) + 1
    turn += (order.index(host) - turn) % len(order)
    return begins(turn, len(order)) - age


def before(order: Sequence[str], turn: int) -> list[str]:
    """The hosts to ask what has been reached before that turn: the first ones, and the last before it.

    Each says also what it has found that others have, so that those in between need not be asked.
    """
    last = [order[past % len(order)] for past in range(max(0, turn - SENDERS), turn)]
    return list(dict.fromkeys([*order[: min(turn, SENDERS)], *reversed(last)]))


def since(notice: Notice) -> float | None:
    """When a notice without a record came to be: the first moment of its day (UTC). None for the others."""
    if notice.seq:
        return None
    day = date.fromisoformat(notice.time)
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
