"""What a host proposes is appended, each proposal by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from mldeploy.core.records import Action, Forget, Join
from mldeploy.core.state import State
from mldeploy.errors import MldeployError, StoreError, UsageError
from mldeploy.store.objects import open_store
from mldeploy_daemon.config import Config
from mldeploy_daemon.duties import RETRY
from mldeploy_daemon.steer import Steerer
from mldeploy_daemon.steering import Turn
from tests.core.test_actions import after

HOSTS = ("h0", "h1", "h2")
STATE = after(*(Join(host=host) for host in HOSTS))


class Following:
    """What a Steerer needs of a Follower: a log that does not take everything."""

    def __init__(self, errors: dict[str, MldeployError]) -> None:
        self.errors, self.state, self.tried = errors, STATE, list[str]()

    async def append(self, intent: Callable[[State], tuple[Action, ...]]) -> SimpleNamespace:
        (action,) = intent(self.state)
        assert isinstance(action, Forget)
        self.tried.append(action.host)
        if action.host in self.errors:
            raise self.errors[action.host]
        return SimpleNamespace(seq=9)


def steerer(following: Following) -> Steerer:
    made = Steerer(Config(store="", state=""), "h9", following)  # type: ignore[arg-type]
    turn = Turn(actions=tuple(Forget(host=host) for host in HOSTS), pause=600.0)
    made._steering = SimpleNamespace(look=lambda _: turn)  # type: ignore[assignment]
    return made


def once(made: Steerer) -> float:
    try:
        return asyncio.run(made.once(STATE, open_store("memory://steer", create=True)))
    finally:
        made.pool.shutdown()


def test_a_proposal_that_cannot_be_appended_keeps_no_other_back() -> None:
    following = Following({"h0": UsageError("too long", "say less")})
    assert once(steerer(following)) == RETRY
    assert following.tried == list(HOSTS)
    assert once(steerer(Following({}))) == 600.0


def test_a_store_that_cannot_be_reached_is_asked_for_no_more() -> None:
    following = Following({"h1": StoreError("503 Slow Down", "later")})
    with pytest.raises(StoreError):
        once(steerer(following))
    assert following.tried == ["h0", "h1"]
