"""`host list`, `host forget`: the machines with a daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mldeploy.cli.arguments import DryRun, new_group
from mldeploy.cli.options import Command
from mldeploy.cli.output import Cell
from mldeploy.cli.session import Session

if TYPE_CHECKING:
    from mldeploy.client.types import HostEntry

app = new_group("host", "The hosts: list, forget.")


@app.command("list", cls=Command)
def list_(ctx: typer.Context) -> None:
    """Every host, how old its last report is and how far behind the log; of --environment, or of all."""
    session = Session(ctx)
    found = session.client().hosts(session.options.environment)
    output = session.output
    if output.json:
        output.document("mldeploy.hosts/1", found)
        return
    if not found.hosts:
        output.note("no host has joined yet; start one with `mldeployd`")
    columns = ("HOST", "ID", "ENVIRONMENT", "REPORTED", "READY", "HEAD", "LABELS", "VERSION")
    output.table(columns, [_row(host) for host in found.hosts])


def _row(host: HostEntry) -> list[Cell]:
    reported: Cell = ("never", "yellow") if host.age is None else f"{host.age:.0f} s ago"
    if host.age is not None and not host.live:
        reported = (
            f"{host.age:.0f} s ago{'' if host.member else ', no member'}",
            "red" if host.member else "dim",
        )
    behind = (
        f"{host.head}, {host.behind} behind" if host.behind else "" if host.head is None else str(host.head)
    )
    return [
        (host.hostname, "bold"),
        host.host,
        host.environment,
        reported,
        ("yes", "green") if host.ready and host.live else ("no", "yellow"),
        (behind, "yellow") if host.behind else behind,
        ", ".join(f"{key}={value}" for key, value in sorted(host.labels.items())),
        host.version,
    ]


@app.command(cls=Command)
def forget(
    ctx: typer.Context,
    host: Annotated[
        str, typer.Argument(metavar="HOST", help="A hostname, or the start of an id.", show_default=False)
    ],
    dry_run: DryRun = False,
) -> None:
    """Take a host that is gone out of the members; it joins again if it returns.

    Hosts silent for longer than the policy's host_ttl are forgotten by themselves.
    """
    session = Session(ctx)
    change = session.client().forget_host(host, dry_run=dry_run)
    session.changed("host-forget", change, f"{host} is forgotten", f"{host} is no member")
