"""One transfer by one client, as a process of its own: `python -m bench.transfer_clients CLIENT WAY KIND`.

WAY is `up` or `down`, KIND `big` or `small`; BENCH_FOLDER has data/KIND/, and gets what comes down in down/.
Ours is what `push` and the daemon do with blobs: every file hashed both ways, journal kept, fsynced, put in
its place. The others copy files.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

BUCKET = "bench"


def main(client: str, way: str, kind: str) -> None:
    """Do it."""
    folder = Path(os.environ["BENCH_FOLDER"])
    CLIENTS[f"{client} {way}"](folder / "data" / kind, folder / "down", kind)


def ours_up(data: Path, down: Path, kind: str) -> None:
    """The upload of a push."""
    from mldeploy.bundle.journal import journal
    from mldeploy.bundle.upload import Piece, upload
    from mldeploy.core.state import State
    from mldeploy.progress import Silent
    from mldeploy.store.ids import new_ulid
    from mldeploy.store.s3 import S3Store

    # a manifest says what the files ought to be; a push hashes them again
    known = msgspec.json.decode((data.parent / f"{kind}.json").read_bytes(), type=dict[str, str])
    pieces = {sha256: Piece(data / name, (data / name).stat().st_size) for name, sha256 in known.items()}
    store = S3Store.open(f"s3://{BUCKET}/ours")
    push = new_ulid()
    with journal(down.parent / "journals", "bench", hashlib.sha256(push.encode()).hexdigest(), print) as kept:
        assert kept is not None
        kept.begin(push, State(), store)
        upload(store, pieces, push, Silent(), journal=kept)
        kept.close(remove=True)
    (data.parent / f"{kind}.push").write_text(push)


def ours_down(data: Path, down: Path, kind: str) -> None:
    """The fetch of a daemon."""
    from mldeploy.core.state import Blob
    from mldeploy.store.s3 import S3Store
    from mldeploy_daemon.disk import Disk
    from mldeploy_daemon.fetch import Source, bring_blobs

    known = msgspec.json.decode((data.parent / f"{kind}.json").read_bytes(), type=dict[str, str])
    size = next(data.iterdir()).stat().st_size  # a manifest says it
    wanted = dict.fromkeys(known.values(), size)
    push = (data.parent / f"{kind}.push").read_text()
    disk = Disk(down)
    disk.prepare()
    blobs = {sha256: Blob(push=push, size=size) for sha256, size in wanted.items()}
    bring_blobs(Source(S3Store.open(f"s3://{BUCKET}/ours"), blobs), disk, wanted)


def boto3_up(data: Path, down: Path, kind: str) -> None:
    """boto3's managed transfer, ten files at a time."""
    client = _boto3()
    _each(10, data, lambda path: client.upload_file(str(path), BUCKET, f"boto3/{kind}/{path.name}"))


def boto3_down(data: Path, down: Path, kind: str) -> None:
    """The same."""
    client = _boto3()
    down.mkdir()
    _each(
        10,
        data,
        lambda path: client.download_file(BUCKET, f"boto3/{kind}/{path.name}", str(down / path.name)),
    )


def s3fs_up(data: Path, down: Path, kind: str) -> None:
    """s3fs: 16 parts of 16 MiB, 32 files at a time."""
    names = sorted(path.name for path in data.iterdir())
    _s3fs().put(
        [str(data / name) for name in names], [f"{BUCKET}/s3fs/{kind}/{name}" for name in names],
        batch_size=32, chunksize=16 << 20, max_concurrency=16,
    )  # fmt: skip


def s3fs_down(data: Path, down: Path, kind: str) -> None:
    """The same."""
    down.mkdir()
    names = sorted(path.name for path in data.iterdir())
    _s3fs().get(
        [f"{BUCKET}/s3fs/{kind}/{name}" for name in names],
        [str(down / name) for name in names],
        batch_size=32,
    )


def _boto3():  # type: ignore[no-untyped-def] # boto3 has no types
    import boto3

    return boto3.client("s3")


def _s3fs():  # type: ignore[no-untyped-def] # s3fs has no types
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False)


def _each(threads: int, data: Path, move: Callable[[Path], object]) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(move, sorted(data.iterdir())):
            pass


CLIENTS: dict[str, Callable[[Path, Path, str], None]] = {
    "ours up": ours_up,
    "ours down": ours_down,
    "boto3 up": boto3_up,
    "boto3 down": boto3_down,
    "s3fs up": s3fs_up,
    "s3fs down": s3fs_down,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
