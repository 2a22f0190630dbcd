"""Settings of a policy as people write them: one text for each, read by `parse_setting`, shown by `text_of`.

Pure. `notify` is not read here: it is set target by target (`policies.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches

from mldeploy.client.terms import SHADOW
from mldeploy.core.guards import guards_problem
from mldeploy.core.manifest_check import steps_problem
from mldeploy.core.policy import setting_problem
from mldeploy.core.records import Setting
from mldeploy.core.types import format_duration, format_share, parse_duration, parse_share
from mldeploy.errors import UsageError

NOTIFY = "notify"


def parse_setting(name: str, text: str) -> Setting:
    """What `name=text` sets. Raises UsageError."""
    try:
        value = reader(name).read(text.strip())
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}", error.hint) from error
    problem = _problem(name, text.strip(), value)
    if problem:
        raise UsageError(f"{name}: {problem[0]}", problem[1])
    return value


def _problem(name: str, text: str, value: Setting) -> tuple[str, str] | None:
    """What is wrong with a value, in the words it was written in."""
    shares = tuple(int(step) for step in _items(value)) if name == "steps" else ()
    said = steps_problem(shares) if name == "steps" else None
    if name == "guards":
        said = guards_problem([str(guard) for guard in _items(value)])
    problem = setting_problem(name, value)
    if said is not None or problem is None:
        return said
    hint = "write 0.01% to 100%" if name == "shadow_fraction" else problem[1]
    return f"{text[:80]!r} does not fit", hint


def text_of(name: str, value: Setting) -> str:
    """A setting as `parse_setting` reads it back."""
    return reader(name).show(value)


@dataclass(frozen=True, slots=True)
class _Text:
    """How a setting is written."""

    read: Callable[[str], Setting]
    show: Callable[[Setting], str]


def reader(name: str) -> _Text:
    """How a setting is written. Raises UsageError naming the nearest."""
    found = _TEXTS.get(name)
    if found is None:
        near = get_close_matches(name, _TEXTS, 1)
        hint = f"did you mean {near[0]}?" if near else f"settings are {', '.join(_TEXTS)}"
        raise UsageError(f"there is no setting {name[:40]!r}", hint)
    return found


def _seconds(text: str) -> Setting:
    return 0 if text in ("0", "0s") else int(parse_duration(text).total_seconds())


def _count(text: str) -> Setting:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UsageError(f"{text[:40]!r} is not a count", "write for example 200")
    return int(text)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in re.split("[,;]", text) if part.strip()]


def _read_steps(text: str) -> Setting:
    return tuple(0 if step == SHADOW else parse_share(step) for step in _parts(text))


def _show_steps(value: Setting) -> str:
    return ",".join(format_share(int(step)) if step else SHADOW for step in _items(value))


def _read_days(text: str) -> Setting:
    return tuple(_count(part.removesuffix("d")) for part in _parts(text))  # type: ignore[misc]


def _read_notify(text: str) -> Setting:
    raise UsageError(
        "is set one by one", "for example notify.team=mailtos://user:{SMTP_PASSWORD}@mail.example.com"
    )


def _items(value: Setting) -> tuple[int | str, ...]:
    return value if isinstance(value, tuple) else ()


def _duration(value: Setting) -> str:
    return format_duration(timedelta(seconds=value if isinstance(value, int) else 0))


_DURATION = _Text(_seconds, _duration)
_TEXTS: dict[str, _Text] = {
    "steps": _Text(_read_steps, _show_steps),
    "hold": _DURATION,
    "guards": _Text(lambda text: tuple(_parts(text)), lambda value: "; ".join(map(str, _items(value)))),
    "min_requests": _Text(_count, str),
    "deadline": _DURATION,
    "shadow_fraction": _Text(parse_share, lambda value: format_share(value if isinstance(value, int) else 0)),
    "host_ttl": _DURATION,
    "idle": _DURATION,
    "warn": _Text(_read_days, lambda value: ",".join(f"{day}d" for day in _items(value))),
    NOTIFY: _Text(
        _read_notify,
        lambda value: "; ".join(f"{n}={url}" for n, url in value.items()) if isinstance(value, dict) else "",
    ),
}
