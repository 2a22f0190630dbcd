"""A table for people, laid out for the width of their terminal: the same with and without colour.

Rules: a column in which no row says anything is left out. What is too wide is wrapped between words, the
widest columns first; a word, as a name or a digest, is never broken. Where not even its words fit, each row
is told as a few lines, one for each column. (rich's tables break words, or crop them, where columns are
tight.) Left out: colours and streams (`output.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

#: What stands in a cell, and how it looks ("red", "bold", or nothing).
Piece = tuple[str, str]

_HEADING = "bold"
#: Between two columns; where that is too much.
_GAPS = (2, 1)


def lines(columns: Sequence[str], rows: Sequence[Sequence[Piece]], width: int) -> Iterator[list[Piece]]:
    """The lines of the table; the pieces of each follow one another without anything between them."""
    said = [index for index in range(len(columns)) if not rows or any(row[index][0] for row in rows)]
    head = [(columns[index], _HEADING) for index in said]
    body = [[row[index] for index in said] for row in rows]
    for gap in _GAPS:
        widths = _widths([head, *body], width - gap * (len(said) - 1))
        if widths is not None:
            for row in (head, *body):
                yield from _row(row, widths, gap)
            return
    if len(said) <= 2:  # nothing to gain: the last column is as long as it is
        for row in (head, *body):
            yield from _row(row, [_longest(row[0][0] for row in (head, *body)), width * 100][: len(said)], 2)
        return
    yield from _stacked(head, body, width)


def _widths(rows: Sequence[Sequence[Piece]], room: int) -> list[int] | None:
    """How wide each column is in so much room; None where its words do not fit."""
    columns = [[cell[0] for cell in column] for column in zip(*rows, strict=True)]
    widths = [_longest(column) for column in columns]
    least = [_longest(word for text in column for word in text.split()) for column in columns]
    if sum(least) > room:
        return None
    while sum(widths) > room:
        index = max((i for i in range(len(widths)) if widths[i] > least[i]), key=lambda i: widths[i])
        widths[index] -= 1
    return widths


def _row(row: Sequence[Piece], widths: Sequence[int], gap: int) -> Iterator[list[Piece]]:
    cells = [_wrapped(text, width) for (text, _), width in zip(row, widths, strict=True)]
    for number in range(max((len(cell) for cell in cells), default=0)):
        line: list[Piece] = []
        before = 0  # spaces that are owed
        for cell, (_, style), width in zip(cells, row, widths, strict=True):
            text = cell[number] if number < len(cell) else ""
            if text:
                line += [(" " * before, ""), (text, style)]
                before = 0
            before += width - cells_of(text) + gap
        yield line


def _wrapped(text: str, width: int) -> list[str]:
    if cells_of(text) <= width:
        return [text]
    return wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False)


def _stacked(head: Sequence[Piece], body: Sequence[Sequence[Piece]], width: int) -> Iterator[list[Piece]]:
    widest = _longest(text for text, _ in head)
    for number, row in enumerate(body):
        if number:
            yield []
        for name, cell in zip(head, row, strict=True):
            if cell[0]:
                yield from _row((name, cell), (widest, width - widest - _GAPS[0]), _GAPS[0])


def _longest(texts: Iterator[str] | Sequence[str]) -> int:
    return max((cells_of(text) for text in texts), default=0)


def cells_of(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():  # nearly always, and rich takes a while to load
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
