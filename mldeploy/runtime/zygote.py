"""The zygote of an environment: has imported its packages; one fork is one worker.

Rules: it never runs model code and never has a second thread (what an import leaves running would be
missing in every fork, with its locks held): where imports start threads it begins again without them.
Requests are JSON lines on a Unix socket; a fork's connection goes to the child, whose end it thereby tells.
It reaps its children and writes how they ended into their status files where they could not. Workers
outlive it.
Left out: the worker's life (worker.py).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from . import process
from .confine import Confinement
from .reading import NOT_JSON
from .spec import WorkerSpec, ZygoteOptions
from .worker import EXIT_FAILED, Worker

MAX_LINE = 1 << 20


class _Fork(msgspec.Struct):
    op: str
    worker: WorkerSpec | None = None


class Zygote:
    """Answers its control socket until it is stopped."""

    def __init__(self, options: ZygoteOptions, confinement: Confinement) -> None:
        self._options = options
        self._confinement = confinement
        self._workers: dict[int, WorkerSpec] = {}
        self._lines: dict[socket.socket, bytearray] = {}
        self._listener: socket.socket | None = None
        self._ending = False

    def run(self, imported: dict[str, str]) -> int:
        """Listen, say so in the status file, answer; the exit code. `imported` is what failed, and why."""
        self._selector = selectors.DefaultSelector()
        self._catch_signals()
        self._listener = _listen(self._options.socket)
        self._selector.register(self._listener, selectors.EVENT_READ)
        status = {
            "pid": os.getpid(),
            "start_ticks": process.start_ticks(),
            "environment": self._options.environment,
            "state": "ready",
            "socket": self._options.socket,
            "confinement": self._confinement.level,
            "failed_imports": imported,
            "threads": process.thread_count(),
            "memory_bytes": process.memory().private,
            "since": time.time(),
        }
        process.write_status(self._options.status, status)
        gc.collect()
        gc.freeze()
        while not self._ending and (self._listener is not None or self._workers):
            for key, _ in self._selector.select():
                self._ready(key.fileobj)  # type: ignore[arg-type]
            self._reap()
        self._stop_listening()
        return 0

    def _catch_signals(self) -> None:
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's interrupt is for the daemon
        signal.signal(signal.SIGTERM, self._end)
        self._selector.register(self._wake, selectors.EVENT_READ)

    def _end(self, *_: object) -> None:
        self._ending = True  # at once: the workers go on without us

    def _ready(self, source: socket.socket) -> None:
        if source is self._wake:
            with suppress(BlockingIOError):
                source.recv(4096)
        elif source is self._listener:
            with suppress(OSError):  # who had connected is gone again
                connection, _ = source.accept()
                self._lines[connection] = bytearray()
                self._selector.register(connection, selectors.EVENT_READ)
        elif source in self._lines:
            self._read(source)

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
        except OSError:
            data = b""
        lines = self._lines[connection]
        lines += data
        if not data or len(lines) > MAX_LINE:
            self._forget(connection)
            return
        while connection in self._lines and b"\n" in lines:
            line, _, rest = bytes(lines).partition(b"\n")
            lines[:] = rest
            self._answer(connection, line)

    def _answer(self, connection: socket.socket, line: bytes) -> None:
        try:
            request = msgspec.json.decode(line, type=_Fork)
        except NOT_JSON as error:
            self._reply(connection, {"ok": False, "error": f"not a request: {error}"})
            return
        if request.op == "ping":
            self._reply(connection, {"ok": True, "pid": os.getpid(), "workers": sorted(self._workers)})
        elif request.op == "stop":
            self._reply(connection, {"ok": True})
            self._stop_listening()
        elif request.op == "fork" and request.worker is not None:
            self._fork(connection, request.worker)
        else:
            self._reply(connection, {"ok": False, "error": f"no such operation: {request.op!r}"})

    def _reply(self, connection: socket.socket, answer: dict[str, Any]) -> None:
        try:
            connection.sendall(msgspec.json.encode(answer) + b"\n")
        except OSError:
            self._forget(connection)

    def _fork(self, connection: socket.socket, spec: WorkerSpec) -> None:
        gc.collect()
        gc.freeze()  # or the collector writes to, and so copies, every page the fork shares
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # held back until the child has a handler of its own, or it would be told to stop and not know
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            pid = os.fork()
            if pid == 0:
                self._become(connection, spec)
        except OSError as error:
            self._reply(connection, {"ok": False, "error": f"fork: {error.strerror}"})
            self._forget(connection)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        self._workers[pid] = spec
        self._forget(connection)

    def _become(self, connection: socket.socket, spec: WorkerSpec) -> None:
        """The child: never returns."""
        code = EXIT_FAILED
        try:
            signal.set_wakeup_fd(-1)
            self._selector.close()
            for other in (self._listener, self._wake, self._waker, *self._lines):
                if other is not None and other is not connection:
                    other.close()
            code = Worker(spec, self._confinement, connection).run()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        except BaseException:  # noqa: BLE001 - the edge of the process
            traceback.print_exc()
        finally:
            os._exit(code)

    def _forget(self, connection: socket.socket) -> None:
        if self._lines.pop(connection, None) is not None:
            self._selector.unregister(connection)
            connection.close()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
            with suppress(FileNotFoundError):
                os.unlink(self._options.socket)

    def _reap(self) -> None:
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            spec = self._workers.pop(pid, None)
            if spec is not None:
                _write_end(spec, pid, status)


def _write_end(spec: WorkerSpec, pid: int, wait_status: int) -> None:
    """How a worker ended, where it did not say so itself."""
    status = process.read_status(spec.status)
    if status.get("pid") != pid:
        status = {"id": spec.id, "pid": pid, "model": spec.model, "version": spec.version,
                  "digest": spec.digest, "replica": spec.replica}  # fmt: skip
    if status.get("state") in ("failed", "exited"):
        return
    code = os.waitstatus_to_exitcode(wait_status)
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else "unknown"
        reason = f"killed by signal {-code} ({name})"
    else:
        reason = f"exited with status {code}"
    state, stage = ("exited", "serve") if status.get("state") == "ready" else ("failed", "load")
    status |= {"state": state, "stage": stage, "reason": reason, "since": time.time()}
    print(f"mldeploy: worker {spec.id}: {reason}", file=sys.stderr)
    with suppress(OSError):  # the agent reads the connection's end all the same
        process.write_status(spec.status, status)
    with suppress(OSError):
        os.unlink(spec.socket)


def _listen(path: str) -> socket.socket:
    with suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(64)
    listener.setblocking(False)
    return listener


def _import_all(names: tuple[str, ...]) -> dict[str, str]:
    """Import ahead; a failure is not fatal, for the worker that needs it will say so better."""
    failed = {}
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - any package may be broken in any way
            failed[name] = f"{type(error).__name__}: {error}"
            print(f"mldeploy: import {name}: {failed[name]}", file=sys.stderr)
    return failed


def main(options: bytes, confinement: Confinement) -> int:
    """MODE zygote, confined and with the environment on the path; the exit code."""
    parsed = msgspec.json.decode(options, type=ZygoteOptions)
    failed = _import_all(parsed.imports)
    if parsed.imports and process.thread_count() > 1:
        print("mldeploy: an import started threads; beginning again without imports", file=sys.stderr)
        again = json.loads(options) | {"imports": []}
        boot = str(Path(__file__).absolute().parent / "boot.py")
        os.execv(sys.executable, [sys.executable, "-I", "-S", boot, "zygote", json.dumps(again)])
    return Zygote(parsed, confinement).run(failed)
