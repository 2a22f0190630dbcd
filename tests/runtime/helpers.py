"""Real environments, bundles, zygotes and workers, seen from outside."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np

from mldeploy.runtime.frames import HEADER, REQUEST_V2, Frame, FrameReader

BOOT = Path(__file__).parents[2] / "mldeploy" / "runtime" / "boot.py"
PYTHON = getattr(sys, "_base_executable", sys.executable)
DEADLINE = 60.0
PACKAGES = ("numpy", "numpy.libs", "msgspec", "cloudpickle")


def encode_header(frame: Frame) -> bytes:
    """The 24 bytes before a frame's body."""
    return HEADER.pack(
        len(frame.body), frame.kind, frame.flags, frame.status, frame.id, frame.budget, frame.header
    )


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """The first truthy value of `condition`; fails at the deadline."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        select.select([], [], [], 0.005)
    return value


def make_environment(folder: Path) -> Path:
    """`folder/site` with this interpreter's packages: no symbolic links, which would lead outside."""
    site = folder / "site"
    site.mkdir()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package.partition(".")[0])
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).parents[1] / package
        if source.is_dir():
            shutil.copytree(source, site / package, copy_function=_link)
    return folder


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


X = tensor("x", "FP64", -1, 4)
Y = tensor("y", "FP64", -1)


def infer(rows: list[list[float]], name: str = "x", **more: Any) -> dict[str, Any]:
    shape = [len(rows), len(rows[0])]
    return {"inputs": [{"name": name, "shape": shape, "datatype": "FP64", "data": rows}], **more}


class Bundle:
    """A folder like the one a host makes, its manifest in canonical JSON."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in ("model", "samples", "code"):
            (folder / part).mkdir(parents=True)
        self.manifest: dict[str, Any] = {
            "name": "churn",
            "signature": {"inputs": [X], "outputs": [Y]},
            "samples": [],
        }

    def code(self, source: str, **entry: Any) -> Bundle:
        """A python-class `Model` in module `served`."""
        (self.folder / "code" / "served.py").write_text(source)
        self.manifest["entry"] = {"kind": "python-class", "module": "served", "name": "Model", **entry}
        return self.write()

    def object(self, model: object, **entry: Any) -> Bundle:
        """A pickled object, its buffers out of band."""
        buffers: list[pickle.PickleBuffer] = []
        data = cloudpickle.dumps(model, protocol=5, buffer_callback=buffers.append)
        (self.folder / "model" / "model.pkl").write_bytes(data)
        names = []
        for index, buffer in enumerate(buffers):
            names.append(f"model/buffer-{index}")
            with (self.folder / names[-1]).open("wb") as file:
                file.write(buffer.raw())
        self.manifest["entry"] = {
            "kind": "python-object",
            "pickle": "model/model.pkl",
            "buffers": names,
            **entry,
        }
        return self.write()

    def sample(self, request: dict[str, Any], outputs: list[dict[str, Any]] | None, **more: Any) -> Bundle:
        index = len(self.manifest["samples"])
        one = {"request": f"samples/{index}.request.json", **more}
        (self.folder / one["request"]).write_text(json.dumps(request))
        if outputs is not None:
            one["response"] = f"samples/{index}.response.json"
            (self.folder / one["response"]).write_text(json.dumps({"outputs": outputs}))
        self.manifest["samples"].append(one)
        return self.write()

    def sums(self, *values: float) -> Bundle:
        """A sample for models that answer the sum of four numbers."""
        rows = [[value, 0.0, 0.0, 0.0] for value in values or (1.0, 2.0, 3.0)]
        data = [row[0] for row in rows]
        return self.sample(infer(rows), [{**Y, "shape": [len(data)], "data": data}])

    def write(self) -> Bundle:
        (self.folder / "manifest.yaml").write_text(json.dumps(self.manifest, sort_keys=True))
        return self


SUMS = """
import numpy as np
class Model:
    def predict(self, x):
        return x.sum(axis=1)
