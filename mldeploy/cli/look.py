"""`status`, `history`, `why`, `wait`: what is, what was, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mldeploy.cli.arguments import Timeout, new_app, time_limit
from mldeploy.cli.options import Command
from mldeploy.cli.output import Cell, ago, facts, size
from mldeploy.cli.rollouts import (
    candidate_cell,
    expiry_cell,
    note_rollout,
    note_steps,
    shadow_words,
    show_expiring,
    show_rollout,
)
from mldeploy.cli.session import Session
from mldeploy.errors import UsageError

if TYPE_CHECKING:
    from mldeploy.client.types import HostStatus, ModelDetail, ModelStatus, Status, Why

app = new_app()

STYLES = {
    "serving": "green", "ready": "green", "converging": "yellow", "no hosts": "yellow", "failing": "red",
    "failed": "red", "not promoted": "dim", "sleeping": "dim",
}  # fmt: skip
MaybeModel = Annotated[
    str | None, typer.Argument(metavar="[MODEL]", help="Only this model.", show_default=False)
]


TIME_HELP = "a time (2026-11-23T22:59Z), a date, or a duration ago (2h), by the store's clock."


@app.command(cls=Command)
def status(
    ctx: typer.Context,
    model: MaybeModel = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help=f"As it was at TIME: {TIME_HELP}", show_default=False),
    ] = None,
    expiring: Annotated[
        str | None,
        typer.Option(
            "--expiring", metavar="TIME", help="Only the versions that expire within 30d.", show_default=False
        ),
    ] = None,
) -> None:
    """What serves where, and whether every host is there yet; with MODEL its versions too.

    Of every environment; with --environment of that one.
    """
    session = Session(ctx)
    client = session.client()
    only = session.options.environment
    if expiring is not None:
        if model is not None or at is not None or only is not None:
            raise UsageError(
                "--expiring is about every model everywhere, and now",
                "leave out MODEL, --at and --environment",
            )
        show_expiring(session, client.expiring(expiring))
        return
    if model is None:
        everything = client.status(at=at, environment=only)
        if session.output.json:
            session.output.document("mldeploy.status/1", everything)
        else:
            _show_status(session, everything)
        return
    detail = client.model_status(model, at=at, environment=only)
    if session.output.json:
        session.output.document("mldeploy.model/1", detail)
    else:
        _show_detail(session, detail)


def _show_status(session: Session, found: Status) -> None:
    output = session.output
    _note_past(session, found)
    if not found.models and not found.unpromoted:
        only = session.options.environment
        if only is not None:
            output.note(f"no model was promoted in {only}")
        elif found.at is None:
            output.note(f"no models in {found.store} yet; `mldeploy push SOURCE` publishes the first")
        return
    _model_table(session, found.models, past=found.at is not None)
    for model in found.models:
        if model.reason:
            output.note(f"{model.model} in {model.environment}: {model.reason}")
        if model.frozen:
            output.note(f"{model.model} in {model.environment} is frozen: {model.frozen}")
        note_rollout(session, model)
    for environment, reason in found.frozen.items():
        output.note(f"every model is frozen in {environment}{': ' + reason if reason else ''}")
    for name in found.unpromoted:
        output.note(f"{name} was pushed and never promoted")
    for host in found.hosts:
        _note_host(session, host, found.head)


def _note_host(session: Session, host: HostStatus, head: int) -> None:
    if host.drained is not None:
        because = f": {host.drained}" if host.drained else ""
        session.output.note(f"host {host.hostname} ({host.host[:8]}) is drained{because}")
    if not host.live:
        age = ago(host.age)
        session.output.note(f"host {host.hostname} ({host.host[:8]}) has not reported for {age}")
    elif host.errors:
        session.output.note(f"host {host.hostname} ({host.host[:8]}): {host.errors[-1]}")


def _note_past(session: Session, found: Status | ModelDetail) -> None:
    if found.at is not None:
        shown = found.at[:19].replace("T", " ")
        session.output.note(
            f"as of {shown} UTC, record {found.record}, by the log alone: what hosts said then is not kept"
        )


def _model_table(session: Session, models: Sequence[ModelStatus], *, past: bool) -> None:
    head = ("MODEL", "ENVIRONMENT", "STABLE", "CANDIDATE", "PREVIOUS", "SHADOWS", "EXPIRES")
    rows = [_model_row(model) for model in models]
    if past:
        frozen: list[Cell] = ["frozen" if model.frozen is not None else "" for model in models]
        rows = [[*row[: len(head)], cell] for row, cell in zip(rows, frozen, strict=True)]
        session.output.table((*head, "FROZEN"), rows)
    else:
        session.output.table((*head, "HOSTS", "STATE"), rows)


def _model_row(model: ModelStatus) -> list[Cell]:
    return [
        (model.model, "bold"),
        model.environment,
        _number(model.stable),
        candidate_cell(model.candidate),
        _number(model.previous),
        ", ".join(shadow_words(shadow) for shadow in model.shadows),
        expiry_cell(model.expires, model.days),
        f"{model.converged}/{model.hosts}",
        (model.state + (", frozen" if model.frozen is not None else ""), STYLES.get(model.state, "")),
    ]


def _number(version: int | None) -> str:
    return "" if version is None else str(version)


def _show_detail(session: Session, detail: ModelDetail) -> None:
    output = session.output
    _note_past(session, detail)
    _model_table(session, detail.environments, past=detail.at is not None)
    for model in detail.environments:
        frozen = f"frozen: {model.frozen}" if model.frozen else ""
        for line in (model.reason, model.last, frozen):
            if line:
                output.note(f"{model.environment}: {line}")
        note_rollout(session, model)
        show_rollout(session, model)
    output.table(
        ("VERSION", "DIGEST", "PUBLISHED (UTC)", "BY", "SIZE", "EXPIRES", "ROLES"),
        [
            [
                (f"{detail.model}@{version.version}", "bold"),
                version.digest[:12],
                version.published[:16].replace("T", " "),
                version.actor,
                size(version.size),
                (version.expires, "red") if version.expired else version.expires,
                ("retired", "dim") if version.retired else ", ".join(version.roles),
            ]
            for version in detail.versions
        ],
    )


@app.command(cls=Command)
def history(
    ctx: typer.Context,
    model: MaybeModel = None,
    actor: Annotated[
        str | None,
        typer.Option(
            "--actor", metavar="NAME", help="By this actor; 'ci-*' matches several.", show_default=False
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help=f"Not before TIME: {TIME_HELP}", show_default=False),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Not after TIME.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="This many records at the most.")] = 30,
) -> None:
    """What was done, by whom, newest first; with --environment without what is about others alone.

    Times are those at which the store took a record, in UTC; --json has the writer's clock as well.
    """
    session = Session(ctx)
    found = session.client().history(
        model, actor=actor, since=since, until=until, limit=limit, environment=session.options.environment
    )
    if session.output.json:
        session.output.document("mldeploy.history/1", found)
        return
    rows: list[list[Cell]] = []
    for event in found.events:
        what = "; ".join(event.actions)
        shown = (f"{what} (void)", "dim") if event.void else what
        rows.append([str(event.seq), event.stored[:19].replace("T", " "), event.actor, shown])
    session.output.table(("RECORD", "TIME (UTC)", "BY", "WHAT"), rows)
    if found.more:
        more = f"--limit {limit * 10}" if len(found.events) >= limit else "--until with an earlier time"
        session.output.note(f"older records left out; {more} shows more")


@app.command(cls=Command)
def why(
    ctx: typer.Context,
    host: Annotated[
        str, typer.Argument(metavar="HOST", help="A hostname, or the start of an id.", show_default=False)
    ],
    model: MaybeModel = None,
) -> None:
    """Why a host serves what it serves: what it has read, what it wants, has, and does next."""
    session = Session(ctx)
    found = session.client().why(host, model, environment=session.options.environment)
    if session.output.json:
        session.output.document("mldeploy.why/1", found)
        return
    _show_why(session, found)


def _show_why(session: Session, found: Why) -> None:
    output, host = session.output, found.host
    behind = "" if host.head >= found.head else f", {found.head - host.head} behind"
    output.table(
        ("HOST", host.hostname),
        facts(
            {
                "host": f"{host.hostname} ({host.host})",
                "environment": host.environment,
                "address": host.address,
                "reported": f"{ago(host.age)} ago"
                + ("" if host.live else ": not live" if host.member else ": no member"),
                "ready": "yes" if host.ready else "no",
                **({"drained": host.drained or "yes"} if host.drained is not None else {}),
                "head": f"{host.head} of {found.head}{behind}",
                "errors": "; ".join(host.errors),
            }
        ),
    )
    for model in found.models:
        wants = f"wants {_ref(model.model, model.desired_stable)}"
        if model.desired_candidate is not None:
            wants += f" and {_ref(model.model, model.desired_candidate)} as candidate"
        for number in model.desired_shadows:
            wants += f" and {_ref(model.model, number)} as shadow"
        output.line(f"\n{model.model}: {wants}, routes {_ref(model.model, model.routed_stable)}")
        if model.next:
            output.line(f"  next: {model.next}")
        for version in model.versions:
            output.line(f"  {model.model}@{version.version}: {_describe_version(version)}")
            for line in version.log_tail[-5:]:
                output.line(f"    | {line}")


def _ref(model: str, version: int | None) -> str:
    return "nothing" if version is None else f"{model}@{version}"


def _describe_version(version: object) -> str:
    from mldeploy.client.describe import why_version

    return why_version(version)  # type: ignore[arg-type]


@app.command(cls=Command)
def wait(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.", show_default=False)],
    timeout: Timeout = None,
    seq: Annotated[
        int | None,
        typer.Option(
            "--record", metavar="N", min=1, help="This record; default: the last one.", show_default=False
        ),
    ] = None,
) -> None:
    """Wait until every live host serves what the log says of MODEL, and its rollout has ended.

    A rollout is followed with its step, its requests and its guards' numbers.
    Exit code 6 where a version did not come up or its rollout was halted, 7 where time ran out first.
    """
    session = Session(ctx)
    limit = time_limit(timeout)
    with session.output.reporter() as reporter:
        waited = session.client().wait(model, seq=seq, timeout=limit, reporter=reporter)
    if session.output.json:
        session.output.document("mldeploy.wait/1", waited)
        return
    note_steps(session, waited)
    session.output.note(
        f"{len(waited.hosts)} of {len(waited.hosts)} live hosts arrived in {waited.seconds:.1f} s"
    )
