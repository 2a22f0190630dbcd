"""`serve`: run a model folder locally and reload it when it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mldeploy.cli.arguments import new_app
from mldeploy.cli.options import Command
from mldeploy.cli.session import Session

app = new_app()


@app.command(cls=Command)
def serve(
    ctx: typer.Context,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A model folder.", show_default=False)],
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to answer; port 0 takes a free one.")
    ] = "127.0.0.1:8080",
) -> None:
    """Run a model folder on a local daemon and reload it when it changes; Ctrl-C ends and removes it all."""
    from mldeploy.client.serving import serving

    session = Session(ctx)
    session.refuse("store", "environment")
    output = session.output
    source = Path(folder).expanduser()
    with output.reporter() as reporter, serving(source, listen, reporter) as running:
        first = running.reload()
        assert first is not None
        reporter.info(f"{first.model}@{first.version} is up after {first.seconds:.1f} s; Ctrl-C ends it")
        reporter.info(first.curl)
        if output.json:
            output.document("mldeploy.serve/1", first)
        else:
            output.line(first.url)
        try:
            running.follow(
                lambda served: reporter.info(
                    f"reloaded: {served.model}@{served.version} in {served.seconds:.1f} s"
                ),
                lambda error: reporter.problem(error.message, error.hint),
            )
        except KeyboardInterrupt:
            reporter.info("stopping")
