"""Many processes append to one log at the same moment; some may be killed. What each was told.

Those that are to be killed have no end of work, so that each is alive at its moment; and the moments are
drawn among the records of the whole race, not among its seconds.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mldeploy.store.objects import ObjectStore
from tests.store.history_checker import Told
from tests.support.daemons import until

ROOT = Path(__file__).parents[2]
#: More records than any race has time for.
ENDLESS = 10**9


@dataclass
class Writer:
    """One process, and what its journal says. One that is `doomed` appends until it is killed."""

    process: subprocess.Popen[str]
    journal: Path
    doomed: bool = False
    killed: bool = False

    def lines(self) -> list[list[str]]:
        """The whole lines of its journal: the last may be cut by a kill."""
        text = self.journal.read_text() if self.journal.exists() else ""
        return [line.split() for line in text.split("\n")[:-1]]

    def told(self) -> Told:
        lines = self.lines()
        return Told(
            acknowledged=[(line[1], int(line[2])) for line in lines if line[0] == "told"],
            tried={line[1] for line in lines if line[0] == "tried"},
        )


@dataclass
class Race:
    """Writers on the store at `url`, with their journals in `scratch`."""

    url: str
    scratch: Path
    each: int
    driver: str = ""
    env: Mapping[str, str] | None = None
    writers: list[Writer] = field(default_factory=list)

    def ready(self, count: int, doomed: bool = False) -> list[Writer]:
        """So many more, that wait to be let go."""
        fresh = [self._spawn(doomed) for _ in range(count)]
        for writer in fresh:
            assert writer.process.stdout is not None
            assert writer.process.stdout.readline() == "ready\n"
        return fresh

    def _spawn(self, doomed: bool) -> Writer:
        name = f"w{len(self.writers)}"
        journal = self.scratch / f"{name}.journal"
        each = ENDLESS if doomed else self.each
        command = [sys.executable, "-m", "tests.store.appender", self.url, name, str(each), str(journal)]
        process = subprocess.Popen(
            [*command, self.driver],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=self.env,
        )  # fmt: skip
        self.writers.append(Writer(process, journal, doomed))
        return self.writers[-1]

    def kill(self, victim: Writer, records: int, seconds: float) -> None:
        """kill -9 it, once it has begun and all of them have been told of so many records."""
        until(lambda: victim.lines() and self.records() >= records, f"{records} records", seconds, every=0.05)
        victim.process.kill()
        victim.killed = victim.process.wait() == -signal.SIGKILL

    def records(self) -> int:
        """How many have been acknowledged by now."""
        # asked often: every line of every journal is not taken apart each time
        there = [writer.journal for writer in self.writers if writer.journal.exists()]
        return sum(journal.read_bytes().count(b"\ntold ") for journal in there)

    def finish(self, seconds: float) -> list[Told]:
        """Wait for all; each that was to be killed was, and all others have done all of their work."""
        end = time.monotonic() + seconds
        for writer in self.writers:
            writer.process.wait(max(end - time.monotonic(), 0.1))
            assert writer.killed == writer.doomed
            assert writer.killed or (writer.process.returncode == 0 and writer.lines()[-1] == ["done"])
        return [writer.told() for writer in self.writers]


@contextlib.contextmanager
def racing(race: Race) -> Iterator[Race]:
    """Nothing of it is left running."""
    try:
        yield race
    finally:
        for writer in race.writers:
            writer.process.kill()
            writer.process.communicate()


def race(
    url: str,
    scratch: Path,
    writers: int,
    each: int,
    driver: str = "",
    env: Mapping[str, str] | None = None,
    *,
    kills: random.Random | None = None,
    victims: int = 0,
    seconds: float = 280.0,
) -> list[Told]:
    """`writers` processes append `each` records; what they were told.

    With `kills`, `victims` more are killed, one after the other and each amid the others, when as many
    records have been written as it draws.
    """
    end = time.monotonic() + seconds
    with racing(Race(url, scratch, each, driver, env)) as running:
        regular, doomed = running.ready(writers), running.ready(victims, doomed=True)
        moments = sorted(kills.sample(range(1, writers * each), victims)) if kills is not None else []
        go(*regular)
        for victim, moment in zip(doomed, moments, strict=True):
            go(victim)
            running.kill(victim, moment, end - time.monotonic())
        return running.finish(end - time.monotonic())


def go(*writers: Writer) -> None:
    """Let them go at the same moment."""
    for writer in writers:
        assert writer.process.stdin is not None
        writer.process.stdin.write("go\n")
        writer.process.stdin.flush()


def read_store(store: ObjectStore) -> dict[int, bytes]:
    """Everything in the log/ of a store by number, found by listing it."""
    found = {}
    for entry in store.list("log/"):
        fetched = store.get(entry.key)
        assert fetched is not None
        found[int(entry.key.removeprefix("log/").removesuffix(".json"))] = fetched.data
    return found
