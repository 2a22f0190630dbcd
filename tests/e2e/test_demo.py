"""`mldeploy demo`, as a user runs it: a process, its output, its exit code, and what it leaves behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

MLDEPLOY = str(Path(sys.executable).parent / "mldeploy")
DEADLINE = 280


def _demo(
    folder: Path, *options: str, seconds: float = DEADLINE, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the demo with its temporary files in `folder`."""
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    return subprocess.run(
        [MLDEPLOY, "demo", *options],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=folder,
        env=os.environ | {"TMPDIR": str(scratch)} | environ,
        check=False,
    )


def _left_running(folder: Path) -> list[str]:
    """The command lines of processes that work in `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in command or str(folder) in str((entry / "cwd").readlink()):
                found.append(command)
        except OSError:
            continue
    return found


def test_the_demo_holds_and_leaves_nothing(tmp_path: Path) -> None:
    result = _demo(tmp_path, "--json", "--listen", "127.0.0.1:0", "--store", str(tmp_path / "store"))
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["schema"] == "mldeploy.demo/1"
    assert told["versions"] == ["digits@1", "digits@2"]
    assert told["load"]["connections"] == 32
    assert told["load"]["failed"] == 0
    assert told["load"]["disagreements"] == 0
    assert set(told["load"]["answers"]) == {"1", "2"}
    assert told["accuracy"]["disagreements"] == 0
    assert told["accuracy"]["accuracy"] > 0.9
    # the second push sent the model's own files alone: the wheels are tens of megabytes
    assert told["second_push_bytes"] < 2 << 20 < told["second_push_reused_bytes"]
    assert any("retire" in line for line in told["history"])
    assert _left_running(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []
    assert (tmp_path / "store" / "log").is_dir()


def test_a_port_that_is_taken_is_said_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = _demo(tmp_path, "--listen", f"127.0.0.1:{port}")
    assert result.returncode == 1
    assert f"error: cannot listen on 127.0.0.1:{port}" in result.stderr
    assert "hint: " in result.stderr
    assert _left_running(tmp_path) == []


def test_no_index_is_a_clear_error(tmp_path: Path) -> None:
    # a port where nobody listens stands for an index that is out of reach; the caches are empty
    dead = "http://127.0.0.1:9/simple"
    result = _demo(
        tmp_path,
        "--listen",
        "127.0.0.1:0",
        PIP_INDEX_URL=dead,
        UV_DEFAULT_INDEX=dead,
        UV_CACHE_DIR=str(tmp_path / "uv"),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert result.returncode == 1
    assert "error: " in result.stderr
    assert "index" in result.stderr
    assert "Traceback" not in result.stderr
    assert _left_running(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_rollouts_steer_themselves(tmp_path: Path) -> None:
    result = _demo(tmp_path, "--scenario", "rollout", "--json", "--listen", "127.0.0.1:0", seconds=1400)
    assert result.returncode == 0, result.stdout + result.stderr
    told = json.loads(result.stdout)
    assert told["schema"] == "mldeploy.demo-rollout/1"
    assert told["good"]["outcome"] == "completed"
    assert told["good"]["failed"] == 0
    assert told["good"]["shares"] == [0, 100, 1000, 5000, 10000]
    assert told["bad"]["outcome"] == "halted"
    assert "error_rate" in told["bad"]["reason"]
    assert told["retired"] == "digits@1"
    assert "digits@2" in told["report"]
    assert _left_running(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_scenario_that_leaves_nothing_keeps_nothing(tmp_path: Path) -> None:
    result = _demo(tmp_path, "--scenario", "rollout", "--keep")
    assert result.returncode == 2
    assert "--keep" in result.stderr
