"""A handful of tiny bundles that share blobs, as retrained models do: written once for each process."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from mldeploy.core.manifest import (
    Entry,
    File,
    Manifest,
    Resources,
    Sample,
    Signature,
    Tensor,
    Wheel,
    canonical,
)

MODELS = ("churn", "fraud")
PYTHON, PLATFORM = "3.11", "linux-x86_64"
#: Bundles of each model. They differ in one file; code, lock and wheels are the same for all.
EACH = 4
_WHEELS = ("numpy-2.1.0-cp311-cp311-linux_x86_64.whl", "msgspec-0.20.0-cp311-cp311-linux_x86_64.whl")


@functools.cache
def scratch() -> Path:
    """A folder for this process's files: in memory, where there is such a place. It goes with the process."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK | os.X_OK) else None
    root = Path(tempfile.mkdtemp(prefix="mldeploy-world-", dir=place))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


@functools.cache
def folders() -> tuple[Path, ...]:
    """Bundle folders, EACH of every model."""
    root = scratch()
    return tuple(_bundle(root, name, number) for name in MODELS for number in range(EACH))


def _bundle(root: Path, name: str, number: int) -> Path:
    folder = root / f"{name}-{number}"
    texts = {
        "code/answering.py": "class Model: ...\n",
        "model/answer.json": f'{{"model": "{name}", "answer": {number}}}',
        "requirements.lock": "numpy==2.1.0\nmsgspec==0.20.0\n",
        "samples/0.request.json": f'{{"of": "{name}"}}',
        "samples/0.response.json": f'{{"answer": {number % 2}}}',
    }
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / "wheels").mkdir()
    for wheel in _WHEELS:
        (folder / "wheels" / wheel).write_bytes(wheel.encode())
    manifest = Manifest(
        name=name,
        owner="tests@example.com",
        expires="90d",
        entry=Entry(kind="python-class", module="answering", name="Model"),
        signature=Signature(
            inputs=(Tensor(name="x", datatype="FP64", shape=(-1, 1)),),
            outputs=(Tensor(name="y", datatype="FP64", shape=(-1,)),),
        ),
        python=PYTHON,
        platform=PLATFORM,
        resources=Resources(replicas=1 + number % 2),
        samples=(Sample(request="samples/0.request.json", response="samples/0.response.json"),),
        files=tuple(
            File(path=path, sha256=_sha256(text.encode()), size=len(text), mode=0o644)
            for path, text in sorted(texts.items())
        ),
        wheels=tuple(
            Wheel(name=wheel, sha256=_sha256(wheel.encode()), size=len(wheel)) for wheel in sorted(_WHEELS)
        ),
    )
    (folder / "manifest.yaml").write_bytes(canonical(manifest))  # JSON is YAML, and quicker to read
    return folder


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
