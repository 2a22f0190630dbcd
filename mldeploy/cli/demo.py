"""`demo`: the main job on real data (`mldeploy/demo/`)."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from mldeploy.cli.arguments import new_app
from mldeploy.cli.options import Command
from mldeploy.cli.session import Session
from mldeploy.errors import UsageError

app = new_app()


class Scenario(Enum):
    """What is played."""

    SWAP = "swap"
    ROLLOUT = "rollout"


_SCHEMAS = {Scenario.SWAP: "mldeploy.demo/1", Scenario.ROLLOUT: "mldeploy.demo-rollout/1"}


@app.command(cls=Command)
def demo(
    ctx: typer.Context,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where the daemon answers.")
    ] = "127.0.0.1:8080",
    keep: Annotated[bool, typer.Option("--keep", help="Leave daemon and store running.")] = False,
    scenario: Annotated[
        Scenario,
        typer.Option("--scenario", help="swap: versions by hand; rollout: ramps that steer themselves."),
    ] = Scenario.SWAP,
) -> None:
    """Train, pack, push, serve, swap under load, roll back and retire, on the digits data set.

    The scenario `rollout` takes some minutes: a good candidate goes from shadow to all traffic by itself, a
    bad one is halted, and a version past its expiry is retired once nobody asks for it.
    """
    session = Session(ctx)
    session.refuse("environment")
    if scenario is Scenario.ROLLOUT and keep:
        raise UsageError("--keep does not go with --scenario rollout", "leave one of them out")
    with session.output.reporter() as reporter:
        if scenario is Scenario.ROLLOUT:
            from mldeploy.demo import rollout

            result = rollout.run(store=session.options.store, listen=listen, reporter=reporter)
        else:
            from mldeploy.demo import run as swap

            result = swap.run(store=session.options.store, listen=listen, keep=keep, reporter=reporter)
    if session.output.json:
        session.output.document(_SCHEMAS[scenario], result)
