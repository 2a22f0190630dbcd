"""`wait`: follow a model on every live host until it is as the log says.

Rules: the record waited for is folded before anything is judged; a live host that says the version failed
ends the wait at once (RolloutHaltedError), as does a rollout that was halted; at the deadline
WaitTimeoutError names every host that has not arrived. With no live host there is nobody to arrive, so it
waits for one. Left out: how far one host is (`arrival.py`).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from mldeploy.client import fleet, intents
from mldeploy.client.arrival import Progress, progress
from mldeploy.client.connection import Connection
from mldeploy.client.types import Arrival, Waited
from mldeploy.core.state import Serving
from mldeploy.errors import NotFoundError, RolloutHaltedError, WaitTimeoutError
from mldeploy.progress import Reporter

#: Seconds between two looks where the store cannot wake us.
POLL = 0.5
_BAD_ENDS = ("halted",)


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look saw."""

    now: Serving
    far: tuple[tuple[fleet.Seen, Progress], ...]

    @property
    def done(self) -> bool:
        return bool(self.far) and all(one.arrived for _, one in self.far)


def wait(at: Connection, model: str, seq: int | None, timeout: float, reporter: Reporter) -> Waited:
    """See Client.wait."""
    started = time.monotonic()
    state = at.refresh()
    intents.find_model(state, model)
    if model not in state.environments.get(at.environment, {}):
        raise NotFoundError(
            f"{model} was never promoted in {at.environment}",
            f"`mldeploy promote {model}@1` gives it traffic",
        )
    seq = state.head if seq is None else seq
    before = intents.serving(state, at.environment, model)
    rollout = before.ramp.rollout if before.ramp else None
    woken = threading.Event()
    stop = at.store.watch(f"hosts/{at.environment}/", woken.set)
    try:
        while True:
            woken.clear()
            look = _look(at, model, seq)
            _refuse_failed(at, model, look, rollout)
            if look.done:
                return _arrived(at, model, seq, look, time.monotonic() - started)
            left = started + timeout - time.monotonic()
            if left <= 0:
                raise _too_late(at, model, seq, timeout, look)
            reporter.step(_progress_line(model, look))
            # a watch may miss what a poll would see, so it only shortens the pause
            woken.wait(min(POLL, left))
    finally:
        if stop is not None:
            stop()


def _look(at: Connection, model: str, seq: int) -> _Look:
    now = intents.serving(at.refresh(), at.environment, model)
    live = [host for host in fleet.hosts(at, at.environment) if host.live]
    return _Look(now, tuple((host, progress(host.report, model, now, seq)) for host in live))


def _refuse_failed(at: Connection, model: str, look: _Look, rollout: str | None) -> None:
    ended = look.now.ended
    if rollout is not None and ended is not None and ended.rollout == rollout and ended.outcome in _BAD_ENDS:
        why = f": {ended.reason}" if ended.reason else ""
        raise RolloutHaltedError(
            f"the rollout of {model}@{ended.version} in {at.environment} was halted{why}",
            f"traffic is with {_stable(model, look.now)}",
        )
    for host, one in look.far:
        if one.failed:
            raise RolloutHaltedError(
                f"{one.why} (on host {host.report.hostname})",
                f"`mldeploy why {host.report.hostname} {model}` says more; "
                f"`mldeploy rollback {model}` goes back",
            )


def _stable(model: str, now: Serving) -> str:
    return "nothing" if now.stable is None else f"{model}@{now.stable}"


def _arrived(at: Connection, model: str, seq: int, look: _Look, seconds: float) -> Waited:
    return Waited(
        store=at.settings.store, model=model, environment=at.environment, version=look.now.stable, seq=seq,
        hosts=_arrivals(look), seconds=round(seconds, 3),
    )  # fmt: skip


def _arrivals(look: _Look) -> tuple[Arrival, ...]:
    return tuple(
        Arrival(host=host.report.host, hostname=host.report.hostname, arrived=one.arrived, why=one.why)
        for host, one in look.far
    )


def _too_late(at: Connection, model: str, seq: int, timeout: float, look: _Look) -> WaitTimeoutError:
    hint = f"it may still happen: `mldeploy wait {model} --record {seq}` goes on waiting"
    if not look.far:
        return WaitTimeoutError(
            f"no live host of {at.environment} has reported within {timeout:g} s",
            f"start one with `mldeployd --store {at.settings.store}`; {hint}",
        )
    late = [f"{host.report.hostname} ({one.why})" for host, one in look.far if not one.arrived]
    return WaitTimeoutError(
        f"{len(late)} of {len(look.far)} hosts had not arrived within {timeout:g} s: {'; '.join(late)}", hint
    )


def _progress_line(model: str, look: _Look) -> str:
    if not look.far:
        return "waiting for a live host"
    late = next(f"{host.report.hostname}: {one.why}" for host, one in look.far if not one.arrived)
    there = sum(one.arrived for _, one in look.far)
    return f"{model}: {there} of {len(look.far)} hosts are there; {late}"
