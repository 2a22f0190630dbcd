"""Tiny bundles for tests of the daemon and of everything above it.

The model is a class that answers a constant, so that a version can be told by its answers; a few input values
make it misbehave. Bundles of one `Maker` share a lock (numpy and msgspec), whose wheels are collected once,
and are written by hand in milliseconds; the environment is built once, and can be put into a state folder as
a link (`seed`), so that most tests need not wait for uv.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from mldeploy.bundle import environment
from mldeploy.bundle.files import sha256_file
from mldeploy.bundle.manifest_file import read_manifest, write_manifest
from mldeploy.core.baseline import BASELINE, Baseline
from mldeploy.core.manifest import (
    Batching,
    Entry,
    File,
    Manifest,
    Resources,
    Routing,
    Sample,
    Signature,
    Tensor,
    Wheel,
    canonical,
    digest,
)
from mldeploy.core.records import Action, Promote, Publish
from mldeploy.core.types import FULL_SHARE, PRODUCTION, ModelRef, parse_expiry
from mldeploy.store.blobs import upload_blob
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import Log
from mldeploy.store.objects import ObjectStore

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PLATFORM = f"{sys.platform}-{platform.machine()}"
#: Values of x that make the model's process kill itself, never answer, or raise.
CRASH, HANG, RAISE = -1.0, -2.0, -3.0

CODE = """
import json, os, signal, time
import numpy as np

