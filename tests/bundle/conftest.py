"""A cache and a lock made once with the real index, and small bundles to break."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mldeploy.bundle import environment
from mldeploy.bundle.pack import pack_folder
from mldeploy.bundle.targets import this_platform, this_python

PYTHON, PLATFORM = this_python(), this_platform()

MODEL_YAML = """\
name: double
owner: team@example.com
expires: 90d
entry: doubling:Double
"""
CODE = """\
import json
from pathlib import Path


class Double:
    def load(self, path: Path) -> None:
        self.factor = json.loads((path / "factor.json").read_text())

    def predict(self, x):
        return x.sum(axis=1) * self.factor
"""
REQUEST = '{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP64","data":[1,2,3,4]}]}'


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache for the session: the index is asked once for each wheel."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("UV_HTTP_RETRIES", "0")
        patch.setenv("PIP_RETRIES", "1")
        yield folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test's temporary files go, and those of its children, which may be killed."""
    made = tmp_path / "tmp"
    made.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    monkeypatch.setenv("TMPDIR", str(made))
    return made


@pytest.fixture(scope="session")
def full_lock() -> bytes:
    """What `uv pip compile` gives: every hash of numpy, msgspec and cloudpickle."""
    return environment.resolve([], PYTHON, PLATFORM, pickled=True)


@pytest.fixture(scope="session")
def wheels(full_lock: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of that lock."""
    folder = tmp_path_factory.mktemp("wheels")
    environment.collect_wheels(full_lock, folder)
    return folder


@pytest.fixture(scope="session")
def lock(full_lock: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same lock reduced to this machine's wheels."""
    collected = environment.collect_wheels(full_lock, tmp_path_factory.mktemp("reducing"))
    return environment.reduced_lock(full_lock, collected)


@pytest.fixture(scope="session")
def built(lock: bytes, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of that lock, built once."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "requirements.lock").write_bytes(lock)
    environment.build(
        folder / "environment",
        lock=folder / "requirements.lock",
        wheels=wheels,
        python=PYTHON,
        compile_bytecode=False,
    )
    return folder / "environment"


@pytest.fixture
def source(tmp_path: Path, full_lock: bytes) -> Path:
    """A model folder with a committed lock and a sample request."""
    folder = tmp_path / "source"
    write_source(folder, full_lock)
    return folder


def write_source(folder: Path, lock: bytes) -> None:
    """Make such a folder."""
    for path, text in {
        "model.yaml": MODEL_YAML,
        "doubling.py": CODE,
        "model/factor.json": "2",
        "samples/0.request.json": REQUEST,
        "README.md": "not code",
        "__pycache__/doubling.pyc": "junk",
        ".hidden": "junk",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / "requirements.lock").write_bytes(lock)


@pytest.fixture(scope="session")
def packed(full_lock: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle that passed the gates. Never changed: tests that break one take `bundle`."""
    folder = tmp_path_factory.mktemp("packed")
    write_source(folder / "source", full_lock)
    pack_folder(folder / "source", out=folder / "bundle")
    return folder / "bundle"


@pytest.fixture
def bundle(packed: Path, tmp_path: Path) -> Path:
    """A copy of that bundle, to be broken."""
    return Path(shutil.copytree(packed, tmp_path / "bundle"))


@pytest.fixture
def index(tmp_path: Path) -> Callable[..., str]:
    """Makes a package index in a folder, out of files; returns its URL."""

    def make(*files: Path) -> str:
        root = tmp_path / "index"
        for file in files:
            name = file.name.split("-")[0].lower().replace("_", "-")
            page = root / "simple" / name / "index.html"
            page.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, root)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            before = page.read_text() if page.exists() else "<!DOCTYPE html>\n"
            page.write_text(f'{before}<a href="../../{file.name}#sha256={digest}">{file.name}</a>\n')
        (root / "simple").mkdir(parents=True, exist_ok=True)
        return f"file://{root}/simple"

    return make


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip looks nowhere but where it is told to."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "1")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes: to see that nothing was lost."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
