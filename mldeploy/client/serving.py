"""`serve`: a model folder on a local daemon, packed and promoted again whenever it changes.

Rules: everything lives in one scratch folder that goes when serving ends; where it was killed, once its
daemon has ended too, when the next one is made. A change that does not pack or does not come up is
reported, and what served before goes on. Left out: what a daemon is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mldeploy.bundle.scratch import held_folder
from mldeploy.client.client import Client
from mldeploy.client.daemon import LocalDaemon
from mldeploy.client.types import Served
from mldeploy.errors import MldeployError, NotFoundError, UsageError
from mldeploy.progress import Reporter

#: Seconds without a further change before a change is taken up: editors write in several steps.
SETTLE = 0.3
#: Seconds for a version to come up.
COME_UP = 300.0
_IGNORED = ("__pycache__", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints")


class Serving:
    """One folder being served. `changed` is set when something in it changes."""

    def __init__(
        self,
        source: Path,
        client: Client,
        daemon: LocalDaemon,
        reporter: Reporter,
        changed: threading.Event,
    ) -> None:
        self.source, self.client, self.daemon, self.reporter = source, client, daemon, reporter
        self.version: int | None = None
        self._changed = changed

    def reload(self) -> Served | None:
        """Serve what the folder holds now; None where that is served already. Raises what packing raises."""
        started = time.monotonic()
        pushed = self.client.push(self.source, promote=True, now=True, reporter=self.reporter)
        if pushed.version == self.version:
            return None
        try:
            self.client.wait(pushed.model, seq=pushed.seq, timeout=COME_UP, reporter=self.reporter)
        except MldeployError:
            self.daemon.check()
            raise
        self.version = pushed.version
        assert pushed.version is not None
        return Served(
            model=pushed.model,
            version=pushed.version,
            url=self.daemon.address,
            curl=self.client.curl(pushed.model, url=self.daemon.address),
            seconds=round(time.monotonic() - started, 3),
        )

    def follow(self, told: Callable[[Served], None], failed: Callable[[MldeployError], None]) -> None:
        """Reload at every change until interrupted. Raises DaemonError if the daemon ends."""
        while True:
            if not self._changed.wait(1.0):
                self.daemon.check()
                continue
            _settled(self._changed)
            try:
                served = self.reload()
            except MldeployError as error:
                self.daemon.check()
                failed(error)
                continue
            if served is not None:
                told(served)


@contextmanager
def serving(source: Path, listen: str, reporter: Reporter) -> Iterator[Serving]:
    """A daemon on a temporary store, for one folder; all of it is gone when the block ends."""
    if not source.exists():
        raise NotFoundError(f"there is no {source}", "`mldeploy init DIR` makes one to start from")
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder", "`mldeploy init DIR` makes one to start from")
    # Unix sockets and the daemon's state want a short and private place
    with held_folder() as held:
        store = held.path / "store"
        client = Client(str(store), environment="local", actor="serve")
        client.create_store()
        reporter.step("starting mldeployd")
        daemon = LocalDaemon(
            store=client.store, state=held.path / "host", listen=listen, environment="local",
            holds=(held.lock,),
        )  # fmt: skip
        daemon.start()
        try:
            # watched before it is read for the first time: a change in between would be lost for ever
            with changes(source) as changed:
                yield Serving(source, client, daemon, reporter, changed)
        finally:
            daemon.stop()


@contextmanager
def changes(folder: Path) -> Iterator[threading.Event]:
    """An event that is set whenever something below `folder` is written, made, moved or removed."""
    from watchdog.events import FileSystemEventHandler
    from watchdog.observers import Observer

    changed = threading.Event()

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: Any) -> None:
            # packing reads the folder: opening and closing are no changes
            wrote = event.event_type in ("created", "modified", "moved", "deleted")
            if wrote and not event.is_directory and not _ignored(str(event.src_path), folder):
                changed.set()

    observer = Observer()
    observer.schedule(Handler(), str(folder), recursive=True)
    observer.start()
    try:
        yield changed
    finally:
        observer.stop()
        observer.join()


def _ignored(path: str, folder: Path) -> bool:
    parts = Path(path).parts[len(folder.parts) :]
    return any(part in _IGNORED or part.endswith(("~", ".swp", ".swx", ".pyc")) for part in parts)


def _settled(changed: threading.Event) -> None:
    while changed.is_set():
        changed.clear()
        changed.wait(SETTLE)
