"""Two models whose locks conflict answer side by side; a third with a known lock adds nothing but a fork."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mldeploy.client import Client
from mldeploy.client.daemon import LocalDaemon

OLD, NEW = "scikit-learn==1.6.1", "scikit-learn==1.7.2"

MODEL = """
import numpy as np
import sklearn
from sklearn.tree import DecisionTreeRegressor

class Model:
    def load(self, folder):
        self.tree = DecisionTreeRegressor(random_state=0).fit([[0.0], [1.0]], [0.0, 1.0])

    def predict(self, x):
        told = [f"{sklearn.__version__} {answer:g}" for answer in self.tree.predict(x)]
        return np.array(told, dtype=object)
"""


def _source(folder: Path, name: str, requirement: str) -> Path:
    """A model folder that answers its scikit-learn's version and a prediction."""
    (folder / "samples").mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    request = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [0.9]}]}
    (folder / "samples/0.request.json").write_text(json.dumps(request))
    (folder / "model.yaml").write_text(
        f"name: {name}\nowner: tests@example.com\nexpires: 30d\nentry: model:Model\n"
        f"requirements: ['{requirement}']\n"
        "signature:\n  inputs: [{name: x, datatype: FP64, shape: [-1, 1]}]\n"
        "  outputs: [{name: y, datatype: BYTES, shape: [-1]}]\n"
    )
    return folder


@pytest.mark.full  # builds three environments of a scientific stack
def test_locks_that_conflict_live_side_by_side(tmp_path: Path) -> None:
    client = Client(str(tmp_path / "store"))
    for name, requirement in (("old", OLD), ("new", NEW)):
        client.push(_source(tmp_path / name, name, requirement), promote=True, now=True)
    daemon = LocalDaemon(store=client.store, state=tmp_path / "host", listen="127.0.0.1:0")
    daemon.start()
    try:
        for name in ("old", "new"):
            client.wait(name, timeout=120)
        assert _answer(client, daemon, "old") == "1.6.1 1"
        assert _answer(client, daemon, "new") == "1.7.2 1"
        environments = _environments(daemon)
        assert len(environments) == 2
        zygotes = _zygotes(daemon)
        assert len(zygotes) == 2

        client.push(_source(tmp_path / "third", "third", OLD), promote=True, now=True)
        client.wait("third", timeout=120)
        assert _answer(client, daemon, "third") == "1.6.1 1"
        assert _environments(daemon) == environments
        assert _zygotes(daemon) == zygotes
        assert _parent_of_worker(daemon, "third") == _parent_of_worker(daemon, "old")
        assert _parent_of_worker(daemon, "third") in zygotes
        assert _parent_of_worker(daemon, "new") in zygotes - {_parent_of_worker(daemon, "old")}
    finally:
        daemon.stop()


def _answer(client: Client, daemon: LocalDaemon, model: str) -> str:
    told = client.predict(model, url=daemon.address).response
    answer: str = told["outputs"][0]["data"][0]
    return answer


def _environments(daemon: LocalDaemon) -> set[str]:
    return {path.name for path in (daemon.state / "environments").iterdir()}


def _zygotes(daemon: LocalDaemon) -> set[int]:
    found = (daemon.state / "run/workers").glob("zygote-*.json")
    return {json.loads(path.read_bytes())["pid"] for path in found}


def _parent_of_worker(daemon: LocalDaemon, model: str) -> int:
    """The pid of the process that forked the worker of a model."""
    for path in (daemon.state / "run/workers").glob("w-*/status.json"):
        status = json.loads(path.read_bytes())
        if status["model"] == model and status["state"] == "ready":
            return int(Path(f"/proc/{status['pid']}/stat").read_text().rpartition(")")[2].split()[1])
    raise AssertionError(f"no worker of {model} is ready")
