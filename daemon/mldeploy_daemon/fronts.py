"""The agent's lines to the fronts and the mirror: it tells of new tables and hears what is in flight.

One connection to each control socket, JSON lines, answers in order. A front that cannot be connected to is
not running: it has nothing in flight, and reads the table itself when it starts. A front that is connected
but has not answered is alive with whatever it acknowledged before. Who has answered and goes by an earlier
table is told again: it could not read it, or the word was not sent. A table that could not be written goes
along with the word. Left out: what to tell (`agent.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mldeploy.core.evidence import Measure
from mldeploy.core.host import Front
from mldeploy_daemon import clock
from mldeploy_daemon.table import LONGEST_LINE, Table

logger = logging.getLogger(__name__)
MIRROR = "mirror"
#: Seconds until a front that goes on by an earlier table is told again: every answer is a look.
AGAIN = 1.0


class _Counter(msgspec.Struct):
    model: str
    version: int
    requests: dict[str, int] = {}  # by class of status
    failures: int = 0
    last_used: float | None = None


class _Answer(msgspec.Struct):
    pid: int = 0
    started: float = 0.0
    measures: tuple[Measure, ...] | None = None
    generation: int = 0
    inflight: dict[str, int] = {}
    oldest_ms: dict[str, float] = {}
    counters: list[_Counter] | None = None

    @property
    def instance(self) -> str:
        """Tells the process from its successor."""
        return f"{self.pid} {self.started}"


class Total(msgspec.Struct):
    """What all fronts have answered for one version, those that ended included."""

    requests: int = 0
    failures: int = 0
    last_used: float = 0.0  # by the agent's clock

    def add(self, counter: _Counter) -> None:
        """Count one front's in."""
        self.requests += sum(counter.requests.values())
        self.failures += counter.failures
        self.last_used = max(self.last_used, counter.last_used or 0.0)


class Line:
    """The connection to one front, or to the mirror. `heard` is told whenever it says what it has counted."""

    def __init__(
        self,
        index: int,
        name: str,
        changed: Callable[[], None],
        heard: Callable[[str, str, tuple[Measure, ...]], None],
        replaced: Callable[[Line], None],
    ) -> None:
        self.index, self.name, self.changed, self.heard, self.replaced = index, name, changed, heard, replaced
        self.path = f"run/{name.replace(' ', '-')}.sock"
        self.last = _Answer()
        self.instance = ""  # the process that has counted these since its start; it may have ended
        self.counters: list[_Counter] = []
        self.writer: asyncio.StreamWriter | None = None
        self.reading: asyncio.Task[None] | None = None
        self.unanswered = 0
        self.told = -math.inf  # when it was told of a table last

    async def connect(self) -> None:
        """Connect if the front runs and we are not connected."""
        if self.writer is not None:
            return
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        channel.setblocking(False)
        try:
            # of a Unix socket this never waits; a path too long or no listener is an OSError
            channel.connect(self.path)
            reader, self.writer = await asyncio.open_unix_connection(sock=channel, limit=LONGEST_LINE)
        except OSError:
            channel.close()
            return
        self.last, self.unanswered = _Answer(), 0
        self.reading = asyncio.create_task(self._read(reader))

    def say(self, message: dict[str, Any]) -> bool:
        """Send one line; the answer comes by itself. Returns whether it was sent."""
        if self.writer is None or self.unanswered >= 100:  # a front that does not answer is not fed
            return False
        self.unanswered += 1
        self.writer.write(msgspec.json.encode(message) + b"\n")
        return True

    def behind(self, generation: int) -> bool:
        """Whether it has answered everything and goes by an earlier table."""
        return self.writer is not None and not self.unanswered and self.last.generation < generation

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                answer = msgspec.json.decode(line, type=_Answer)
                self.unanswered = max(0, self.unanswered - 1)
                if answer.counters is not None:  # only `stats` tells them
                    self._counted(answer.instance, answer.counters)
                    answer.counters = None
                if answer.measures is not None:
                    self.heard(self.name, answer.instance, answer.measures)
                    answer.measures = None
                self.last = answer
                self.changed()
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            logger.warning("%s: %s", self.name, error)
        finally:
            self.close()
            self.changed()

    def _counted(self, instance: str, counters: list[_Counter]) -> None:
        """In place of what the same process had counted before, over connections that were lost too."""
        if instance != self.instance:
            self.replaced(self)
        for counter in counters:  # now: the clock on the wall may have been set by the time somebody asks
            counter.last_used = counter.last_used and clock.from_wall(counter.last_used)
        self.instance, self.counters = instance, counters

    def close(self) -> None:
        """End the connection."""
        if self.writer is not None:
            with contextlib.suppress(OSError):
                self.writer.close()
            self.writer = None


class Fronts:
    """All of them, and the mirror."""

    def __init__(
        self,
        count: int,
        changed: Callable[[], None],
        heard: Callable[[str, str, tuple[Measure, ...]], None] = lambda *_: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.monotonic = monotonic
        names = [*(f"front {index}" for index in range(count)), MIRROR]
        self.lines = [Line(index, name, changed, heard, self._replaced) for index, name in enumerate(names)]
        self.past: dict[tuple[str, int], Total] = {}  # of processes that others have replaced
        self.generation = 0
        self.unwritten: Table | None = None  # the table of that generation, while the disk does not have it

    async def look(self) -> tuple[Front, ...]:
        """Those that are alive, the mirror last, after trying to connect to those that seemed not to be."""
        for line in self.lines:
            if line.writer is None and Path(line.path).exists():
                await line.connect()
                self._tell(line)
            elif line.behind(self.generation) and self.monotonic() - line.told >= AGAIN:
                self._tell(line)
        return tuple(
            Front(
                index=line.index,
                idle=line.name == MIRROR,
                generation=line.last.generation,
                inflight=line.last.inflight,
            )
            for line in self.lines
            if line.writer is not None
        )

    def tell(self, generation: int) -> None:
        """There is a new table: `unwritten`, or on the disk. Who connects later is told then."""
        self.generation = generation
        for line in self.lines:
            self._tell(line)

    def _tell(self, line: Line) -> None:
        if line.say(self._word()):
            line.told = self.monotonic()

    def _word(self) -> dict[str, Any]:
        word: dict[str, Any] = {"op": "table", "generation": self.generation}
        return word if self.unwritten is None else {**word, "table": self.unwritten}

    def ask(self) -> None:
        """How are you? For what is in flight, for how long, and the counters."""
        for line in self.lines:
            line.say({"op": "stats"})

    def oldest_ms(self) -> dict[str, float]:
        """By worker, the age of the oldest request that any front waits for."""
        oldest: dict[str, float] = {}
        for line in self.lines:
            if line.writer is not None:
                for worker, age in line.last.oldest_ms.items():
                    oldest[worker] = max(age, oldest.get(worker, 0.0))
        return oldest

    def totals(self) -> dict[tuple[str, int], Total]:
        """By model and version, what has been answered since the agent started."""
        totals = {key: msgspec.structs.replace(total) for key, total in self.past.items()}
        for line in self.lines:
            _add(totals, line)
        return totals

    def _replaced(self, line: Line) -> None:
        _add(self.past, line)

    def close(self) -> None:
        """End all connections."""
        for line in self.lines:
            line.close()


def _add(totals: dict[tuple[str, int], Total], line: Line) -> None:
    for counter in line.counters:
        totals.setdefault((counter.model, counter.version), Total()).add(counter)
