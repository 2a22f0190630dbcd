"""`which`: the version a routing key gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mldeploy.cli.arguments import Model, new_app
from mldeploy.cli.options import Command
from mldeploy.cli.output import share_words
from mldeploy.cli.session import Session

if TYPE_CHECKING:
    from mldeploy.client.types import Which

app = new_app()


@app.command(cls=Command)
def which(
    ctx: typer.Context,
    model: Model,
    key: Annotated[
        str,
        typer.Option(
            "--key",
            metavar="KEY",
            help="The value of the routing key, or the request id.",
            show_default=False,
        ),
    ],
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="As it was at TIME: a time (2026-11-23T22:59Z), a date, or a duration ago (2h).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """The version a key gets, by the log and the hash that the hosts use; prints MODEL@VERSION.

    A host that is behind the log may still give another.
    """
    session = Session(ctx)
    found = session.client().which(model, key, at=at)
    if session.output.json:
        session.output.document("mldeploy.which/1", found)
        return
    session.output.line(f"{model}@{found.version}")
    session.output.note(_why(found))
    if found.on:
        session.output.table(
            ("HOST", "LABELS", "VERSION"),
            [
                [host.hostname, ", ".join(f"{k}={v}" for k, v in sorted(host.labels.items())),
                 f"{model}@{host.version}"]
                for host in found.hosts
            ],
        )  # fmt: skip
    for shadow in found.shadows:
        where = f", where {shadow.where}" if shadow.where else ""
        session.output.note(f"{model}@{shadow.version} gets a copy{where}")


def _why(found: Which) -> str:
    source = f" ({found.key_from})" if found.key_from else ""
    if found.candidate is None:
        return f"no rollout of {found.model} is under way in {found.environment}: every key gets stable"
    if not found.share:
        return f"the rollout of {found.model}@{found.candidate} is at its shadow step: every key gets stable"
    share = f"{share_words(found.share)} of the keys get {found.model}@{found.candidate}"
    among = "this one is among them" if found.role == "candidate" else "this one is not among them"
    labels = f", on hosts with {', '.join(found.on)}" if found.on else ""
    return f"{share}{labels}, and {among}{source}; salt {found.salt}"
