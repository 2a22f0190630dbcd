"""`init`: a small working model folder to start from."""

from __future__ import annotations

from typing import Annotated

import typer

from mldeploy.cli.arguments import new_app
from mldeploy.cli.options import Command
from mldeploy.cli.session import Session

app = new_app()


@app.command(cls=Command)
def init(
    ctx: typer.Context,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The folder to make.", show_default=False)],
    name: Annotated[
        str | None,
        typer.Option("--name", help="The model's name. Default: the folder's.", show_default=False),
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option("--owner", help="Who gets the warnings. Default: git's user.email.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Name the files, and write none.")] = False,
) -> None:
    """Write a small working model folder: `mldeploy serve DIR` runs it, `mldeploy push DIR` publishes it."""
    from mldeploy.client.scaffold import scaffold

    session = Session(ctx)
    made = scaffold(folder, name=name, owner=owner, dry_run=dry_run)
    if session.output.json:
        session.output.document("mldeploy.init/1", made)
        return
    for warning in made.warnings:
        session.output.warn(warning)
    for path in made.files:
        session.output.note(
            f"{'would write' if dry_run else 'wrote' if path in made.written else 'kept'} {path}"
        )
    if not dry_run:
        session.output.note(f"next: `mldeploy serve {folder}`, then `mldeploy push {folder} --promote`")
        session.output.line(made.folder)
