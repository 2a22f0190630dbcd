"""Wakes a reader when something appears in a folder of a store, by inotify through watchdog.

Rules: opening and reading wake nobody (a reader would wake itself for ever); a folder that does not exist
yet is waited for; folders inside it are not watched (watchdog, seen in 7.1, trips over one that is made while
it looks). It is a hint: what happens on another machine of a network file system is not seen, so
whoever uses it polls as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver, ObservedWatch


def watch_folder(root: Path, folder: Path, wake: Callable[[], None]) -> Callable[[], None] | None:
    """Call `wake`, from a thread, when a file appears in `folder` (which is `root` or below it).

    Returns what stops it; None where the system gives no watch (no inotify, or too many of them in use) or
    `root` itself is not there.
    """
    from watchdog.observers import Observer

    try:
        observer = Observer()
        watcher = _Watcher(observer, root, folder, wake)
        watcher.look()
        observer.start()
    except OSError:
        return None

    def stop() -> None:
        observer.stop()
        if threading.current_thread() is not observer:
            observer.join()

    return stop


class _Watcher:
    """Watches the folder, or the nearest one above it that exists until it does."""

    def __init__(self, observer: BaseObserver, root: Path, folder: Path, wake: Callable[[], None]) -> None:
        self._observer, self._root, self._folder, self._wake = observer, root, folder, wake
        self._watch: ObservedWatch | None = None
        self._at: Path | None = None

    def dispatch(self, event: object) -> None:
        """Called by the observer for each event."""
        if self._at == self._folder:
            self._wake()
        elif self._nearest() != self._at:
            self.look()
            self._wake()  # what was put into the folder before it was watched

    def look(self) -> None:
        """Watch the nearest folder there is, and again if a nearer one appeared meanwhile."""
        while self._at != (at := self._nearest()):
            before = self._watch
            self._watch = self._schedule(at)
            self._at = at
            if before is not None:
                self._observer.unschedule(before)

    def _nearest(self) -> Path:
        at = self._folder
        while at != self._root and not at.is_dir():
            at = at.parent
        return at

    def _schedule(self, at: Path) -> ObservedWatch:
        from watchdog.events import DirCreatedEvent, DirMovedEvent, FileCreatedEvent, FileMovedEvent

        # only what makes a name appear: the list also keeps the kernel from telling us of every open
        return self._observer.schedule(
            self,  # type: ignore[arg-type] # only dispatch is called
            str(at),
            event_filter=[FileCreatedEvent, FileMovedEvent, DirCreatedEvent, DirMovedEvent],
        )
