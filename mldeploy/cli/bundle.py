"""`pack`, `validate`, `inspect`: bundles before they are published, and what a published one holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mldeploy.cli import exits
from mldeploy.cli.arguments import new_app
from mldeploy.cli.options import Command
from mldeploy.cli.output import Cell, facts, size
from mldeploy.cli.session import Session

if TYPE_CHECKING:
    from mldeploy.client.types import Inspected, Packed, Validated
    from mldeploy.core.manifest import Tensor

app = new_app()

Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A bundle, or a model folder.", show_default=False)
]


@app.command(cls=Command)
def pack(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder with a model.yaml.", show_default=False)
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
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where the bundle goes. Default: beside SOURCE, SOURCE.bundle; with --name NAME.bundle.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a bundle out of a model folder and run the three gates over it; prints the bundle's folder."""
    session = Session(ctx)
    with session.output.reporter() as reporter:
        packed = session.client().pack(
            source, name=name, owner=owner, expires=expires, out=out, reporter=reporter
        )
    if session.output.json:
        session.output.document("mldeploy.pack/1", packed)
        return
    _note_skipped(session, packed.gates_skipped)
    session.output.note(
        f"packed {packed.name} ({size(packed.size)}, digest {packed.digest[:12]}){_speed(packed)}"
    )
    session.output.line(packed.folder)


@app.command(cls=Command)
def validate(
    ctx: typer.Context,
    source: Source,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="GATE",
            help="Only this gate: artifact, compilation or serving.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the three gates; exit code 3 where there are findings."""
    session = Session(ctx)
    with session.output.reporter() as reporter:
        result = session.client().validate(source, gates=gate, reporter=reporter)
    _show_validated(session, result)
    if not result.ok:
        raise typer.Exit(exits.FINDINGS)


def _show_validated(session: Session, result: Validated) -> None:
    output = session.output
    if output.json:
        output.document("mldeploy.validate/1", result)
        return
    _note_skipped(session, result.gates_skipped)
    for finding in result.findings:
        output.finding(finding["file"], finding["key"], finding["message"], finding["hint"])
    if result.ok:
        output.line(f"{result.source}: {', '.join(result.gates_run)}: no findings")
        output.table(
            ("MEASURED", "VALUE"), [(key, f"{value:g}") for key, value in sorted(result.measured.items())]
        )


def _note_skipped(session: Session, skipped: dict[str, str]) -> None:
    for gate, why in skipped.items():
        session.output.warn(f"gate {gate} did not run here: {why}")


def _speed(packed: Packed) -> str:
    load, latency = packed.measured.get("load_ms"), packed.measured.get("latency_ms")
    parts = [
        f"loads in {load:.0f} ms" if load is not None else "",
        f"answers in {latency:.1f} ms" if latency is not None else "",
    ]
    return "".join(f", {part}" for part in parts if part)


@app.command(cls=Command)
def inspect(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A bundle's folder, or MODEL@VERSION in the store.", show_default=False
        ),
    ],
    files: Annotated[bool, typer.Option("--files", help="List files and wheels too.")] = False,
) -> None:
    """Show what a bundle or a published version holds."""
    session = Session(ctx)
    result = session.client().inspect(source)
    if session.output.json:
        session.output.document("mldeploy.inspect/1", result)
        return
    session.output.table(("FIELD", "VALUE"), _inspected(result))
    if files:
        listed = [(item.path, size(item.size), item.sha256[:12]) for item in result.manifest.files]
        wheels = [
            (f"wheels/{item.name}", size(item.size), item.sha256[:12]) for item in result.manifest.wheels
        ]
        session.output.table(("FILE", "SIZE", "SHA256"), listed + wheels)


def _inspected(result: Inspected) -> list[tuple[Cell, Cell]]:
    manifest, published = result.manifest, result.published
    entry = manifest.entry
    return facts(
        {
            "name": manifest.name,
            "version": published.version if published else None,
            "digest": result.digest,
            "owner": manifest.owner,
            "expires": published.expires if published else manifest.expires,
            "description": manifest.description,
            "kind": entry.kind,
            "entry": f"{entry.module}:{entry.name}" if entry.module else entry.pickle,
            "inputs": _tensors(manifest.signature.inputs),
            "outputs": _tensors(manifest.signature.outputs),
            "python": manifest.python,
            "platform": manifest.platform,
            "samples": len(manifest.samples),
            "files": len(manifest.files),
            "wheels": len(manifest.wheels),
            "size": size(result.size),
            "roles": ", ".join(published.roles) if published else "",
            "retired": published.retired if published else "",
            "metrics": ", ".join(f"{key}: {value:g}" for key, value in result.metrics.items()),
        }
    )


def _tensors(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{tensor.name} {tensor.datatype}{list(tensor.shape)}" for tensor in tensors)
