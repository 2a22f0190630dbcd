"""Blobs: immutable bytes by digest, under a key that carries the id of the push that brought them.

Rules: a key is never used twice; what is fetched is compared with its digest and size before anyone sees
it, and removed if it differs. Whether a blob exists is for the folded state to say, never for the store.
Left out: which blobs to bring or to reuse (`bundle/push.py`) and collecting them.
"""

from __future__ import annotations

from pathlib import Path

from mldeploy.core.types import check_digest
from mldeploy.errors import IntegrityError, NotFoundError
from mldeploy.store.objects import ObjectStore, Progress


def blob_key(sha256: str, push: str) -> str:
    """blobs/sha256/ab/<sha256>.<push id>"""
    return f"blobs/sha256/{check_digest(sha256)[:2]}/{sha256}.{push}"


def upload_blob(
    store: ObjectStore, sha256: str, push: str, source: Path, progress: Progress | None = None
) -> str:
    """Stream the file `source`, whose sha256 the caller has computed, into the store; returns the key.

    Raises StoreError, DiskError or OutcomeUnknownError; to upload the same again is safe.
    """
    key = blob_key(sha256, push)
    store.upload(key, source, progress)
    return key


def fetch_blob(
    store: ObjectStore,
    sha256: str,
    push: str,
    target: Path,
    *,
    size: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Stream a blob into the new file `target`, durable and verified; on any error there is no `target`.

    Raises IntegrityError for other bytes than the digest's, NotFoundError, StoreError, DiskError.
    """
    key = blob_key(sha256, push)
    existed = target.exists()
    try:
        found = store.download(key, target, progress)
        length = target.stat().st_size
        if size is not None and length != size:
            raise IntegrityError(f"{key} has {length} bytes instead of {size}", _cure(store, key))
        if found != sha256:
            raise IntegrityError(f"{key} holds other bytes than its digest says", _cure(store, key))
    except BaseException as error:
        if not existed:  # else it is another's file, and the download has refused to touch it
            target.unlink(missing_ok=True)
        if isinstance(error, NotFoundError):
            raise NotFoundError(f"{key} is not in {store.url}", "push the bundle again") from error
        raise


def _cure(store: ObjectStore, key: str) -> str:
    return (
        f"it was truncated or altered in {store.url}: put the file with that sha256 back there, from a "
        "backup or from the bundle that was pushed"
    )
