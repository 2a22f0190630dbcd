"""The small language of `--guard`: a condition on measured behaviour, text to `Guard`.

    guard   = measure [ "(" word ")" ] ( "<" | ">" ) number unit
    measure = error_rate | refusal_rate | p50 | p90 | p95 | p99 | mean
            | agreement | drift | crashes | memory | metric
    unit    = "%" | "us" | "ms" | "s" | "x" | "KiB" | "MiB" | "GiB" | nothing

`x` means times what stable shows in the same scope; `drift` and `metric` name a tensor column or one of the
bundle's own metrics in parentheses. The word `none`, alone, stands for no guard at all.

Rules: what cannot be read is a UsageError whose message shows the text with a caret under the place.
Left out: whether a guard holds (`core/judge.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import msgspec

from mldeploy.errors import UsageError

#: Stands alone, in place of guards: there is none.
NONE = "none"
MAX_GUARDS = 50
_MAX_LENGTH = 200

_TIMES = "x"
_SHARE = {"%": 0.01}
_TIME = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_NUMBER = {"": 1.0}
#: The quantiles among the measures.
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


class _Kind(NamedTuple):
    """What may be said of one measure."""

    order: str  # the signs that make sense
    units: dict[str, float]
    times: bool  # whether it may be held against stable's
    of: str  # what stands in parentheses; empty: nothing
    example: str


_LATENCY = _Kind("<", _TIME, True, "", "80ms or 1.2x")
_KINDS = {
    "error_rate": _Kind("<", _SHARE, True, "", "1% or 1.5x"),
    "refusal_rate": _Kind("<", _SHARE, True, "", "1% or 1.5x"),
    **dict.fromkeys((*QUANTILES, "mean"), _LATENCY),
    "agreement": _Kind(">", _SHARE, False, "", "95%"),
    "drift": _Kind("<", _NUMBER, False, "column", "0.2"),
    "crashes": _Kind("<", _NUMBER, False, "", "1"),
    "memory": _Kind("<", _BYTES, True, "", "2GiB or 1.5x"),
    "metric": _Kind("<>", _NUMBER, True, "metric", "0.9 or 0.98x"),
}
_SPACES = " \t\r\n\f\v\xa0"
#: Whatever lies beyond these and ASCII is part of a word: versions of Python differ on which of it are
#: letters, and hosts must fold alike.
_TOKEN = re.compile(
    rf"[{_SPACES}]*(?:(?P<number>\d+(?:\.\d+)?(?:[eE]-?\d+)?)|"
    r"(?P<word>[A-Za-z_\xa1-\U0010ffff][\w.:/\[\]\xa1-\U0010ffff-]*)|(?P<mark>[()<>%=]+?(?!=)))",
    re.ASCII,
)


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """A condition. `limit` is a share, seconds, bytes, a count, or (`times`) a multiple of stable's."""

    text: str  # as it was written
    measure: str
    of: str = ""  # the column or metric it is about
    order: str  # "<" or ">"
    limit: float
    times: bool = False

    @property
    def counted(self) -> bool:
        """Whether it is judged from samples, so that chance plays a part."""
        return self.measure not in ("crashes", "memory", "metric")


def parse(text: str) -> Guard:
    """The guard that `text` says. Raises UsageError, whose message ends with the text and a caret."""
    return _Reader(text).read()


def parse_all(texts: Sequence[str]) -> tuple[Guard, ...]:
    """The guards that `texts` say; none for `none` alone. Raises UsageError."""
    if len(texts) > MAX_GUARDS:
        raise UsageError(f"{len(texts)} guards", f"write at most {MAX_GUARDS}")
    if tuple(texts) == (NONE,):
        return ()
    if NONE in texts:
        raise UsageError(f"{NONE!r} stands for no guard at all", "leave it out, or all others")
    return tuple(parse(text) for text in texts)


def guards_problem(texts: Sequence[str], steps: Sequence[int] | None = None) -> tuple[str, str] | None:
    """What is wrong with guards for a rollout of these steps, as (message, hint); None if nothing."""
    try:
        guards = parse_all(texts)
    except UsageError as error:
        return error.message, error.hint
    if steps is None or steps[:1] == (0,):
        return None
    shadowed = next((guard for guard in guards if guard.measure == "agreement"), None)
    if shadowed is None:
        return None
    return (
        f"the guard {shadowed.text!r} compares answers, and no step of the rollout does",
        "begin with a shadow step, for example --steps shadow,1,10,50,100",
    )


