"""`report`: the verdict on a version's rollout or shadow, under way or over.

What is over is read from the log alone; of what is under way the hosts' own reports are merged as well.
Left out: the composing and the looks (`mldeploy.reporting`).
"""

from __future__ import annotations

import contextlib

from mldeploy.bundle.published import fetch_manifests, find_version
from mldeploy.client import fleet
from mldeploy.client.connection import Connection
from mldeploy.client.environments import looked_at
from mldeploy.client.hints import command
from mldeploy.core.controller import decisions, on_duty
from mldeploy.core.evidence import Evidence
from mldeploy.core.manifest import Manifest
from mldeploy.core.state import Ramp, Serving, Shadowing, State
from mldeploy.core.types import ModelRef
from mldeploy.errors import NotFoundError
from mldeploy.reporting import compose
from mldeploy.reporting.steps import Subject, Told
from mldeploy.reporting.values import LaunchReport
from mldeploy.store.fleet import Fleet
from mldeploy.store.history import records_at


def report(at: Connection, ref: ModelRef) -> LaunchReport:
    """See Client.report."""
    state = looked_at(at)
    find_version(state, ref.name, ref.version)
    now = state.environments.get(at.environment, {}).get(ref.name, Serving())
    running = _running(now, ref.version)
    if running is not None:
        return _present(at, state, now, ref, running)
    past = next((past for past in reversed(now.past) if past.ended.version == ref.version), None)
    if past is None:
        raise NotFoundError(
            f"{ref} has had no rollout in {at.environment}, or none of the last ones",
            f"{command(f'history {ref.name}', at.environment)} shows what was done; "
            "--environment names another environment",
        )
    subject = Subject(at.environment, ref.name, ref.version, past.ended.rollout)
    told = _told(at, past.ended.trail)
    beside = compose.of_past(state, subject, told, {}).beside
    return compose.of_past(state, subject, told, _manifests(at, state, ref, beside))


def _running(now: Serving, version: int) -> Ramp | Shadowing | None:
    if now.ramp is not None and now.ramp.version == version:
        return now.ramp
    return next((shadow for shadow in now.shadows if shadow.version == version), None)


def _present(
    at: Connection, state: State, now: Serving, ref: ModelRef, running: Ramp | Shadowing
) -> LaunchReport:
    if isinstance(running, Ramp):
        name, trail = running.rollout, running.trail
    else:
        name, trail = running.shadow, (running.seq,)
    subject = Subject(at.environment, ref.name, ref.version, name)
    told = _told(at, trail)
    live, waits = _live(at, state, ref.name, running, told)
    manifests = _manifests(at, state, ref, now.stable)
    return compose.of_present(state, subject, told, manifests, live, waits)


def _live(
    at: Connection, state: State, model: str, running: Ramp | Shadowing, told: list[Told]
) -> tuple[Evidence, tuple[str, ...]]:
    """What the hosts have counted of the present step, what its guards say of that, and what it waits for."""
    scopes = {running.seq, running.begun} if isinstance(running, Ramp) else {running.seq}
    with contextlib.closing(Fleet(at.store)) as reading:
        reports, now = reading.read(state, at.environment, scopes=scopes)
    now = fleet.store_time(at, [now, *(each.at for each in told)])
    if isinstance(running, Ramp):
        decision = decisions(state, reports, now)[model]
        return decision.evidence, decision.waits
    members = {host.id for host in on_duty(state, at.environment)}
    heard = sum(each.head >= running.seq for each in reports.heard if each.host in members)
    return Evidence(hosts=heard, members=len(members), end=now, measures=reports.measures), ()


def _told(at: Connection, trail: tuple[int, ...]) -> list[Told]:
    return [Told(*found) for found in records_at(at.store, trail)]


def _manifests(at: Connection, state: State, ref: ModelRef, beside: int | None) -> dict[int, Manifest]:
    return fetch_manifests(at.store, state, ref.name, (ref.version, beside))
