"""The agent's lines: fronts that could not take a table, or could not be told of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mldeploy_daemon.fronts import AGAIN, Fronts


class Front:
    """The other end: answers with `generation` while `answers` is set, and notes what it was asked."""

    def __init__(self) -> None:
        self.generation = 0
        self.more: dict[str, Any] = {}
        self.heard: list[str] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self._serving: set[asyncio.Task[None] | None] = set()

    async def listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, "run/front-0.sock")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())
        while line := await reader.readline():
            await self.answers.wait()
            self.heard.append(msgspec.json.decode(line)["op"])
            writer.write(msgspec.json.encode({"generation": self.generation, **self.more}) + b"\n")
        writer.close()
        await writer.wait_closed()

    async def close(self) -> None:
        """Once the other side has hung up."""
        await asyncio.gather(*(task for task in self._serving if task is not None))
        self._server.close()

    @property
    def tables(self) -> int:
        return self.heard.count("table")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()


async def _until(condition: Callable[[], bool], again: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await again()
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def linked(monotonic: Callable[[], float]) -> AsyncIterator[tuple[Fronts, Front]]:
    """A front that the agent has reached."""
    front, fronts = Front(), Fronts(1, lambda: None, monotonic=monotonic)
    await front.listen()
    await _until(lambda: front.tables == 1, fronts.look)
    try:
        yield fronts, front
    finally:
        fronts.close()
        async with asyncio.timeout(10):
            await front.close()


async def _looks(fronts: Fronts, front: Front) -> None:
    """Twenty, each with an answer."""
    line = fronts.lines[0]
    for _ in range(20):
        fronts.ask()
        await _until(lambda: not line.unanswered, fronts.look)


def test_a_front_that_could_not_take_a_table_is_told_again_and_not_at_every_look() -> None:
    now = 0.0

    async def talk() -> None:
        nonlocal now
        async with linked(lambda: now) as (fronts, front):
            front.generation = 4
            fronts.tell(5)  # it is out of file descriptors
            for told in (2, 3, 4):
                await _until(lambda told=told: front.tables == told, fronts.look)  # type: ignore[misc]
                await _looks(fronts, front)
                assert front.tables == told
                now += AGAIN
            front.generation = 5
            await _looks(fronts, front)
            now += AGAIN
            before = front.tables
            await _looks(fronts, front)
            assert front.tables == before, "it has it"

    asyncio.run(talk())


def test_a_front_that_was_not_fed_while_it_did_not_answer_hears_of_the_table_after_all() -> None:
    now = 0.0

    async def talk() -> None:
        nonlocal now
        async with linked(lambda: now) as (fronts, front):
            now += AGAIN
            front.answers.clear()
            for _ in range(150):
                fronts.ask()
            fronts.tell(5)
            assert front.tables == 1
            front.answers.set()
            await _until(lambda: front.tables == 2, fronts.look)

    asyncio.run(talk())


def test_what_a_front_has_counted_counts_once_however_often_the_connection_is_lost() -> None:
    async def talk() -> None:
        async with linked(lambda: 0.0) as (fronts, front):
            line = fronts.lines[0]

            async def counted(pid: int, requests: int) -> int:
                series = {"model": "m", "version": 1, "requests": {"2xx": requests}}
                front.more = {"pid": pid, "started": 1.0, "counters": [series]}
                await _until(lambda: not line.unanswered, fronts.look)
                fronts.ask()
                await _until(lambda: not line.unanswered, fronts.look)
                return fronts.totals()["m", 1].requests

            async def lost() -> int:
                tables = front.tables
                fronts.close()
                await _until(lambda: front.tables > tables, fronts.look)
                return fronts.totals()["m", 1].requests

            assert await counted(pid=7, requests=7) == 7
            assert await lost() == 7, "nothing is forgotten meanwhile"
            assert await counted(pid=7, requests=8) == 8
            assert await lost() == 8
            assert await counted(pid=9, requests=2) == 10, "another process, from zero"
            assert await lost() == 10
            assert await counted(pid=9, requests=3) == 11

    asyncio.run(talk())
