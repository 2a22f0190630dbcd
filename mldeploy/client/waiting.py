"""`wait`: follow a model on every live host until it is as the log says, and a rollout until its end.

Rules: the record waited for is folded before anything is judged; a live host that says the version failed
ends the wait at once (RolloutHaltedError), as does a rollout that was halted, rolled back or superseded; at
the deadline WaitTimeoutError names what has not arrived. A host that is drained is not waited for, unless
all are. With no live host there is nobody to arrive, so it waits for one; where a rollout is on some hosts
alone, for one of those. A rollout whose last step is below 100 %, or that is on some hosts alone, stays
there, and is waited for no longer than that.
Left out: how far one host is (`arrival.py`), and what the hosts make of the numbers (`underway.py`).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from mldeploy.client import fleet, intents
from mldeploy.client.arrival import Progress, progress
from mldeploy.client.awaited import awaited
from mldeploy.client.connection import Connection
from mldeploy.client.environments import looked_at
from mldeploy.client.hints import command, daemon
from mldeploy.client.traffic import goes_back
from mldeploy.client.types import Arrival, Candidate, Waited, WaitedStep
from mldeploy.client.underway import Underway, candidate_of, guard_numbers, requests_in
from mldeploy.core.records import Advance, Complete, Promote, Record
from mldeploy.core.state import Ended, Ramp, Serving
from mldeploy.core.types import format_share
from mldeploy.core.wish import meant
from mldeploy.errors import NotFoundError, RolloutHaltedError, WaitTimeoutError
from mldeploy.progress import Reporter, Standing
from mldeploy.reporting.words import verdict
from mldeploy.store.history import records_at

#: Seconds between two looks where the store cannot wake us; while a rollout is followed, which takes longer.
POLL, FOLLOW = 0.5, 2.0
#: Seconds to wait where the caller does not say; a rollout's deadline is added.
TIMEOUT = 600.0
_BAD_ENDS = ("halted", "rolled back", "superseded")


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look saw. `rollout` is the one that is followed; `candidate` where it is under way."""

    now: Serving
    far: tuple[tuple[fleet.Seen, Progress], ...]
    rollout: str | None = None
    candidate: Candidate | None = None

    @property
    def arrived(self) -> bool:
        return bool(self.far) and all(one.arrived for _, one in self.far)

    @property
    def ramp(self) -> Ramp | None:
        """The rollout that is followed, while it is under way."""
        return self.now.ramp if self.candidate is not None else None

    @property
    def reached(self) -> bool:
        """Whether there is a host that the rollout is meant for."""
        ramp = self.ramp
        return ramp is None or any(meant(ramp, host.report.labels) for host, _ in self.far)

    @property
    def done(self) -> bool:
        ramp = self.ramp
        return self.arrived and self.reached and (ramp is None or (ramp.last and ramp.stays))

    @property
    def ended(self) -> Ended | None:
        """How the rollout that is followed ended."""
        ends = (*(past.ended for past in self.now.past), *((self.now.ended,) if self.now.ended else ()))
        return next((end for end in ends if end.rollout == self.rollout), None)


def wait(at: Connection, model: str, seq: int | None, timeout: float | None, reporter: Reporter) -> Waited:
    """See Client.wait."""
    started = time.monotonic()
    state = looked_at(at)
    intents.find_model(state, model)
    if model not in state.environments.get(at.environment, {}):
        raise NotFoundError(
            f"{model} was never promoted in {at.environment}",
            f"{command(f'promote {model}@N', at.environment)} gives it traffic",
        )
    follow = _Follow(at, model, seq)
    if timeout is None:
        first = follow.look()
        timeout = TIMEOUT + (first.candidate.deadline if first.candidate and not first.done else 0)
    woken = threading.Event()
    stop = at.store.watch(f"hosts/{at.environment}/", woken.set)
    try:
        while True:
            woken.clear()
            look = follow.look()
            _refuse_failed(at, model, look)
            if look.done:
                return _arrived(at, model, follow.seq, look, time.monotonic() - started)
            left = started + timeout - time.monotonic()
            if left <= 0:
                raise _too_late(at, model, seq, timeout, look)
            _tell(reporter, model, look)
            # a watch may miss what a poll would see, so it only shortens the pause
            woken.wait(min(POLL if look.candidate is None else FOLLOW, left))
    finally:
        if stop is not None:
            stop()


