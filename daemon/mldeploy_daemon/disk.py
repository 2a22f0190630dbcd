"""The state folder of a host: what lies where, written so that a reader never sees half of anything.

Everything is made in staging/ and renamed into place; staging is wiped when the agent starts. A blob
that comes in part lies in partial/ and is gone on with. A file or folder that is in its place is whole and
verified. Removal goes the same way back: renamed into staging, then
deleted. `Disk` holds a path and opens nothing; every method raises DiskError, which names the file.
Left out: where the bytes come from (`fetch.py`), and which of them are needed (`mldeploy.core.plan`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from mldeploy.core.host import Bad
from mldeploy.core.manifest import Manifest
from mldeploy.errors import DiskError, MldeployError

T = TypeVar("T")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FOLDERS = (
    "blobs/sha256",
    "bundles",
    "environments",
    "seals",
    "partial",
    "staging",
    "run/workers",
)
#: Seconds after which nobody goes on with a blob that came in part.
STALE = 86_400.0
#: Seconds after which what a full disk has not taken is written again.
REWRITE = 5.0


@contextlib.contextmanager
def _told(path: Path | str) -> Iterator[None]:
    """OSError as a DiskError that names the file."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = (
            "make room on that disk; it is tried again by itself"
            if full
            else "check the disk, and that the daemon's user may write the state folder"
        )
        raise DiskError(f"{error.filename or path}: {error.strerror or error}", hint) from error


class Seal(msgspec.Struct, frozen=True):
    """What a file looked like when its bytes were verified; equal means unchanged. Cheap to check.

    ctime is not in it: every hard link made to a blob changes it.
    """

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Seal:
        """Raises OSError."""
        stat = path.stat()
        return cls(stat.st_ino, stat.st_size, stat.st_mtime_ns)


# made when the module is loaded: several threads may not take a type apart at the same time
_BAD = msgspec.json.Decoder(dict[str, Bad])
_MANIFEST = msgspec.json.Decoder(Manifest)
_SEALS = msgspec.json.Decoder(dict[str, Seal])


