"""`demo`: the main job on real data (`mldeploy/demo/`)."""

from __future__ import annotations

from typing import Annotated

import typer

from mldeploy.cli.arguments import new_app
from mldeploy.cli.options import Command
from mldeploy.cli.session import Session

app = new_app()


@app.command(cls=Command)
def demo(
    ctx: typer.Context,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where the daemon answers.")
    ] = "127.0.0.1:8080",
    keep: Annotated[bool, typer.Option("--keep", help="Leave daemon and store running.")] = False,
) -> None:
    """Train, pack, push, serve, swap under load, roll back and retire, on the digits data set."""
    from mldeploy.demo.run import run

    session = Session(ctx)
    with session.output.reporter() as reporter:
        result = run(store=session.options.store, listen=listen, keep=keep, reporter=reporter)
    if session.output.json:
        session.output.document("mldeploy.demo/1", result)
