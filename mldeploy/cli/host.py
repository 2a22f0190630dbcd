"""`host list`, `host drain`, `host forget`: the machines with a daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mldeploy.cli.arguments import DryRun, Reason, new_group, wait_limit
from mldeploy.cli.options import Command
from mldeploy.cli.output import Cell, ago
from mldeploy.cli.session import Session, written
from mldeploy.errors import UsageError

if TYPE_CHECKING:
    from mldeploy.client import Client
    from mldeploy.client.types import HostChange, HostEntry, HostWaited

Host = Annotated[
    str, typer.Argument(metavar="HOST", help="A hostname, or the start of an id.", show_default=False)
]

app = new_group("host", "The hosts: list, drain, forget.")


@app.command("list", cls=Command)
def list_(ctx: typer.Context) -> None:
    """Every host, how old its last report is and how far behind the log; of --environment, or of all."""
    from mldeploy.client.hints import daemon

    session = Session(ctx)
    client = session.client()
    found = client.hosts(session.options.environment)
    output = session.output
    if output.json:
        output.document("mldeploy.hosts/1", found)
        return
    if not found.hosts:
        output.note(f"no host has joined yet; start one with {daemon(found.store, client.environment)}")
    columns = ("HOST", "ID", "ENVIRONMENT", "REPORTED", "READY", "HEAD", "LABELS", "VERSION")
    output.table(columns, [_row(host) for host in found.hosts])


def _row(host: HostEntry) -> list[Cell]:
    reported: Cell = ("never", "yellow") if host.age is None else f"{ago(host.age)} ago"
    if host.age is not None and not host.live:
        reported = (
            f"{ago(host.age)} ago{'' if host.member else ', no member'}",
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
        _ready(host),
        (behind, "yellow") if host.behind else behind,
        ", ".join(f"{key}={value}" for key, value in sorted(host.labels.items())),
        host.version,
    ]


def _ready(host: HostEntry) -> Cell:
    if host.drained is not None:
        # one that has not read the record yet says that it is ready
        word = "draining" if host.ready and host.live else "drained"
        return f"{word}: {host.drained}" if host.drained else word, "yellow"
    return ("yes", "green") if host.ready and host.live else ("no", "yellow")


@app.command(cls=Command)
def drain(
    ctx: typer.Context,
    host: Host,
    undo: Annotated[bool, typer.Option("--undo", help="Let it take traffic again.")] = False,
    reason: Reason = "",
    dry_run: DryRun = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the host says that it is so.")] = False,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="TIME", help="How long to wait. Default: 10m.", show_default=False),
    ] = None,
) -> None:
    """Have a host take no traffic: it is not ready for load balancers, and answers what still comes.

    Rollouts do not wait for it. It stays drained, over restarts as well, until --undo.
    """
    session = Session(ctx)
    limit = wait_limit(wait, timeout)
    client, where = session.client(), session.options.environment
    if undo and reason:
        raise UsageError("--reason says why a host is drained", "leave it out with --undo")
    if undo:
        change = client.undrain_host(host, environment=where, dry_run=dry_run)
        done = f"{host} takes traffic again", f"{host} takes traffic"
    else:
        change = client.drain_host(host, environment=where, reason=reason, dry_run=dry_run)
        done = f"{host} is drained", f"{host} is drained"
    waits = wait and not dry_run
    session.output.wrote(change)
    if not (waits and session.output.json):  # which has one document, at the end
        session.changed("host-drain", change, *done)
    if not waits:
        return
    waited = _waited(session, client, change, drained=not undo, limit=limit)
    if session.output.json:
        session.changed("host-drain", change, *done, waited=waited)
    elif waited.left:
        session.output.note(f"{waited.hostname} has left")
    else:
        session.output.note(f"{waited.hostname} says that it is {'ready' if undo else 'not ready any more'}")


def _waited(
    session: Session, client: Client, change: HostChange, *, drained: bool, limit: float | None
) -> HostWaited:
    try:
        with session.output.reporter() as reporter:
            return client.wait_host(change.host, drained=drained, timeout=limit, reporter=reporter)
    except KeyboardInterrupt:
        stands = f"{written(change)}, and the host goes on: `mldeploy host list` shows it"
        raise KeyboardInterrupt(stands) from None


@app.command(cls=Command)
def forget(ctx: typer.Context, host: Host, dry_run: DryRun = False) -> None:
    """Take a host that is gone out of the members; it joins again if it returns.

    Hosts silent for longer than the policy's host_ttl are forgotten by themselves.
    """
    session = Session(ctx)
    client, where = session.client(), session.options.environment
    change = client.forget_host(host, environment=where, dry_run=dry_run)
    session.changed("host-forget", change, f"{host} is forgotten", f"{host} is no member")
