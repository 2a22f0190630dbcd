"""`mldeploy`: finds the command, loads its file, and turns what it raises into lines and an exit code.

The help of `mldeploy` itself comes from the table below, so that it loads no command. Left out: what a
command does (one file per group) and how anything looks (`output.py`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

import typer
from typer.main import get_command, get_group

from mldeploy.cli import exits, streams
from mldeploy.cli.options import Group, Options, write_options
from mldeploy.cli.output import Output, two_lines
from mldeploy.errors import DiskError, MldeployError

#: Heading -> command -> (file in mldeploy/cli, one line of help).
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Make a bundle": {
        "init": ("init", "Write a small working model folder, or make a store."),
        "pack": ("bundle", "Make a bundle out of a model folder."),
        "validate": ("bundle", "Run the three gates over a bundle."),
        "inspect": ("bundle", "Show what a bundle or a published version holds."),
        "serve": ("serve", "Run a model folder locally and reload it when it changes."),
    },
    "Release": {
        "push": ("release", "Publish a bundle as the next version of its model."),
        "promote": ("release", "Give a version traffic."),
        "plan": ("plan", "What applying a file would change."),
        "apply": ("plan", "Make everything as a file says, in one record."),
        "rollback": ("release", "Give traffic back to the version before."),
        "pause": ("hold", "Keep a rollout at its present share."),
        "resume": ("hold", "Let a paused rollout go on."),
        "shadow": ("shadow", "Copy live traffic to a version and compare its answers."),
        "freeze": ("hold", "Refuse promotes of a model, or of all."),
        "unfreeze": ("hold", "Allow promotes again."),
        "retire": ("lifetime", "Take a version out for good."),
        "restore": ("lifetime", "Make a retired version available again."),
        "extend": ("lifetime", "Move a version's expiry."),
        "policy": ("policy", "Settings of the store and its environments: show, set, unset."),
        "gc": ("gc", "Delete files that no version needs any more."),
    },
    "Look": {
        "status": ("look", "What serves where, and whether every host is there yet."),
        "history": ("look", "What was done, by whom, newest first."),
        "report": ("report", "How a version did beside stable, step by step."),
        "which": ("which", "The version a routing key gets."),
        "host": ("host", "The hosts: list, drain, forget."),
        "why": ("look", "Why a host serves what it serves."),
        "wait": ("look", "Wait until every live host has arrived."),
        "predict": ("predict", "Ask a model for a prediction."),
        "demo": ("demo", "See all of it work on real data."),
    },
}

#: The vendored click moved in Typer 0.2x; its base error is reached through what Typer exports.
_CLICK_ERROR: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)


def _names() -> list[str]:
    return [name for group in COMMANDS.values() for name in group]


class LazyGroup(Group):
    """The root: knows every command by name, and loads the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command, in the order of the help."""
        return _names()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load the command's file; None if there is no such command."""
        for group in COMMANDS.values():
            if cmd_name in group:
                module = import_module(f"mldeploy.cli.{group[cmd_name][0]}")
                group_of_file = get_group(module.app)
                # a file whose commands all stand below one name is that name: `policy show`
                return group_of_file.commands.get(cmd_name, group_of_file)
        return None

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The table of commands, then the global options."""
        for title, group in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in group.items()])
        write_options(self.get_params(ctx), ctx, formatter)


def build() -> Any:
    """The root command."""
    app = typer.Typer(
        cls=LazyGroup,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def mldeploy() -> None:
        """Continuous deployment of machine-learning models through an object-store bucket.

        History says who did what: user@host, or what MLDEPLOY_ACTOR says.
        """

    return get_command(app)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code (`exits.py`)."""
    streams.mend()
    args = list(sys.argv[1:] if argv is None else argv)
    code = run(args)
    if code == exits.INTERRUPTED:
        _leave(code)
    sys.exit(code)


def run(args: list[str]) -> int:
    """Run one command; its exit code."""
    options = Options()
    # an error in the options themselves must already be told in the form that was asked for
    before = args[: args.index("--")] if "--" in args else args
    output = Output(options, json="--json" in before, verbose=bool({"--verbose", "-v"} & set(before)))
    try:
        return _run(args, options, output)
    except OSError as error:  # what went wrong could not be told there
        return _unwritable(error)


def _run(args: list[str], options: Options, output: Output) -> int:
    try:
        with _ended_by_signals():
            code = _invoke(args, options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _reader_gone()
    except KeyboardInterrupt as stop:  # with a hint where the command was past its work and waited
        hint = str(stop) or "nothing is half-done: run it again to finish"
        output.error("interrupted", hint, exits.INTERRUPTED)
        return exits.INTERRUPTED
    except MldeployError as error:
        return output.failure(error)
    except _CLICK_ERROR as error:
        return _usage(error, args, output)
    except OSError as error:
        return _refused(error, output)
    except Exception as error:  # noqa: BLE001 the edge of the process: whatever comes here is our bug
        return output.bug(error)


def _invoke(args: list[str], options: Options) -> int:
    root = build()
    if os.environ.get("_MLDEPLOY_COMPLETE"):
        root.main(args=args, prog_name="mldeploy")  # answers the shell and exits
    if not args:
        with root.make_context("mldeploy", [], obj=options, resilient_parsing=True) as ctx:
            print(ctx.get_help(), file=sys.stderr)
        return exits.USAGE
    try:
        with root.make_context("mldeploy", args, obj=options) as ctx:
            root.invoke(ctx)
    except typer.Exit as end:
        return int(end.exit_code)
    except typer.Abort:
        raise KeyboardInterrupt from None
    return exits.OK


def _usage(error: Any, args: list[str], output: Output) -> int:
    """A call that click refused, in our two lines."""
    message = str(error.format_message()).split(" (Possible options:")[0].rstrip(".")
    ctx = getattr(error, "ctx", None)
    called = next((arg for arg in args if arg in _names()), None)  # some errors come without their context
    path = ctx.command_path if ctx is not None else f"mldeploy {called}" if called else "mldeploy"
    hint = f"`{path} --help` shows how it is called"
    wrong = getattr(error, "option_name", None)
    if wrong and ctx is not None:
        names = [name for param in ctx.command.get_params(ctx) for name in param.opts if len(name) > 2]
        near = get_close_matches(wrong, [name for name in names if name != wrong], 1, 0.7)
        hint = f"did you mean {near[0]}?" if near else hint
    output.error(message[:1].lower() + message[1:], hint, exits.USAGE)
    return exits.USAGE


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end a command as Ctrl-C does, so that nothing stays behind."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores one of them, and means it
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reader_gone() -> int:
    """The reader of our output closed it (`| head`): it has what it wanted."""
    _drop_output()
    return exits.OK


def _refused(error: OSError, output: Output) -> int:
    """What the operating system refuses where no command knew a better word for it."""
    said = error.strerror or str(error)
    where = "standard output, or a file" if error.filename is None else error.filename
    told = DiskError(
        f"{where}: {said}", "look at its disk and your rights to it; --verbose says where it was"
    )
    sys.stdout.flush()  # what it still holds would be tried again, and complained of, as Python ends
    return output.failure(told, cause=error)


def _unwritable(error: OSError) -> int:
    """Standard output takes nothing, a document least of all."""
    _drop_output()
    two_lines(f"standard output: {error.strerror or error}", "free some space, or write it to another place")
    return exits.FAILED


def _leave(code: int) -> NoReturn:
    """Now: the interpreter's own end would wait for threads that still send, until a server answers them."""
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _drop_output() -> None:
    """So that the interpreter's last flush does not complain."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


if __name__ == "__main__":
    main()
