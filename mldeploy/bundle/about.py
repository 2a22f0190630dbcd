"""packed.json: what is said of a bundle outside its digest.

When it was packed, the model's own metrics, and what gate 3 measured: it travels in the `publish` record.
Nothing depends on the file, so one that is missing or broken says nothing.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mldeploy.bundle.files import PACKED, disk_errors


class About(msgspec.Struct, frozen=True, kw_only=True):
    """packed.json: what travels in the `publish` record, outside the digest."""

    packed: str = ""  # RFC 3339
    metrics: dict[str, float] = {}
    measured: dict[str, float] = {}
    validated: str = ""  # the digest that passed all three gates here


def read_about(folder: Path) -> About:
    """What packed.json says; nothing where it is missing or cannot be read, for nothing depends on it."""
    try:
        return msgspec.json.decode((folder / PACKED).read_bytes(), type=About)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return About()


def write_about(folder: Path, about: About) -> None:
    """Write packed.json. Raises DiskError."""
    with disk_errors(folder):
        (folder / PACKED).write_bytes(msgspec.json.encode(about, order="sorted") + b"\n")
