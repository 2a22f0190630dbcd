"""Files and folders as bundles need them: lists, digests, copies, and a folder that appears as a whole.

Rules: a bundle holds regular files only; links, devices and sockets are named and refused, never followed. A
folder is made beside its place under a hidden name and takes the place in one rename, so that a failure
leaves what was there. Nothing is fsynced: a bundle folder can be made again, and gate 1 of `validate` finds
torn files. Left out: what the files mean.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from mldeploy.bundle.scratch import make_held, sweep
from mldeploy.errors import DiskError, UsageError

MANIFEST = "manifest.yaml"
WHEELS = "wheels"
#: What was measured and when it was packed; beside the manifest and outside the digest.
PACKED = "packed.json"
CHUNK = 1 << 20
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
#: Never part of anybody's code.
JUNK = (
    "__pycache__",
    ".git",
    ".hg",
    ".svn",
    ".venv",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".DS_Store",
)


@contextlib.contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turns an OSError of the block into a DiskError that names the file and says how to mend it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            # of a copy the second name is the one that was written
            where = error.filename2 or error.filename or place
            raise DiskError(
                f"no space left on the disk of {where}", "free some space and run it again"
            ) from error
        where = error.filename or place
        inside = Path(str(where)).is_relative_to(place)
        raise DiskError(
            f"{where}: {error.strerror or error}",
            f"check that {place} is there and that you may write in it"
            if inside
            else f"check that {where} is there and that you may use it",
        ) from error


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below `folder` but folders, as (path with forward slashes, lstat), sorted by path.

    Links are not followed: they are listed as what they are.
    """
    found: list[tuple[str, os.stat_result]] = []
    pending = [folder]
    while pending:
        for entry in os.scandir(pending.pop()):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                pending.append(Path(entry.path))
            else:
                found.append((Path(entry.path).relative_to(folder).as_posix(), status))
    yield from sorted(found)


def kind_of(mode: int) -> str:
    """What an entry is, in a word."""
    kinds = {
        stat.S_IFREG: "file",
        stat.S_IFLNK: "symbolic link",
        stat.S_IFDIR: "folder",
        stat.S_IFIFO: "pipe",
        stat.S_IFSOCK: "socket",
    }
    return kinds.get(stat.S_IFMT(mode), "device")


def normal_mode(mode: int) -> int:
    """0o755 for what its owner may execute, else 0o644: the two modes of a bundle."""
    return 0o755 if mode & stat.S_IXUSR else 0o644


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_file(source: Path, target: Path) -> None:
    """Copy bytes and the mode as a bundle knows it; only regular files, else UsageError."""
    status = source.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(
            f"{source} is a {kind_of(status.st_mode)}",
            "a bundle holds regular files only: put a copy of the file there",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target, follow_symlinks=False)
    target.chmod(normal_mode(status.st_mode))


def copy_tree(source: Path, target: Path, *, keep: Callable[[str], bool] = lambda _: True) -> None:
    """Copy the regular files below `source` whose path `keep` accepts; caches and version control never."""
    for path, status in walk(source):
        if any(part in JUNK for part in path.split("/")) or path.endswith((".pyc", ".pyo")) or not keep(path):
            continue
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(
                f"{source / path} is a {kind_of(status.st_mode)}",
                "a bundle holds regular files only: put a copy there",
            )
        copy_file(source / path, target / path)


def is_bundle(folder: Path) -> bool:
    """Whether `folder` holds a bundle, whole or not."""
    return (folder / MANIFEST).is_file()


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` that becomes `out` when the block ends well and vanishes when it does not.

    A bundle that stands at `out` is replaced; anything else there is refused. Of a link the folder it
    leads to is meant, and the link stays. Raises UsageError for what is refused and DiskError where it
    cannot be written; either way what was there is still there.
    """
    named, out = out, _real(out)
    if out == Path.cwd():
        raise UsageError(
            f"{named} is the folder you are in, which cannot be replaced",
            "name another folder with --out (out=…)",
        )
    if os.path.lexists(out) and not (is_bundle(out) or (out.is_dir() and not any(out.iterdir()))):
        raise UsageError(
            f"{named} is there already and is not a bundle", "name another folder with --out (out=…)"
        )
    with disk_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        # what a killed pack left, of itself or of the bundle that it was to replace
        sweep(out.parent, re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{8}}\.packing"))
        staging, lock = make_held(
            lambda: out.parent / f".{out.name}.{secrets.token_hex(4)}.packing", mode=0o777
        )
    try:
        yield staging
        with disk_errors(out.parent):
            _take_place(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def _real(out: Path) -> Path:
    try:
        return out.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise UsageError(f"{out} leads nowhere: {error}", "name another folder with --out (out=…)") from error


def _take_place(staging: Path, out: Path) -> None:
    """Afterwards `out` is what `staging` was; what stood at `out` stands at `staging`, if anything."""
    if not out.exists() or _exchange(staging, out):
        if not out.exists():
            staging.rename(out)
        return
    old = staging.with_name(staging.name + ".old")
    out.rename(old)
    try:
        staging.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step; False where kernel, C library or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