class Disk:
    """One state folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = str(root / "blobs/sha256")

    def prepare(self) -> None:
        """Make the folders, and wipe what was half done, but for blobs that came in part lately."""
        with _told(self.root):
            for name in _FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)
            now = time.time()
            old = [path for path in (self.root / "partial").iterdir() if path.stat().st_mtime < now - STALE]
        for left in (*(self.root / "staging").iterdir(), *old):
            _remove(left)

    # small files

    def write(self, name: str, data: bytes) -> None:
        """Replace the file at `name`, flushed to the disk."""
        path = self.root / name
        staged = self.root / "staging" / f"{path.name}.{secrets.token_hex(6)}"
        with _told(path):
            try:
                with staged.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(staged, path)
                _sync(path.parent)
            finally:
                staged.unlink(missing_ok=True)

    def read(self, name: str) -> bytes | None:
        """The file's bytes, or None if there is none."""
        path = self.root / name
        with _told(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of the file at `name`, flushed to the disk. A failure may leave a part of it."""
        path = self.root / name
        with _told(path):
            new = not path.exists()
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if os.write(fd, data) != len(data):
                    raise OSError(errno.ENOSPC, "only a part could be written", str(path))
                os.fsync(fd)
            finally:
                os.close(fd)
            if new:
                _sync(path.parent)

    def names(self, pattern: str) -> list[str]:
        """The names of the files in the state folder itself that fit a pattern."""
        with _told(self.root):
            return sorted(path.name for path in self.root.glob(pattern))

    def load_bad(self) -> dict[str, Bad]:
        """bad.json; nothing is bad where it cannot be read."""
        return _decode(self.read("bad.json"), _BAD) or {}

    # what is there

    def manifest(self, digest: str) -> Manifest | None:
        """The manifest of a bundle in place, or None."""
        return _decode(self.read(f"bundles/{digest}/manifest.yaml"), _MANIFEST)

    def bundles(self) -> frozenset[str]:
        """The digests of the bundles in place."""
        return self._named("bundles", "manifest.yaml")

    def environments(self) -> frozenset[str]:
        """The ids of the environments in place."""
        return self._named("environments", "environment.json")

    def blobs(self) -> frozenset[str]:
        """The sha256 of every blob in place. Reads folders: not for every moment."""
        with _told(self.root / "blobs"):
            return frozenset(
                path.name
                for path in (self.root / "blobs/sha256").glob("??/*")
                if _DIGEST.fullmatch(path.name)
            )

    def _named(self, folder: str, marker: str) -> frozenset[str]:
        with _told(self.root / folder):
            return frozenset(
                path.name
                for path in (self.root / folder).iterdir()
                if _DIGEST.fullmatch(path.name) and (path / marker).is_file()
            )

    def blob(self, sha256: str) -> Path:
        """Where a blob lies, or would."""
        return Path(self._blob(sha256))

    def _blob(self, sha256: str) -> str:
        # there are thousands, and a Path takes as long as the system's calls for the file
        return f"{self._blobs}/{sha256[:2]}/{sha256}"

    def has_blob(self, sha256: str, size: int) -> bool:
        """Whether the blob is in place."""
        try:
            return os.stat(self._blob(sha256)).st_size == size  # noqa: PTH116
        except OSError:
            return False

    # putting in place

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """A new folder in staging, gone at the end whatever happened."""
        folder = self.root / "staging" / secrets.token_hex(8)
        with _told(folder):
            folder.mkdir()
        try:
            yield folder
        finally:
            _remove(folder)

    @contextlib.contextmanager
    def partial(self, sha256: str) -> Iterator[Path | None]:
        """Where a blob may lie in part, for nobody else meanwhile; None where another is at it. What lies
        there stays until it is put in place or removed, over a restart too.
        """
        path = self.root / "partial" / sha256
        with _told(path):
            lock = _lock(path.with_name(f"{sha256}.lock"))
        try:
            yield path if lock is not None else None
        finally:
            if lock is not None:
                with contextlib.suppress(OSError):
                    path.with_name(f"{sha256}.lock").unlink()
                os.close(lock)

    def put_blob(self, staged: Path, sha256: str) -> None:
        """Put a verified and flushed file in its place, read-only, where `sync_blobs` makes it stay."""
        path = self._blob(sha256)
        with _told(path):
            staged.chmod(0o444)
            try:
                os.rename(staged, path)  # noqa: PTH104 - Path.rename makes another Path of it, to return it
            except FileNotFoundError:
                self.blob(sha256).parent.mkdir(exist_ok=True)
                staged.rename(path)

    def sync_blobs(self, blobs: Iterable[str]) -> None:
        """Flush the entries of blobs that were put in their places."""
        for folder in {sha256[:2] for sha256 in blobs}:
            path = Path(self._blobs, folder)
            with _told(path):
                _sync(path)

    def put_folder(self, staged: Path, name: str) -> None:
        """Put a whole and flushed folder in its place; one that is there already stays."""
        path = self.root / name
        with _told(path):
            try:
                staged.rename(path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            _sync(path.parent)

    def link(self, sha256: str, target: Path, mode: int) -> None:
        """The blob's content at `target`: a hard link where it can be one, else a copy."""
        with _told(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if not mode & 0o111:  # a link shares its mode with the blob
                try:
                    os.link(self.blob(sha256), target)
                    return
                except OSError as error:
                    if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                        raise
            shutil.copyfile(self.blob(sha256), target)
            target.chmod(0o555 if mode & 0o111 else 0o444)
            _sync(target)

    def sync_tree(self, folder: Path) -> None:
        """Flush the entries of a folder and of every folder in it."""
        with _told(folder):
            for path, _, _ in os.walk(folder, topdown=False):
                _sync(Path(path))

    # removing

    def remove(self, name: str) -> None:
        """Remove the file or folder at `name`; nothing there is no error."""
        path = self.root / name
        away = self.root / "staging" / f"removed-{secrets.token_hex(8)}"
        with _told(path):
            try:
                path.rename(away)
            except FileNotFoundError:
                return
        _remove(away)

    def remove_bundle(self, digest: str) -> None:
        """Remove a bundle's folder; its blobs stay."""
        self.remove(f"bundles/{digest}")
        self.remove(f"seals/{digest}.json")

    # seals

    def seal(self, digest: str, manifest: Manifest, folder: Path) -> None:
        """Remember what the files of the bundle in `folder`, just verified, look like."""
        with _told(folder):
            seals = {file.path: Seal.of(folder / file.path) for file in manifest.files}
        self.write(f"seals/{digest}.json", msgspec.json.encode(seals))

    def broken_seals(self, digest: str, manifest: Manifest) -> list[str]:
        """The paths of a bundle in place whose files are not what they were when verified."""
        seals = _decode(self.read(f"seals/{digest}.json"), _SEALS) or {}
        broken = []
        for file in manifest.files:
            try:
                now = Seal.of(self.root / "bundles" / digest / file.path)
            except OSError:
                now = None
            if now is None or now != seals.get(file.path):
                broken.append(file.path)
        return broken


def _lock(path: Path) -> int | None:
    """The new file at `path`, locked for as long as it is open; None where another holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)  # held by another, or by one that has just removed it
    return None


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    """As much of it as can be removed; the rest is wiped at the next start."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _decode(data: bytes | None, decoder: msgspec.json.Decoder[T]) -> T | None:
    if data is None:
        return None
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, MldeployError):
        return None
