"""One request and its answer, from the first byte to the last: the state everything here passes along.

Mutable on purpose, and a plain class: there is one for every request, and fields that keep their defaults
cost nothing that way (half the time of a Struct, measured). `worker` is set where a request is counted in
flight and cleared where it is uncounted, both in `dispatch.py`; nothing else may touch it.
"""

from __future__ import annotations

import itertools
import math
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mldeploy_daemon.front.feed import Feed
    from mldeploy_daemon.front.http import Connection
    from mldeploy_daemon.front.metrics import Count, Series
    from mldeploy_daemon.front.router import Route
    from mldeploy_daemon.front.routes import Version
    from mldeploy_daemon.front.upstream import Worker


class Exchange:
    """See the fields. `conn` is None once the client is gone."""

    conn: Connection | None
    headers: dict[bytes, bytes]  # lower-case names
    method: str = ""
    url: bytes = b""
    body: bytes = b""
    size: int = 0  # bytes counted against Limits.buffered_bytes
    keep: bool = True  # the connection stays open after the answer
    old: bool = False  # HTTP/1.0
    refusal: tuple[int, str] | None = None  # answered without being looked at
    started: float = 0.0  # monotonic seconds: it was complete, and those before it on its connection answered
    request_id: bytes = b""
    kind: str = ""  # of the route, for metrics
    answered: bool = False  # the client has its answer, or is gone for good

    # a prediction
    route: Route | None = None
    version: Version | None = None
    series: Series | None = None  # where it is counted
    counts: tuple[Count, ...] = ()  # and where as evidence, unless it names its version
    feed: Feed | None = None  # who gets a copy of it, unless it names its version
    worker: Worker | None = None  # counted in flight there
    avoid: tuple[str, ...] = ()  # workers that could not take it
    ident: int = 0  # of the frame
    header: int = 0  # bytes of the JSON header of a binary-tensor body
    assigned: float = 0.0  # monotonic seconds, when the worker was chosen
    deadline: float = math.inf  # monotonic seconds
    sent: bool = False
    retried: bool = False

    def __init__(self, conn: Connection | None) -> None:
        self.conn = conn
        self.headers = {}

    def header_text(self, name: str) -> str | None:
        """A header by its lower-case name; None where there is none."""
        value = self.headers.get(name.encode())
        return None if value is None else value.decode("utf-8", "replace")


#: No two fronts, and no two starts of one, generate the same ids.
_prefix = b"%s-" % os.urandom(8).hex().encode()
_numbers = itertools.count(1)
_MAX_ID = 128


def request_id(given: bytes | None) -> bytes:
    """The client's id, if it is one to 128 visible ASCII characters; else a new one."""
    if given and len(given) <= _MAX_ID and given.isascii() and b" " not in given and b"\t" not in given:
        return given
    return b"%b%x" % (_prefix, next(_numbers))
