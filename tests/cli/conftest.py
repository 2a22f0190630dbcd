"""A folder store with published versions, hosts that report, and the command line, in this process or not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mldeploy.bundle.manifest_file import write_manifest
from mldeploy.bundle.push import push
from mldeploy.cli.main import run
from mldeploy.core import manifest as m
from mldeploy.core.records import Action, Join
from mldeploy.store.log import Log
from mldeploy.store.objects import open_store
from mldeploy.store.reports import HostReport, ModelReport, VersionReport, write_report

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PLATFORM = f"linux-{os.uname().machine}"


@dataclass
class Ran:
    """What one call of the command line said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on standard output."""
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        found = json.loads(lines[0])
        assert isinstance(found, dict)
        return found


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration of the machine reaches a test."""
    for name in [name for name in os.environ if name.startswith(("MLDEPLOY_", "XDG_"))] + ["NO_COLOR"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg-data"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))
    monkeypatch.setenv("MLDEPLOY_ACTOR", "tester")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """The command line in this process: quick."""

    def call(*args: str | Path) -> Ran:
        capsys.readouterr()
        code = run([str(arg) for arg in args])
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return call


@pytest.fixture
def process() -> Callable[..., Ran]:
    """The command line as a process of its own: what a shell sees."""

    def call(*args: str | Path, env: dict[str, str] | None = None, stdin: str = "") -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "mldeploy.cli.main", *map(str, args)],
            capture_output=True, text=True, timeout=120, check=False, input=stdin,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr)

    return call


class World:
    """A store, and what happens to it besides the command under test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "store"
        self.store = open_store(str(self.path))
        self.log = Log(self.store)

    @property
    def url(self) -> str:
        return f"file://{self.path}"

    def head(self) -> int:
        self.log.refresh()
        return self.log.state.head

    def bundle(self, name: str = "churn", content: str = "1", expires: str = "90d", **changes: Any) -> Path:
        """A bundle's folder that no gate would pass: for what happens after publishing."""
        folder = self.root / f"{name}-{content}"
        (folder / "samples").mkdir(parents=True)
        tensor = m.Tensor(name="x", datatype="FP64", shape=(-1, 2))
        parts = {
            "model.pkl": content,
            "requirements.lock": "",
            "samples/0.request.json": json.dumps(
                {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [1.0, 2.0]}]}
            ),
            "samples/0.response.json": "{}",
        }
        files = []
        for path, text in sorted(parts.items()):
            (folder / path).write_text(text)
            files.append(m.File(path=path, sha256=_sha256(text), size=len(text.encode())))
        fields: dict[str, Any] = {
            "name": name,
            "owner": "team@example.com",
            "expires": expires,
            "entry": m.Entry(kind="python-object", pickle="model.pkl"),
            "signature": m.Signature(
                inputs=(tensor,), outputs=(m.Tensor(name="y", datatype="FP64", shape=(-1,)),)
            ),
            "python": PYTHON,
            "platform": PLATFORM,
            "samples": (m.Sample(request="samples/0.request.json", response="samples/0.response.json"),),
            "files": tuple(files),
        }
        write_manifest(folder, m.Manifest(**{**fields, **changes}))
        return folder

    def publish(self, name: str = "churn", content: str = "1", **changes: Any) -> str:
        """Publish such a bundle; `churn@1`."""
        folder = self.bundle(name, content, **changes)
        return str(
            push(self.store, folder, log=self.log, actor="setup", now=datetime.now(UTC), validate=False).ref
        )

    def append(self, *actions: Action) -> None:
        appended = self.log.append(lambda _: actions, actor="setup", now=datetime.now(UTC))
        assert appended is not None

    def join(self, host: str = "h1", environment: str = "production") -> None:
        self.append(Join(host=host, environment=environment, hostname=f"{host}.example"))

    def report(
        self, host: str = "h1", *, head: int | None = None, environment: str = "production", **changes: Any
    ) -> None:
        """What a host says; by default that it has read everything."""
        fields: dict[str, Any] = {
            "host": host,
            "hostname": f"{host}.example",
            "environment": environment,
            "head": self.head() if head is None else head,
            "ready": True,
            "pythons": (PYTHON,),
            "platform": PLATFORM,
            "listen": "127.0.0.1:1",
        }
        write_report(self.store, HostReport(**{**fields, **changes}))

    def serve(self, version: int | None, host: str = "h1", state: str = "ready", **changes: Any) -> None:
        """A host says that it serves this version of churn; or that it is in another state."""
        routed = version if state in ("ready", "sleeping") else None
        report = VersionReport(state=state, **changes)
        model = ModelReport(
            stable=routed, serving={} if version is None else {version: report}, next="load it"
        )
        self.report(host, models={"churn": model})


def _sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store made once: its probe takes a while."""
    path = tmp_path_factory.mktemp("empty") / "store"
    open_store(str(path), create=True)
    return path


@pytest.fixture
def world(tmp_path: Path, empty_store: Path) -> Iterator[World]:
    """An empty store, named by MLDEPLOY_STORE as well."""
    shutil.copytree(empty_store, tmp_path / "store")
    made = World(tmp_path)
    os.environ["MLDEPLOY_STORE"] = made.url
    yield made
    os.environ.pop("MLDEPLOY_STORE", None)
