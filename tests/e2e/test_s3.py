"""A store in a bucket of a real S3 server, from the command line to the answer of a daemon, and the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import Maker
from tests.support.daemons import Daemon
from tests.support.s3 import Server

MLDEPLOY = str(Path(sys.executable).parent / "mldeploy")


def run(*arguments: str, code: int = 0, seconds: float = 240.0) -> dict[str, Any]:
    """A command with --json; what it printed."""
    done = subprocess.run(
        [MLDEPLOY, *arguments, "--json"],
        capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def url(s3_environ: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"s3://{bucket}/models"
    monkeypatch.setenv("MLDEPLOY_STORE", url)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return url


def test_from_a_first_push_to_an_answer(url: str, maker: Maker, tmp_path: Path) -> None:
    told = run("status", code=1)
    assert url in told["error"] and "is the name right?" in told["hint"]
    first, second = maker.bundle("answer", 1.0), maker.bundle("answer", 2.0)
    assert run("push", str(first))["version"] == 1
    run("promote", "answer@1")
    maker.seed(tmp_path / "state")
    with Daemon(url, tmp_path / "state", env=dict(os.environ), poll=0.2, report=1.0) as daemon:
        daemon.wait_answer(1.0)
        assert run("push", str(second), "--promote")["version"] == 2
        daemon.wait_answer(2.0)
        host, port = daemon.address()
        said = run("predict", "answer", "--url", f"http://{host}:{port}")
        assert "2.0" in json.dumps(said)
        assert "answer" in json.dumps(run("status"))
        assert daemon.stop() == 0
    told = json.dumps(run("history"))
    assert "publish" in told and "leave" in told  # the daemon said good-bye


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_demo_plays_in_a_bucket(url: str, tmp_path: Path) -> None:
    told = run("demo", "--listen", "127.0.0.1:0", "--store", url, seconds=880)
    assert told["versions"] == ["digits@1", "digits@2"]
    assert told["load"]["failed"] == 0
    assert told["load"]["disagreements"] == 0
