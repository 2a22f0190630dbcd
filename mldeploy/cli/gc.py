"""`gc`: delete what no version needs any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mldeploy.cli.arguments import new_app
from mldeploy.cli.options import Command
from mldeploy.cli.output import size
from mldeploy.cli.session import Session

if TYPE_CHECKING:
    from mldeploy.client.types import Collected

app = new_app()


@app.command(cls=Command)
def gc(
    ctx: typer.Context,
    grace: Annotated[
        str,
        typer.Option(
            "--grace",
            metavar="TIME",
            help="Keep what was needed, or pushed, less than this ago: 12h, 30d; 0 keeps nothing unneeded.",
        ),
    ] = "7d",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")
    ] = False,
) -> None:
    """Delete files that no version needs any more.

    They are the files of versions that were retired longer ago than --grace, which cannot be restored
    afterwards, and what pushes that began before that, and were cut off, have left; besides superseded
    checkpoints, and reports of hosts that are gone. Safe at any time, whatever --grace says: a push that is
    under way may have to send its files again, and does so by itself.
    """
    session = Session(ctx)
    with session.output.reporter() as reporter:
        done = session.client_of_all().collect(grace=grace, dry_run=dry_run, reporter=reporter)
    if session.output.json:
        session.output.document("mldeploy.gc/1", done)
    else:
        _show(session, done)


def _show(session: Session, done: Collected) -> None:
    output = session.output
    for warning in done.warnings:
        output.warn(warning)
    if not done.actions and done.seq is None:
        output.note("nothing to collect" if done.already else "nothing else to collect")
        return
    kinds = (
        ("blobs", done.blobs, done.blob_bytes),
        ("orphans", done.orphans, done.orphan_bytes),
        ("left-overs", done.leftovers, done.leftover_bytes),
        ("old checkpoints", done.checkpoints, done.checkpoint_bytes),
        ("old reports", done.reports, done.report_bytes),
    )
    output.table(
        ("WHAT", "OBJECTS", "SIZE"),
        [(kind, f"{objects:,}", size(total)) for kind, objects, total in kinds if objects],
    )
    verb = "can no longer" if not done.dry_run else "could no longer"
    for ref in done.no_longer_restorable:
        output.note(f"{ref} {verb} be restored")
    if done.dry_run:
        output.note("would be deleted; nothing was")
    else:
        output.note("deleted" + (f" (record {done.seq})" if done.seq is not None else ""))
