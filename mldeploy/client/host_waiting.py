"""`host drain --wait`: follow one host until it says of itself that it is drained, or that it is ready again.

Rules: the host must have read the log as it stood at the call; what was asked for stays what is waited for,
and the wait ends with an error where the log no longer says so; a host that has left takes no traffic either;
at the deadline WaitTimeoutError says what is missing. Left out: requests in flight, which the load balancer
ends, and models (`waiting.py`).
"""

from __future__ import annotations

import threading
import time

from mldeploy.client.connection import Connection
from mldeploy.client.types import HostWaited
from mldeploy.client.waiting import POLL, TIMEOUT
from mldeploy.core.state import State
from mldeploy.errors import NotAllowedError, NotFoundError, WaitTimeoutError
from mldeploy.progress import Reporter
from mldeploy.store.reports import HostReport, read_reports


def wait_for_host(
    at: Connection, host: str, drained: bool, timeout: float | None, reporter: Reporter
) -> HostWaited:
    """See Client.wait_host."""
    started = time.monotonic()
    timeout = TIMEOUT if timeout is None else timeout
    state = at.refresh()
    head, member = state.head, state.hosts.get(host)
    environment = member.environment if member is not None else at.environment
    name = (member.hostname if member is not None else "") or host
    woken = threading.Event()
    stop = at.store.watch(f"hosts/{environment}/", woken.set)
    try:
        while True:
            woken.clear()
            state = at.refresh()
            left = host not in state.hosts
            _check(state, host, name, drained=drained, left=left)
            why = "" if left else _missing(_report(at, environment, host), head, drained)
            waited = time.monotonic() - started
            if not why:
                return HostWaited(
                    store=at.settings.store, host=host, hostname=name, drained=drained, left=left,
                    seconds=round(waited, 3),
                )  # fmt: skip
            if waited >= timeout:
                raise WaitTimeoutError(
                    f"{name} {why} after {timeout:g} s",
                    "it may still happen; `mldeploy host list` shows when it reported last",
                )
            reporter.step(f"{name} {why}")
            woken.wait(POLL)
    finally:
        if stop is not None:
            stop()


def _report(at: Connection, environment: str, host: str) -> HostReport | None:
    """What it said last."""
    return next((report for report, _ in read_reports(at.store, environment, [host])), None)


def _check(state: State, host: str, name: str, *, drained: bool, left: bool) -> None:
    """Raise where what is waited for cannot come any more."""
    if left and not drained:
        raise NotFoundError(f"{name} has left", "start its mldeployd: it joins by itself")
    if not left and (host in state.drained) != drained:
        by = "takes traffic again" if drained else "is drained again"
        raise NotAllowedError(
            f"{name} {by}: somebody wrote so meanwhile", "`mldeploy history` says who, and when"
        )


def _missing(report: HostReport | None, head: int, drained: bool) -> str:
    """What the host has not said; "" where it has said all."""
    if report is None:
        return "has not reported"
    if report.head < head:
        return f"has read {report.head} of {head} records"
    if report.ready == drained:
        return "is still ready" if drained else "is not ready"
    return ""
