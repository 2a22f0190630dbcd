"""Trying again, for requests that may be sent twice: reads, overwrites and deletes, never a create.

Rules: the pause doubles, is random between half and all of it, and is longer where the server asked for fewer
requests; no attempt begins after the bound. A throttled server is told of once a call, by a log message.
Left out: what a failure means (`store/s3_errors.py`), and a create, whose outcome is resolved by reading.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
_log = logging.getLogger("mldeploy.store")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt that failed says: is there a point in another, and does the server ask for fewer?"""

    again: bool
    throttled: bool = False
    connected: bool = True  # false: no connection was made, which seldom passes by itself


@dataclass(frozen=True, slots=True)
class Patience:
    """`bound`: seconds from the first attempt after which none begins. Pauses in seconds."""

    bound: float = 15.0
    first: float = 0.1
    most: float = 2.0
    connects: int = 3  # attempts where no connection is made
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random


def persist(
    attempt: Callable[[], T],
    judge: Callable[[Exception], Verdict],
    what: str,
    patience: Patience | None = None,
) -> T:
    """What `attempt` returns. Raises its last error when another is not worth it, or at the bound.

    `what` names the store in the message about throttling.
    """
    patience = patience or Patience()
    end = patience.monotonic() + patience.bound
    tries, said = 0, False
    while True:
        try:
            return attempt()
        except Exception as error:
            verdict = judge(error)
            tries += 1
            pause = min(patience.first * 2 ** (tries - 1), patience.most) * (4 if verdict.throttled else 1)
            pause *= 0.5 + patience.chance() / 2
            if not verdict.again or patience.monotonic() + pause >= end:
                raise
            if not verdict.connected and tries >= patience.connects:
                raise
            if verdict.throttled and not said:
                said = True
                _log.warning("%s asks for fewer requests: going on more slowly", what)
        patience.sleep(pause)
