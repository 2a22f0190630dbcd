"""From the store onto the disk: blobs, bundles, environments. Blocking; runs in the agent's threads.

Rules: every blob is verified (sha256 and size) before it is put in its place; several come at a time, and a
long one that was cut is gone on with, by the next start of the agent too; a bundle is put together from
verified blobs and checked again by the rules of its manifest before it is put in place; an environment is
built offline from verified wheels. Killed at any point, nothing half-done is ever visible, and what is in
place already is not fetched again.
Left out: when to do it and what to do after a failure (`mldeploy.core.plan`, `agent.py`).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mldeploy.bundle.files import sha256_file
from mldeploy.core import manifest as manifests
from mldeploy.core.manifest import Manifest
from mldeploy.core.state import Blob
from mldeploy.errors import IntegrityError, ManifestError, StoreError
from mldeploy.store.blobs import Short, asks_ahead, fetch_blob, fetch_blobs
from mldeploy.store.objects import ObjectStore
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.system import sync_filesystem

#: Blobs at the same time. How many requests that are, and the bytes in memory, is for the driver to bound.
BLOBS = 8
#: Threads of them that go on with short ones, where the store has several of each on their way: more would
#: spend their time taking turns (docs/adr/0007).
SHORTS = 3
#: Bytes up to which a blob that was cut is not worth going on with.
SHORT = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """Where blobs come from: the store, None while it cannot be reached, and the live blobs of the state.

    `pool` makes what fetches them, given how many at a time; its threads inherit the caller's priority.
    """

    store: ObjectStore | None
    blobs: Mapping[str, Blob]
    pool: Callable[[int], Executor] = ThreadPoolExecutor


def fetch_bundle(source: Source, disk: Disk, *, model: str, digest: str) -> Manifest:
    """Put the bundle `digest` of `model` in place, without its wheels; returns its manifest.

    Raises StoreError, NotFoundError, IntegrityError, ManifestError
    and DiskError.
    """
    _bring(source, disk, digest)
    manifest = read_manifest(disk.blob(digest).read_bytes(), model=model, digest=digest)
    bring_blobs(source, disk, {file.sha256: file.size for file in manifest.files})
    with disk.staged() as folder:
        bundle = folder / "bundle"
        bundle.mkdir()
        disk.link(digest, bundle / "manifest.yaml", 0o644)
        for file in manifest.files:
            disk.link(file.sha256, bundle / file.path, file.mode)
        disk.sync_tree(bundle)
        disk.seal(digest, manifest, bundle)
        disk.put_folder(bundle, f"bundles/{digest}")
    return manifest


def read_manifest(data: bytes, *, model: str, digest: str) -> Manifest:
    """The manifest, after every check that needs no other file: nothing a host does rests on unchecked text.

    Raises ManifestError and IntegrityError.
    """
    try:
        manifest = manifests.parse(msgspec.json.decode(data))
    except msgspec.DecodeError as error:
        raise ManifestError(f"the manifest {digest} is not JSON: {error}", "push the model again") from error
    for key, message, hint in manifests.check(manifest):
        raise ManifestError(f"manifest of {model}: {key}: {message}", hint)
    if manifest.name != model:
        raise IntegrityError(
            f"the bundle {digest} is of {manifest.name}, not of {model}", "push the model again"
        )
    return manifest


def lock_sha256(manifest: Manifest) -> str:
    """The sha256 of the bundle's lock. Raises ManifestError if the manifest does not list it."""
    for file in manifest.files:
        if file.path == manifest.lock:
            return file.sha256
    raise ManifestError(f"manifest of {manifest.name}: lock: {manifest.lock} is not listed", "pack it again")


def build_environment(source: Source, disk: Disk, manifest: Manifest) -> str:
    """Put the environment of a bundle in place; returns its id.

    Raises what `fetch_bundle` raises, and BuildError.
    """
    from mldeploy.bundle.environment import build, environment_id  # takes long to load

    lock = lock_sha256(manifest)
    identifier = environment_id(manifest, lock)
    bring_blobs(source, disk, {wheel.sha256: wheel.size for wheel in manifest.wheels})
    _bring(source, disk, lock)
    with disk.staged() as folder:
        wheels, built = folder / "wheels", folder / "environment"
        wheels.mkdir()
        for wheel in manifest.wheels:
            disk.link(wheel.sha256, wheels / wheel.name, 0o644)
        disk.link(lock, folder / "requirements.lock", 0o644)
        build(
            built,
            lock=folder / "requirements.lock",
            wheels=wheels.resolve(),
            python=manifest.python,
            platform=manifest.platform,
        )
        sync_filesystem(built)
        disk.put_folder(built, f"environments/{identifier}")
    return identifier


