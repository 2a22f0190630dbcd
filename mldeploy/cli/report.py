"""`report`: the verdict on a version's rollout or shadow, as text, JSON or a page with plots."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mldeploy.cli.arguments import Ref, new_app
from mldeploy.cli.options import Command
from mldeploy.cli.session import Session
from mldeploy.errors import UsageError

if TYPE_CHECKING:
    from mldeploy.reporting.values import LaunchReport

app = new_app()
SCHEMA = "mldeploy.report/1"


class Format(StrEnum):
    """How a report is written."""

    text = "text"
    json = "json"
    html = "html"


@app.command(cls=Command)
def report(
    ctx: typer.Context,
    ref: Ref,
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="text, json, or html: a page with plots. Else by the ending of --out, else text.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write it to this file.", show_default=False),
    ] = None,
) -> None:
    """How a version did beside stable: its rollout or shadow under way, or its last one.

    Every step with its window, its requests and its guards' numbers; who promoted it, and what differs
    between the two bundles.
    """
    session = Session(ctx)
    if session.output.json and out is None and form not in (None, Format.json):
        raise UsageError(f"--json prints no {form}", f"leave it out, or write the {form} with --out FILE")
    chosen = form or _by_name(out)
    found = session.client().report(ref)
    if out is None and (chosen is Format.json or session.output.json):
        session.output.document(SCHEMA, found)
        return
    text = _written(found, chosen)
    if out is None:
        session.output.line(text.rstrip("\n"))
        return
    out.write_text(text, "utf-8")
    if session.output.json:
        session.output.document(SCHEMA, found)
    else:
        session.output.note(f"wrote {out}")


def _by_name(out: Path | None) -> Format:
    ending = out.suffix.lower() if out is not None else ""
    return {".html": Format.html, ".htm": Format.html, ".json": Format.json}.get(ending, Format.text)


def _written(found: LaunchReport, form: Format) -> str:
    if form is Format.html:
        from mldeploy.reporting import page

        return page.render(found)
    if form is Format.json:
        import msgspec

        fields = {"schema": SCHEMA, **msgspec.to_builtins(found)}
        return msgspec.json.format(msgspec.json.encode(fields), indent=2).decode() + "\n"
    from mldeploy.reporting import text

    return text.render(found)
