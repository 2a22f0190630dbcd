"""What every command starts with: the client it works through and the output it speaks to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from mldeploy.cli.options import Options
from mldeploy.cli.output import Output
from mldeploy.errors import UsageError

if TYPE_CHECKING:
    from mldeploy.client import Client
    from mldeploy.client.types import Change, HostWaited, Waited


class Session:
    """One call of one command. Nothing is opened before it is used."""

    def __init__(self, ctx: typer.Context) -> None:
        options = ctx.obj if isinstance(ctx.obj, Options) else Options()
        self.options = options
        self.output = Output(options)
        if self.output.verbose:
            _log_to_stderr()

    def client(self) -> Client:
        """The client for the store and environment that were named."""
        from mldeploy.client import Client

        return Client(self.options.store, environment=self.options.environment)

    def client_of_all(self) -> Client:
        """The client, for what is done in every environment. Raises UsageError where one was named."""
        if self.options.environment is not None:
            raise UsageError(
                f"--environment {self.options.environment}: this is done in every environment of the store",
                "leave --environment out if that is meant",
            )
        return self.client()

    def refuse(self, *options: str) -> None:
        """Raise UsageError for global options that were given, where the command makes its own."""
        given = [f"--{name}" for name in options if getattr(self.options, name) is not None]
        if given:
            what = "its own" if len(given) == 1 else "its own of each"
            raise UsageError(f"{' and '.join(given)}: this command makes {what}", "leave it out")

    def changed(
        self,
        command: str,
        change: Change,
        done: str,
        already: str,
        waited: Waited | HostWaited | None = None,
    ) -> None:
        """Show what a mutation did. `done` is what to say, `already` where it was so before."""
        if self.output.json:
            self.output.document(f"mldeploy.{command}/1", change, waited=waited)
            return
        for warning in change.warnings:
            self.output.warn(warning)
        if change.already:
            self.output.note(f"{already} already; nothing written")
        elif change.dry_run:
            for action in change.actions:
                self.output.note(f"would {action}")
        else:
            self.output.note(f"{done} (record {change.seq})")


def written(change: Change) -> str:
    """What of an interrupted command stands."""
    return f"record {change.seq} is written" if change.seq is not None else "it was so already"


def _log_to_stderr() -> None:
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("mldeploy")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