def verify_bundle(disk: Disk, manifest: Manifest, digest: str) -> None:
    """Read again the files of a bundle that do not look as they did, and seal it anew.

    What holds other bytes than its digest says is removed with its bundle, to be fetched again, and
    IntegrityError is raised.
    """
    folder = disk.root / "bundles" / digest
    suspects = set(disk.broken_seals(digest, manifest))
    for file in manifest.files:
        if file.path not in suspects:
            continue
        path = folder / file.path
        if not path.is_file() or sha256_file(path) != file.sha256:
            disk.remove_bundle(digest)
            disk.remove(str(disk.blob(file.sha256).relative_to(disk.root)))
            raise IntegrityError(f"{path} was altered or removed", "it is fetched again by itself")
    disk.seal(digest, manifest, folder)


def bring_blobs(source: Source, disk: Disk, wanted: Mapping[str, int]) -> None:
    """Put the blobs of these digests and sizes in their places; the first that fails ends it."""
    missing = [(sha256, size) for sha256, size in wanted.items() if not disk.has_blob(sha256, size)]
    if not missing:
        return
    # shared: what one thread takes no other gets; the long ones first, beside which there is room for others
    long = iter([each for each in missing if each[1] > SHORT])
    short = iter([each for each in missing if each[1] <= SHORT])
    few = source.store is not None and asks_ahead(source.store)
    turns = iter(range(SHORTS if few else BLOBS))
    brought: list[str] = []

    def bring(folder: Path) -> None:
        try:
            for sha256, size in long:
                _fetch_long(source, disk, sha256, size, folder)
                brought.append(sha256)
            if next(turns, None) is None:
                return
            for sha256 in _fetched(source, short, folder):
                disk.put_blob(folder / sha256, sha256)
                brought.append(sha256)
        except BaseException:
            stop()
            raise

    def stop() -> None:  # nothing more is begun
        deque(long, maxlen=0)
        deque(short, maxlen=0)

    count = min(BLOBS, len(missing))
    with disk.staged() as folder:
        try:
            if count == 1:
                bring(folder)
                return
            with source.pool(count) as threads:
                futures = [threads.submit(bring, folder) for _ in range(count)]
                try:
                    for future in futures:
                        future.result()
                except BaseException:
                    stop()
                    raise
        finally:
            disk.sync_blobs(brought)


def _bring(source: Source, disk: Disk, sha256: str) -> None:
    """Put a blob in its place, unless it is there."""
    blob = source.blobs.get(sha256)
    if blob is None:
        raise _not_live(sha256)
    bring_blobs(source, disk, {sha256: blob.size})


def _fetched(source: Source, short: Iterable[tuple[str, int]], folder: Path) -> Iterator[str]:
    """Short blobs into `folder`, verified: they are not gone on with when they are cut."""
    wanted = (
        Short(sha256, _live(source, sha256, size).push, folder / sha256, size) for sha256, size in short
    )
    with contextlib.closing(fetch_blobs(_store(source), wanted)) as coming:
        yield from coming


def _fetch_long(source: Source, disk: Disk, sha256: str, size: int, folder: Path) -> None:
    """Put a blob in its place by way of where it stays when it is cut, or of `folder`."""
    store, blob = _store(source), _live(source, sha256, size)
    with disk.partial(sha256) as path:
        # another action may be fetching the same: then this one fetches it too, beside
        staged = path or folder / sha256
        fetch_blob(store, sha256, blob.push, staged, size=size, resume=path is not None)
        disk.put_blob(staged, sha256)


def _store(source: Source) -> ObjectStore:
    if source.store is None:
        raise StoreError("the store cannot be reached", "it is tried again by itself")
    return source.store


def _live(source: Source, sha256: str, size: int) -> Blob:
    """The blob, if the log has it as it is wanted."""
    blob = source.blobs.get(sha256)
    if blob is None:
        raise _not_live(sha256)
    if blob.size != size:
        raise IntegrityError(f"blob {sha256} has {blob.size} bytes, not {size}", "push the model again")
    return blob


def _not_live(sha256: str) -> IntegrityError:
    return IntegrityError(
        f"blob {sha256} is in no live push, though a bundle needs it", "push the model again"
    )
