"""How long work says where it is: the Reporter protocol, and one that says nothing.

Rules: everything a reporter shows is for people and goes to standard error; results never do. A reporter is
called from one thread. Left out: how it looks on a terminal (`cli/output.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

#: Called with the amount just done (bytes, or items).
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Standing:
    """How something that goes on by itself stands: a line, and a table of what it rests on.

    Where nothing can be drawn, the line is said whenever `change` is another than before; `head` stands above
    the table.
    """

    line: str
    change: object
    head: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


class Reporter(Protocol):
    """What a long command says while it works."""

    def step(self, text: str) -> None:
        """Something begins now; also what a waiting line shows until the next call."""

    def standing(self, now: Standing) -> None:
        """How what is waited for stands now; replaces what was said of it before."""

    def info(self, text: str) -> None:
        """One line that stays."""

    def warn(self, text: str) -> None:
        """One line that stays and should be read."""

    def bar(self, label: str, total: int | None, unit: str = "bytes") -> AbstractContextManager[Advance]:
        """A bar for `total` bytes (or items; None where unknown), shown once it has run for a second."""


class Silent:
    """A Reporter that says nothing: the default of every Python call."""

    def step(self, text: str) -> None:
        """Say nothing."""

    def standing(self, now: Standing) -> None:
        """Say nothing."""

    def info(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""

    def bar(self, label: str, total: int | None, unit: str = "bytes") -> AbstractContextManager[Advance]:
        """Show nothing."""
        return nullcontext(_ignore)


def _ignore(amount: int) -> None:
    pass
