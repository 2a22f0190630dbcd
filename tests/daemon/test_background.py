"""What the agent does beside its loop, where it meets an error nobody expected."""

from __future__ import annotations

import asyncio

import pytest

from mldeploy_daemon import background
from mldeploy_daemon.background import Background


def test_what_ends_of_an_error_is_started_again_and_what_ends_by_itself_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "AGAIN", 0.0)
    begun: list[str] = []

    async def live() -> None:
        there = asyncio.Event()

        async def ship() -> None:
            begun.append("ship")
            if begun.count("ship") == 3:
                there.set()
                await asyncio.Event().wait()
            raise OSError("pairs: Input/output error")

        async def follow() -> None:
            begun.append("follow")  # the store's URL makes no sense

        tasks = Background(ship, follow)
        async with asyncio.timeout(10):
            await there.wait()
        tasks.close()
        await asyncio.gather(*tasks._running, return_exceptions=True)
        assert [task.cancelled() for task in tasks._running] == [True, False]

    asyncio.run(live())
    assert sorted(begun) == ["follow", "ship", "ship", "ship"]
