"""`predict`: ask a running daemon for a prediction."""

from __future__ import annotations

from typing import Annotated

import typer

from mldeploy.cli.arguments import Model, new_app, time_limit
from mldeploy.cli.options import Command
from mldeploy.cli.session import Session

app = new_app()


@app.command(cls=Command)
def predict(
    ctx: typer.Context,
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FILE|-",
            help="A whole request, or rows for a model of one input. Without it: the packed sample.",
            show_default=False,
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="A daemon. Default: a live host's.", show_default=False),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version", metavar="N", help="This version; or stable, candidate, previous.", show_default=False
        ),
    ] = None,
    curl: Annotated[bool, typer.Option("--curl", help="Print the curl line, and send nothing.")] = False,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            metavar="TIME",
            help="How long to wait for an answer. Default: 30s; of the curl line none.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Ask a model for a prediction; prints the answer (Open Inference Protocol v2)."""
    session = Session(ctx)
    limit = time_limit(timeout)
    client = session.client()
    if curl:
        line = client.curl(model, data=data, url=url, version=version, timeout=limit)
        if session.output.json:
            session.output.document("mldeploy.curl/1", {"curl": line})
        else:
            session.output.line(line)
        return
    answer = client.predict(model, data=data, url=url, version=version, timeout=limit)
    if session.output.json:
        session.output.document("mldeploy.predict/1", answer)
        return
    session.output.value(answer.response)
    session.output.note(f"{model}@{answer.version} at {answer.url} in {answer.seconds * 1000:.1f} ms")
