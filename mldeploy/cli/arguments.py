"""Arguments that several commands share, and how their texts are read.

Nothing heavy is imported here: these modules are loaded for every completion and every help page.
"""

from __future__ import annotations

from typing import Annotated

import typer

from mldeploy.cli.options import Group
from mldeploy.errors import UsageError

VERSION_HELP = "MODEL@VERSION, for example churn@7."

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.", show_default=False)]
Ref = Annotated[str, typer.Argument(metavar="MODEL@VERSION", help=VERSION_HELP, show_default=False)]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; shown in history.", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait until every live host has arrived, and a rollout has ended.")
]
Timeout = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        metavar="TIME",
        help="How long to wait: 45s, 1h30m. Default: 10m, and a rollout's deadline.",
        show_default=False,
    ),
]


def new_app() -> typer.Typer:
    """A group of commands; `main.py` loads it when one of them is called."""
    return typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


def new_group(name: str, text: str) -> typer.Typer:
    """Commands below one name, as `mldeploy policy show`; `text` is its help."""
    return typer.Typer(
        name=name, help=text, cls=Group, rich_markup_mode=None, pretty_exceptions_enable=False,
        add_completion=False, context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip


def seconds(text: str) -> float:
    """A duration in seconds. Raises UsageError."""
    from mldeploy.core.types import parse_duration

    return parse_duration(text).total_seconds()


def time_limit(text: str | None) -> float | None:
    """What --timeout says, in seconds; None where it is not given. Raises UsageError."""
    return None if text is None else seconds(text)


def wait_limit(wait: bool, timeout: str | None) -> float | None:
    """`time_limit`, of a command that waits where it is told to. Raises UsageError where it is not."""
    limit = time_limit(timeout)
    if timeout is not None and not wait:
        raise UsageError("--timeout is of a wait", "add --wait, or leave it out")
    return limit
