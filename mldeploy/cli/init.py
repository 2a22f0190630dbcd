"""`init`: a small working model folder to start from; with --store alone, a store."""

from __future__ import annotations

from typing import Annotated

import typer

from mldeploy.cli.arguments import new_app
from mldeploy.cli.options import Command
from mldeploy.cli.session import Session
from mldeploy.errors import UsageError

app = new_app()


@app.command(cls=Command)
def init(
    ctx: typer.Context,
    folder: Annotated[
        str | None, typer.Argument(metavar="[DIR]", help="The folder to make.", show_default=False)
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="The model's name. Default: the folder's.", show_default=False
        ),
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option(
            "--owner",
            metavar="ADDRESS",
            help="Who gets the warnings. Default: git's user.email.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Name the files, and write none.")] = False,
) -> None:
    """Write a small working model folder: `mldeploy serve DIR` runs it, `mldeploy push DIR` publishes it.

    With --store and no DIR, make that store, for whoever pushes and may not make it: one that is there stays
    as it is.
    """
    from mldeploy.client.scaffold import scaffold

    session = Session(ctx)
    if folder is None:
        _make_store(
            session, [word for word, given in (("--name", name), ("--owner", owner)) if given], dry_run
        )
        return
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


def _make_store(session: Session, of_a_folder: list[str], dry_run: bool) -> None:
    store, output = session.options.store, session.output
    if store is None:
        raise UsageError(
            "neither a folder nor a store is named",
            "`mldeploy init DIR` writes a model folder, `mldeploy init --store URL` makes a store",
        )
    if of_a_folder:
        raise UsageError(f"{' and '.join(of_a_folder)}: of a model folder", "name its DIR, or leave it out")
    done = session.client().create_store(dry_run=dry_run)
    if output.json:
        output.document("mldeploy.init-store/1", done)
    elif done.already:
        output.note(f"{done.store} is a store already; nothing written")
    else:
        output.note(f"would make the store {done.store}" if dry_run else f"made the store {done.store}")
