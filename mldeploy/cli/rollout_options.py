"""The options that say how a version takes traffic: one definition for every command that promotes.

`with_rollout_options` gives a command them all in place of its parameter `rollout`, which it gets as the
`RolloutTerms` that the client takes. Left out: what they mean (`client/terms.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, TypeVar

import typer

from mldeploy.errors import UsageError

_T = TypeVar("_T")


def _options(
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="PERCENT", help="This share of the traffic, and no more.", show_default=False
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps", metavar="LIST", help="A ramp, for example shadow,1,10,50,100.", show_default=False
        ),
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="All traffic at once, whatever the bundle's own rollout says.")
    ] = False,
    hold: Annotated[
        str | None, typer.Option("--hold", metavar="TIME", help="At each step: 10m.", show_default=False)
    ] = None,
    guards: Annotated[
        list[str] | None,
        typer.Option(
            "--guard",
            metavar="GUARD",
            help="What each step must meet: 'error_rate < 1%', 'p99 < 1.2x', or none. May be repeated.",
            show_default=False,
        ),
    ] = None,
    min_requests: Annotated[
        int | None,
        typer.Option(
            "--min-requests", metavar="N", help="Of the candidate, at each step.", show_default=False
        ),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            "--deadline", metavar="TIME", help="The ramp is halted if it takes longer.", show_default=False
        ),
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            metavar="KEY=VALUE",
            help="Only on hosts with this label. May be repeated: with all of them.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """What the options are; never called."""


_SHARED = inspect.signature(_options, eval_str=True).parameters


def with_rollout_options(command: Callable[..., _T]) -> Callable[..., _T]:
    """The command with these options where its keyword `rollout` stands."""
    command.__annotations__.pop("rollout")  # a name for the type checker alone: nobody can evaluate it
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        parameters += _SHARED.values() if name == "rollout" else (parameter,)

    @wraps(command)
    def call(**given: Any) -> _T:
        rollout = {name: given.pop(name) for name in _SHARED}
        rollout["steps"] = _shares(rollout["steps"])
        return command(**given, rollout=rollout)

    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    call.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    return call


def named(rollout: Mapping[str, Any]) -> list[str]:
    """The options that were given, as they are written: `--steps`."""
    # where it is annotated, what Typer calls the default of an option is the first of its names
    words = {name: str(option.annotation.__metadata__[0].default) for name, option in _SHARED.items()}
    return [words[name] for name, value in rollout.items() if value not in (None, False, [])]


def _shares(text: str | None) -> list[str] | None:
    """`1,10,50,100` as a list of percentages. Raises UsageError."""
    if text is None:
        return None
    steps = [part.strip() for part in text.split(",") if part.strip()]
    if not steps:
        raise UsageError("--steps names no percentage", "write for example --steps 1,10,50,100")
    return steps