class Model:
    def load(self, folder):
        told = json.loads((folder / "answer.json").read_text())
        self.answer = told["answer"]
        print("loading the model that answers", self.answer, flush=True)
        if told["fail"]:
            raise RuntimeError(told["fail"])
        if told["die"]:
            os.kill(os.getpid(), signal.SIGKILL)
        self.bad, self.calls, self.held = told.get("bad", {}), 0, []

    def predict(self, x):
        if self.bad and (x == 5.0).any():
            self.misbehave()
        if (x == -1.0).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (x == -2.0).any():
            time.sleep(3600)
        if (x == -3.0).any():
            raise ValueError("asked to raise")
        return np.full(len(x), self.answer)

    def misbehave(self):
        self.calls += 1
        time.sleep(self.bad.get("slow", 0.0))
        if self.bad.get("leak"):
            self.held.append(np.ones(int(self.bad["leak"]) // 8))
        if self.calls == self.bad.get("crash"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.bad.get("errors") and self.calls % self.bad["errors"] == 0:
            raise ValueError("bad in this one way")
"""


class Maker:
    """Makes bundles below `root`. One for a whole test session: it needs the package index once."""

    def __init__(self, root: Path, requirements: tuple[str, ...] = ("numpy", "msgspec")) -> None:
        self.root = root
        self.requirements = requirements
        self._made = 0
        self._lock: tuple[bytes, tuple[Wheel, ...]] | None = None

    def locked(self) -> tuple[bytes, tuple[Wheel, ...]]:
        """The lock and its wheels, which lie in root/wheels."""
        if self._lock is None:
            (self.root / "wheels").mkdir(parents=True, exist_ok=True)
            lock = environment.resolve(self.requirements, PYTHON, PLATFORM)
            wheels = environment.collect_wheels(lock, self.root / "wheels", PYTHON, PLATFORM)
            self._lock = environment.reduced_lock(lock, wheels, PYTHON, PLATFORM), wheels
        return self._lock

    def bundle(
        self,
        name: str = "answer",
        answer: float = 1.0,
        *,
        wrong_sample: bool = False,
        fail: str = "",
        die: bool = False,
        replicas: int = 1,
        python: str = PYTHON,
        memory: int | None = None,
        bad: dict[str, float] | None = None,
        baseline: Baseline | None = None,
        key: str = "",
    ) -> Path:
        """A bundle folder whose model answers `answer` to every row of x (FP64 [-1, 1]) as y (FP64 [-1]).

        `wrong_sample`: its recorded answer is another, so its samples fail. `fail`: loading raises that.
        `die`: loading kills the process. `memory`: bytes of one worker, as the manifest states them. `bad`:
        what goes wrong where x is 5: `errors` (every so many calls raise), `slow` (seconds more), `crash`
        (at that call), `leak` (bytes more at each). `baseline`: its distributions. `key`: the
        routing key.
        """
        lock, wheels = self.locked()
        self._made += 1
        folder = self.root / f"{name}-{self._made}"
        request = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [2, 1], "data": [[1.0], [2.0]]}]}
        said = answer + 1 if wrong_sample else answer
        response = {
            "model_name": name,
            "outputs": [{"name": "y", "datatype": "FP64", "shape": [2], "data": [said, said]}],
        }
        _write(folder / "code/answering.py", CODE)
        told = {"answer": answer, "fail": fail, "die": die, "bad": bad or {}}
        _write(folder / "model/answer.json", json.dumps(told))
        _write(folder / "samples/0.request.json", json.dumps(request))
        _write(folder / "samples/0.response.json", json.dumps(response))
        _write(folder / "requirements.lock", lock.decode())
        if baseline is not None:
            _write(folder / BASELINE, msgspec.json.encode(baseline).decode())
        manifest = Manifest(
            name=name,
            owner="tests@example.com",
            expires="90d",
            entry=Entry(kind="python-class", module="answering", name="Model"),
            signature=Signature(
                inputs=(Tensor(name="x", datatype="FP64", shape=(-1, 1)),),
                outputs=(Tensor(name="y", datatype="FP64", shape=(-1,)),),
            ),
            python=python,
            platform=PLATFORM,
            batching=Batching(),
            resources=Resources(replicas=replicas, memory=memory),
            routing=Routing(key=key),
            imports=("numpy",),
            samples=(Sample(request="samples/0.request.json", response="samples/0.response.json"),),
            files=_files(folder),
            wheels=wheels,
        )
        (folder / "wheels").mkdir()
        for wheel in wheels:
            os.link(self.root / "wheels" / wheel.name, folder / "wheels" / wheel.name)
        write_manifest(folder, manifest)
        return folder

    def environment(self) -> tuple[str, Path]:
        """The id of the shared environment, and the folder it was built in, once."""
        lock, _ = self.locked()
        path = self.root / "requirements.lock"
        path.write_bytes(lock)
        built = self.root / "environment"
        if not built.exists():
            environment.build(built, lock=path, wheels=self.root / "wheels", python=PYTHON, platform=PLATFORM)
        identifier = msgspec.json.decode((built / "environment.json").read_bytes())["id"]
        return identifier, built

    def seed(self, state: Path) -> None:
        """Put the shared environment into the state folder of a host, as if it had built it before."""
        identifier, built = self.environment()
        target = state / "environments" / identifier
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(built)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _files(folder: Path) -> tuple[File, ...]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return tuple(
        File(
            path=str(path.relative_to(folder)),
            sha256=sha256_file(path),
            size=path.stat().st_size,
            mode=0o644,
        )
        for path in sorted(found, key=lambda path: str(path.relative_to(folder)))
    )


def publish(
    store: ObjectStore, folder: Path, *, share: int | None = FULL_SHARE, environment: str = PRODUCTION
) -> ModelRef:
    """Push a bundle, good or bad, and unless `share` is None promote it, in the same record.

    The gates are left out: what they would refuse is what a host has to stand.
    """
    log = Log(store)
    log.refresh()
    manifest = read_manifest(folder)
    files = {file.sha256: folder / file.path for file in manifest.files}
    files |= {wheel.sha256: folder / "wheels" / wheel.name for wheel in manifest.wheels}
    files[digest(manifest)] = folder / "manifest.json"
    (folder / "manifest.json").write_bytes(canonical(manifest))
    push = new_ulid()
    brought = {sha: path for sha, path in files.items() if sha not in log.state.blobs}
    for sha, path in brought.items():
        upload_blob(store, sha, push, path)
    model = log.state.models.get(manifest.name)
    ref = ModelRef(manifest.name, max(model.versions) + 1 if model else 1)
    published = Publish(
        model=ref.name,
        digest=digest(manifest),
        push=push,
        brought={sha: path.stat().st_size for sha, path in brought.items()},
        reused=tuple(sorted(files.keys() - brought.keys())),
        owner=manifest.owner,
        expires=parse_expiry(manifest.expires, datetime.now(UTC)).isoformat(),
        python=manifest.python,
        platform=manifest.platform,
    )
    append(store, published, *([_promote(ref, share, environment)] if share is not None else []))
    return ref


def promote(
    store: ObjectStore, ref: ModelRef, *, share: int = FULL_SHARE, environment: str = PRODUCTION
) -> int:
    """Promote a version; returns the number of the record."""
    return append(store, _promote(ref, share, environment))


def append(store: ObjectStore, *actions: Action) -> int:
    """Write one record of these actions; returns its number."""
    appended = Log(store).append(lambda _: actions, actor="tests", now=datetime.now(UTC))
    assert appended is not None
    return appended.seq


def _promote(ref: ModelRef, share: int | None, environment: str) -> Promote:
    return Promote(
        model=ref.name,
        version=ref.version,
        environment=environment,
        steps=(share if share is not None else FULL_SHARE,),
        rollout=new_ulid(),
    )
