"""What one front has counted: per version, per version and scope of the evidence, per kind of request.

Plain integers, no locks: one thread.

Counters start at zero with the process. A version's are dropped an hour after it left the routing table, so
that a host with hundreds of deployments a day does not carry them all for ever.
Left out: adding fronts up and the text format (`exposition.py`).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import Any

from mldeploy.core.evidence import LAST_BUCKET, Comparison, Latency, Measure, Tally, edge
from mldeploy_daemon.table import SHADOW

#: Upper bounds of the latency histogram, seconds; one more bucket holds what is beyond.
BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
#: Status classes as they are written.
CLASSES = ("0xx", "1xx", "2xx", "3xx", "4xx", "5xx")
_KEPT = 3_600.0
#: Upper edges of the evidence's buckets but the last: `evidence.bucket` without its logarithm.
_EDGES = tuple(edge(index) for index in range(LAST_BUCKET))


class Series:
    """The predictions of one version (version 0: those that no version could be chosen for)."""

    def __init__(self, model: str, version: int) -> None:
        self.model = model
        self.version = version
        self.requests = [0] * len(CLASSES)
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.bytes_in = 0
        self.bytes_out = 0
        self.retries = 0
        self.held = 0
        self.last = 0.0  # monotonic seconds of the last answer; 0.0: none yet
        self.unrouted: float | None = None  # monotonic seconds since when no table names it

    def observe(self, status: int, seconds: float, received: int, sent: int, now: float) -> None:
        """One request was answered: `status`, after `seconds`, with bodies of so many bytes."""
        self.requests[min(status // 100, 5)] += 1
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds
        self.bytes_in += received
        self.bytes_out += sent
        self.last = now

    def dump(self, wall: float, now: float) -> dict[str, Any]:
        """As it goes over the control socket."""
        requests = {name: count for name, count in zip(CLASSES, self.requests, strict=True) if count}
        return {
            "model": self.model,
            "version": self.version,
            "requests": requests,
            "failures": self.requests[5],
            "buckets": self.buckets,
            "seconds": self.seconds,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "retries": self.retries,
            "held": self.held,
            "last_used": wall - (now - self.last) if self.last else None,
        }


class Count:
    """The requests routed to one version in one scope: what the evidence of verdicts is made of.

    A request that names a version by itself is not among them.
    """

    def __init__(self, model: str, version: int, scope: int, role: str) -> None:
        self.key = (model, version, scope, role)
        self.requests = 0
        self.failures = 0
        self.refusals = 0
        self.latency = [0] * (LAST_BUCKET + 1)
        self.offered = 0  # to a shadow
        self.dropped = 0  # of these, never copied
        self.unrouted: float | None = None

    def observe(self, status: int, seconds: float) -> None:
        """One was answered, or lost (500 or more), after `seconds`."""
        self.requests += 1
        if status >= 400:
            if status >= 500:
                self.failures += 1
            else:
                self.refusals += 1
        self.latency[bisect_left(_EDGES, seconds)] += 1

    def measure(self) -> Measure:
        """As the agent and the evidence have it."""
        model, version, scope, role = self.key
        tally = Tally(
            requests=self.requests,
            failures=self.failures,
            refusals=self.refusals,
            latency=Latency({index: count for index, count in enumerate(self.latency) if count}),
        )
        offered = Comparison(offered=self.offered, dropped=self.dropped) if role == SHADOW else None
        return Measure(model=model, version=version, scope=scope, role=role, tally=tally, comparison=offered)


class Metrics:
    """All of a front's counters."""

    def __init__(self) -> None:
        self.started = time.time()
        self._series: dict[tuple[str, int], Series] = {}
        self._counts: dict[tuple[str, int, int, str], Count] = {}
        self._http: dict[str, list[int]] = {}
        self.connections = 0  # accepted
        self.refused = 0  # beyond the cap

    def series(self, model: str, version: int) -> Series:
        """The series of a version, made when first asked for."""
        found = self._series.get((model, version))
        if found is None:
            found = self._series[model, version] = Series(model, version)
        return found

    def scoped(self, model: str, version: int, scope: int, role: str) -> Count:
        """The count of a version in a scope, made when first asked for."""
        key = (model, version, scope, role)
        found = self._counts.get(key)
        if found is None:
            found = self._counts[key] = Count(*key)
        return found

    def count(self, kind: str, status: int) -> None:
        """One HTTP request of whatever kind was answered."""
        counts = self._http.get(kind)
        if counts is None:
            counts = self._http[kind] = [0] * len(CLASSES)
        counts[min(status // 100, 5)] += 1

    def routed(self, keys: set[tuple[str, int]], scopes: set[tuple[str, int]], now: float) -> None:
        """A new table names these versions and scopes: forget what has been out of it for an hour."""
        for key, series in tuple(self._series.items()):
            if _over(series, key in keys, now):
                del self._series[key]
        for scoped, count in tuple(self._counts.items()):
            if _over(count, (scoped[0], scoped[2]) in scopes, now):
                del self._counts[scoped]

    def dump(self) -> dict[str, Any]:
        """As it goes over the control socket."""
        wall, now = time.time(), time.monotonic()
        return {
            "counters": [series.dump(wall, now) for series in self._series.values()],
            "measures": [count.measure() for count in self._counts.values()],
            "http": {kind: dict(zip(CLASSES, counts, strict=True)) for kind, counts in self._http.items()},
            "accepted": self.connections,
            "refused": self.refused,
            "started": self.started,
        }


def _over(counted: Series | Count, named: bool, now: float) -> bool:
    """Whether it has been out of the table for so long that it is to be forgotten."""
    if named:
        counted.unrouted = None
    elif counted.unrouted is None:
        counted.unrouted = now
    return counted.unrouted is not None and now - counted.unrouted > _KEPT
