"""The keeper's one place to wait: signals, descriptors and a timeout. Standard library only."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
from collections.abc import Callable
from types import FrameType

_STOPPING = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """A context in which SIGTERM, SIGINT and SIGCHLD end `wait` instead of the process.

    `stop` counts the requests to stop; `hurry` is true from the second on.
    """

    def __init__(self) -> None:
        self.stop = 0

    @property
    def hurry(self) -> bool:
        """Whether stopping was asked for twice."""
        return self.stop > 1

    def __enter__(self) -> Signals:
        self._selector = selectors.DefaultSelector()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._selector.register(self._reader, selectors.EVENT_READ, None)
        self._former = {number: signal.signal(number, self._asked) for number in _STOPPING}
        self._former[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, self._noted)
        self._former_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._former_fd)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._selector.close()
        self._reader.close()
        self._writer.close()

    def watch(self, fd: int, heard: Callable[[bytes], None]) -> None:
        """Call `heard` with what arrives on the non-blocking `fd`, from within `wait`."""
        self._selector.register(fd, selectors.EVENT_READ, heard)

    def wait(self, seconds: float) -> None:
        """Until something happens, at most `seconds`."""
        for key, _ in self._selector.select(max(0.0, seconds)):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    while len(self._reader.recv(4096)) == 4096:
                        pass
                continue
            with contextlib.suppress(BlockingIOError):
                key.data(os.read(key.fd, 4096))

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.stop += 1

    def _noted(self, number: int, frame: FrameType | None) -> None:
        """The wake-up descriptor has ended the wait; reaping is the keeper's."""
