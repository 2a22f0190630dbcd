"""When a host's shadows rest: a controller with hysteresis, given what the host is seen to be busy with.

Rules: one sign of trouble is enough to pause, at once; to resume, all of them must have been gone for a while
without a break. Who resumes into trouble waits twice as long the next time (up to LONGEST): the pause itself
is what made the host look idle. Latency is held against what it was while the processors were not busy; in a
long pause that follows slowly, for what is slow without any copies is not slow because of them. The mean of
few answers says nothing: it is over the mark by chance, and often again before the pause is over. It counts
only once ENOUGH answers came together.
Pure: looking at the host, and acting on it, are the mirror's.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

#: Seconds without trouble before it resumes, at first and at most.
SHORTEST, LONGEST = 2.0, 120.0
#: A pause that comes within so many seconds of resuming was caused by resuming.
RELAPSE = 20.0
#: Under this part of the time that processes wait for a processor, a latency is taken for calm.
_QUIET = 0.10
#: Answers of a version that make a latency.
ENOUGH = 100
#: Weight of one latency in the calm one: while copies are made, and in a pause for each second it stands for.
_CALM, _PAUSED = 0.05, 0.02
#: Versions whose calm latency is remembered.
_REMEMBERED = 1_000
#: Latencies that a calm one takes before anything is held against it.
_LEARNT = 20


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """Beyond any of these it pauses; `low` says below which it resumes."""

    pressure: float = 0.30  # part of the time that some process waits for a processor
    queue: float = 0.75  # of a shadow's queue that is filled
    latency: float = 1.5  # of a primary, times its calm one

    def low(self) -> Marks:
        """A third of the first two, and 0.4 of the way from calm to the last."""
        return Marks(pressure=self.pressure / 3, queue=self.queue / 3, latency=1 + 0.4 * (self.latency - 1))


MARKS = Marks()


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the host. Shares are 0 to 1."""

    pressure: float = 0.0  # of the time since the last look
    queue: float = 0.0  # of the fullest queue of copies
    latency: dict[str, float] = {}  # by `churn@7`: mean seconds of a primary's last answers, ENOUGH or more


class Calm(msgspec.Struct, frozen=True):
    """A version's latency while nothing is wrong."""

    seconds: float
    looks: int  # that had a latency
    when: float  # the last latency, of a busy host too


class Pausing(msgspec.Struct, frozen=True, kw_only=True):
    """The controller between two looks. Times are seconds of a clock that only goes on."""

    paused: bool = False
    why: str = ""  # "processor", "queue" or "latency", of the pause under way or the last one
    since: float = 0.0  # when it paused or resumed
    quiet: float | None = None  # paused: since when nothing is wrong
    wait: float = SHORTEST  # seconds of that before it resumes
    calm: dict[str, Calm] = {}
    pauses: int = 0


def look(state: Pausing, load: Load, now: float, marks: Marks = MARKS) -> Pausing:
    """The controller after one more look."""
    if not state.paused:
        trouble = _trouble(state, load, marks)
        if trouble:
            # of few answers the first latency after a resume comes late, and is a relapse all the same
            again = any(state.calm[ref].when < state.since for ref in _slow(state, load, marks))
            return _pause(state, trouble, now, relapse=again or now - state.since < RELAPSE)
        return msgspec.structs.replace(state, calm=_learn(state, load, now))
    state = msgspec.structs.replace(state, calm=_learn(state, load, now))
    if _trouble(state, load, marks.low()):
        return msgspec.structs.replace(state, quiet=None)
    if state.quiet is None:
        return msgspec.structs.replace(state, quiet=now)
    if now - state.quiet < state.wait:
        return state
    return msgspec.structs.replace(state, paused=False, since=now, quiet=None)


def _pause(state: Pausing, why: str, now: float, *, relapse: bool) -> Pausing:
    wait = min(LONGEST, state.wait * 2) if relapse and state.pauses else SHORTEST
    return msgspec.structs.replace(
        state, paused=True, why=why, since=now, quiet=None, wait=wait, pauses=state.pauses + 1
    )


def _trouble(state: Pausing, load: Load, marks: Marks) -> str:
    """What is wrong; "" for nothing."""
    if load.pressure > marks.pressure:
        return "processor"
    if load.queue > marks.queue:
        return "queue"
    return "latency" if any(_slow(state, load, marks)) else ""


def _slow(state: Pausing, load: Load, marks: Marks) -> Iterator[str]:
    """The versions that take too long."""
    for ref, seconds in load.latency.items():
        calm = state.calm.get(ref)
        if calm is not None and calm.looks >= _LEARNT and seconds > marks.latency * calm.seconds:
            yield ref


def _learn(state: Pausing, load: Load, now: float) -> dict[str, Calm]:
    """The calm latencies with this look in them.

    A busy host, though not too busy to copy, teaches nothing.
    """
    if not load.latency:
        return state.calm
    calm = dict(state.calm)
    for ref, seconds in load.latency.items():
        before = calm.get(ref)
        if load.pressure > _QUIET:
            if before is not None:
                calm[ref] = msgspec.structs.replace(before, when=now)
        elif before is None:
            calm[ref] = Calm(seconds, 1, now)
        else:
            slowly = min(_CALM, _PAUSED * (now - before.when))
            weight = slowly if state.paused else max(_CALM, 1 / (before.looks + 1))
            calm[ref] = Calm(before.seconds + weight * (seconds - before.seconds), before.looks + 1, now)
    while len(calm) > _REMEMBERED:  # the oldest first
        del calm[next(iter(calm))]
    return calm
