"""Where models come from: one module per kind of source folder, and the registry of them.

A kind is a module with `matches(folder) -> bool` and `pack(folder, options) -> Packed`. A new kind is one
more file and its name in KINDS; the first that matches takes the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from mldeploy.bundle.assemble import Packed
from mldeploy.bundle.files import is_bundle
from mldeploy.errors import UsageError
from mldeploy.progress import Reporter

KINDS = ("folder",)


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller of `pack_folder` said; None is what the folder itself says."""

    out: Path
    name: str | None
    owner: str | None
    expires: str | date | timedelta | None
    python: str | None
    platform: str | None
    index_url: str | None
    reporter: Reporter
    validate: bool
    confine: str


class Kind(Protocol):
    """One way of reading a folder."""

    def matches(self, folder: Path) -> bool:
        """Whether the folder is of this kind."""

    def pack(self, folder: Path, options: Options) -> Packed:
        """Make the bundle."""


def find_kind(folder: Path) -> Kind:
    """The kind of source that `folder` is. Raises UsageError."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", "name a folder with a model.yaml")
    for name in KINDS:
        kind = cast("Kind", import_module(f"{__name__}.{name}"))
        if kind.matches(folder):
            return kind
    if is_bundle(folder):
        raise UsageError(f"{folder} is a bundle already", "push it, or name the folder it was made from")
    raise UsageError(f"{folder} has no model.yaml", "`mldeploy init DIR` makes a folder to start from")
