"""`host drain --wait`: follow one host until it says of itself what the log says of it: drained, or ready.

Rules: the log as it stands at the call is what the host must have read; at the deadline WaitTimeoutError says
what it said last. Left out: requests in flight, which a load balancer ends, and models (`waiting.py`).
"""

from __future__ import annotations

import threading
import time

from mldeploy.client.connection import Connection
from mldeploy.client.hints import command
from mldeploy.client.hosting import find_host
from mldeploy.client.types import HostEntry
from mldeploy.client.waiting import POLL, TIMEOUT
from mldeploy.errors import WaitTimeoutError
from mldeploy.progress import Reporter


def wait_for_host(
    at: Connection, text: str, environment: str | None, timeout: float | None, reporter: Reporter
) -> HostEntry:
    """See Client.wait_host."""
    timeout = TIMEOUT if timeout is None else timeout
    until = time.monotonic() + timeout
    head = at.refresh().head
    found = find_host(at, text, environment)
    woken = threading.Event()
    stop = at.store.watch(f"hosts/{found.environment}/", woken.set)
    try:
        while True:
            woken.clear()
            why = _missing(found, head)
            if not why:
                return found
            left = until - time.monotonic()
            if left <= 0:
                raise WaitTimeoutError(
                    f"{found.hostname or found.host} {why} after {timeout:g} s",
                    f"it may still happen; {command(f'why {found.host}', found.environment)} says more",
                )
            reporter.step(f"{found.hostname or found.host} {why}")
            woken.wait(min(POLL, left))
            found = find_host(at, found.host, environment)
    finally:
        if stop is not None:
            stop()


def _missing(host: HostEntry, head: int) -> str:
    """What the host has not done; "" where it has done all."""
    if host.head is None or not host.live:
        return "does not report"
    if host.head < head:
        return f"has read {host.head} of {head} records"
    if host.ready == (host.drained is None):
        return ""
    return "is not ready" if host.drained is None else "is still ready"
