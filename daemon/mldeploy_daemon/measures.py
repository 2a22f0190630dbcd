"""What this host has counted as evidence, kept over the ends of fronts, mirror and agent: measures.json.

Fronts and mirror count from zero at their start and tell the sums; the newest word of each replaces the one
before, and is added to the past when another process takes its place. So nothing is counted twice, whoever
restarts, and a process that is killed takes what it counted since its last word (two seconds) with it.
A scope is kept for an hour after it has left the table.
Left out: what counts (`front/metrics.py`, `mirror/`), the file (`measure_file.py`), and what follows.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from operator import is_not

import msgspec

from mldeploy.core.evidence import Measure, Tally, merge
from mldeploy.errors import DiskError
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.measure_file import MEASURES, Heard, Kept, scope_key, without
from mldeploy_daemon.table import Scopes, Table, scopes_in

logger = logging.getLogger(__name__)
#: What `Measure.key` is.
Key = tuple[str, int, int, str]
#: Seconds between two writings.
WRITE = 2.0


class Measures:
    """One host's."""

    def __init__(
        self, disk: Disk, now: Callable[[], float], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.disk, self.now, self.monotonic = disk, now, monotonic
        self.kept = Kept()
        self._past: dict[Key, Measure] = {}  # as `kept` has it when it is written
        self._changed = False
        self._written = 0.0
        self._lost = False  # whether the disk did not take it the last time
        # by the key of a measure: what it was added up from, and the sum; most have ended and stay so
        self._sums: dict[Key, tuple[tuple[Measure, ...], Measure]] = {}

    def load(self) -> None:
        """Go on from measures.json."""
        data = self.disk.read(str(MEASURES))
        if data is not None:
            with contextlib.suppress(msgspec.MsgspecError):
                self.kept = msgspec.json.decode(data, type=Kept)
        self._past = {measure.key: measure for measure in merge(self.kept.past)}

    def heard(self, who: str, instance: str, measures: tuple[Measure, ...]) -> None:
        """`who` (a front, or the mirror) is the process `instance`, and has counted this since its start."""
        before = self.kept.heard.get(who)
        if before is not None and before.instance != instance:
            self._take(before.measures)
            self._written = 0.0  # soon on the disk: its source is gone
        if before is None or before.instance != instance or before.measures != measures:
            known = {each.key: each for each in before.measures} if before is not None else {}
            same = tuple(was if (was := known.get(each.key)) == each and was else each for each in measures)
            self.kept.heard[who] = Heard(instance, same)
            self._changed = True

    def crashed(self, scopes: Scopes, model: str, version: int, *, idle: bool) -> None:
        """A worker of that version, which had its part in these scopes, has ended unasked."""
        self._add(scopes, model, version, idle=idle, tally=Tally(crashes=1))

    def weighed(self, table: Table, model: str, version: int, private: int, *, idle: bool) -> None:
        """A worker of that version was seen with so many bytes of its own."""
        self._add(scopes_in(table, model, version), model, version, idle=idle, tally=Tally(memory=private))

    def _add(self, scopes: Scopes, model: str, version: int, *, idle: bool, tally: Tally) -> None:
        self._take(
            Measure(model=model, version=version, scope=scope, role=role, tally=tally)
            for scope, role in scopes
            if (role == "shadow") == idle
        )

    def _take(self, measures: Iterable[Measure]) -> None:
        """Add these to the past. Most say nothing new: a worker is weighed at every look."""
        for measure in measures:
            before = self._past.get(measure.key)
            now = measure if before is None else before.merge(measure)
            if now != before:
                self._past[measure.key], self._changed = now, True

    def _every(self) -> Iterator[Measure]:
        """The past and every last word, not added up."""
        yield from self._past.values()
        for each in self.kept.heard.values():
            yield from each.measures

    def all(self) -> tuple[Measure, ...]:
        """Everything, of scopes under way and of those that ended within the hour."""
        return without(self._total(), self.kept.over(self.now()))

    def _total(self) -> tuple[Measure, ...]:
        """`total`, added up anew only where something has changed."""
        parts: dict[Key, list[Measure]] = {}
        for measure in self._every():
            parts.setdefault(measure.key, []).append(measure)
        sums = {}
        for key in sorted(parts):
            mine, known = tuple(parts[key]), self._sums.get(key)
            same = known is not None and len(known[0]) == len(mine) and not any(map(is_not, known[0], mine))
            sums[key] = known if known is not None and same else (mine, merge(mine)[0])
        self._sums = sums
        return tuple(added for _, added in sums.values())

    def keep(self, table: Table) -> None:
        """Forget scopes that left the table an hour ago, and write the file if it is time.

        When one ended is remembered for as long as somebody tells of it: else it would come back as new.
        """
        named = {
            scope_key(name, scope)
            for name, routes in table.models.items()
            for scope in (routes.scope, *(shadow.scope for shadow in routes.shadows))
        }
        now = self.now()
        known = {scope_key(measure.model, measure.scope) for measure in self._every()}
        # a run before this one may have gone by a clock that was ahead
        self.kept.ended = {key: min(self.kept.ended.get(key, now), now) for key in known - named}
        left = without(self._past.values(), self.kept.over(now))
        if len(left) < len(self._past):
            self._past, self._changed = {measure.key: measure for measure in left}, True
        if self._changed and self.monotonic() - self._written >= WRITE:
            self.write()

    def write(self) -> None:
        """Now."""
        self._changed, self._written = False, self.monotonic()
        self.kept.past = tuple(self._past.values())
        try:
            self.disk.write(str(MEASURES), msgspec.json.encode(self.kept))
        except DiskError as error:  # it is in memory, and written with the next change
            if not self._lost:
                logger.error("%s", error)
            self._lost = True
        else:
            self._lost = False
