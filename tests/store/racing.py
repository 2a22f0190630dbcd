"""Many processes append to one log at the same moment; some may be killed. What each was told."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mldeploy.store.objects import ObjectStore
from tests.store.history_checker import Told

ROOT = Path(__file__).parents[2]


@dataclass
class Writer:
    """One process, and what its journal says."""

    process: subprocess.Popen[str]
    journal: Path
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

    def start(self, count: int) -> None:
        """Start so many, and let them go at the same moment."""
        fresh = [self._spawn() for _ in range(count)]
        for writer in fresh:
            assert writer.process.stdout is not None
            assert writer.process.stdout.readline() == "ready\n"
        for writer in fresh:
            assert writer.process.stdin is not None
            writer.process.stdin.write("go\n")
            writer.process.stdin.flush()

    def _spawn(self) -> Writer:
        name = f"w{len(self.writers)}"
        journal = self.scratch / f"{name}.journal"
        command = [sys.executable, "-m", "tests.store.appender", self.url, name, str(self.each), str(journal)]
        process = subprocess.Popen(
            [*command, self.driver],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=self.env,
        )  # fmt: skip
        self.writers.append(Writer(process, journal))
        return self.writers[-1]

    def kill(self, draw: random.Random) -> bool:
        """kill -9 one that runs and has begun; False if none does."""
        running = [one for one in self.writers if one.process.poll() is None and one.lines()]
        if not running:
            return False
        victim = draw.choice(running)
        victim.process.kill()
        victim.process.wait()
        victim.killed = True
        return True

    def finish(self, seconds: float) -> list[Told]:
        """Wait for all; each that was not killed must have done all of its work."""
        end = time.monotonic() + seconds
        for writer in self.writers:
            writer.process.wait(max(end - time.monotonic(), 0.1))
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

    With `kills`, `victims` of them are killed at moments that it draws, and others started in their place.
    """
    pause = threading.Event()
    with racing(Race(url, scratch, each, driver, env)) as running:
        running.start(writers)
        for _ in range(victims):
            assert kills is not None
            pause.wait(kills.random() * 0.5)
            if running.kill(kills):
                running.start(1)
        return running.finish(seconds)


def read_store(store: ObjectStore) -> dict[int, bytes]:
    """Everything in the log/ of a store by number, found by listing it."""
    found = {}
    for entry in store.list("log/"):
        fetched = store.get(entry.key)
        assert fetched is not None
        found[int(entry.key.removeprefix("log/").removesuffix(".json"))] = fetched.data
    return found
