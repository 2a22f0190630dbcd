"""What is given empty, as by a script whose variable is unset, is refused and never means a default."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mldeploy import Client
from mldeploy.errors import UsageError

from .conftest import Ran, World

Cli = Callable[..., Ran]


def test_no_model_is_not_every_model(world: World, cli: Cli) -> None:
    world.publish()
    cli("freeze", "--all", "--reason", "audit")
    head = world.head()
    for call in (("unfreeze", ""), ("freeze", ""), ("freeze", " "), ("unfreeze", "", "--all")):
        assert cli(*call).code == 2, call
    client = Client(world.url)
    for method in (client.freeze, client.unfreeze):
        with pytest.raises(UsageError):
            method("")
    assert world.head() == head
