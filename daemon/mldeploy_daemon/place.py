"""Where a daemon lives: its state folder, locked, and its listening socket. Standard library only.

The lock is inherited by agent and fronts: while any process of a former run is alive, nobody else starts.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from pathlib import Path

from mldeploy_daemon.options import Refused, split_address
from mldeploy_daemon.system import activated, lock, start_ticks

#: Seconds a former run, whose keeper is gone, is given to end.
PATIENCE = 15.0
BACKLOG = 1024


class Place:
    """The state folder and the address. `take` and `listen` raise Refused, with what to do about it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock_fd = -1
        self.address = ""

    def take(self) -> None:
        """Make the folder if need be, lock it, and make it the working folder."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / "run").mkdir(mode=0o700, exist_ok=True)
            os.chdir(self.folder)
            self._lock()
            self._set_aside()
        except OSError as error:
            self.release()
            raise Refused(
                f"the state folder {self.folder} cannot be used: {error.strerror or error}",
                "give a folder that this user may write with --state, on a disk with room",
            ) from error

    @staticmethod
    def _set_aside() -> None:
        """The table of a former run: a front that starts before the agent must not believe in its workers.

        One that a power cut has left empty does not take the place of the last good one.
        """
        table = Path("run/routes.json")
        try:
            json.loads(table.read_bytes())
        except FileNotFoundError:
            return
        except ValueError:
            table.unlink()
        else:
            table.replace("run/routes.last.json")

    def _lock(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            fd = lock(Path("lock"))
            if fd is not None:
                break
            owner = self._owner()
            if owner or time.monotonic() > deadline:
                who = f"process {owner}" if owner else "a former run that does not end"
                raise Refused(
                    f"the state folder {self.folder} is in use by {who}",
                    "stop that daemon first, or give another --state",
                )
            time.sleep(0.05)  # there is no event for the end of someone else's lock
        self.lock_fd = fd
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()} {start_ticks(os.getpid())}\n".encode())

    @staticmethod
    def _owner() -> int | None:
        """The keeper that holds the lock, if it is alive."""
        try:
            pid, ticks = (int(word) for word in Path("lock").read_text().split())
        except (OSError, ValueError):
            return None
        return pid if start_ticks(pid) == ticks else None

    def listen(self, text: str, environ: dict[str, str]) -> socket.socket:
        """The listening socket: systemd's, or a new one on `text`. Its address goes to run/listen."""
        listener = activated(environ) or self._bind(text)
        host, port = listener.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            staged = Path("run/.listen")
            staged.write_text(f"{self.address}\n")
            staged.replace("run/listen")
        except OSError as error:
            listener.close()
            raise Refused(
                f"{self.folder}/run/listen cannot be written: {error.strerror}",
                "give a --state folder on a disk with room",
            ) from error
        return listener

    @staticmethod
    def _bind(text: str) -> socket.socket:
        host, port = split_address(text)
        listener = None
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind, protocol)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            if listener is not None:
                listener.close()
            taken = error.errno == errno.EADDRINUSE
            why = "the port is taken" if taken else error.strerror or str(error)
            hint = (
                "stop what listens there, or give another --listen (port 0 takes a free one)"
                if taken
                else "give an address of this machine with --listen; ports below 1024 need rights"
            )
            raise Refused(f"cannot listen on {text}: {why}", hint) from error
        return listener

    def release(self) -> None:
        """Give the lock up, and forget the address."""
        if self.lock_fd >= 0:
            with contextlib.suppress(OSError):
                Path("run/listen").unlink()
            os.close(self.lock_fd)
            self.lock_fd = -1
