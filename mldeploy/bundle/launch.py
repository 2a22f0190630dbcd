"""Starts the runtime: the one command line for laptop and host, and its `check` with a deadline.

Rules: the runtime runs in an interpreter of the bundle's own Python, isolated (`-I -S`), and nothing a model
does reaches this process: a crash, a hang or noise on standard output become findings. Left out: zygotes and
workers, which the daemon starts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mldeploy.runtime
from mldeploy.errors import Finding

#: Seconds that loading, the samples and the measurements of one bundle may take together.
CHECK_DEADLINE = 600.0
SERVING = "serving"
_LAST_WORDS = 5  # lines of the model's own output shown with a crash
#: Variables that model code may see: where programs and libraries are, language and time, devices, and who
#: runs it, which libraries ask for and /etc/passwd may not be there to answer.
_GIVEN = ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LANG", "LANGUAGE", "TZ", "TZDIR", "USER", "LOGNAME")
_GIVEN_BEGINNINGS = ("LC_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "MALLOC_")


@dataclass(frozen=True, slots=True)
class Checked:
    """What `check` said. `document` is its whole answer; empty where it gave none."""

    findings: tuple[Finding, ...]
    measured: dict[str, float] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)


def runtime_command(python: Path, mode: str, options: Mapping[str, object]) -> list[str]:
    """The command line that starts boot.py in MODE (`zygote`, `check`) with its options."""
    boot = Path(mldeploy.runtime.__file__).with_name("boot.py")
    return [str(python), "-I", "-S", str(boot), mode, json.dumps(options)]


def model_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """What processes that run model code get of `environ`.

    A list of what they may see, for nobody can list what they may not: credentials of stores come under the
    names of every driver, cloud and profile.
    """
    return {
        name: value for name, value in environ.items() if name in _GIVEN or name.startswith(_GIVEN_BEGINNINGS)
    }


def run_check(
    python: Path,
    *,
    bundle: Path,
    manifest: Path,
    environment: Path,
    scratch: Path,
    confine: str = "best-effort",
    threads: int = 1,
    record: bool = False,
    deadline: float = CHECK_DEADLINE,
) -> Checked:
    """Run the runtime's `check` over the bundle in a built environment.

    `manifest` is a JSON manifest; `scratch` the only folder the model may write in. With `record` the answers
    to the sample requests are asked for instead of compared. Never raises for what the model does.
    """
    options = {
        "bundle": str(bundle.resolve()),
        "manifest": str(manifest.resolve()),
        "environment": str(environment.resolve()),
        "scratch": str(scratch.resolve()),
        "confine": confine,
        "record": record,
        "threads": threads,
    }
    process = subprocess.Popen(
        runtime_command(python, "check", options),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=model_environ(os.environ),
        start_new_session=True,
        cwd=scratch,
    )
    try:
        out, err = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        _end(process)
        process.communicate()
        return _failed(f"did not load and answer its samples within {deadline:g} s", "make it quicker", b"")
    except BaseException:
        _end(process)
        process.communicate()
        raise
    return _read(out, err, process.returncode)


def _end(process: subprocess.Popen[bytes]) -> None:
    # the group: a model may have started processes of its own
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


def _read(out: bytes, err: bytes, code: int) -> Checked:
    line = (out.strip().splitlines() or [b""])[-1]
    try:
        document = json.loads(line)
        findings = tuple(
            Finding(SERVING, str(item["file"]), str(item["key"]), str(item["message"]), str(item["hint"]))
            for item in document["findings"]
        )
        measured = {str(key): float(value) for key, value in document.get("measured", {}).items()}
        good = bool(document["ok"])
    except (ValueError, KeyError, TypeError):
        how = f"killed by signal {-code} ({_signal(-code)})" if code < 0 else f"ended with exit code {code}"
        return _failed(
            f"the process that loads the model was {how}" if code < 0 else f"the check {how}", "", err
        )
    if not good and not findings:
        return _failed("the check failed without saying why", "", err)
    return Checked(findings, measured, document)


def _failed(message: str, hint: str, err: bytes) -> Checked:
    words = err.decode("utf-8", "replace").strip().splitlines()[-_LAST_WORDS:]
    hint = hint or (
        f"its last words: {' / '.join(words)}" if words else "run the model by itself and see why"
    )
    return Checked((Finding(SERVING, "manifest.yaml", "entry", message, hint),))


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
