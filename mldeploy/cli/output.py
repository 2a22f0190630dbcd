"""Everything a person or a program sees: data on standard output, all else on standard error.

Rules: with --json exactly one document is printed, errors included, with a `schema` field; tables and colour
appear on a terminal only (NO_COLOR and TERM=dumb are kept), and tab-separated lines elsewhere; an expected
error is two lines. This is the only file that imports rich, and only where it draws. Left out: what is said.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, TextIO

from mldeploy.cli import exits
from mldeploy.cli.hinted import with_store
from mldeploy.cli.layout import lines
from mldeploy.cli.options import Options
from mldeploy.cli.streams import fit_for
from mldeploy.errors import MldeployError, RolloutHaltedError, ValidationError

if TYPE_CHECKING:
    from mldeploy.cli.progress import Quiet

#: A cell is text, or text and how it looks ("red", "bold" …).
Cell = str | tuple[str, str]
#: How a cell may look, and its ANSI code.
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
REPORT_BUGS = "this is a bug in mldeploy: please report it with the output of the same command and --verbose"


class Output:
    """How one call speaks. `json` and `verbose` are known before the options have been read."""

    def __init__(self, options: Options, *, json: bool = False, verbose: bool = False) -> None:
        self.options = options
        self._json = json
        self._verbose = verbose

    @property
    def json(self) -> bool:
        """Whether one document is to be printed."""
        return self._json or self.options.json

    @property
    def verbose(self) -> bool:
        """Whether tracebacks are wanted."""
        return self._verbose or self.options.verbose or bool(os.environ.get("MLDEPLOY_DEBUG"))

    def document(self, schema: str, value: object, **more: object) -> None:
        """The one document of this call: the fields of `value`, and what is not None of `more`."""
        import msgspec

        fields = msgspec.to_builtins(value)
        fields |= {key: msgspec.to_builtins(each) for key, each in more.items() if each is not None}
        data = msgspec.json.encode({"schema": schema, **fields})
        if sys.stdout.isatty():
            data = msgspec.json.format(data, indent=2)
        # written here, so that a reader who is gone is noticed here
        self.options.printed = True
        print(fit_for(sys.stdout, data.decode()), flush=True)

    def wrote(self, change: object) -> None:
        """A change that is made, whatever comes of the rest: the document of an error has it as `change`."""
        self.options.change = change

    def line(self, text: str) -> None:
        """Data."""
        print(harmless(text), flush=True)

    def value(self, value: object) -> None:
        """Data that is JSON whether or not --json was given."""
        import msgspec

        data = msgspec.json.encode(value)
        text = (msgspec.json.format(data, indent=2) if sys.stdout.isatty() else data).decode()
        print(fit_for(sys.stdout, text), flush=True)

    def note(self, text: str) -> None:
        """For people."""
        if not self.json:
            print(harmless(with_store(text, self.options.store)), file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """For people, and worth reading."""
        if not self.json:
            said = harmless(with_store(text, self.options.store))
            print(f"{paint(sys.stderr, 'warning', '1;33')}: {said}", file=sys.stderr, flush=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Rows as a table on a terminal, else as tab-separated lines without a heading."""
        if not sys.stdout.isatty():
            for row in rows:
                print("\t".join(_text(cell).strip() or "-" for cell in row))
        else:
            _draw(columns, rows)
        sys.stdout.flush()

    def reporter(self) -> Quiet:
        """What shows progress: bars on a terminal, notes elsewhere, nothing with --json."""
        from mldeploy.cli.progress import Notes, Quiet, Terminal

        if self.json:
            return Quiet()
        drawable = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        return Terminal() if drawable and self.options.progress else Notes()

    def failure(self, error: MldeployError, cause: Exception | None = None) -> int:
        """Show an expected error; its exit code. `cause` is what it stands for, for a traceback."""
        code = exits.exit_code(error)
        if isinstance(error, ValidationError):
            return self._findings(error, code)
        self.error(error.message, error.hint, code, halted=isinstance(error, RolloutHaltedError))
        if self.verbose and not self.json:
            traceback.print_exception(cause or error)
        return code

    def error(self, message: str, hint: str, code: int, **extra: object) -> None:
        """Two lines, or the document where none was printed yet."""
        message, hint = (with_store(text, self.options.store) for text in (message, hint))
        if self.json and not self.options.printed:
            fields = {"error": message, "hint": hint, "code": code}
            extra["change"] = self.options.change
            fields |= {key: value for key, value in extra.items() if value}
            self.document("mldeploy.error/1", fields)
            return
        two_lines(message, hint)

    def bug(self, error: Exception) -> int:
        """Something we did not expect."""
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if self.verbose and not self.json:
            traceback.print_exception(error)
        detail = "".join(traceback.format_exception(error)) if self.verbose and self.json else ""
        self.error(f"unexpected {text}", REPORT_BUGS, exits.BUG, traceback=detail)
        return exits.BUG

    def _findings(self, error: ValidationError, code: int) -> int:
        if self.json:
            import msgspec

            findings = [msgspec.to_builtins(finding) for finding in error.findings]
            self.error(error.message, error.hint, code, findings=findings)
            return code
        for finding in error.findings:
            self.finding(finding.file, finding.key, finding.message, finding.hint)
        return code

    def finding(self, file: str, key: str, message: str, hint: str) -> None:
        """What a gate found: two lines that name the place and the cure."""
        two_lines(f"{file}: {key}: {message}" if key else f"{file}: {message}", hint)


