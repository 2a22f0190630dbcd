"""Fixtures: an environment for the session; bundles, hosts and checks for a test."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.helpers import BOOT, DEADLINE, PYTHON, SUMS, Bundle, Host, make_environment


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("environment"))


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    def make(name: str = "bundle") -> Bundle:
        return Bundle(tmp_path / "state" / "bundles" / name)

    return make


@pytest.fixture
def sums(make_bundle: Callable[..., Bundle]) -> Bundle:
    return make_bundle("sums").code(SUMS).sums()


@pytest.fixture
def host(tmp_path: Path, environment: Path) -> Iterator[Host]:
    host = Host(tmp_path / "state", environment)
    yield host
    host.close()


@pytest.fixture
def check(tmp_path: Path, environment: Path) -> Callable[..., dict[str, Any]]:
    """Run MODE check on a bundle."""

    def run(bundle: Bundle, **options: Any) -> dict[str, Any]:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        given = {
            "bundle": str(bundle.folder),
            "manifest": str(bundle.folder / "manifest.yaml"),
            "environment": str(environment),
            "confine": "best-effort",
            "scratch": str(scratch),
            **options,
        }
        done = subprocess.run(
            [PYTHON, "-I", "-S", str(BOOT), "check", json.dumps(given)],
            cwd=tmp_path,
            capture_output=True,
            check=False,
            timeout=DEADLINE,
        )
        lines = done.stdout.splitlines()
        assert len(lines) == 1, done
        result: dict[str, Any] = json.loads(lines[0])
        assert done.returncode == (0 if result["ok"] else 1), done
        result["stderr"] = done.stderr.decode()
        return result

    return run
