"""The small language of `--where`: text to a criterion (`core/criterion.py`), by a grammar of our own.

    any        = all { "or" all }
    all        = one { "and" one }
    one        = "not" one | "(" any ")" | comparison
    comparison = name ( order value | [ "not" ] "in" "[" value { "," value } "]" )
    name       = "header." word | "input." word [ "[" place "]" ]
    order      = "==" | "!=" | "<" | "<=" | ">" | ">=" | "="     (the last means "==")
    value      = number | "true" | "false" | bare word | text in single or double quotes, \\ before a quote

Rules: nothing is executed; length, depth, comparisons and values are bounded, so evaluating is too. What
cannot be read is a UsageError whose message shows the text with a caret under the place.
Left out: what it means (`criterion.py`).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from mldeploy.core.criterion import (
    HEADER,
    INPUT,
    KEYWORDS,
    All,
    Comparison,
    Criterion,
    Either,
    Not,
    Value,
    number,
    to_text,
)
from mldeploy.core.manifest_fields import Tensor
from mldeploy.errors import UsageError

__all__ = ["MAX_COMPARISONS", "MAX_DEPTH", "MAX_LENGTH", "MAX_VALUES", "parse", "to_text"]

MAX_LENGTH = 1_000  # characters
MAX_DEPTH = 20  # parentheses and `not` within each other
MAX_COMPARISONS = 50
MAX_VALUES = 200  # in all lists together
MAX_PLACE = 2**31 - 1

_HINT = "write for example: header.country in [NL, BE] and input.amount > 1000"
_TOKEN = re.compile(
    r"""(?P<order>==|!=|<=|>=|=|<|>)|(?P<mark>[()\[\],])
      |(?P<text>"(?:[^"\\]|\\["'\\])*"|'(?:[^'\\]|\\["'\\])*')
      |(?P<word>[A-Za-z0-9_.+-][A-Za-z0-9_./:+-]*)""",
    re.VERBOSE,
)
_SPACE = re.compile(r"[ \t\r\n]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9_!#$%&'*+.^`|~-]{1,100}")
_BARE_VALUE = re.compile(r"[A-Za-z_][A-Za-z0-9_./:+-]*")


class _Token(NamedTuple):
    kind: str  # order, mark, text, word, end
    text: str
    at: int


def parse(text: str, inputs: Sequence[Tensor] | None = None) -> Criterion:
    """The criterion that `text` says. With `inputs`, those of the signature, names and kinds are checked.

    Raises UsageError, whose message ends with the text and a caret under what is wrong.
    """
    return _Reader(text, inputs).read()


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)


class _Reader:
    """One text, read from left to right; `token` is the next."""

    def __init__(self, text: str, inputs: Sequence[Tensor] | None) -> None:
        self.text = text
        self.inputs = None if inputs is None else {tensor.name: tensor for tensor in inputs}
        self.at = self.depth = self.comparisons = self.values = 0

    def read(self) -> Criterion:
        if len(self.text) > MAX_LENGTH:
            raise self._fail(f"longer than {MAX_LENGTH} characters", MAX_LENGTH, "select by fewer conditions")
        self.token = self._next()
        criterion = self._any()
        if self.token.kind != "end":
            raise self._fail("expected `and`, `or` or the end", self.token.at)
        return criterion

    def _fail(self, message: str, at: int, hint: str = _HINT) -> UsageError:
        begin = max(0, at - 60)
        shown = re.sub(r"[^ -~\u00a0-\U0010ffff]", " ", self.text[begin : at + 60]).replace("\ufeff", " ")
        shown = "".join(character if character.isprintable() else " " for character in shown)
        return UsageError(f"{message}, at character {at + 1}\n  {shown}\n  {' ' * (at - begin)}^", hint)

    def _next(self) -> _Token:
        space = _SPACE.match(self.text, self.at)
        at = space.end() if space else self.at
        if at >= len(self.text):
            return _Token("end", "", len(self.text))
        match = _TOKEN.match(self.text, at)
        if match is None or match.lastgroup is None:
            quote = self.text[at] in "\"'"
            raise self._fail(
                "text that does not end" if quote else f"{self.text[at]!r} means nothing here", at
            )
        self.at = match.end()
        return _Token(match.lastgroup, match.group(), at)

    def _take(self) -> _Token:
        token, self.token = self.token, self._next()
        return token

    def _is(self, *words: str) -> bool:
        return self.token.kind in ("word", "mark") and self.token.text in words

    def _expect(self, mark: str) -> None:
        if not self._is(mark):
            raise self._fail(f"expected `{mark}`", self.token.at)
        self._take()

    def _any(self) -> Criterion:
        parts = [self._all()]
        while self._is("or"):
            self._take()
            parts.append(self._all())
        flat = [inner for part in parts for inner in (part.parts if isinstance(part, Either) else (part,))]
        return Either(tuple(flat)) if len(flat) > 1 else flat[0]

    def _all(self) -> Criterion:
        parts = [self._one()]
        while self._is("and"):
            self._take()
            parts.append(self._one())
        flat = [inner for part in parts for inner in (part.parts if isinstance(part, All) else (part,))]
        return All(tuple(flat)) if len(flat) > 1 else flat[0]

    def _one(self) -> Criterion:
        if not self._is("not", "("):
            return self._comparison()
        token = self._take()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._fail(
                f"more than {MAX_DEPTH} within each other", token.at, "select by fewer conditions"
            )
        if token.text == "not":
            found: Criterion = Not(self._one())
        else:
            found = self._any()
            self._expect(")")
        self.depth -= 1
        return found

    def _comparison(self) -> Comparison:
        self.comparisons += 1
        if self.comparisons > MAX_COMPARISONS:
            raise self._fail(
                f"more than {MAX_COMPARISONS} comparisons", self.token.at, "select by fewer of them"
            )
        source, name, place, tensor = self._name()
        sign = self._take()
        if sign.kind == "order":
            order = "==" if sign.text == "=" else sign.text
            return Comparison(source, name, place, order, (self._value(tensor, order),))
        if sign[:2] == ("word", "not") and self._is("in"):
            self._take()
            return Comparison(source, name, place, "not in", self._list(tensor))
        if sign[:2] == ("word", "in"):
            return Comparison(source, name, place, "in", self._list(tensor))
        raise self._fail("expected a comparison: ==, !=, <, <=, >, >=, in or not in", sign.at)

    def _name(self) -> tuple[str, str, int, Tensor | None]:
        token = self._take()
        source, dot, name = token.text.partition(".")
        if token.kind != "word" or source not in (HEADER, INPUT) or not dot:
            raise self._fail("expected header.NAME or input.NAME", token.at)
        at = token.at + len(source) + 1
        if not name and self.token.kind == "text" and self.token.at == at:
            name = _unquote(self._take().text)
        if source == HEADER:
            if not _HEADER_NAME.fullmatch(name):
                raise self._fail("expected the name of a header", at)
            return HEADER, name.lower(), 0, None
        if not name or len(name) > 200:
            raise self._fail("expected the name of an input", at)
        tensor = self._tensor(name, at)
        place = self._place(tensor)
        return INPUT, name, place, tensor

    def _tensor(self, name: str, at: int) -> Tensor | None:
        if self.inputs is None:
            return None
        if name not in self.inputs:
            near = difflib.get_close_matches(name, list(self.inputs), 1)
            known = ", ".join(list(self.inputs)[:20])
            meant = f"did you mean input.{near[0]}? " if near else ""
            raise self._fail(f"the model has no input {name[:80]!r}", at, f"{meant}it takes {known}")
        return self.inputs[name]

    def _place(self, tensor: Tensor | None) -> int:
        sizes = tensor.shape[1:] if tensor and tensor.shape[:1] == (-1,) else tensor.shape if tensor else ()
        known = math.prod(sizes) if tensor and -1 not in sizes else None
        at = self.token.at
        if not self._is("["):
            if tensor is not None and known != 1:
                hint = f"say which one: input.{tensor.name}[0] is the first of a row"
                raise self._fail(f"input {tensor.name!r} has more than one value", at, hint)
            return 0
        self._take()
        token = self._take()
        if not token.text.isascii() or not token.text.isdigit() or len(token.text) > 10:
            raise self._fail("expected the place of an element, from 0 up", token.at)
        place = int(token.text)
        self._expect("]")
        if place > MAX_PLACE or (known is not None and tensor is not None and place >= known):
            last = MAX_PLACE if known is None else known - 1
            raise self._fail("there is no such element", token.at, f"write 0 to {last}")
        return place

    def _list(self, tensor: Tensor | None) -> tuple[Value, ...]:
        self._expect("[")
        values = [self._value(tensor, "in")]
        while self._is(","):
            self._take()
            values.append(self._value(tensor, "in"))
        self._expect("]")
        return tuple(values)

    def _value(self, tensor: Tensor | None, order: str) -> Value:
        self.values += 1
        if self.values > MAX_VALUES:
            raise self._fail(f"more than {MAX_VALUES} values", self.token.at, "select by fewer of them")
        token = self._take()
        value = self._plain(token)
        if isinstance(value, bool) and order in ("<", "<=", ">", ">="):
            raise self._fail("true and false have no order", token.at, "compare them with == or !=")
        if tensor is not None and (wanted := _kind(tensor)) != _kind_of(value):
            raise self._fail(f"input {tensor.name!r} is {tensor.datatype}, so {wanted} is expected", token.at)
        return value

    def _plain(self, token: _Token) -> Value:
        if token.kind == "text":
            return _unquote(token.text)
        if token.kind != "word" or token.text in ("and", "or", "not", "in"):
            raise self._fail("expected a value: a number, a word, or text in quotes", token.at)
        if token.text in KEYWORDS:
            return token.text == "true"
        if _BARE_VALUE.fullmatch(token.text):
            return token.text
        found = number(token.text)
        if found is None:
            hint = f'put text in quotes: "{token.text[:40]}"'
            raise self._fail(f"{token.text[:40]!r} is neither a number nor a word", token.at, hint)
        return found


def _kind(tensor: Tensor) -> str:
    return {"BYTES": "text", "BOOL": "true or false"}.get(tensor.datatype, "a number")


def _kind_of(value: Value) -> str:
    return "true or false" if isinstance(value, bool) else "text" if isinstance(value, str) else "a number"
