"""A shadow's criterion as a value: which requests it is about. `core/where.py` reads it from text.

Rules: a comparison whose header or input a request does not carry, or whose value is of another kind than it
is compared with, is false, whatever the operator. A header is text, and a number where it is compared with
numbers. An input's element is the one at that place of the tensor in row-major order. Evaluation is linear in
the comparisons, whose number `where.py` bounds.
Left out: where headers and elements come from (the front has headers, the mirror decodes inputs).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator

import msgspec

#: What a value may be. Text in quotes or bare, numbers, true and false.
Value = str | int | float | bool
#: A header's text by lower-case name, and an input's element by name and place; None where there is none.
HeaderOf = Callable[[str], str | None]
ElementOf = Callable[[str, int], Value | None]

HEADER, INPUT = "header", "input"
KEYWORDS = frozenset({"and", "or", "not", "in", "true", "false"})
#: A name or a value that needs no quotes.
BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./:-]*")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]*")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LONGEST_NUMBER = 32

_ORDER: dict[str, Callable[[Value, Value], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
OPERATORS = tuple(_ORDER)


class Comparison(msgspec.Struct, frozen=True):
    """`header.country in [NL, BE]`, `input.amount > 1000`."""

    source: str  # HEADER or INPUT
    name: str
    place: int  # of an input's element; 0 for headers
    operator: str  # one of OPERATORS, "in", "not in"
    values: tuple[Value, ...]  # one, unless the operator is "in" or "not in"


class Not(msgspec.Struct, frozen=True):
    """The opposite of `part`."""

    part: Criterion


class All(msgspec.Struct, frozen=True):
    """Every one of at least two parts, none of which is an All."""

    parts: tuple[Criterion, ...]


class Either(msgspec.Struct, frozen=True):
    """One or more of at least two parts, none of which is an Either."""

    parts: tuple[Criterion, ...]


Criterion = Comparison | Not | All | Either


def comparisons(criterion: Criterion) -> Iterator[Comparison]:
    """All of them, from left to right."""
    match criterion:
        case Comparison():
            yield criterion
        case Not():
            yield from comparisons(criterion.part)
        case All() | Either():
            for part in criterion.parts:
                yield from comparisons(part)


def needs_inputs(criterion: Criterion) -> bool:
    """Whether it names an input, so that headers alone may not decide it."""
    return any(comparison.source == INPUT for comparison in comparisons(criterion))


def headers_of(criterion: Criterion) -> frozenset[str]:
    """The lower-case names of the headers it looks at."""
    return frozenset(each.name for each in comparisons(criterion) if each.source == HEADER)


def by_headers(criterion: Criterion, header: HeaderOf) -> bool | None:
    """What the headers alone decide; None where it takes the inputs."""
    match criterion:
        case Comparison():
            return _compare(criterion, header(criterion.name)) if criterion.source == HEADER else None
        case Not():
            inner = by_headers(criterion.part, header)
            return None if inner is None else not inner
        case All() | Either():
            decisive = isinstance(criterion, Either)
            open_ = False
            for part in criterion.parts:
                found = by_headers(part, header)
                if found is decisive:
                    return decisive
                open_ = open_ or found is None
            return None if open_ else not decisive


def evaluate(criterion: Criterion, header: HeaderOf, element: ElementOf) -> bool:
    """Whether a request with these headers and inputs meets it."""
    match criterion:
        case Comparison():
            if criterion.source == HEADER:
                return _compare(criterion, header(criterion.name))
            return _compare(criterion, element(criterion.name, criterion.place))
        case Not():
            return not evaluate(criterion.part, header, element)
        case All():
            return all(evaluate(part, header, element) for part in criterion.parts)
        case Either():
            return any(evaluate(part, header, element) for part in criterion.parts)


def _compare(comparison: Comparison, found: Value | None) -> bool:
    if found is None:
        return False
    pairs = [(_alike(found, value, comparison.source), value) for value in comparison.values]
    if comparison.operator == "in":
        return any(one == value for one, value in pairs if one is not None)
    if comparison.operator == "not in":
        alike = [(one, value) for one, value in pairs if one is not None]
        return bool(alike) and all(one != value for one, value in alike)
    one, value = pairs[0]
    return one is not None and _ORDER[comparison.operator](one, value)


def _alike(found: Value, value: Value, source: str) -> Value | None:
    """`found` as the kind that `value` is of; None where it is none."""
    if source == HEADER and not isinstance(value, str):
        return _truth(str(found)) if isinstance(value, bool) else number(str(found))
    if isinstance(found, bool) != isinstance(value, bool) or isinstance(found, str) != isinstance(value, str):
        return None
    return found


def _truth(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.strip().lower())


def number(text: str) -> int | float | None:
    """A finite decimal of at most 32 characters; None for anything else."""
    text = text.strip(" \t")
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        return None
    if text.lstrip("+-").isdigit():
        return int(text)
    value = float(text)
    return value if abs(value) != float("inf") else None


def to_text(criterion: Criterion) -> str:
    """The shortest text that reads back as the same criterion."""
    return _write(criterion, 0)


def _write(criterion: Criterion, within: int) -> str:
    """`within`: 0 anywhere, 1 as part of `or`, 2 as part of `and`, 3 after `not`."""
    match criterion:
        case Comparison():
            return _write_comparison(criterion)
        case Not():
            return f"not {_write(criterion.part, 3)}"
        case All() | Either():
            level, word = (2, " and ") if isinstance(criterion, All) else (1, " or ")
            text = word.join(_write(part, level) for part in criterion.parts)
            return f"({text})" if within >= level else text


def _write_comparison(comparison: Comparison) -> str:
    name = comparison.name if NAME.fullmatch(comparison.name) else _quote(comparison.name)
    place = f"[{comparison.place}]" if comparison.place else ""
    values = [_write_value(value) for value in comparison.values]
    listed = comparison.operator in ("in", "not in")
    right = f"[{', '.join(values)}]" if listed else values[0]
    return f"{comparison.source}.{name}{place} {comparison.operator} {right}"


def _write_value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value if BARE.fullmatch(value) and value not in KEYWORDS else _quote(value)
    return repr(value)


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