def two_lines(message: str, hint: str) -> None:
    """An error as people see it."""
    # a message that ends with a caret points into a text: those lines are shown as they are
    first, *pointer = message.split("\n") if message.endswith("^") else [message]
    print(f"{paint(sys.stderr, 'error', '1;31')}: {one_line(first)}", file=sys.stderr)
    for line in pointer:
        print(harmless(line), file=sys.stderr)
    if hint:
        print(f"{paint(sys.stderr, 'hint', '1;36')}: {one_line(hint)}", file=sys.stderr)
    sys.stderr.flush()


def one_line(text: str) -> str:
    """`text` with its line breaks folded away: what others wrote may not break our two lines."""
    return harmless(" ".join(part.strip() for part in text.splitlines() if part.strip()))


def harmless(text: str) -> str:
    """`text` without control characters: the words of hosts and models must not steer a terminal."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def coloured(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that wants colour."""
    return (
        stream.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") not in ("dumb", "unknown")
    )


def paint(stream: TextIO, text: str, code: str) -> str:
    """`text` in an ANSI style where `stream` wants colour."""
    return f"\x1b[{code}m{text}\x1b[0m" if coloured(stream) else text


def _text(cell: Cell) -> str:
    """What stands in the cell, on one line and in one column."""
    text = cell if isinstance(cell, str) else cell[0]
    return harmless(" ".join(text.splitlines()).replace("\t", " "))


def _laid_out(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], width: int
) -> Iterator[list[tuple[str, str]]]:
    cells = [[(_text(cell), "" if isinstance(cell, str) else cell[1]) for cell in row] for row in rows]
    return lines(columns, cells, width)


def _draw(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    for line in _laid_out(columns, rows, get_terminal_size().columns):
        print("".join(_styled(text, style) for text, style in line))


def _styled(text: str, style: str) -> str:
    codes = ";".join(_CODES[word] for word in style.split() if word in _CODES)
    return paint(sys.stdout, text, codes) if codes else text


def waiting_line(text: str) -> Any:
    """A line with a spinner on standard error; `start`, `update`, `stop`."""
    from rich.console import Console
    from rich.markup import escape

    return _Waiting(Console(stderr=True).status(escape(harmless(text))), escape)


class _Waiting:
    """A rich status whose texts are never markup."""

    def __init__(self, status: Any, escape: Any) -> None:
        self._status, self._escape = status, escape
        self.start, self.stop = status.start, status.stop

    def update(self, text: str) -> None:
        self._status.update(self._escape(harmless(text)))


def live_table() -> Any:
    """A line and a table on standard error, drawn anew at each `update`; gone when stopped."""
    return _LiveTable()


class _LiveTable:
    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True), transient=True, auto_refresh=False)
        self.start, self.stop = self._live.start, self._live.stop

    def update(self, line: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        from rich.console import Group
        from rich.text import Text

        # Text, not str: what a model or a host is called is never markup
        parts = [Text(harmless(line))]
        if rows:
            width = self._live.console.width
            parts += [Text.assemble(*pieces, no_wrap=True) for pieces in _laid_out(columns, rows, width)]
        self._live.update(Group(*parts), refresh=True)


def moving_bar(unit: str) -> Any:
    """A rich Progress on standard error that vanishes when stopped: how much, how fast, how long still."""
    from rich import progress
    from rich.console import Console

    done = (
        [progress.DownloadColumn(binary_units=True), progress.TransferSpeedColumn()]
        if unit == "bytes"
        else [progress.MofNCompleteColumn()]
    )
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False), progress.BarColumn(), *done,
        progress.TimeRemainingColumn(), console=Console(stderr=True), transient=True,
    )  # fmt: skip


def size(count: float) -> str:
    """Bytes for people: `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def facts(pairs: Mapping[str, Any]) -> list[tuple[Cell, Cell]]:
    """Rows of a two-column table out of what is not empty."""
    return [((key, "bold"), str(value)) for key, value in pairs.items() if value not in ("", None, {}, ())]


def share_words(hundredths: int) -> str:
    """A share of the traffic: `25%`."""
    from mldeploy.core.types import format_share

    return format_share(hundredths)


def ago(seconds: float) -> str:
    """How old something is: `40 s`, `6 min`, `3 h`, `12 d`."""
    from mldeploy.core.types import format_age

    return format_age(seconds)