class _Follow:
    """Looks at one model again and again, and keeps to the rollout that the record began."""

    def __init__(self, at: Connection, model: str, seq: int | None) -> None:
        self._at, self._model = at, model
        state = at.log.state
        self.seq = state.head if seq is None else seq
        ramp = intents.serving(state, at.environment, model).ramp
        record = awaited(at, state, model, seq) if seq is not None else None
        self._rollout = self._begun(record) or (ramp.rollout if ramp is not None else None)
        self._underway = Underway(at)

    def _begun(self, record: Record | None) -> str | None:
        """The rollout that the record began: it may be over before the first look."""
        return next(
            (
                action.rollout
                for action in (record.actions if record is not None else ())
                if isinstance(action, Promote)
                and (action.model, action.environment) == (self._model, self._at.environment)
            ),
            None,
        )

    def look(self) -> _Look:
        """What is, now."""
        at, model = self._at, self._model
        state = at.refresh()
        now = intents.serving(state, at.environment, model)
        seen = fleet.hosts(at, at.environment)
        counted, candidate = fleet.counted(seen), None
        if now.ramp is not None and now.ramp.rollout == self._rollout:
            # where all hosts it is meant for are drained, they are waited for
            ours = fleet.counted(host for host in seen if meant(now.ramp, host.report.labels))
            counted += [host for host in ours if host not in counted]
            decision = self._underway.decisions(state, at.environment, seen).get(model)
            candidate = candidate_of(state, at.environment, now, decision)
        far = tuple((host, progress(host.report, model, now, self.seq)) for host in counted)
        return _Look(now, far, self._rollout, candidate)


def _refuse_failed(at: Connection, model: str, look: _Look) -> None:
    ended = look.ended
    if ended is not None and ended.outcome in _BAD_ENDS:
        why = f": {ended.reason}" if ended.reason else ""
        raise RolloutHaltedError(
            f"the rollout of {model}@{ended.version} in {at.environment} was {ended.outcome}{why}",
            f"traffic is with {_stable(model, look.now)}; "
            f"{command(f'report {model}@{ended.version}', at.environment)} says more",
        )
    for host, one in look.far:
        if one.failed:
            says = f"{command(f'why {host.report.hostname} {model}', at.environment)} says more"
            back = f"; {command(f'rollback {model}', at.environment)} goes back"
            raise RolloutHaltedError(
                f"{one.why} (on host {host.report.hostname})",
                says + (back if goes_back(at, model) else ""),
            )


def _stable(model: str, now: Serving) -> str:
    return "nothing" if now.stable is None else f"{model}@{now.stable}"


def _arrived(at: Connection, model: str, seq: int, look: _Look, seconds: float) -> Waited:
    version = look.candidate.version if look.candidate is not None else look.now.stable
    return Waited(
        store=at.settings.store, model=model, environment=at.environment, version=version, seq=seq,
        hosts=_arrivals(look), seconds=round(seconds, 3), steps=_steps(at, look),
    )  # fmt: skip


def _steps(at: Connection, look: _Look) -> tuple[WaitedStep, ...]:
    """The steps of the rollout that are over, as their verdicts stand in the log."""
    told = look.ramp or look.ended
    found: list[WaitedStep] = []
    shares: tuple[int, ...] = ()
    for record, _ in records_at(at.store, told.trail if told is not None else ()):
        for action in record.actions:
            if isinstance(action, Promote) and action.rollout == look.rollout:
                shares = action.steps
            if not isinstance(action, Advance | Complete) or action.rollout != look.rollout:
                continue
            said = action.evidence
            if said is not None and action.step < len(shares):
                ours = [each for each in said.measures if each.role != "stable"]
                found.append(
                    WaitedStep(
                        step=action.step, share=shares[action.step], hosts=said.hosts, members=said.members,
                        requests=sum(map(requests_in, ours)), guards=said.guards,
                    )
                )  # fmt: skip
    return tuple(found)


