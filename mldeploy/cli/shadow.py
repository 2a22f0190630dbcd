"""`shadow`: copy live traffic to a version whose answers nobody gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mldeploy.cli.arguments import DryRun, Reason, Ref, new_app
from mldeploy.cli.options import Command
from mldeploy.cli.session import Session
from mldeploy.errors import UsageError

if TYPE_CHECKING:
    from mldeploy.client.types import Shadowed

app = new_app()


@app.command(cls=Command)
def shadow(
    ctx: typer.Context,
    ref: Ref,
    fraction: Annotated[
        str | None,
        typer.Option(
            "--fraction", metavar="PERCENT", help="Of the requests; default: all.", show_default=False
        ),
    ] = None,
    where: Annotated[
        str,
        typer.Option(
            "--where",
            metavar="EXPR",
            help="Only these requests: 'header.country in [NL, BE] and input.amount > 1000'.",
            show_default=False,
        ),
    ] = "",
    lasts: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="TIME", help="It ends by itself after so long: 7d.", show_default=False
        ),
    ] = None,
    keep: Annotated[
        int,
        typer.Option("--keep", metavar="N", min=0, help="Pairs of answers each host keeps for study."),
    ] = 0,
    end: Annotated[bool, typer.Option("--end", help="End the shadow of this version.")] = False,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Copy live traffic to a version and compare its answers with those that are given.

    Nobody gets a shadow's answers, and it gives way under load; `mldeploy report` shows how it did. Given
    again on other terms it begins anew.
    """
    session = Session(ctx)
    if end:
        if fraction or where or lasts or keep:
            raise UsageError("--end takes no terms", "leave out --fraction, --where, --for and --keep")
        change = session.client().unshadow(ref, reason=reason, dry_run=dry_run)
        here = f"in {change.environment}"
        session.changed("shadow", change, f"the shadow {ref} is over {here}", f"{ref} is no shadow {here}")
        return
    if reason:
        raise UsageError("--reason goes with --end", "leave it out")
    change = session.client().shadow(
        ref, fraction=fraction, where=where, lasts=lasts, keep=keep, dry_run=dry_run
    )
    done = f"{ref} is a shadow in {change.environment}{_terms(change)}"
    session.changed("shadow", change, done, done)


def _terms(change: Shadowed) -> str:
    from datetime import timedelta

    from mldeploy.core.types import format_duration, format_share

    where = f" where {change.where}" if change.where else ""
    lasts = f", for {format_duration(timedelta(seconds=change.lasts))}" if change.lasts else ""
    return f": it gets a copy of {format_share(change.fraction)} of the requests{where}{lasts}"
