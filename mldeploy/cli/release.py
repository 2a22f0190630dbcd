"""`push`, `promote`, `rollback`: the way of a version into traffic and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from mldeploy.cli.arguments import DryRun, Reason, Timeout, Wait, new_app, wait_limit
from mldeploy.cli.options import Command
from mldeploy.cli.output import size
from mldeploy.cli.rollout_options import named, with_rollout_options
from mldeploy.cli.rollouts import note_steps
from mldeploy.cli.session import Session, written
from mldeploy.errors import MldeployError, UsageError

if TYPE_CHECKING:
    from mldeploy.client import Client
    from mldeploy.client.terms import RolloutTerms
    from mldeploy.client.types import Change, Pushed, Waited

app = new_app()


@app.command(cls=Command)
@with_rollout_options
def push(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A bundle, or a model folder to pack.", show_default=False)
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The model's name.", show_default=False)
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option("--owner", metavar="ADDRESS", help="Who gets the warnings.", show_default=False),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires", metavar="WHEN", help="A date, or a duration from push.", show_default=False
        ),
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Promote it in the same record.")] = False,
    *,
    rollout: RolloutTerms,
    wait: Wait = False,
    timeout: Timeout = None,
    dry_run: DryRun = False,
) -> None:
    """Publish a bundle as the next version of its model; prints MODEL@VERSION.

    A bundle that is published already keeps its version, and nothing is written.
    """
    session = Session(ctx)
    limit = wait_limit(wait, timeout)
    alone = [*named(rollout), *(["--wait"] if wait else [])]
    alone += ["--environment"] if session.options.environment is not None else []
    if alone and not promote:
        raise UsageError(
            f"{' and '.join(alone)} go{'es' if len(alone) == 1 else ''} with --promote",
            "add --promote, or promote it afterwards",
        )
    client = session.client()
    with session.output.reporter() as reporter:
        pushed = client.push(
            source, name=name, owner=owner, expires=expires, promote=promote, dry_run=dry_run,
            reporter=reporter, **rollout,
        )  # fmt: skip
    _finish(
        session,
        client,
        pushed,
        lambda waited: _show_pushed(session, pushed, waited),
        wait and not dry_run,
        limit,
    )


def _show_pushed(session: Session, pushed: Pushed, waited: Waited | None) -> None:
    output = session.output
    if output.json:
        output.document("mldeploy.push/1", pushed, waited=waited)
        return
    for warning in pushed.warnings:
        output.warn(warning)
    if pushed.already:
        also = f" and promoted so in {pushed.environment}" if pushed.promoted else ""
        output.note(f"published already, as {pushed.ref}{also}; nothing written")
    elif pushed.dry_run:
        for action in pushed.actions:
            output.note(f"would {action}")
    elif not pushed.new:
        output.note(f"published already, as {pushed.ref}")
    else:
        output.note(
            f"uploaded {size(pushed.uploaded_bytes)} in {pushed.uploaded_blobs} blobs, "
            f"re-used {size(pushed.reused_bytes)} in {pushed.reused_blobs} (record {pushed.seq})"
        )
    if pushed.promoted and pushed.seq is not None:
        output.note(f"promoted in {pushed.environment}")
    output.line(str(pushed.ref))


@app.command(cls=Command)
@with_rollout_options
def promote(
    ctx: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL@VERSION",
            help="For example churn@7; the model alone with --from.",
            show_default=False,
        ),
    ],
    *,
    rollout: RolloutTerms,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="ENVIRONMENT", help="The version that is stable there.", show_default=False
        ),
    ] = None,
    wait: Wait = False,
    timeout: Timeout = None,
    dry_run: DryRun = False,
) -> None:
    """Give a version traffic: all of it, a fixed share, or a ramp that goes on by itself under guards.

    What is not said is as the bundle's own rollout says, else as the policy says. With --on the rollout is
    for some hosts alone and stays at its last step there, until the version is promoted without --on.
    """
    from mldeploy.core.types import FULL_SHARE, format_share

    session = Session(ctx)
    limit = wait_limit(wait, timeout)
    client = session.client()
    change = client.promote(target, source=source, dry_run=dry_run, **rollout)
    ref, where = f"{change.model}@{change.version}", f"in {change.environment}"
    takes = f"takes {format_share(change.steps[0])} of the" if len(change.steps) == 1 else "takes"
    takes = "has all" if change.steps == (FULL_SHARE,) else takes
    if rollout["on"]:
        where += f" on hosts with {', '.join(rollout['on'])}"
    done = f"{ref} {takes} traffic {where}"
    already = f"{ref} is promoted so {where}"
    _finish(
        session, client, change,
        lambda waited: session.changed("promote", change, done, already, waited),
        wait and not dry_run, limit,
    )  # fmt: skip


@app.command(cls=Command)
def rollback(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.", show_default=False)],
    to: Annotated[
        int | None,
        typer.Option("--to", metavar="VERSION", help="This version instead.", show_default=False, min=1),
    ] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="Refuse promotes afterwards.")] = False,
    reason: Reason = "",
    wait: Wait = False,
    timeout: Timeout = None,
    dry_run: DryRun = False,
) -> None:
    """End a running rollout; with none running, give traffic back to the version before."""
    session = Session(ctx)
    limit = wait_limit(wait, timeout)
    client = session.client()
    change = client.rollback(model, to=to, freeze=freeze, reason=reason, dry_run=dry_run)
    stable = "nothing" if change.version is None else f"{change.model}@{change.version}"
    where = f"rolled back: {stable} has the traffic in {change.environment}"
    _finish(
        session, client, change,
        lambda waited: session.changed("rollback", change, where, where, waited),
        wait and not dry_run, limit, back=False,
    )  # fmt: skip


def _finish(
    session: Session,
    client: Client,
    change: Change,
    show: Callable[[Waited | None], None],
    wait: bool,
    limit: float | None,
    *,
    back: bool = True,
) -> None:
    """Show the change and wait; with --json wait first, so that the one document is the last word.

    `back`: whether a rollback may undo it.
    """
    session.output.wrote(change)
    if not session.output.json:
        show(None)
    waited = None
    if wait:
        try:
            waited = _wait(session, client, change, limit)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_goes_on(client, change, back and _undone(client, change))) from None
    if session.output.json:
        show(waited)


def _undone(client: Client, change: Change) -> bool:
    """Whether a rollback would undo it: not the first version that takes traffic."""
    try:
        return not client.rollback(change.model, dry_run=True).already
    except (MldeployError, KeyboardInterrupt):  # it only serves a hint, and somebody wants to leave
        return False


def _goes_on(client: Client, change: Change, back: bool) -> str:
    """What an interrupted wait leaves: the record stands, and the hosts do as it says."""
    from mldeploy.client.hints import command

    record = f" --record {change.seq}" if change.seq is not None else ""
    wait = command(f"wait {change.model}{record}", client.environment)
    undo = f", {command(f'rollback {change.model}', client.environment)} undoes it" if back else ""
    return f"{written(change)}, and the hosts go on: {wait} follows it{undo}"


def _wait(session: Session, client: Client, change: Change, limit: float | None) -> Waited:
    with session.output.reporter() as reporter:
        waited = client.wait(change.model, seq=change.seq, timeout=limit, reporter=reporter)
    note_steps(session, waited)
    session.output.note(f"{len(waited.hosts)} of {len(waited.hosts)} live hosts arrived")
    return waited