def _arrivals(look: _Look) -> tuple[Arrival, ...]:
    return tuple(
        Arrival(host=host.report.host, hostname=host.report.hostname, arrived=one.arrived, why=one.why)
        for host, one in look.far
    )


def _too_late(at: Connection, model: str, seq: int | None, timeout: float, look: _Look) -> WaitTimeoutError:
    # the record at the head may be about something else: only one that was asked for is named
    record = f" --record {seq}" if seq is not None else ""
    goes_on = command(f"wait {model}{record}", at.environment)
    hint = f"it may still happen: {goes_on} goes on waiting"
    if not look.far:
        return WaitTimeoutError(
            f"no live host of {at.environment} has reported within {timeout:g} s",
            f"start one with {daemon(at.settings.store, at.environment)}; {hint}",
        )
    if look.ramp is not None and not look.reached:
        on = ", ".join(look.ramp.on)
        return WaitTimeoutError(
            f"no live host of {at.environment} with {on} has reported within {timeout:g} s",
            f"{command('host list', at.environment)} shows the labels; {hint}",
        )
    if look.arrived and look.candidate is not None:
        why = f": {'; '.join(look.candidate.waits)}" if look.candidate.waits else ""
        return WaitTimeoutError(f"{_standing(model, look.candidate)} after {timeout:g} s{why}", hint)
    late = [f"{host.report.hostname} ({one.why})" for host, one in look.far if not one.arrived]
    return WaitTimeoutError(
        f"{len(late)} of {len(look.far)} hosts had not arrived within {timeout:g} s: {'; '.join(late)}", hint
    )


def _tell(reporter: Reporter, model: str, look: _Look) -> None:
    candidate = look.candidate
    if candidate is None or not (look.arrived and look.reached):
        reporter.step(_progress_line(model, look))
        return
    waits = f"; waits: {'; '.join(candidate.waits)}" if candidate.waits else ""
    what = "requests" if candidate.share else "compared answers"
    counted = f"{_standing(model, candidate)}: {candidate.requests:,} {what}"
    verdicts = tuple(each.verdict for each in candidate.guards)
    reporter.standing(
        Standing(
            line=f"{counted}{_told(candidate)}{waits}",
            head=f"{counted}{waits}",
            change=(candidate.step, candidate.paused, candidate.next, verdicts),
            columns=("GUARD", "VERDICT", "CANDIDATE", "STABLE", "LIMIT", "WHY"),
            rows=tuple(
                (guard.guard, guard.verdict, *guard_numbers(guard), guard.why) for guard in candidate.guards
            ),
        )
    )


def _standing(model: str, candidate: Candidate) -> str:
    share = f"at {format_share(candidate.share)}" if candidate.share else "as shadow"
    step = f"step {candidate.step + 1} of {len(candidate.steps)}"
    on = f" on {', '.join(candidate.on)}" if candidate.on else ""
    return f"{model}@{candidate.version} {share}{on}, {step}{', paused' if candidate.paused else ''}"


def _told(candidate: Candidate) -> str:
    said = [f"{each.guard} {each.verdict} ({verdict(each)})" for each in candidate.guards]
    return f"; {'; '.join(said)}" if said else ""


def _progress_line(model: str, look: _Look) -> str:
    if not look.far:
        return "waiting for a live host"
    if look.ramp is not None and not look.reached:
        return f"{model}: waiting for a live host with {', '.join(look.ramp.on)}"
    late = next(f"{host.report.hostname}: {one.why}" for host, one in look.far if not one.arrived)
    there = sum(one.arrived for _, one in look.far)
    return f"{model}: {there} of {len(look.far)} hosts are there; {late}"
