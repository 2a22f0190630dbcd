"""`plan` and `apply`: everything as a file says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mldeploy.cli import exits
from mldeploy.cli.arguments import DryRun, new_app
from mldeploy.cli.options import Command
from mldeploy.cli.session import Session

if TYPE_CHECKING:
    from mldeploy.client.types import Planned

app = new_app()

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="YAML: environment, model, version and rollout. - is standard input.",
        show_default=False,
    ),
]
Prune = Annotated[
    bool, typer.Option("--prune", help="Take what the file does not name out of its environments.")
]
_STYLES = {"+": "green", "~": "yellow", "-": "red"}


@app.command(cls=Command)
def plan(
    ctx: typer.Context,
    file: File,
    prune: Prune = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 10 where something would change.")
    ] = False,
) -> None:
    """What applying FILE would change; writes nothing."""
    session = Session(ctx)
    found = session.client().plan(file, prune=prune)
    if session.output.json:
        session.output.document("mldeploy.plan/1", found)
    else:
        for warning in found.warnings:
            session.output.warn(warning)
        _show(session, found.changes)
        count = len(found.changes)
        told = f"{count} change{'s' if count != 1 else ''} pending" if count else "nothing would change"
        session.output.note(f"{told}: compared with record {found.head}")
    if exit_code and found.changes:
        raise typer.Exit(exits.PENDING)


@app.command(cls=Command)
def apply(ctx: typer.Context, file: File, prune: Prune = False, dry_run: DryRun = False) -> None:
    """Make versions, rollouts, shadows and freezes as FILE says, all of it in one record or nothing.

    What FILE does not say stays as it is. `mldeploy plan FILE` shows it beforehand.
    """
    from mldeploy.client.plan_file import name_of

    session = Session(ctx)
    change = session.client().apply(file, prune=prune, dry_run=dry_run)
    if not session.output.json:
        _show(session, change.changes)
    name = name_of(file)
    session.changed("apply", change, f"{name} is applied", f"everything is as {name} says")


def _show(session: Session, changes: Sequence[Planned]) -> None:
    session.output.table(
        ("", "ENVIRONMENT", "MODEL", "CHANGE"),
        [
            [(each.sign, _STYLES.get(each.sign, "")), each.environment, (each.model, "bold"), each.what]
            for each in changes
        ],
    )
