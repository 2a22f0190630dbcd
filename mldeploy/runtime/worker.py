"""The life of one worker: load, replay the samples, warm up, listen, answer, drain.

Rules: it never listens before the samples passed. Every step is in its status file and on the connection it
was asked for on; whoever reads there may go away without harm. It ends on SIGTERM after answering all it has
received, and takes its socket file with it. The last words of its status file are `exited`, or `failed` with
stage and reason. Left out: forking and reaping (zygote.py), the loop (server.py).
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import msgspec

from . import process
from .batching import Batcher
from .codec import RequestDecoder, ResponseEncoder
from .confine import Confinement, narrow
from .errors import BundleError
from .loader import load
from .model import Engine, Model, check_signature
from .replay import check_batching, replay
from .scratch import use_scratch
from .server import Server
from .spec import Manifest, WorkerSpec, read_manifest
from .warmup import Measured, warm_up

EXIT_FAILED = 1
_BACKLOG = 128


class Status(msgspec.Struct):
    """The status file of a worker. `since` is Unix time, for people; nothing is decided by it."""

    id: str
    pid: int
    start_ticks: int
    model: str
    version: int
    digest: str
    replica: int
    state: str  # loading, ready, failed, exited
    stage: str = ""  # of a failure: load, samples, warmup, serve
    reason: str = ""
    load_ms: float = 0.0
    samples: int = 0
    latency_ms: float = 0.0
    batch_ms: float = 0.0
    memory_bytes: int = 0  # private
    confinement: str = "off"
    idle: bool = False
    since: float = 0.0


class Worker:
    """One worker in this process, which it has for itself."""

    def __init__(self, spec: WorkerSpec, confinement: Confinement, control: socket.socket | None) -> None:
        self._spec = spec
        self._confinement = confinement
        self._control = control
        self._server: Server | None = None
        self._stopping = False

    def run(self) -> int:
        """Serve until told to stop; the exit code."""
        spec = self._spec
        process.redirect_output(spec.log)
        self._status = Status(
            spec.id, os.getpid(), process.start_ticks(), spec.model, spec.version, spec.digest, spec.replica,
            "loading", confinement=self._confinement.level, idle=spec.idle,
        )  # fmt: skip
        # paths stay relative, for a socket's must be short, and the model may change the working directory
        self._home = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        wake = self._catch_signals()
        try:
            self._say("loading")
            server = self._prepare(wake)
            if server is not None:
                server.run()
                self._unlink()
            self._say("exited")
            return 0
        except BundleError as error:
            self._fail(error.stage, error.reason())
        except Exception as error:  # noqa: BLE001 - the edge of the process
            traceback.print_exc()
            self._fail("serve" if self._server else "load", f"{type(error).__name__}: {error}")
        finally:
            if self._server is not None:
                self._unlink()
        return EXIT_FAILED

    def _catch_signals(self) -> socket.socket:
        wake, waker = socket.socketpair()
        wake.setblocking(False)
        waker.setblocking(False)
        self._waker = waker
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's interrupt is for the daemon
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the zygote held it back
        return wake

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True
        if self._server is not None:
            self._server.stop()

    def _prepare(self, wake: socket.socket) -> Server | None:
        """Everything up to listening; None where it was told to stop meanwhile. Raises BundleError."""
        spec = self._spec
        if spec.scratch:
            os.makedirs(spec.scratch, mode=0o700, exist_ok=True)
        narrow(
            self._confinement,
            [spec.bundle, *spec.read, *filter(None, [spec.manifest])],
            [str(Path(spec.status).parent), *filter(None, [spec.scratch]), *spec.write],
        )
        if spec.scratch:
            use_scratch(spec.scratch)
        process.reseed()
        process.wake_precisely()
        bundle = str(Path(spec.bundle).absolute())  # the model may change the working directory
        manifest = read_manifest(bundle, spec.manifest)
        started = time.monotonic()
        model = load_model(bundle, manifest, spec.threads)
        self._status.load_ms = (time.monotonic() - started) * 1000
        rows = max_rows(manifest, spec.max_batch)
        measured = prove(bundle, manifest, model, rows)
        if self._stopping:
            return None
        gc.collect()
        gc.freeze()  # the model is here to stay
        self._note(manifest, measured)
        server = Server(
            self._listen(),
            wake,
            Engine(model, ResponseEncoder(spec.model, str(spec.version), manifest.signature.outputs)),
            RequestDecoder(manifest.signature),
            Batcher(rows if model.batchable else 1, measured.latency_ms / 1000),
            spec.drain,
            self._bound_log,
        )
        self._server = server
        if self._stopping:  # between the look above and now
            server.stop()
        if spec.idle:
            process.give_way()  # not before: what loads at idle priority on a busy machine never comes up
        self._say("ready")
        if not spec.hold and self._control is not None:
            self._control.close()
            self._control = None
        return server

    def _note(self, manifest: Manifest, measured: Measured) -> None:
        self._status.samples = len(manifest.samples)
        self._status.latency_ms = measured.latency_ms
        self._status.batch_ms = measured.batch_ms
        self._status.memory_bytes = process.memory().private

    def _listen(self) -> socket.socket:
        self._unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self._spec.socket)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        return listener

    def _unlink(self) -> None:
        os.fchdir(self._home)
        with suppress(FileNotFoundError):
            os.unlink(self._spec.socket)

    def _bound_log(self) -> None:
        os.fchdir(self._home)
        process.bound_log(self._spec.log)

    def _fail(self, stage: str, reason: str) -> None:
        reason = reason.encode(errors="backslashreplace").decode()  # a model's words may be no Unicode
        self._status.stage, self._status.reason = stage, reason
        print(f"mldeploy: {stage}: {reason}", file=sys.stderr)
        self._say("failed")

    def _say(self, state: str) -> None:
        """Into the status file, and to whoever asked for this worker if they still listen."""
        self._status.state, self._status.since = state, time.time()
        os.fchdir(self._home)
        process.write_status(self._spec.status, self._status)
        if self._control is not None:
            with suppress(OSError):  # who asked is gone; who comes next reads the file
                self._control.send(msgspec.json.encode(self._status) + b"\n")


def load_model(bundle: str, manifest: Manifest, threads: int) -> Model:
    """Load with `threads` threads for BLAS and OpenMP. Raises BundleError."""
    check_signature(manifest.signature)
    process.set_threads(threads)
    function = load(bundle, manifest.entry)
    process.set_threads(threads)  # of the libraries that only loading brought in
    return Model(function, manifest.signature, manifest.entry.input)


def max_rows(manifest: Manifest, stated: int | None) -> int:
    """Rows that requests put together may have in one call."""
    limit = manifest.batching.max_size
    return max(1, limit if stated is None else min(limit, stated))


def prove(bundle: str, manifest: Manifest, model: Model, rows: int) -> Measured:
    """Replay the samples, check that batching changes nothing, warm up. Raises BundleError."""
    replayed = replay(bundle, manifest, model)
    check_batching(replayed, model, rows)
    return warm_up(replayed, model, rows)
