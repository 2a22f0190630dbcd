"""Sends the blobs of a push, several at a time, and skips those that its journal says are there.

Rules: a blob is what its digest says or it is not there (`store/blobs.py`); the bar is moved from the calling
thread alone; whatever ends it, nothing goes on in the background, but where a second Ctrl-C does not wait for
it. How many requests run at once, and the bytes in memory, are for the driver to bound.
Left out: which blobs (`bundle/push.py`).
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from mldeploy.bundle.journal import Journal
from mldeploy.errors import OutcomeUnknownError
from mldeploy.progress import Reporter
from mldeploy.store.blobs import upload_blob
from mldeploy.store.objects import ObjectStore, Progress

#: Blobs at the same time.
THREADS = 32
#: Seconds between two moves of the bar.
TICK = 0.1
#: Seconds after a Ctrl-C from which on what is still on its way is spoken of.
GRACE = 1.0


@dataclass(frozen=True, slots=True)
class Piece:
    """One blob of the bundle: where it lies, and its bytes."""

    path: Path
    size: int


def upload(
    store: ObjectStore,
    pieces: Mapping[str, Piece],
    push: str,
    reporter: Reporter,
    *,
    journal: Journal | None = None,
    pool: Callable[[int], Executor] = ThreadPoolExecutor,
) -> None:
    """Send `pieces`, by sha256, under the push id `push`.

    `pool` makes what runs them, given how many at a time. Raises IntegrityError, StoreError, DiskError and
    OutcomeUnknownError; what has been sent by then is in the journal.
    """
    sent = journal.sent & pieces.keys() if journal else set()
    if sent:
        reporter.info(f"going on with a push that was cut: {len(sent)} of {len(pieces)} files are there")
    with reporter.bar("uploading", sum(piece.size for piece in pieces.values())) as advance:
        if there := sum(pieces[sha256].size for sha256 in sent):
            advance(there)
        missing = {sha256: piece for sha256, piece in pieces.items() if sha256 not in sent}
        sending = _Sending(store, push, journal)
        try:
            sending.run(missing, advance, pool)
        except KeyboardInterrupt:
            if not sending.ends(GRACE):
                reporter.info("ending what is on its way; Ctrl-C again leaves at once")
                sending.ends(None)
            raise


class _Sending:
    def __init__(self, store: ObjectStore, push: str, journal: Journal | None) -> None:
        self._store, self._push, self._journal = store, push, journal
        self._moved: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._given_up = threading.Event()
        self._senders = 0  # at work
        self._changed = threading.Condition()

    def run(self, pieces: Mapping[str, Piece], advance: Progress, pool: Callable[[int], Executor]) -> None:
        left = iter(pieces.items())  # shared: what one thread takes no other gets
        threads = pool(THREADS)
        try:
            running = {threads.submit(self._send_all, left) for _ in range(min(THREADS, len(pieces)))}
            while running:
                # the bar moves now and then: for each file it would cost as much as the file
                done, running = wait(running, TICK, FIRST_COMPLETED)
                self._tell(advance)
                for future in done:
                    future.result()
        except BaseException as error:
            self._given_up.set()  # or it would wait for whole files
            # for a Ctrl-C the caller waits, who can say so
            threads.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
            raise
        threads.shutdown()
        self._tell(advance)

    def ends(self, seconds: float | None) -> bool:
        """Wait so long, None for as long as it takes, for what is on its way; whether it has ended."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._senders, seconds)

    def _tell(self, advance: Progress) -> None:
        if moved := sum(self._moved.get() for _ in range(self._moved.qsize())):
            advance(moved)

    def _send_all(self, left: Iterator[tuple[str, Piece]]) -> None:
        with self._at_work():
            for sha256, piece in left:
                if self._given_up.is_set():
                    return
                self._send(sha256, piece)

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Counted here and not by futures: a Ctrl-C may come before anybody has kept one."""
        with self._changed:
            self._senders += 1
        try:
            yield
        finally:
            with self._changed:
                self._senders -= 1
                self._changed.notify_all()

    def _send(self, sha256: str, piece: Piece) -> None:
        journal = self._journal
        resumption = journal.resumption(sha256) if journal else None

        def send(progress: Progress | None) -> None:
            upload_blob(self._store, sha256, self._push, piece.path, progress, resumption=resumption)

        try:
            send(self._move)
        except OutcomeUnknownError:
            send(None)  # the same bytes under the same key: writing them twice is no harm
        if journal:
            journal.done(sha256)

    def _move(self, count: int) -> None:
        if self._given_up.is_set():
            raise CancelledError
        self._moved.put(count)