"""


class Lines:
    """One end of a JSON-lines connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.buffer = b""

    def ask(self, request: Any) -> dict[str, Any]:
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        return self.read()

    def read(self) -> dict[str, Any]:
        """The next line; {} at the end."""
        while b"\n" not in self.buffer:
            data = self.socket.recv(65536)
            if not data:
                return {}
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Front:
    """A client that speaks frames."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.reader = FrameReader()
        self.ready: list[Frame] = []

    def send(self, ident: int, body: Any, **fields: Any) -> None:
        self.socket.sendall(self.frame(ident, body, **fields))

    @staticmethod
    def frame(ident: int, body: Any, **fields: Any) -> bytes:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return encode_header(Frame(REQUEST_V2, ident, data, **fields)) + data

    def read(self) -> Frame:
        while not self.ready:
            data = self.socket.recv(1 << 20)
            assert data, "disconnected"
            self.ready += self.reader.feed(data)
        return self.ready.pop(0)

    def answers(self, count: int) -> dict[int, tuple[int, dict[str, Any]]]:
        frames = [self.read() for _ in range(count)]
        return {frame.id: (frame.status, json.loads(bytes(frame.body))) for frame in frames}

    def ask(self, body: Any, ident: int = 1, **fields: Any) -> tuple[int, dict[str, Any]]:
        self.send(ident, body, **fields)
        return self.answers(1)[ident]

    def at_end(self) -> bool:
        """Whether the other side closed, after whatever it still sent."""
        try:
            return self.socket.recv(1 << 20) == b""
        except ConnectionResetError:
            return True


class Host:
    """A state folder with a zygote, and workers forked from it."""

    def __init__(self, state: Path, environment: Path) -> None:
        self.state = state
        self.environment = environment
        self.zygote: subprocess.Popen[bytes] | None = None
        self.pids: set[int] = set()
        self.sockets: list[socket.socket] = []
        self.count = 0
        for folder in ("run", "tmp", "bundles"):
            (state / folder).mkdir(parents=True, exist_ok=True)

    def start(self, **options: Any) -> dict[str, Any]:
        """Start the zygote; its status file."""
        given = {
            "environment": str(self.environment),
            "socket": "run/zygote.sock",
            "status": "run/zygote.json",
            "imports": [],
            "confine": "best-effort",
            "read": ["bundles"],
            "write": ["run", "tmp"],
            **options,
        }
        with (self.state / "zygote.log").open("ab") as log:
            self.zygote = subprocess.Popen(
                [PYTHON, "-I", "-S", str(BOOT), "zygote", json.dumps(given)],
                cwd=self.state,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        path = self.state / "run" / "zygote.json"
        wait_until(lambda: path.exists() or self.zygote.poll() is not None, "the zygote's status")
        assert path.exists(), (self.state / "zygote.log").read_text()
        status: dict[str, Any] = json.loads(path.read_text())
        return status

    def connect(self, path: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(DEADLINE)
        self.sockets.append(connection)
        # relative to the state folder, by its descriptor: temporary folders have long names
        folder = os.open(self.state, os.O_PATH)
        try:
            connection.connect(f"/proc/self/fd/{folder}/{path}")
        finally:
            os.close(folder)
        return connection

    def control(self) -> Lines:
        return Lines(self.connect("run/zygote.sock"))

    def fork(self, bundle: Bundle, **spec: Any) -> Worker:
        if self.zygote is None:
            self.start()
        self.count += 1
        ident = f"w-{self.count}"
        (self.state / "run" / ident).mkdir(exist_ok=True)
        given = {
            "id": ident,
            "model": "churn",
            "version": 7,
            "digest": "0" * 64,
            "bundle": str(bundle.folder.relative_to(self.state)),
            "socket": f"run/{ident}/socket",
            "status": f"run/{ident}/status.json",
            "log": f"run/{ident}/log",
            "write": ["tmp"],
            **spec,
        }
        worker = Worker(self, given, self.control())
        worker.first = worker.control.ask({"op": "fork", "worker": given})
        self.pids.add(worker.first["pid"])
        return worker

    def close(self) -> None:
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self.zygote is not None:
            self.zygote.kill()
            self.zygote.wait()
        for connection in self.sockets:
            connection.close()


class Worker:
    """A worker seen from outside."""

    def __init__(self, host: Host, spec: dict[str, Any], control: Lines) -> None:
        self.host = host
        self.spec = spec
        self.control = control
        self.first: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        return int(self.first["pid"])

    def settled(self) -> dict[str, Any]:
        """The line after `loading`; {} where the worker died without one."""
        assert self.first["state"] == "loading"
        return self.control.read()

    def ready(self) -> Worker:
        status = self.settled()
        assert status.get("state") == "ready", (status, self.log())
        return self

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads((self.host.state / self.spec["status"]).read_text())
        return status

    def ended(self) -> dict[str, Any]:
        """The last status, once there is one."""
        wait_until(lambda: self.status()["state"] in ("failed", "exited"), "the worker's last status")
        return self.status()

    def log(self) -> str:
        path = self.host.state / self.spec["log"]
        return path.read_text() if path.exists() else ""

    def listens(self) -> bool:
        return (self.host.state / self.spec["socket"]).exists()

    def front(self) -> Front:
        return Front(self.host.connect(self.spec["socket"]))

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)


def rows(count: int, seed: int = 0) -> list[list[float]]:
    values: list[list[float]] = np.random.default_rng(seed).normal(size=(count, 4)).tolist()
    return values


ONE = infer([[1.0, 2.0, 3.0, 4.0]])

#: Notes the rows of every call, and with a first value above 100 does not return before the test lets it.
SLOW = """
import time
import numpy as np
class Model:
    def load(self, path):
        self.path = path
    def predict(self, x):
        calls = open(self.path / "../../../tmp/calls", "a")
        calls.write(f"{len(x)}\\n")
        calls.close()
        while x[0, 0] > 100 and not (self.path / "../../../tmp/go").exists():
            time.sleep(0.002)
        return x.sum(axis=1)
"""


def calls(host: Host) -> list[int]:
    return [int(line) for line in (host.state / "tmp/calls").read_text().split()]


def go(host: Host) -> None:
    (host.state / "tmp/go").touch()
