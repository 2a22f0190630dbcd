"""Real `mldeployd` processes for tests: started, asked, waited for, ended, with nothing left behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from mldeploy.store.objects import open_store
from mldeploy.store.reports import HostReport, read_reports

T = TypeVar("T")
#: Seconds anything may take before a test gives up on it.
DEADLINE = 60.0


def until(look: Callable[[], T], what: str, seconds: float = DEADLINE, every: float = 0.01) -> T:
    """The first true value of `look`; AssertionError with `what` at the deadline."""
    pause = threading.Event()
    end = time.monotonic() + seconds
    while True:
        value = look()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        pause.wait(every)


class Daemon:
    """One mldeployd, as a context: killed at the end, with everything it started.

    `store` is a folder, or a URL that `env` and this process can reach.
    """

    def __init__(self, store: Path | str, state: Path, *, fronts: int = 1, **options: Any) -> None:
        self.store, self.state = store, state
        self.env: dict[str, str] | None = options.pop("env", None)
        self.arguments: tuple[str, ...] = options.pop("arguments", ())
        self.pass_fds: tuple[int, ...] = options.pop("pass_fds", ())
        self.settings = {"fronts": fronts, "listen": "127.0.0.1:0", "grace": 3600.0, **options}
        self.process: subprocess.Popen[bytes] | None = None
        self.log = state.with_suffix(".log")

    def start(self) -> Daemon:
        config = self.state.with_suffix(".toml")
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in self.settings.items()))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "mldeploy_daemon.keeper", "--store", str(self.store),
                    "--state", str(self.state), "--config", str(config), *self.arguments,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, pass_fds=self.pass_fds,
            )  # fmt: skip
        return self

    def __enter__(self) -> Daemon:
        return self if self.process else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.sweep()
        if error is not None and self.log.exists():
            error.add_note(f"the daemon's log:\n{self.log.read_text(errors='replace')[-6000:]}")

    def sweep(self) -> None:
        """Kill what runs in the state folder."""
        for _ in range(1000):
            pids = self.processes()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                return
            threading.Event().wait(0.01)

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = DEADLINE) -> int:
        """Ask it to stop; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # looking

    def processes(self, marker: str = "") -> list[int]:
        """Living processes whose working folder is the state folder."""
        found = []
        for path in Path("/proc").iterdir():
            if not path.name.isdecimal():
                continue
            with contextlib.suppress(OSError):
                inside = (path / "cwd").readlink() == self.state.resolve()
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if inside and marker in command and command:
                    found.append(int(path.name))
        return found

    def agent(self) -> int:
        """The pid of the agent, once it runs."""
        return until(lambda: self.processes("mldeploy_daemon.agent"), "an agent")[0]

    def workers(self) -> list[dict[str, Any]]:
        """The status files of workers."""
        found = []
        for path in (self.state / "run/workers").glob("w-*/status.json"):
            with contextlib.suppress(OSError, ValueError):
                found.append(json.loads(path.read_bytes()))
        return found

    def address(self) -> tuple[str, int]:
        path = self.state / "run/listen"
        text = until(lambda: path.exists() and path.read_text().strip(), "an address")
        host, _, port = str(text).rpartition(":")
        return host, int(port)

    def report(self, environment: str = "production") -> HostReport | None:
        """Its report in the store."""
        if isinstance(self.store, str):
            return next((report for report, _ in read_reports(open_store(self.store), environment)), None)
        for path in (self.store / "hosts" / environment).glob("*.json"):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                return msgspec.json.decode(path.read_bytes(), type=HostReport)
        return None

    # asking

    def get(self, path: str, body: object = None, timeout: float = 30.0) -> tuple[int, Any]:
        """Status and JSON of one request on a connection of its own."""
        connection = http.client.HTTPConnection(*self.address(), timeout=timeout)
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body)
            connection.request("GET" if data is None else "POST", path, data)
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None

    def ask(self, x: float = 1.0, model: str = "answer", version: int | None = None) -> tuple[int, Any]:
        """Status, and (answer, version) where it was answered."""
        where = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
        status, body = self.get(where, request(x))
        return (status, answer_of(body)) if status == 200 else (status, body)

    def answers(self, value: float, model: str = "answer") -> bool:
        """Whether it answers that value now."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, said = self.ask(model=model)
            return status == 200 and said[0] == value
        return False

    def ready(self) -> bool:
        """What a load balancer would be told."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/v2/health/ready")[0] == 200
        return False

    def wait_answer(self, value: float, model: str = "answer", seconds: float = DEADLINE) -> None:
        until(lambda: self.answers(value, model), f"{model} answers {value}", seconds)

    def wait_ready(self) -> None:
        until(self.ready, "the daemon is ready")


def request(x: float) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [x]}]}


def answer_of(body: Any) -> tuple[float, int]:
    return body["outputs"][0]["data"][0], int(body["model_version"])


class Load:
    """Constant load on kept-alive connections. `failed` and `answers` tell what came back; `blamed`, for each
    failure, the version that it names (`churn@7`), or "".
    """

    def __init__(self, daemon: Daemon, connections: int = 4, model: str = "answer", x: float = 1.0) -> None:
        self.daemon, self.model, self.x = daemon, model, x
        self.failed: list[str] = []
        self.blamed: list[str] = []
        self.answers: dict[tuple[float, int], int] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(connections)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def count(self) -> int:
        return sum(self.answers.values())

    def more(self, requests: int) -> None:
        """Wait until so many more have been answered."""
        target = self.count + requests
        until(lambda: self.count >= target, f"{requests} more answers")

    def _run(self) -> None:
        body = json.dumps(request(self.x))
        with self._connection() as connection:
            while not self._stop.is_set():
                try:
                    connection.request("POST", f"/v2/models/{self.model}/infer", body)
                    response = connection.getresponse()
                    data = response.read()
                except (OSError, http.client.HTTPException) as error:
                    self._note(f"{type(error).__name__}: {error}", None)
                    connection.close()
                    continue
                if response.status == 200:
                    self._note("", answer_of(json.loads(data)))
                else:
                    blamed = response.headers.get("mldeploy-version", "")
                    self._note(f"{response.status} {data.decode()}", None, blamed)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(*self.daemon.address(), timeout=30)
        with contextlib.closing(connection):
            yield connection

    def _note(self, failed: str, answer: tuple[float, int] | None, blamed: str = "") -> None:
        with self._lock:
            if answer is None:
                self.failed.append(failed)
                self.blamed.append(blamed)
            else:
                self.answers[answer] = self.answers.get(answer, 0) + 1
