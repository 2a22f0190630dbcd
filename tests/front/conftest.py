"""Real front processes on one listening socket, stub workers, and a table the test writes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mldeploy.bundle.scratch import scratch_folder
from mldeploy.core.manifest import Tensor
from mldeploy_daemon.table import ModelRoutes, Table, VersionRoutes, WorkerRoute, write_table

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DEADLINE = 60.0
ENV = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'daemon'}", "PYTHONWARNINGS": "error"}


class Host:
    """A state folder, a listening socket, and the processes of one host."""

    def __init__(self, state: Path) -> None:
        self.state = state
        (state / "run").mkdir()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(1024)
        self.listener.set_inheritable(True)
        self.port: int = self.listener.getsockname()[1]
        self.fronts: dict[int, subprocess.Popen[bytes]] = {}
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.started: list[subprocess.Popen[bytes]] = []
        self.generation = 0
        self._pause = threading.Event()  # never set

    # processes

    def worker(self, ident: str, version: int, **options: object) -> WorkerRoute:
        route = WorkerRoute(id=ident, socket=f"run/{ident}.sock")
        words = {"id": ident, "socket": route.socket, "version": version, **options}
        self.workers[ident] = process = subprocess.Popen(
            [sys.executable, str(HERE / "stub_worker.py"), json.dumps(words)],
            cwd=self.state, env=ENV, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(process)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"listening\n"
        return route

    def front(self, number: int = 0, *, access_log: bool = False, **limits: object) -> None:
        config = {
            "listen_fd": self.listener.fileno(), "front": number, "state": str(self.state),
            "store": "file:///nowhere", "access_log": access_log, "limits": limits,
        }  # fmt: skip
        with (self.state / f"front-{number}.err").open("wb") as errors:
            self.fronts[number] = subprocess.Popen(
                [sys.executable, "-m", "mldeploy_daemon.front"],
                cwd="/", env={**ENV, "MLDEPLOYD": json.dumps(config)}, stderr=errors,
                pass_fds=[self.listener.fileno()],
            )  # fmt: skip
        self.started.append(self.fronts[number])
        self.until(lambda: (self.state / f"run/front-{number}.sock").exists())

    def mirror(self, **marks: float) -> subprocess.Popen[bytes]:
        """Start the mirror. This machine may be busy: unless told otherwise, shadows never pause."""
        pause = {"pressure": 1e9, "queue": 1e9, "latency": 1e9, **marks}
        for name in ("mirror", "copies"):
            (self.state / f"run/{name}.sock").unlink(missing_ok=True)
        with (self.state / "mirror.err").open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "mldeploy_daemon.mirror"], cwd="/", stderr=errors,
                env={**ENV, "MLDEPLOYD": json.dumps({"state": str(self.state), "pause": pause})},
                start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        self.until(lambda: (self.state / "run/copies.sock").exists())
        return process

    def mirrored(self) -> dict[str, Any]:
        """What the mirror says of itself."""
        return self._ask("run/mirror.sock", {"op": "stats"})

    def errors(self, number: int = 0) -> str:
        return (self.state / f"front-{number}.err").read_text()

    def kill_worker(self, ident: str) -> None:
        process = self.workers.pop(ident)
        process.kill()
        process.wait()

    def stop_front(self, number: int = 0, sig: int = signal.SIGTERM) -> int:
        process = self.fronts.pop(number)
        process.send_signal(sig)
        return process.wait(DEADLINE)

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
        self.listener.close()

    # the table

    def write(self, *, ready: bool = True, **models: ModelRoutes) -> int:
        self.generation += 1
        table = Table(
            generation=self.generation, ready=ready, environment="production", host="h1", models=models
        )
        write_table(table, self.state / "run/routes.json")
        return self.generation

    def publish(self, *, ready: bool = True, **models: ModelRoutes) -> dict[int, dict[str, Any]]:
        """Write it and tell every front."""
        generation = self.write(ready=ready, **models)
        if (self.state / "run/mirror.sock").exists():
            self.tell_mirror()
        return {k: self.control({"op": "table", "generation": generation}, k) for k in self.fronts}

    def tell_mirror(self) -> None:
        """Tell the mirror of the table that was written, and nobody else."""
        self._ask("run/mirror.sock", {"op": "table", "generation": self.generation})

    def control(self, request: dict[str, Any], number: int = 0) -> dict[str, Any]:
        return self._ask(f"run/front-{number}.sock", request)

    def _ask(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(str(self.state / path))
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
        return answer

    def inflight(self, number: int = 0) -> dict[str, int]:
        found: dict[str, int] = self.control({"op": "stats"}, number)["inflight"]
        return found

    # clients

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port))
        sock.settimeout(DEADLINE)
        return sock

    def client(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """One request on a connection of its own: status, headers (lower case), decoded JSON or text."""
        with contextlib.closing(self.client()) as client:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            client.request(method, path, data, headers or {})
            answer = client.getresponse()
            text = answer.read()
            found = {key.lower(): value for key, value in answer.getheaders()}
            if found.get("content-type") == "application/json" and text:
                return answer.status, found, json.loads(text)
            return answer.status, found, text.decode()

    def infer(self, path: str = "/v2/models/m/infer", body: Any = None, **headers: str) -> Any:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return self.ask("POST", path, {} if body is None else body, named)

    def until(self, condition: Callable[[], Any]) -> Any:
        """What `condition` says once it is true; fails after the deadline."""
        end = time.monotonic() + DEADLINE
        while not (found := condition()):
            assert time.monotonic() < end, "the condition was not met in time"
            for process in self.fronts.values():
                assert process.poll() is None, "a front has ended"
            self._pause.wait(0.005)
        return found


class Wire:
    """A raw connection: what is sent is what the test says, answers are cut by their lengths."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes] | None:
        """The next answer, None at the end of the connection."""
        line = self.file.readline()
        if not line:
            return None
        status = int(line.split()[1])
        headers = {}
        while (line := self.file.readline()) != b"\r\n":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, self.file.read(int(headers.get("content-length", "0")))

    def close(self) -> None:
        self.file.close()
        self.sock.close()


@contextlib.contextmanager
def _made() -> Iterator[Host]:
    with scratch_folder() as state:  # pytest's own are too long for a Unix socket
        made = Host(state)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def host() -> Iterator[Host]:
    with _made() as made:
        yield made


@pytest.fixture
def fresh_host() -> Iterator[Host]:
    """Where a module's `host` is shared."""
    with _made() as made:
        yield made


@pytest.fixture(scope="module")
def module_host() -> Iterator[Host]:
    with _made() as made:
        yield made


@pytest.fixture
def wire() -> Iterator[Callable[[Host], Wire]]:
    made: list[Wire] = []

    def connect(host: Host) -> Wire:
        made.append(Wire(host.connect()))
        return made[-1]

    yield connect
    for one in made:
        one.close()


class Build:
    """Tables in few words."""

    @staticmethod
    def version(*workers: WorkerRoute, **more: Any) -> VersionRoutes:
        return VersionRoutes(
            workers=workers,
            inputs=(Tensor(name="x", datatype="FP64", shape=(-1, 4)),),
            outputs=(Tensor(name="y", datatype="FP64", shape=(-1,)),),
            **more,
        )

    @staticmethod
    def model(versions: dict[int, VersionRoutes], **more: Any) -> ModelRoutes:
        more.setdefault("stable", max(versions, default=None))
        return ModelRoutes(versions={str(key): value for key, value in versions.items()}, **more)


@pytest.fixture(scope="session")
def build() -> Build:
    return Build()
