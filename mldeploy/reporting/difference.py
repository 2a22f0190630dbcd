"""What two bundles do not have alike, by their manifests: files, requirements, settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mldeploy.core.manifest import Manifest
from mldeploy.reporting.values import Change, Difference
from mldeploy.reporting.words import size

#: Fields that the report shows elsewhere, or that are lists of their own.
_ELSEWHERE = ("name", "owner", "expires", "files", "wheels", "samples", "format")


def difference(before: Manifest, after: Manifest) -> Difference:
    """From `before` to `after`, in the order of the names."""
    old_files = {file.path: (file.sha256, size(file.size)) for file in before.files}
    new_files = {file.path: (file.sha256, size(file.size)) for file in after.files}
    old_wheels = dict(map(_wheel, (wheel.name for wheel in before.wheels)))
    new_wheels = dict(map(_wheel, (wheel.name for wheel in after.wheels)))
    files = _changes(old_files, new_files)
    requirements = _changes(
        {name: (version, version) for name, version in old_wheels.items()},
        {name: (version, version) for name, version in new_wheels.items()},
    )
    return Difference(
        files=files,
        requirements=requirements,
        settings=_settings(before, after),
        same_files=sum(old_files.get(path) == found for path, found in new_files.items()),
        same_requirements=sum(old_wheels.get(name) == version for name, version in new_wheels.items()),
    )


def _changes(
    before: Mapping[str, tuple[str, str]], after: Mapping[str, tuple[str, str]]
) -> tuple[Change, ...]:
    """Names whose first value (what identifies it) is another; told by the second."""
    none = ("", "")
    return tuple(
        Change(what=name, before=before.get(name, none)[1], after=after.get(name, none)[1])
        for name in sorted({*before, *after})
        if before.get(name, none)[0] != after.get(name, none)[0]
    )


def _settings(before: Manifest, after: Manifest) -> tuple[Change, ...]:
    old, new = msgspec.to_builtins(before), msgspec.to_builtins(after)
    for field in msgspec.structs.fields(Manifest):
        # `omit_defaults` leaves out what one of them says and the other does not
        if (field.name not in old and field.name in new) or (field.name in old and field.name not in new):
            old.setdefault(field.name, msgspec.to_builtins(getattr(before, field.name)))
            new.setdefault(field.name, msgspec.to_builtins(getattr(after, field.name)))
    return tuple(
        Change(what=name, before=_short(old.get(name)), after=_short(new.get(name)))
        for name in sorted({*old, *new})
        if name not in _ELSEWHERE and old.get(name) != new.get(name)
    )


def _short(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else f"{text[:199]}…"


def _wheel(name: str) -> tuple[str, str]:
    """`numpy-2.1.0-cp311-….whl` -> ("numpy", "2.1.0"): PEP 427 has no hyphen in either."""
    parts = name.split("-")
    return (parts[0].replace("_", "-"), parts[1]) if len(parts) > 1 else (name, "?")
