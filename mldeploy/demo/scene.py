"""What the demo plays with: the held-out data, the two source folders, and the judge of every answer.

The models are trained by `train.py` inside the very environment their bundles will carry; this module never
imports scikit-learn and never unpickles.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import msgspec

from mldeploy.demo.load import Check, v2_answer, v2_request
from mldeploy.errors import BuildError

MODEL = "digits"
VERSIONS = (1, 2)
REQUIREMENTS = ("scikit-learn",)
_SAMPLE_ROWS = 4
_TRAIN_SECONDS = 300

_MODEL_YAML = """\
name: digits
owner: demo@example.com
expires: 30d
description: handwritten digits, 8 by 8 pixels, {what}
entry:
  pickle: model.pkl
signature:
  inputs:
    - {{name: x, datatype: FP64, shape: [-1, 64]}}
  outputs:
    - {{name: y, datatype: INT64, shape: [-1]}}
samples:
  - request: samples/0.request.json
"""
_BAD_YAML = _MODEL_YAML.replace("entry:\n  pickle: model.pkl", "entry: model:Digits")
#: How many requests the bad model fails: one in so many. More than there are sample rows, so that some
#: remainder is none of theirs.
_FAILS = _SAMPLE_ROWS + 1
_BAD_MODEL = """\
import pickle

class Digits:
    def load(self, path):
        with open(path / "model.pkl", "rb") as file:
            self.model = pickle.load(file)

    def predict(self, x):
        if (x.sum(axis=1) % {fails} == {remainder}).any():
            raise ValueError("no answer for a digit with so much ink")
        return self.model.predict(x)
"""
_WHAT = {1: "logistic regression", 2: "support vector machine"}


class HeldOut(msgspec.Struct, frozen=True):
    """The third of the data no model was trained on, and what each version answers for it."""

    rows: list[list[float]]  # [599, 64]
    labels: list[int]
    answers: dict[int, list[int]]

    def accuracy(self, version: int) -> float:
        """Share of the labels that `version` gets right."""
        right = sum(a == b for a, b in zip(self.answers[version], self.labels, strict=True))
        return right / len(self.labels)

    def renumbered(self, versions: dict[int, int]) -> HeldOut:
        """The same, by the versions that the log assigned."""
        return HeldOut(
            self.rows, self.labels, {versions[trained]: said for trained, said in self.answers.items()}
        )

    def bodies(self) -> list[bytes]:
        """One request of one row for each row."""
        return [v2_request("x", "FP64", [row]) for row in self.rows]

    def check(self) -> Check:
        """A judge of answers: the values must be those of the version the answer names."""

        def judge(index: int, _status: int, body: bytes) -> str:
            version, data = v2_answer(body)
            if data != [self.answers[int(version)][index]]:
                raise ValueError(f"row {index}: version {version} answered {data}")
            return version

        return judge


def train(python: Path, site: Path, out: Path) -> HeldOut:
    """Train both models with `python` and the packages in `site`. Raises BuildError with its last words."""
    script = Path(__file__).with_name("train.py")
    done = subprocess.run(
        [str(python), "-I", "-S", str(script), str(site), str(out)],
        capture_output=True,
        text=True,
        timeout=_TRAIN_SECONDS,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise BuildError(f"training in the bundle's environment failed: {last}", "run again with --verbose")
    return msgspec.json.decode((out / "held-out.json").read_bytes(), type=HeldOut)


def write_source(folder: Path, version: int, lock: bytes, trained: Path, held_out: HeldOut) -> Path:
    """A source folder for `mldeploy pack`: model.yaml, the pickle, the committed lock, a sample request."""
    (folder / "samples").mkdir(parents=True)
    (folder / "model.yaml").write_text(_MODEL_YAML.format(what=_WHAT[version]), encoding="utf-8")
    (trained / str(version) / "model.pkl").rename(folder / "model.pkl")
    (folder / "requirements.lock").write_bytes(lock)
    sample = json.loads(v2_request("x", "FP64", held_out.rows[:_SAMPLE_ROWS]))
    (folder / "samples" / "0.request.json").write_text(json.dumps(sample), encoding="utf-8")
    return folder


def write_bad_source(folder: Path, good: Path, held_out: HeldOut) -> Path:
    """The source folder `good` again, with a class around its model that fails on one row in `_FAILS`.

    No sample row is one of those, so it validates.
    """
    (folder / "model").mkdir(parents=True)
    fine = {int(sum(row)) % _FAILS for row in held_out.rows[:_SAMPLE_ROWS]}
    remainder = next(number for number in range(_FAILS) if number not in fine)
    (folder / "model.yaml").write_text(_BAD_YAML.format(what="not always"), encoding="utf-8")
    (folder / "model.py").write_text(_BAD_MODEL.format(fails=_FAILS, remainder=remainder), encoding="utf-8")
    shutil.copyfile(good / "model.pkl", folder / "model" / "model.pkl")
    shutil.copyfile(good / "requirements.lock", folder / "requirements.lock")
    shutil.copytree(good / "samples", folder / "samples")
    return folder
