"""`policy show`, `policy set`, `policy unset`: what counts where neither a promote nor the bundle says it."""

from __future__ import annotations

from typing import Annotated

import typer

from mldeploy.cli.arguments import DryRun, new_group
from mldeploy.cli.options import Command
from mldeploy.cli.output import Cell
from mldeploy.cli.session import Session
from mldeploy.errors import UsageError

_SOURCES = {"default": "default", "store": "policy of the store", "environment": "policy of {}"}
All = Annotated[bool, typer.Option("--all", help="For every environment, whatever names one.")]
app = new_group("policy", "Settings of the store and its environments: show, set, unset.")


@app.command(cls=Command)
def show(ctx: typer.Context) -> None:
    """The settings that count in the environment, and where each is from."""
    session = Session(ctx)
    found = session.client().policy()
    if session.output.json:
        session.output.document("mldeploy.policy/1", found)
        return
    rows: list[list[Cell]] = []
    for setting in found.settings:
        source = _SOURCES[setting.source].format(found.environment)
        shown: Cell = (source, "dim") if setting.source == "default" else source
        rows.append([(setting.name, "bold"), setting.text, shown])
    session.output.note(f"what counts in {found.environment}, record {found.head}")
    session.output.table(("SETTING", "VALUE", "FROM"), rows)


@app.command("set", cls=Command)
def set_(
    ctx: typer.Context,
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE…",
            help="For example hold=30m steps=shadow,1,10,100 'guards=p99 < 1.2x; error_rate < 1%' "
            "notify.team=URL.",
            show_default=False,
        ),
    ],
    every: All = False,
    dry_run: DryRun = False,
) -> None:
    """Set settings for every environment, or with --environment for that one.

    Where MLDEPLOY_ENVIRONMENT or mldeploy.toml names an environment, say --environment or --all.

    Secrets never stand in the log: write {NAME} in a URL, and set MLDEPLOY_NOTIFY_NAME for mldeployd. An
    environment's own targets (notify.…) replace those of the store there.
    """
    session = Session(ctx)
    pairs = [_pair(text) for text in settings]
    said = dict(pairs)
    twice = next((name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is set twice", "give it one value")
    where = _where(session, every)
    change = session.client().set_policy(said, environment=where, dry_run=dry_run)
    what = f"{', '.join(said)} for {where or 'every environment'}"
    session.changed("policy-set", change, f"set {what}", f"{what} set so")


@app.command(cls=Command)
def unset(
    ctx: typer.Context,
    keys: Annotated[
        list[str], typer.Argument(metavar="KEY…", help="For example hold, notify.team.", show_default=False)
    ],
    every: All = False,
    dry_run: DryRun = False,
) -> None:
    """Take settings back for every environment, or with --environment for that one: the next one counts."""
    session = Session(ctx)
    where = _where(session, every)
    change = session.client().unset_policy(keys, environment=where, dry_run=dry_run)
    said = f"{', '.join(keys)} for {where or 'every environment'}"
    session.changed("policy-unset", change, f"unset {said}", f"{said} not set")


def _where(session: Session, every: bool) -> str:
    """The environment that is meant, "" for all. Raises UsageError where that is not clear."""
    from mldeploy.config import surrounding_environment

    named = session.options.environment
    if named is not None and every:
        raise UsageError("--all means every environment, and --environment one", "leave one of them out")
    around = surrounding_environment() if named is None and not every else None
    if around is not None:
        raise UsageError(
            f"for every environment, or for {around[0]} alone, which {around[1]} names?",
            f"say --all, or --environment {around[0]}",
        )
    return named or ""


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"{text[:40]!r} is not KEY=VALUE", "write for example hold=30m")
    return name.strip(), value
