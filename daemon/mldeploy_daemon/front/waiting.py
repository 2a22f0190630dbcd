"""Requests that wait for a version to wake, each until its deadline; and the word to the agent.

The agent is told by a datagram as soon as the first request waits and again while any does: it forgets who is
not asked for any more, and one that was restarted has heard nothing. Whether it hears is its own affair: the
requests have their deadlines. Left out: when to try again, and what is answered (`dispatch.py`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator

import msgspec

from mldeploy_daemon.front.exchange import Exchange

#: Where the agent hears, relative to the state folder.
AGENT = "run/agent.sock"
#: Seconds between two words to the agent of one version.
REMIND = 0.5

log = logging.getLogger(__name__)
_Key = tuple[str, int]


class Waiting:
    """By version, in the order of their coming; at most `most` for each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[_Key, list[Exchange]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, exchange: Exchange, model: str, version: int) -> bool:
        """Keep it; False where too many wait already."""
        held = self._held.setdefault((model, version), [])
        if len(held) >= self._most:
            return False
        held.append(exchange)
        if len(held) == 1:
            self._tell((model, version))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REMIND, self._ring)
        return True

    def drop(self, exchange: Exchange) -> bool:
        """It waits no longer. False if it did not."""
        for key, held in tuple(self._held.items()):
            if exchange in held:
                held.remove(exchange)
                if not held:
                    del self._held[key]
                return True
        return False

    def take(self, keys: set[_Key]) -> list[Exchange]:
        """Take out everything that waits for these versions."""
        return [exchange for key in keys for exchange in self._held.pop(key, ())]

    def versions(self) -> set[_Key]:
        """The versions that are waited for."""
        return set(self._held)

    def exchanges(self) -> Iterator[Exchange]:
        """Everything that waits."""
        for held in self._held.values():
            yield from held

    def count(self, model: str, version: int) -> int:
        """How many wait for a version."""
        return len(self._held.get((model, version), ()))

    def close(self) -> None:
        """Tell nobody any more."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        for key, held in tuple(self._held.items()):
            self._held[key] = held = [
                exchange for exchange in held if exchange.conn
            ]  # their clients are gone
            if held:
                self._tell(key)
            else:
                del self._held[key]
        if self._held:
            self._timer = asyncio.get_running_loop().call_later(REMIND, self._ring)

    @staticmethod
    def _tell(key: _Key) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
                channel.sendto(msgspec.json.encode({"wake": key}), AGENT)
        except OSError as error:  # it is being restarted, or has much to do: it is told again soon
            log.info("the agent was not told to wake %s@%d: %s", *key, error)
