"""`retire`, `restore`, `extend`: how long a version is with us, in every environment."""

from __future__ import annotations

from typing import Annotated

import typer

from mldeploy.cli.arguments import DryRun, Reason, Ref, new_app
from mldeploy.cli.options import Command
from mldeploy.cli.session import Session

app = new_app()


@app.command(cls=Command)
def retire(
    ctx: typer.Context,
    ref: Ref,
    force: Annotated[
        bool, typer.Option("--force", help="Even while it takes traffic, and at once on every host.")
    ] = False,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Take a version out for good, in every environment: no traffic, and its files may be collected.

    A host on which what replaced it is not ready yet goes on answering with it until it is, unless --force.
    """
    session = Session(ctx)
    change = session.client_of_all().retire(ref, force=force, reason=reason, dry_run=dry_run)
    session.changed("retire", change, f"{ref} is retired", f"{ref} was retired")


@app.command(cls=Command)
def restore(ctx: typer.Context, ref: Ref, dry_run: DryRun = False) -> None:
    """Make a retired version available again, while its files are still in the store."""
    session = Session(ctx)
    change = session.client_of_all().restore(ref, dry_run=dry_run)
    session.changed("restore", change, f"{ref} may be promoted again", f"{ref} is available")


@app.command(cls=Command)
def extend(
    ctx: typer.Context,
    ref: Ref,
    expires: Annotated[
        str, typer.Argument(metavar="EXPIRES", help="A date, or a duration from today.", show_default=False)
    ],
    dry_run: DryRun = False,
) -> None:
    """Move a version's expiry."""
    session = Session(ctx)
    change = session.client_of_all().extend(ref, expires, dry_run=dry_run)
    done = f"{ref} expires on {change.expires}"
    session.changed("extend", change, done, done)
