"""MODE check: gate 3 on the laptop, by the very code that serves.

Rules: prints one line of JSON on stdout and nothing else; what the model prints goes to stderr. With `record`
the recorded answers are made instead of compared, and the signature is completed from what was given
and answered. Modules that loading and the samples imported from the environment are listed, for the zygote
to import ahead. Left out: the confinement, which boot.py has reached before, and gates 1 and 2.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec

from . import process
from .confine import Confinement
from .errors import BundleError
from .record import record
from .spec import CheckOptions, read_manifest
from .worker import load_model, max_rows, prove

#: Modules deeper than this many names are left for their packages to import.
_DEPTH = 2


def main(options: bytes, confinement: Confinement) -> int:
    """Check or record; 0 where it passed, 1 where there are findings."""
    out = os.dup(1)
    os.dup2(2, 1)
    parsed = msgspec.json.decode(options, type=CheckOptions)
    result: dict[str, Any] = {"ok": True, "findings": [], "measured": {}, "confinement": confinement.level}
    try:
        before = set(sys.modules)
        result |= _record(parsed) if parsed.record else _check(parsed)
        result["imports"] = imports_since(before, str(Path(parsed.environment).absolute() / "site"))
    except BundleError as error:
        result |= {"ok": False, "findings": [_finding(error)]}
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the edge of the process
        traceback.print_exc()
        unexpected = BundleError("load", "", "", f"{type(error).__name__}: {error}", "see the output above")
        result |= {"ok": False, "findings": [_finding(unexpected)]}
    sys.stdout.flush()
    with open(out, "wb") as stdout:
        stdout.write(msgspec.json.encode(result) + b"\n")
    return 0 if result["ok"] else 1


def _check(options: CheckOptions) -> dict[str, Any]:
    manifest = read_manifest(options.bundle, options.manifest)
    if not manifest.samples:
        raise BundleError(
            "samples",
            "manifest.yaml",
            "samples",
            "is empty: nothing proves the model",
            "pack it with a sample",
        )
    process.reseed()
    before = process.memory().private
    started = time.monotonic()
    model = load_model(options.bundle, manifest, options.threads)
    load_ms = (time.monotonic() - started) * 1000
    measured = prove(options.bundle, manifest, model, max_rows(manifest, None))
    return {
        "measured": {
            "load_ms": load_ms,
            "samples": float(len(manifest.samples)),
            "latency_ms": measured.latency_ms,
            "batch_ms": measured.batch_ms,
            "batch_rows": float(measured.batch_rows),
            "memory_bytes": float(max(process.memory().private - before, 0)),
        }
    }


def _record(options: CheckOptions) -> dict[str, Any]:
    manifest = read_manifest(options.bundle, options.manifest)
    process.reseed()
    process.set_threads(options.threads)
    return record(options.bundle, manifest)


def _finding(error: BundleError) -> dict[str, str]:
    return {"file": error.file, "key": error.key, "message": error.message, "hint": error.hint}


def imports_since(before: set[str], site: str) -> list[str]:
    """Public modules of the environment imported since, packages and their direct parts, sorted."""
    found = []
    for name, module in list(sys.modules.items()):
        parts = name.split(".")
        path = getattr(module, "__file__", None) or ""
        if name in before or len(parts) > _DEPTH or any(part.startswith("_") for part in parts):
            continue
        if path.startswith(site + os.sep) and getattr(module, "__name__", name) == name:
            found.append(name)
    return sorted(found)
