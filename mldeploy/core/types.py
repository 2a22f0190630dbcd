"""The small values everything else speaks in: names, references, digests, durations, shares.

Each of them round-trips through `str`. Parsing is strict and says what is wrong; nothing here knows the
time, so a duration becomes a date only where a caller passes one in.
"""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, date, datetime, timedelta

import msgspec

from mldeploy.errors import UsageError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_PERCENT = re.compile(r"(\d{1,3})(?:\.(\d{1,2}))?\s*%?", re.ASCII)

#: The environment a command or a host means unless told otherwise.
PRODUCTION = "production"
#: Shares are counted in hundredths of a percent, so that a fold never rounds.
FULL_SHARE = 10_000


class ModelRef(msgspec.Struct, frozen=True, order=True):
    """One version of a model, written `churn@7`."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Read `churn@7`. Raises UsageError for anything else."""
        name, at, version = text.partition("@")
        # isdecimal would let other scripts' digits through, and the reference would not round-trip
        if not at or not re.fullmatch(r"[1-9][0-9]{0,8}", version):
            raise UsageError(f"{text!r} does not name a version", "write MODEL@VERSION, for example churn@7")
        return cls(check_name(name), int(version))


def check_name(text: str, what: str = "model name") -> str:
    """`text` if it may name a model, an environment or a host; else UsageError."""
    if NAME.fullmatch(text):
        return text
    name, at, version = text.partition("@")
    if at and NAME.fullmatch(name) and what == "model name":
        raise UsageError(f"{text!r} names a version where a model is meant", f"leave out @{version}: {name}")
    raise UsageError(
        f"{text!r} is not a valid {what}",
        "use 1 to 100 of a-z, 0-9, '.', '_' and '-', and start with a letter or a digit",
    )


def check_digest(text: str) -> str:
    """`text` if it is 64 lower-case hexadecimal digits (a sha256); else UsageError."""
    if _DIGEST.fullmatch(text):
        return text
    raise UsageError(f"{text!r} is not a sha256 digest", "a digest is 64 lower-case hexadecimal digits")


def parse_duration(text: str) -> timedelta:
    """Read `90d`, `1h30m`, `45s`, `2w`. Raises UsageError; zero is refused."""
    match = _DURATION.fullmatch(text.strip())
    parts = [int(part) if part else 0 for part in match.groups()] if match and text.strip() else []
    try:
        duration = timedelta(
            **dict(zip(("weeks", "days", "hours", "minutes", "seconds"), parts, strict=False))
        )
    except OverflowError:
        duration = timedelta(0)
    if not timedelta(0) < duration <= timedelta(days=36_500):
        raise UsageError(f"{text!r} is not a duration", "write for example 90d, 12h, 1h30m or 45s")
    return duration


def format_duration(duration: timedelta) -> str:
    """The shortest form that `parse_duration` reads back, to the second: `90d`, `1h30m`."""
    seconds = int(duration.total_seconds())
    out = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            out.append(f"{count}{unit}")
    return "".join(out) or "0s"


def format_age(seconds: float) -> str:
    """How long something took or is past, for people: `40 s`, `6 min`, `3 h`, `12 d`."""
    for unit, size, until in (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < until:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def parse_expiry(text: str, now: datetime) -> date:
    """The day a bundle expires: an ISO date as it stands, or a duration counted from `now` (UTC).

    Raises UsageError where it is neither; whether it lies ahead is for the caller to judge.
    """
    text = text.strip()
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            raise UsageError(f"{text!r} is not a day of the calendar", "write YYYY-MM-DD") from None
    try:
        return (now + parse_duration(text)).date()
    except UsageError:
        raise UsageError(
            f"{text!r} is neither a date nor a duration", "write for example 2027-06-30 or 90d"
        ) from None


def parse_moment(text: str, now: datetime) -> datetime:
    """A point in time: RFC 3339, a date (the start of that day), or a duration ago (`2h`, `3d`); in UTC.

    A time without an offset is taken for UTC. Raises UsageError where it is none of them.
    """
    text = text.strip()
    with contextlib.suppress(UsageError, OverflowError):
        return (now - parse_duration(text)).astimezone(UTC)
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{text!r} is not a time", "write for example 2026-11-23T22:59:01Z, 2026-11-23 or 2h (ago)"
        ) from None


def parse_share(text: str) -> int:
    """Read a percentage (`25`, `25%`, `0.5%`) as hundredths of a percent, 0 to 10,000. Raises UsageError."""
    match = _PERCENT.fullmatch(text.strip())
    share = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0")) if match else -1
    if not 0 <= share <= FULL_SHARE:
        raise UsageError(
            f"{text!r} is not a percentage",
            "write a number from 0 to 100 with at most two decimals, for example 25% or 0.25%",
        )
    return share


def format_share(share: int) -> str:
    """`25%`, `0.5%`: what `parse_share` reads back."""
    return f"{share / 100:g}%"
