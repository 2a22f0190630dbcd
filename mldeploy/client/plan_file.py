"""The file of `plan` and `apply`: environment → model → version, rollout, shadows, frozen.

    production:
      churn: 7                       # this version, by its own rollout or the policy's
      fraud:
        version: 12
        rollout: {steps: [shadow, 1, 10, 100], hold: 30m, guards: ['p99 < 1.2x'], min_requests: 500}
        shadows:
          - {version: 13, fraction: 20%, where: 'header.country in [NL, BE]', for: 7d, keep: 100}
        frozen: until the audit is over

Rules: read strictly, an unknown key names the nearest; what is not said stays as it is. Left out: what it
means for a state (`planning.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mldeploy.bundle.manifest_file import MAX_BYTES, load_yaml, read_yaml
from mldeploy.client.shadowing import Asked, asked
from mldeploy.client.terms import TermError, Wish
from mldeploy.core import strict
from mldeploy.core.types import ModelRef, check_name
from mldeploy.errors import ManifestError, NotFoundError, UsageError

#: The path that means standard input.
STDIN = Path("-")
_HINT = "docs/rollouts.md says what each key holds"


class _Rollout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    steps: list[int | float | str] | None = None
    hold: int | str | None = None
    guards: list[str] | None = None
    min_requests: int | None = None
    deadline: int | str | None = None
    on: list[str] | None = None


class _Shadow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int | str
    fraction: int | float | str | None = None
    where: str = ""
    lasts: int | str | None = msgspec.field(default=None, name="for")
    keep: int = 0


class _Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int | str | None = None
    rollout: _Rollout | None = None
    shadows: list[_Shadow] | None = None
    frozen: bool | str | None = None


@dataclass(frozen=True, slots=True)
class Desired:
    """What the file says of one model in one environment; None: it says nothing of that.

    An environment that is named and has no models stands alone, with "" for the model.
    """

    environment: str
    model: str
    version: int | None = None
    rollout: Wish | None = None
    shadows: tuple[tuple[int, Asked], ...] | None = None
    frozen: bool | str | None = None


def read(path: Path) -> tuple[Desired, ...]:
    """All that the file says, in its order; `-` is standard input. Raises ManifestError with file and key,
    and NotFoundError.
    """
    name = name_of(path)
    if path != STDIN and not path.exists():
        raise NotFoundError(f"there is no {name}", "name a file, or - for standard input")
    data = load_yaml(path) if path != STDIN else read_yaml(_standard_input(), name)
    try:
        return _read(data)
    except UsageError as error:
        raise ManifestError(f"{name}: {error.message}", error.hint) from error


def name_of(path: Path) -> str:
    """What to call the file."""
    return str(path) if path != STDIN else "standard input"


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise UsageError("standard input is closed", "name a file, or pipe one in")
    return sys.stdin.buffer.read(MAX_BYTES + 1)


def _read(data: object) -> tuple[Desired, ...]:
    if not isinstance(data, dict) or not data:
        raise ManifestError("names no environment", "write for example production: {churn: 7}")
    found = []
    for environment, models in data.items():
        check_name(str(environment), "environment name")
        if not isinstance(models, dict):
            raise ManifestError(f"{environment}: names no models", "write for example production: {churn: 7}")
        found += [_desired(str(environment), str(model), said) for model, said in models.items()]
        if not models:
            found.append(Desired(str(environment), ""))
    return tuple(found)


def _desired(environment: str, model: str, said: object) -> Desired:
    try:
        check_name(model)
    except UsageError as error:
        raise ManifestError(f"{environment}: {error.message}", error.hint) from error
    if isinstance(said, int | str) and not isinstance(said, bool):
        said = {"version": said}
    if not isinstance(said, dict):
        shown = "nothing" if said is None else repr(said)
        raise ManifestError(
            f"{environment}.{model}: {shown[:80]} is no version", f"write for example {model}: 7"
        )
    try:
        return _checked(environment, model, strict.convert(_Model, said, hint=_HINT))
    except UsageError as error:
        raise ManifestError(f"{environment}.{model}.{error.message}", error.hint) from error


def _checked(environment: str, model: str, said: _Model) -> Desired:
    wish = None
    if said.rollout is not None:
        if said.version is None:
            raise ManifestError("rollout: of no version", "say which: version: 7")
        wish = _wish(said.rollout)
    return Desired(
        environment=environment,
        model=model,
        version=None if said.version is None else _number("version", model, said.version),
        rollout=wish,
        shadows=None if said.shadows is None else _shadows(model, said.shadows),
        frozen=said.frozen,
    )


def _wish(said: _Rollout) -> Wish:
    _duration("rollout.hold", said.hold)
    _duration("rollout.deadline", said.deadline)
    wish = Wish(
        steps=said.steps, hold=said.hold, guards=said.guards, min_requests=said.min_requests,
        deadline=said.deadline, on=said.on,
    )  # fmt: skip
    try:
        wish.check()
    except TermError as error:  # an option of the command line is a key here
        raise ManifestError(f"rollout.{error.field}: {error.said}", error.hint) from error
    except UsageError as error:
        raise ManifestError(f"rollout: {error.message}", error.hint) from error
    return wish


def _duration(key: str, said: int | str | None) -> None:
    """Raise ManifestError for a number without a unit."""
    if isinstance(said, int) and said:
        raise ManifestError(f"{key}: {said} is not a duration", f"write for example {said}s or {said}m")


def _shadows(model: str, said: Sequence[_Shadow]) -> tuple[tuple[int, Asked], ...]:
    found: dict[int, Asked] = {}
    for index, shadow in enumerate(said):
        key = f"shadows[{index}]"
        number = _number(f"{key}.version", model, shadow.version)
        _duration(f"{key}.for", shadow.lasts)
        if number in found:
            raise ManifestError(f"{key}: {model}@{number} stands twice", "leave one out")
        try:
            found[number] = asked(shadow.fraction, shadow.where, shadow.lasts, shadow.keep)
        except UsageError as error:
            raise ManifestError(f"{key}: {error.message}", error.hint) from error
    return tuple(found.items())


def _number(key: str, model: str, said: int | str) -> int:
    try:
        ref = ModelRef.parse(said if isinstance(said, str) and "@" in said else f"{model}@{said}")
    except UsageError:
        raise ManifestError(f"{key}: {said!r} is no version", f"write for example {model}: 7") from None
    if ref.name != model:
        raise ManifestError(f"{key}: {ref} is a version of another model", f"write {model}@{ref.version}")
    return ref.version
