"""Reads what was published: manifests and single files of a version, out of the store.

Rules: the key of a blob comes from the folded state, never from a listing, and what is fetched is compared
with its digest. Left out: fetching whole bundles, which hosts do.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable

from mldeploy.bundle.scratch import scratch_folder
from mldeploy.core.baseline import BASELINE, column_names
from mldeploy.core.manifest import Manifest, parse
from mldeploy.core.state import State, Version
from mldeploy.errors import IntegrityError, ManifestError, NotFoundError
from mldeploy.store.blobs import fetch_blob
from mldeploy.store.objects import ObjectStore


def find_version(state: State, name: str, version: int) -> Version:
    """The version, retired or not. Raises NotFoundError."""
    model = state.models.get(name)
    if model is None or not model.versions:
        raise NotFoundError(f"there is no model {name!r}", "`mldeploy status` lists the models")
    if version not in model.versions:
        have = ", ".join(f"{name}@{number}" for number in sorted(model.versions)[-5:])
        raise NotFoundError(f"there is no {name}@{version}", f"the newest are {have}")
    return model.versions[version]


def fetch_blob_bytes(store: ObjectStore, state: State, sha256: str) -> bytes:
    """A live blob's bytes, verified. Raises NotFoundError, IntegrityError, StoreError."""
    blob = state.blobs.get(sha256)
    if blob is None:
        raise NotFoundError(f"blob {sha256[:12]} is no longer in the store", "push the bundle again")
    with scratch_folder() as scratch:
        target = scratch / "blob"
        fetch_blob(store, sha256, blob.push, target, size=blob.size)
        return target.read_bytes()


def fetch_manifest(store: ObjectStore, state: State, name: str, version: int) -> Manifest:
    """The manifest of a version. Raises NotFoundError, IntegrityError, ManifestError and StoreError."""
    found = find_version(state, name, version)
    data = fetch_blob_bytes(store, state, found.digest)
    try:
        return parse(json.loads(data))
    except ValueError as error:
        raise IntegrityError(
            f"the manifest of {name}@{version} is not JSON", "push the bundle again with this mldeploy"
        ) from error


def fetch_manifests(
    store: ObjectStore, state: State, name: str, versions: Iterable[int | None]
) -> dict[int, Manifest]:
    """The manifests of these versions that are there; what was collected, or cannot be read, is left out.

    Raises StoreError when the store cannot be reached.
    """
    found = {}
    for version in versions:
        if version is not None:
            with contextlib.suppress(NotFoundError, IntegrityError, ManifestError):
                found[version] = fetch_manifest(store, state, name, version)
    return found


def fetch_columns(store: ObjectStore, state: State, name: str, version: int) -> tuple[str, ...]:
    """The names of the columns of a version's baseline; none where it has no baseline.

    Raises what `fetch_manifest` raises.
    """
    for file in fetch_manifest(store, state, name, version).files:
        if file.path == BASELINE:
            return column_names(fetch_blob_bytes(store, state, file.sha256))
    return ()


def fetch_sample(store: ObjectStore, state: State, name: str, version: int) -> bytes:
    """The bytes of the first sample request of a version, an Open Inference Protocol v2 request in JSON.

    Raises NotFoundError where there is none, and what `fetch_manifest` raises.
    """
    manifest = fetch_manifest(store, state, name, version)
    wanted = manifest.samples[0].request if manifest.samples else None
    for file in manifest.files:
        if file.path == wanted:
            return fetch_blob_bytes(store, state, file.sha256)
    raise NotFoundError(f"{name}@{version} has no samples", "give the data yourself: --data FILE")
