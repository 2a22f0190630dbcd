"""The global options, which stand before the command or after it, and the classes that make it so.

Every command carries them as parameters of its own; their values are kept in one Options for the whole call,
so that the place where one stood makes no difference. A command's own option of the same name wins. What is
given empty is refused everywhere: a script whose variable is unset must not get a default it did not ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption

from mldeploy.errors import UsageError

GLOBAL = "Global options"
#: Parameters whose text is for people: empty, they say nothing.
MAY_BE_EMPTY = frozenset(("reason",))


@dataclass(slots=True)
class Options:
    """The global options of this call (None: not given), and what it has made and printed up to now."""

    store: str | None = None
    environment: str | None = None
    json: bool = False
    progress: bool = True
    verbose: bool = False
    change: object = None
    printed: bool = False  # its one document


def _setter(field: str, value: object = None) -> Callable[[Any, Any, Any], Any]:
    def set_option(ctx: Any, param: Any, given: Any) -> Any:
        if given is not None and given is not False and isinstance(ctx.obj, Options):
            setattr(ctx.obj, field, given if value is None else value)
        return given

    return set_option


def _flag(
    *names: str, text: str, callback: Callable[[Any, Any, Any], Any], eager: bool = False
) -> TyperOption:
    return TyperOption(
        param_decls=list(names), is_flag=True, default=False, help=text, callback=callback,
        expose_value=False, is_eager=eager, rich_help_panel=GLOBAL,
    )  # fmt: skip


def _value(*names: str, metavar: str, text: str, field: str) -> TyperOption:
    return TyperOption(
        param_decls=list(names), metavar=metavar, help=text, callback=_setter(field), type=str,
        expose_value=False, rich_help_panel=GLOBAL,
    )  # fmt: skip


def _print_version(ctx: Any, param: Any, given: Any) -> None:
    if not given or ctx.resilient_parsing:
        return
    import typer

    import mldeploy

    if isinstance(ctx.obj, Options) and ctx.obj.json:
        from mldeploy.cli.output import Output

        Output(ctx.obj).document("mldeploy.version/1", {"version": mldeploy.__version__})
    else:
        typer.echo(f"mldeploy {mldeploy.__version__}")
    raise typer.Exit


def global_options() -> list[TyperOption]:
    """Fresh parameters for one command."""
    return [
        _value("--store", metavar="URL", field="store",
               text="The store, a URL or a folder. Else MLDEPLOY_STORE, else the nearest mldeploy.toml."),
        _value("--environment", "-e", metavar="NAME", field="environment",
               text="The environment. Else MLDEPLOY_ENVIRONMENT, else mldeploy.toml, else production."),
        _flag("--json", callback=_setter("json"), text="Print one JSON document on standard output."),
        _flag("--no-progress", callback=_setter("progress", value=0), text="Show no progress."),
        _flag("--verbose", "-v", callback=_setter("verbose"),
              text="Log to standard error; show tracebacks. So does MLDEPLOY_DEBUG=1."),
        _flag("--version", callback=_print_version, eager=True, text="Print the version and exit."),
    ]  # fmt: skip


def add_global_options(params: list[Any]) -> None:
    """Append those whose names are not taken by the command itself."""
    taken = {name for param in params for name in param.opts}
    params.extend(option for option in global_options() if not taken & set(option.opts))


def write_options(params: list[Any], ctx: Any, formatter: Any) -> None:
    """The help's lists of arguments, options and global options."""
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], GLOBAL: []}
    for param in params:
        row = param.get_help_record(ctx)
        if row is None:
            continue
        own = GLOBAL if getattr(param, "rich_help_panel", None) == GLOBAL else "Options"
        sections["Arguments" if param.param_type_name == "argument" else own].append(row)
    for title, rows in sections.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


def refuse_empty(command: Any, ctx: Any, args: list[str]) -> None:
    """Raise UsageError for an option or argument that is given and says nothing."""
    if ctx.resilient_parsing:
        return
    # the words as they stand: a path has no empty form, and would be the folder we are in
    given, _, _ = command.make_parser(ctx).parse_args(args=list(args))
    if given.get("json") and isinstance(ctx.obj, Options):
        ctx.obj.json = True  # known before --version is told, wherever the two stand
    for param in command.get_params(ctx):
        value = given.get(param.name)
        words = value if isinstance(value, list | tuple) else (value,)
        if param.name in MAY_BE_EMPTY or not any(map(_blank, words)):
            continue
        name = param.opts[0] if param.param_type_name == "option" else param.make_metavar(ctx).strip("[]")
        raise UsageError(f"{name} is given empty", "give it a value, or leave it out; is a variable unset?")


def _blank(word: object) -> bool:
    return isinstance(word, str) and not word.strip()


class Command(TyperCommand):
    """A command that takes the global options too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        add_global_options(self.params)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """As click does it, once nothing is given empty."""
        refuse_empty(self, ctx, args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Options of the command first, global ones last."""
        write_options(self.get_params(ctx), ctx, formatter)


class Group(TyperGroup):
    """Commands below one name, which takes the global options too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        add_global_options(self.params)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """As click does it, once no option before the command is given empty."""
        refuse_empty(self, ctx, args)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As click does it, with our own words for a name that is none."""
        name, known = args[0], self.list_commands(ctx)
        if not name.startswith("-") and name not in known:
            near = get_close_matches(name, known, 1, 0.5)
            path = ctx.command_path
            hint = f"did you mean `{path} {near[0]}`?" if near else f"`{path} --help` lists the commands"
            raise UsageError(f"no such command: {name!r}", hint)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The commands first, then the global options."""
        with formatter.section("Commands"):
            found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
            formatter.write_dl([(name, each.get_short_help_str(100)) for name, each in found if each])
        write_options(self.get_params(ctx), ctx, formatter)
