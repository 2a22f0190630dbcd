"""The manifest of a bundle: its fields, its YAML and its canonical form, whose sha256 is the digest.

Rules: unknown keys are errors that name the nearest valid key; `expires` and `owner` are mandatory; the
canonical form depends on the fields alone, so equal manifests have equal digests wherever they were made.
What was measured, and when it was packed, is not here: it travels in the `publish` record.
Left out: whether the files it lists exist and whether the expiry lies ahead (`bundle/validate.py`).
"""

from __future__ import annotations

import hashlib

import msgspec

from mldeploy.core.manifest_check import check
from mldeploy.core.manifest_fields import (
    DATATYPES,
    FORMAT,
    RUNTIME_PROTOCOL,
    RUNTIME_REQUIRES,
    Batching,
    Entry,
    File,
    Manifest,
    Resources,
    Rollout,
    Routing,
    Sample,
    Signature,
    Tensor,
    Wheel,
)
from mldeploy.core.strict import convert, fields_of, nearest_key_error
from mldeploy.errors import ManifestError

__all__ = [
    "DATATYPES",
    "FORMAT",
    "RUNTIME_PROTOCOL",
    "RUNTIME_REQUIRES",
    "Batching",
    "Entry",
    "File",
    "Manifest",
    "Resources",
    "Rollout",
    "Routing",
    "Sample",
    "Signature",
    "Tensor",
    "Wheel",
    "canonical",
    "check",
    "digest",
    "nearest_key_error",
    "parse",
]

# made here, in one thread: msgspec (seen in 0.22) takes a type apart at its first use, and the process
# crashes where two threads do that at the same time
msgspec.json.Decoder(Manifest)

_MISSING = {
    "expires": "every bundle expires: add for example expires: 90d, or a date such as expires: 2027-06-30",
    "owner": "say who gets the warnings: add for example owner: team@example.com",
    "name": "add the model's name, for example name: churn",
}


def parse(data: object) -> Manifest:
    """The manifest that `data` (plain dicts, lists, strings and numbers, as from YAML or JSON) holds.

    Types and keys are held strictly; whether the values make sense is for `check`. Raises ManifestError
    whose message begins with the dotted key and whose hint says how to mend it.
    """
    if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > FORMAT:
        raise ManifestError(
            f"format: this bundle has format {data['format']}, and this mldeploy reads up to {FORMAT}",
            "upgrade mldeploy",
        )
    return convert(Manifest, data, missing=_MISSING)


def canonical(manifest: Manifest) -> bytes:
    """The bytes that are digested and stored: JSON in UTF-8, keys sorted, no spaces, defaults left out."""
    return msgspec.json.encode(_plain(manifest), order="sorted")


def digest(manifest: Manifest) -> str:
    """The bundle's digest: the sha256 of `canonical`, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(canonical(manifest)).hexdigest()


def _plain(value: object) -> object:
    # msgspec's own omit_defaults compares by identity, so what it leaves out depends on how a value was made
    if isinstance(value, msgspec.Struct):
        return {
            field.encode_name: _plain(getattr(value, field.name))
            for field in fields_of(type(value))
            if getattr(value, field.name) != field.default
        }
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
