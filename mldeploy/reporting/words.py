"""Figures in words, and other people's words made harmless. Pure; nothing here knows of HTML."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from mldeploy.core.evidence import GuardVerdict
from mldeploy.core.types import format_duration, format_share

#: Characters of a reason, an actor or a name that are shown.
LONGEST = 500
NONE = "–"
_MEASURE = re.compile(r"\s*([^\W\d]\w*)")
_SHARES = ("error_rate", "refusal_rate", "agreement")
_TIMES = ("p50", "p90", "p95", "p99", "mean")


def clean(text: str, longest: int = LONGEST) -> str:
    """One line of text without control or direction characters: what others wrote steers nothing."""
    line = " ".join(text[: 4 * longest].split())
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def count(number: int | None) -> str:
    """1,234"""
    return NONE if number is None else f"{number:,}"


def times(number: int) -> str:
    """once, 3 times"""
    return "once" if number == 1 else f"{number:,} times"


def rate(share: float | None) -> str:
    """A share in percent, to three digits: 0.05%"""
    if share is None:
        return NONE
    percent = share * 100
    return f"{percent:.0f}%" if percent in (0, 100) else f"{percent:.{2 if percent < 99.9 else 3}f}%"


def latency(seconds: float | None) -> str:
    """850 µs, 1.2 ms, 34 ms, 1.50 s"""
    if seconds is None:
        return NONE
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.{1 if seconds < 0.1 else 0}f} ms"
    return f"{seconds:.2f} s"


def size(number: float | None) -> str:
    """Bytes: 1.5 MiB"""
    if not number:
        return NONE if number is None else "0 B"
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def duration(seconds: float | None) -> str:
    """1h30m; under a second to the tenth."""
    if seconds is None:
        return NONE
    return f"{seconds:.1f}s" if seconds < 1 else format_duration(timedelta(seconds=round(seconds)))


def number(value: float | None) -> str:
    """A metric, to four digits."""
    return NONE if value is None else f"{value:.4g}"


def share(hundredths: int) -> str:
    """10%; a step of nothing is a shadow step."""
    return format_share(hundredths) if hundredths else "shadow"


def rfc3339(moment: float) -> str:
    """Unix seconds, as they stand in a report."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def when(text: str | None) -> str:
    """RFC 3339 for people: 2026-11-24 07:10:03 UTC"""
    return f"{text[:10]} {text[11:19]} UTC" if text and len(text) >= 19 else clean(text or NONE)


def clock(text: str | None) -> str:
    """The time of the day of `when`."""
    return text[11:19] if text and len(text) >= 19 else "…"


def guard_value(guard: str, value: float | None) -> str:
    """A number of a guard's verdict in the unit of what it is about."""
    if value is None:
        return NONE
    match = _MEASURE.match(guard)
    measure = match[1] if match else ""
    if measure in _SHARES:
        return rate(value)
    if measure in _TIMES:
        return latency(value)
    return size(value) if measure == "memory" else number(value)


def verdict(found: GuardVerdict) -> str:
    """A guard's verdict in words: `0.10% (0.02% to 0.40%), stable 0.08%, limit 0.12%; why`."""
    guard = found.guard
    words = guard_value(guard, found.value) if found.value is not None else ""
    if found.low is not None or found.high is not None:
        low = guard_value(guard, found.low) if found.low is not None else "?"
        high = guard_value(guard, found.high) if found.high is not None else "?"
        words += f" ({low} to {high})"
    parts = [words.strip()] if words else []
    if found.stable is not None:
        parts.append(f"stable {guard_value(guard, found.stable)}")
    if found.limit is not None:
        parts.append(f"limit {guard_value(guard, found.limit)}")
    told = ", ".join(parts)
    return f"{told}; {clean(found.why)}" if told and found.why else told or clean(found.why)