def names_problem(
    texts: Sequence[str], metrics: Collection[str], columns: Callable[[], Collection[str]]
) -> tuple[str, str] | None:
    """What guards name that their bundle has not, as (message, hint): such a guard is never decided.

    `metrics` are the bundle's own, `columns` those of its baseline, asked for where a guard names one. The
    guards are ones that can be read.
    """
    for guard in parse_all(texts):
        if guard.measure not in ("metric", "drift"):
            continue
        known = metrics if guard.measure == "metric" else columns()
        if guard.of in known:
            continue
        near = get_close_matches(guard.of, known, 1)
        have = f"it has {', '.join(sorted(known)[:10])}" if known else f"leave {guard.measure} out"
        what = "metric" if guard.measure == "metric" else "column in its baseline"
        missing = f"the bundle has no {what} {guard.of!r}" if known else f"the bundle has no {what}"
        return (
            f"the guard {guard.text!r} cannot be decided: {missing}",
            f"did you mean {guard.measure}({near[0]})?" if near else have,
        )
    return None


class _Reader:
    """One text, read from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def read(self) -> Guard:
        if len(self.text) > _MAX_LENGTH:
            raise UsageError(f"a guard of {len(self.text)} characters", f"write at most {_MAX_LENGTH}")
        kind, measure, at = self._next()
        known = _KINDS.get(measure) if kind == "word" else None
        if known is None:
            near = get_close_matches(measure, _KINDS, 1)
            hint = f"did you mean {near[0]}?" if near else f"guards are on {', '.join(_KINDS)}"
            raise self._fail("not something that is measured", at, hint)
        of = self._of(measure, known)
        kind, order, at = self._next()
        if kind != "mark" or order not in known.order:
            raise self._fail(
                f"{measure} is held by {' or '.join(known.order)}",
                at,
                f"write for example: {self._example(measure, known, of)}",
            )
        limit, times = self._limit(measure, known, of)
        return Guard(
            text=self.text.strip(_SPACES), measure=measure, of=of, order=order, limit=limit, times=times
        )

    def _of(self, measure: str, known: _Kind) -> str:
        before = self.at
        kind, mark, at = self._next()
        if not known.of:
            if (kind, mark) == ("mark", "("):
                raise self._fail(f"{measure} takes nothing in parentheses", at, "leave them out")
            self.at = before
            return ""
        hint = f"write for example: {measure}(NAME) {known.order[0]} {known.example.split()[0]}"
        if (kind, mark) != ("mark", "("):
            raise self._fail(f"{measure} needs the name of a {known.of} in parentheses", at, hint)
        kind, name, at = self._next()
        if kind != "word":
            raise self._fail(f"not the name of a {known.of}", at, hint)
        if self._next()[1] != ")":
            raise self._fail("the parenthesis does not end", self.at, hint)
        return name

    def _limit(self, measure: str, known: _Kind, of: str) -> tuple[float, bool]:
        example = f"write for example: {self._example(measure, known, of)}"
        kind, number, at = self._next()
        if kind != "number":
            raise self._fail("not a number", at, example)
        kind, unit, place = self._next()
        times = unit == _TIMES
        if not (times and known.times) and unit not in known.units:
            raise self._fail(f"{measure} is not measured in {unit!r}" if unit else "no unit", place, example)
        kind, _, place = self._next()
        if kind != "end":
            raise self._fail("nothing may follow", place, example)
        value = round(float(number) * (1.0 if times else known.units[unit]), 9)
        if not 0 < value < 1e18 or (known.units is _SHARE and not times and value >= 1):
            raise self._fail("out of range", at, example)
        return value, times

    def _example(self, measure: str, known: _Kind, of: str) -> str:
        return f"{measure}{f'({of})' if of else ''} {known.order[0]} {known.example}"

    def _next(self) -> tuple[str, str, int]:
        """Kind, text and place of the next token; ("end", "", …) where there is none."""
        rest = self.text[self.at :]
        if not rest.strip(_SPACES):
            return "end", "", len(self.text)
        match = _TOKEN.match(self.text, self.at)
        place = self.at + len(rest) - len(rest.lstrip(_SPACES))
        if match is None or match.lastgroup is None:
            raise self._fail(
                f"{self.text[place]!r} means nothing here", place, "write for example: p99 < 1.2x"
            )
        self.at = match.end()
        return match.lastgroup, match[match.lastgroup], place

    def _fail(self, message: str, at: int, hint: str) -> UsageError:
        shown = "".join(character if character.isprintable() else " " for character in self.text)
        return UsageError(f"{message}, at character {at + 1}\n  {shown}\n  {' ' * at}^", hint)
