"""What a bundle folder holds, as plain data for `mldeploy inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mldeploy.bundle.about import read_about
from mldeploy.bundle.lock import parse
from mldeploy.bundle.manifest_file import read_manifest
from mldeploy.bundle.targets import Target
from mldeploy.core.manifest import digest
from mldeploy.errors import UsageError


def describe(folder: Path) -> dict[str, Any]:
    """Digest, manifest, sizes in bytes, locked packages, metrics and measurements. Raises ManifestError."""
    manifest = read_manifest(folder)
    about = read_about(folder)
    return {
        "folder": str(folder),
        "digest": digest(manifest),
        "size": {
            "files": sum(file.size for file in manifest.files),
            "wheels": sum(wheel.size for wheel in manifest.wheels),
        },
        "packages": _packages(folder / manifest.lock, manifest.python, manifest.platform),
        "packed": about.packed,
        "metrics": about.metrics,
        "measured": about.measured,
        "manifest": msgspec.to_builtins(manifest),
    }


def _packages(lock: Path, python: str, platform: str) -> dict[str, str]:
    """What the lock pins; nothing where it cannot be read, for `validate` is who judges."""
    try:
        return {pin.name: pin.version for pin in parse(lock.read_bytes(), Target(python, platform))[0]}
    except (OSError, UsageError):
        return {}
