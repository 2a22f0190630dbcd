"""`init`: the files of a small working model folder.

Rules: files that are there are kept, never overwritten; what is written packs at once. The model is a line
through the origin, so that its weights can be read and changed by hand.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from mldeploy.bundle.files import disk_errors
from mldeploy.client.types import Scaffolded
from mldeploy.core.types import check_name
from mldeploy.errors import UsageError

_MODEL_YAML = """\
# What a model folder says of itself. Every bundle has an owner, who gets the warnings, and an expiry.
name: {name}
owner: {owner}
expires: 90d            # counted from push; or a date such as 2027-06-30
description: a line through the origin
entry: model:Model      # module:class, with load(folder) and predict(…)
requirements: requirements.txt
signature:              # -1 is any size; a first dimension of -1 is the batch
  inputs:
    - {{name: x, datatype: FP64, shape: [-1, 2]}}
  outputs:
    - {{name: y, datatype: FP64, shape: [-1]}}
samples:                # replayed before every deployment; the answers are recorded by `pack`
  - request: samples/0.request.json
"""

_MODEL_PY = '''\
"""The model: `load` is called once in every worker, `predict` for every batch of requests."""

import json

import numpy as np


class Model:
    """y = x · weights."""

    def load(self, folder):
        """Read what training left in model/."""
        self.weights = np.array(json.loads((folder / "weights.json").read_text()))

    def predict(self, x):
        """x has the shape [rows, 2]; the answer has one value a row."""
        return x @ self.weights
'''

_SAMPLE = """\
{
  "inputs": [
    {"name": "x", "datatype": "FP64", "shape": [2, 2], "data": [[1.0, 2.0], [3.0, 4.0]]}
  ]
}
"""

#: Stands for the owner where nobody is known; to be replaced.
NOBODY = "you@example.com"
_IGNORE = "*.bundle/\n__pycache__/\n"


def scaffold(
    folder: str, *, name: str | None = None, owner: str | None = None, dry_run: bool = False
) -> Scaffolded:
    """Write a model folder. `name` is by default the folder's, `owner` git's user.email or you@example.com.

    Raises UsageError for a name that is none, and DiskError.
    """
    place = Path(folder).expanduser()
    named = check_name(name) if name else _name_of(place)
    said = owner or _owner()
    files = _files(named, said or NOBODY)
    written = []
    with disk_errors(place):
        for path, text in files.items():
            target = place / path
            if os.path.lexists(target):
                continue
            written.append(path)
            if not dry_run:
                target.parent.mkdir(parents=True, exist_ok=True)
                _write(target, text)
    nobody = not said and "model.yaml" in written
    return Scaffolded(
        folder=str(place), name=named, files=tuple(files), written=tuple(written), dry_run=dry_run,
        warnings=(f"git knows no e-mail address: model.yaml says owner: {NOBODY}, who gets the warnings",)
        if nobody
        else (),
    )  # fmt: skip


def _write(target: Path, text: str) -> None:
    try:
        target.write_text(text, encoding="utf-8")
    except OSError:
        target.unlink(missing_ok=True)  # half a file would be kept by the next call
        raise


def _files(name: str, owner: str) -> dict[str, str]:
    return {
        "model.yaml": _MODEL_YAML.format(name=_scalar(name), owner=_scalar(owner)),
        "model.py": _MODEL_PY,
        "model/weights.json": "[0.5, 2.0]\n",
        "requirements.txt": "numpy\nmsgspec\n",
        "samples/0.request.json": _SAMPLE,
        ".gitignore": _IGNORE,
    }


def _scalar(text: str) -> str:
    """`text` as YAML reads it back: in quotes where it would else be a number, a yes or a no."""
    import yaml

    try:
        plain = yaml.safe_load(f"key: {text}\n") == {"key": text}
    except yaml.YAMLError:
        plain = False
    return text if plain else json.dumps(text, ensure_ascii=False)


def _name_of(folder: Path) -> str:
    text = re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("._-")
    if not text:
        raise UsageError(f"{folder} does not make a model name", "give one with --name")
    return check_name(text[:100])


def _owner() -> str:
    from mldeploy.bundle.assemble import git_email

    return git_email() or ""
