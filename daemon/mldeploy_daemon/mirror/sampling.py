"""The requests of stable versions and candidates that are counted for drift, by version and scope.

What was counted of a version that has left the table is told for KEPT seconds more. Left out: the bins
(`drift.py`), and what shadows read and answer (`lane.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mldeploy.core.baseline import INPUTS, OUTPUTS
from mldeploy.core.evidence import Measure
from mldeploy_daemon.mirror.answers import Arrays, Reader
from mldeploy_daemon.mirror.drift import Drifting, read_baseline
from mldeploy_daemon.table import Table, VersionRoutes, scopes_of

#: Seconds for which the counts of an ended scope are told.
KEPT = 3600.0


class Sampled:
    """One version whose requests are counted for drift."""

    def __init__(self, routes: VersionRoutes, drifting: Drifting) -> None:
        self.baseline = routes.baseline
        self.drifting = drifting
        self.scopes: tuple[tuple[int, str], ...] = ()
        self.ended: float | None = None
        self.outputs = Reader(routes.outputs)


class Sampling:
    """All of them, by model and version."""

    def __init__(self) -> None:
        self.versions: dict[tuple[str, int], Sampled] = {}
        self._inputs: dict[tuple[str, int], Reader] = {}

    def route(self, table: Table, now: float) -> None:
        """Which versions are counted from now on, in which scopes."""
        routed = {
            (name, int(number)): (routes, version)
            for name, routes in table.models.items()
            for number, version in routes.versions.items()
            if int(number) in (routes.stable, routes.candidate)
        }
        self._inputs = {
            key: Reader(version.inputs)
            for key, (routes, version) in routed.items()
            if version.baseline or routes.shadows
        }
        for key, (routes, version) in routed.items():
            found = self.versions.get(key)
            if version.baseline and (found is None or found.baseline != version.baseline):
                baseline = read_baseline(Path(version.baseline))
                if baseline is not None:
                    drifting = Drifting(baseline, version.inputs, version.outputs)
                    found = self.versions[key] = Sampled(version, drifting)
            if found is not None:
                found.scopes, found.ended = scopes_of(routes, key[1]), None
        for key, found in self.versions.items():
            if key not in routed and found.ended is None:
                found.scopes, found.ended = (), now
        self._forget(now)

    def _forget(self, now: float) -> None:
        for sampled in self.versions.values():
            sampled.drifting.keep(sampled.scopes, now - KEPT)
        self.versions = {
            key: each for key, each in self.versions.items() if each.ended is None or now - each.ended < KEPT
        }

    def reader(self, key: tuple[str, int]) -> Reader | None:
        """What reads the requests of a version; None where nobody needs them read."""
        return self._inputs.get(key)

    def count(self, key: tuple[str, int], inputs: Arrays | None, answer: bytes, now: float) -> None:
        """A sampled request of a version, and its answer."""
        found = self.versions.get(key)
        if found is not None:
            sides = {INPUTS: inputs or {}, OUTPUTS: found.outputs.answer(answer) or {}}
            found.drifting.count(sides, found.scopes, now)

    def measures(self) -> Iterator[Measure]:
        """What was counted in each scope."""
        for (model, version), sampled in self.versions.items():
            for (scope, role), drift in sampled.drifting.scoped().items():
                yield Measure(model=model, version=version, scope=scope, role=role, drift=drift)

    def current(self) -> dict[tuple[str, int], Drifting]:
        """Those that the table names."""
        return {key: each.drifting for key, each in self.versions.items() if each.ended is None}
