"""Scratch folders, and what removes those of processes that were killed.

A folder is locked while whoever made it lives, and the kernel lets go of that lock whatever ends a process.
So whoever makes one first removes those that nobody holds. A child may hold it too, where it is given the
descriptor.
Rules: only names that nothing else makes are looked at; where a file system knows no locks nothing is
removed; the lock is on the folder itself, so that nothing of it is in anybody's way.
Left out: what lies in them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

PREFIX = "mldeploy-scratch-"
_NAMES = re.compile(rf"{PREFIX}[0-9a-f]{{16}}", re.ASCII)


class Held(NamedTuple):
    """A folder, and the descriptor that holds it while it is open, here or in a child."""

    path: Path
    lock: int


@contextlib.contextmanager
def scratch_folder(place: Path | None = None) -> Iterator[Path]:
    """A new folder in `place` (default: where temporary files go), gone when the block ends.

    Raises OSError where it cannot be made.
    """
    with held_folder(place) as made:
        yield made.path


@contextlib.contextmanager
def held_folder(place: Path | None = None) -> Iterator[Held]:
    """`scratch_folder`, with what holds it: a child that is given that keeps it from being removed."""
    parent = place or Path(tempfile.gettempdir())
    sweep(parent, _NAMES)
    made = make_held(lambda: parent / f"{PREFIX}{secrets.token_hex(8)}")
    try:
        yield made
    finally:
        shutil.rmtree(made.path, ignore_errors=True)
        os.close(made.lock)


def make_held(name: Callable[[], Path], mode: int = 0o700) -> Held:
    """A new folder that we hold, under the first name whose folder nobody takes from us meanwhile.

    Raises OSError where it cannot be made.
    """
    while True:
        path = name()
        path.mkdir(mode=mode)
        # between these two it is nobody's, and another may remove it
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if _held(fd) is not False and os.path.samestat(os.fstat(fd), path.stat()):
                    return Held(path, fd)
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)


def sweep(parent: Path, names: re.Pattern[str]) -> None:
    """Remove the folders in `parent` of these names that are ours and that nobody holds."""
    try:
        found = [entry.name for entry in os.scandir(parent) if names.fullmatch(entry.name)]
    except OSError:
        return
    for name in found:
        with contextlib.suppress(OSError):  # a link is not followed; what is another user's stays
            fd = os.open(parent / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_uid == os.getuid() and _held(fd):
                    shutil.rmtree(parent / name, ignore_errors=True)
            finally:
                os.close(fd)


def _held(fd: int) -> bool | None:
    """Whether the folder is ours now; False: another's; None: there are no locks here."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
