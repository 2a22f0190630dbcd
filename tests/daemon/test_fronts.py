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
        self._writer: asyncio.StreamWriter | None = None
        self._left = asyncio.Event()

    async def listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, "run/front-0.sock")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._left.clear()
        while line := await reader.readline():
            await self.answers.wait()
            self.heard.append(msgspec.json.decode(line)["op"])
            writer.write(msgspec.json.encode({"generation": self.generation, **self.more}) + b"\n")
        writer.close()
        await writer.wait_closed()
        self._left.set()

    async def close(self) -> None:
        """Once the other side has hung up."""
        await self._left.wait()
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
