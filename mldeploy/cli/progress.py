"""Reporters that people see: bars and a waiting line on a terminal, plain notes elsewhere.

Rules: all of it goes to standard error; a bar appears once its work has run for a second; whatever is live is
gone before anything else is printed. What draws comes from `output.py`, which alone imports rich.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mldeploy.cli import output as out
from mldeploy.progress import Advance, Silent, Standing

#: Seconds of work before a bar is worth drawing.
PATIENCE = 1.0


class Quiet(Silent):
    """Says nothing but what went wrong; a context manager like the others."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def problem(self, message: str, hint: str) -> None:
        """An error that does not end the command, in its two lines: it has no document of its own."""
        out.two_lines(message, hint)


class Notes(Quiet):
    """Where nothing can be drawn: the lines that stay, and nothing that moves."""

    def __init__(self) -> None:
        self._standing: object = None

    def standing(self, now: Standing) -> None:
        """One line for every change."""
        if now.change != self._standing:
            self._standing = now.change
            print(out.harmless(now.line), file=sys.stderr, flush=True)

    def info(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """One line, marked."""
        print(f"{out.paint(sys.stderr, 'warning', '1;33')}: {text}", file=sys.stderr, flush=True)


class Terminal(Notes):
    """A waiting line for the present step, and bars."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: Any = None
        self._table: Any = None

    def __exit__(self, *args: object) -> None:
        self._stop()

    def step(self, text: str) -> None:
        """Show `text` in the waiting line."""
        self._end_table()
        if self._waiting is None:
            self._waiting = out.waiting_line(text)
            self._waiting.start()
        else:
            self._waiting.update(text)

    def standing(self, now: Standing) -> None:
        """A table that is drawn anew each time."""
        if self._table is None:
            self._stop()
            self._table = out.live_table()
            self._table.start()
        self._table.update(now.head or now.line, now.columns, now.rows)

    def info(self, text: str) -> None:
        """One line, above the waiting line."""
        self._stop()
        super().info(text)

    def warn(self, text: str) -> None:
        """One marked line, above the waiting line."""
        self._stop()
        super().warn(text)

    def problem(self, message: str, hint: str) -> None:
        """An error that does not end the command, above the waiting line."""
        self._stop()
        super().problem(message, hint)

    @contextmanager
    def bar(self, label: str, total: int | None, unit: str = "bytes") -> Iterator[Advance]:
        """A bar, once the work has taken a second."""
        self._stop()
        drawn: list[Any] = []
        done, started = 0, time.monotonic()

        def advance(amount: int) -> None:
            nonlocal done
            done += amount
            if drawn:
                drawn[0].advance(drawn[1], amount)
            elif time.monotonic() - started >= PATIENCE:
                bar = out.moving_bar(unit)
                bar.start()
                drawn[:] = [bar, bar.add_task(label, total=total, completed=done)]

        try:
            yield advance
        finally:
            if drawn:
                drawn[0].stop()

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None
        self._end_table()

    def _end_table(self) -> None:
        if self._table is not None:
            self._table.stop()
            self._table = None
