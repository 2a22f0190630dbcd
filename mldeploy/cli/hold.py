"""`pause`, `resume`, `freeze`, `unfreeze`: keep things as they are for a while."""

from __future__ import annotations

from typing import Annotated

import typer

from mldeploy.cli.arguments import DryRun, Model, Reason, new_app
from mldeploy.cli.options import Command
from mldeploy.cli.session import Session
from mldeploy.errors import UsageError

app = new_app()

MaybeModel = Annotated[
    str | None, typer.Argument(metavar="[MODEL]", help="The model's name.", show_default=False)
]
All = Annotated[bool, typer.Option("--all", help="Every model of the environment.")]


@app.command(cls=Command)
def pause(ctx: typer.Context, model: Model, reason: Reason = "", dry_run: DryRun = False) -> None:
    """Keep a rollout at its present share until it is resumed."""
    session = Session(ctx)
    change = session.client().pause(model, reason=reason, dry_run=dry_run)
    session.changed("pause", change, f"{model} paused in {change.environment}", f"{model} is paused")


@app.command(cls=Command)
def resume(ctx: typer.Context, model: Model, dry_run: DryRun = False) -> None:
    """Let a paused rollout go on from where it stands."""
    session = Session(ctx)
    change = session.client().resume(model, dry_run=dry_run)
    session.changed("resume", change, f"{model} goes on in {change.environment}", f"{model} is running")


@app.command(cls=Command)
def freeze(
    ctx: typer.Context,
    model: MaybeModel = None,
    every: All = False,
    reason: Reason = "",
    until: Annotated[
        str,
        typer.Option(
            "--until", metavar="WHEN", help="A date or duration; shown, not enforced.", show_default=False
        ),
    ] = "",
    dry_run: DryRun = False,
) -> None:
    """Refuse promotes of a model, or of every model with --all, until they are unfrozen."""
    session = Session(ctx)
    name = _named(model, every)
    change = session.client().freeze(name, reason=reason, until=until, dry_run=dry_run)
    what = f"{name or 'every model'} is frozen in {change.environment}"
    session.changed("freeze", change, what, what)


@app.command(cls=Command)
def unfreeze(
    ctx: typer.Context, model: MaybeModel = None, every: All = False, dry_run: DryRun = False
) -> None:
    """Allow promotes again."""
    session = Session(ctx)
    name = _named(model, every)
    change = session.client().unfreeze(name, dry_run=dry_run)
    here = f"in {change.environment}"
    # some may still be frozen by themselves
    what = f"{name} is not frozen {here}" if name else f"the freeze of every model {here} is over"
    session.changed("unfreeze", change, what, what)


def _named(model: str | None, every: bool) -> str | None:
    if (model is None) != every:
        raise UsageError("name one model, or say --all", "for example `mldeploy freeze churn`")
    return model
