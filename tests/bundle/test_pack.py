"""`pack`: an object in memory becomes a bundle, or nothing changes."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mldeploy.bundle.manifest_file import read_manifest
from mldeploy.bundle.pack import Packed, pack
from mldeploy.core.manifest import Tensor
from mldeploy.errors import BuildError, ManifestError, UsageError, ValidationError

from .conftest import PYTHON, tree

MIB = 1 << 20


@pytest.fixture(scope="module")
def models() -> Any:
    """tests/bundle/models.py as a top-level module, which no distribution installed."""
    path = Path(__file__).with_name("models.py")
    spec = importlib.util.spec_from_file_location("bundle_test_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def make(lock: bytes, tmp_path: Path) -> Callable[..., Packed]:
    """`pack` with everything mandatory given and no gates: they have their own tests."""

    def call(model: object, sample: object, **changes: Any) -> Packed:
        given: dict[str, Any] = {
            "name": "churn", "expires": "90d", "owner": "me@example.com", "out": tmp_path / "out",
            "lock": lock, "validate": False,
        }  # fmt: skip
        return pack(model, sample_input=sample, **{**given, **changes})

    return call


def test_a_class_of_a_local_module_passes_the_gates(
    models: Any, make: Callable[..., Packed], tmp_path: Path
) -> None:
    weights = np.arange(32_000, dtype=np.float64).reshape(16_000, 2)
    packed = make(
        models.Linear(weights), np.ones((20, 16_000)), validate=True, metrics={"auc": 0.9}, threads=2
    )
    assert packed.report is not None
    assert packed.report.gates_run == ("artifact", "compilation", "serving")
    assert packed.report.measured["load_ms"] > 0
    manifest = read_manifest(packed.folder)
    assert manifest == packed.manifest
    assert manifest.entry.buffers == ("model/buffers/000.bin",)
    assert (tmp_path / "out/model/buffers/000.bin").read_bytes() == weights.tobytes()
    assert (tmp_path / "out/code/bundle_test_models.py").is_file()
    assert manifest.signature.inputs == (Tensor(name="x", datatype="FP64", shape=(-1, 16_000)),)
    assert manifest.signature.outputs == (Tensor(name="y", datatype="FP64", shape=(-1, 2)),)
    request = json.loads((tmp_path / "out/samples/0.request.json").read_text())
    assert request["inputs"][0]["shape"] == [8, 16_000]
    assert "numpy" in manifest.imports
    assert not any(name.startswith(("models", "bundle_test")) for name in manifest.imports)
    about = json.loads((tmp_path / "out/packed.json").read_text())
    assert about["metrics"] == {"auc": 0.9}
    assert about["validated"] == packed.digest


def test_equal_files_have_an_equal_digest_and_others_another(
    models: Any, make: Callable[..., Packed], tmp_path: Path
) -> None:
    weights = np.ones((3, 1))
    first = make(models.Linear(weights), [[1, 2, 3]], out=tmp_path / "a")
    again = make(models.Linear(weights), [[1, 2, 3]], out=tmp_path / "b", metrics={"auc": 0.5})
    other = make(models.Linear(weights * 2), [[1, 2, 3]], out=tmp_path / "c")
    assert first.digest == again.digest != other.digest


def test_names_and_text_and_two_outputs(models: Any, make: Callable[..., Packed]) -> None:
    sample = {"age": np.array([30, 40], dtype=np.int32), "city": ["Bern", "Köln"]}
    packed = make(models.Named(), sample, validate=True)
    assert packed.manifest.entry.input == "named"
    assert packed.manifest.signature.inputs == (
        Tensor(name="age", datatype="INT32", shape=(-1,)),
        Tensor(name="city", datatype="BYTES", shape=(-1,)),
    )
    assert [tensor.datatype for tensor in packed.manifest.signature.outputs] == ["INT32", "BYTES"]


def test_tuples_functions_and_chosen_names(models: Any, make: Callable[..., Packed]) -> None:
    pair = make(models.Pair(), np.ones((2, 3), dtype=np.float32), method="transform", input_name="rows")
    assert [tensor.name for tensor in pair.manifest.signature.inputs] == ["rows"]
    assert [(t.name, t.datatype) for t in pair.manifest.signature.outputs] == [("y0", "FP32"), ("y1", "BOOL")]
    assert pair.manifest.samples[0].rtol == 1e-4
    named = make(models.Pair(), [[1.0]], method="transform", output_name=("total", "positive"))
    assert [tensor.name for tensor in named.manifest.signature.outputs] == ["total", "positive"]

    def double(x: Any) -> Any:
        import msgspec  # noqa: F401

        return x * 2

    function = make(double, [[1.0]], validate=True)
    assert function.manifest.entry.method == "__call__"
    assert "msgspec" in function.manifest.imports


@pytest.mark.parametrize(
    ("changes", "said", "hinted"),
    [
        ({"expires": None}, "expiry is missing", "90d"),
        ({"expires": "2020-01-01"}, "not ahead", "future"),
        ({"expires": "soon"}, "neither a date nor a duration", "90d"),
        ({"expires": timedelta(0)}, "neither a date nor a duration", "90d"),
        ({"name": None}, "no name", "name="),
        ({"name": "Churn!"}, "not a valid model name", "a-z"),
        ({"sample": None}, "sample_input is missing", "X[:5]"),
        ({"sample": np.float64(1)}, "holds no rows", "batch"),
        ({"sample": np.ones((0, 3))}, "holds no rows", "batch"),
        ({"sample": [[1, 2], [3]]}, "not an array", "equal length"),
        ({"sample": np.array([[1 + 2j]])}, "datatype complex", "numbers"),
        ({"sample": [[float("nan")]]}, "NaN", "other sample"),
        ({"sample": {"a": [1], "b": [1, 2]}}, "different numbers of rows", "as many"),
        ({"method": "guess"}, "no method 'guess'", "method="),
        ({"platform": "beos-ppc"}, "not a platform", "linux"),
        ({"python": "2.7"}, "not a Python", "3.11"),
        ({"lock": "no-such-file.lock"}, "no-such-file.lock", "requirements.lock"),
        ({"code": "no-such-module.py"}, "not there", "exist"),
        ({"metrics": {"auc": float("inf")}}, "auc", "finite"),
        ({"max_batch": 0}, "batching.max_size", "1 to"),
        ({"requirements": "no-such-file.txt", "lock": None}, "cannot be read", "requirement"),
    ],
)
def test_bad_calls_say_what_and_lose_nothing(
    changes: dict[str, Any], said: str, hinted: str, models: Any, make: Callable[..., Packed], tmp_path: Path
) -> None:
    make(models.Linear(np.ones((1, 1))), [[1.0]])
    before = tree(tmp_path / "out")
    with pytest.raises((UsageError, ManifestError)) as error:
        make(models.Linear(np.ones((3, 1))), changes.pop("sample", [[1.0, 2.0, 3.0]]), **changes)
    assert said in error.value.message
    assert hinted in error.value.hint
    assert tree(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_sample_the_model_cannot_take_says_what_it_raised(models: Any, make: Callable[..., Packed]) -> None:
    with pytest.raises(UsageError, match="ValueError: expects 3 features, got 2") as error:
        make(models.Picky(), np.ones((4, 2)))
    assert "predict(x: FP64 [4, 2])" in error.value.hint


def test_an_object_that_cannot_be_pickled_is_said(
    models: Any, make: Callable[..., Packed], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"cannot be pickled: TypeError.*lock") as error:
        make(models.Locked(), [[1.0]])
    assert "locks" in error.value.hint
    assert list(tmp_path.iterdir()) == []


def test_requirements_that_do_not_resolve_leave_what_was_there(
    models: Any, make: Callable[..., Packed], tmp_path: Path, index: Callable[..., str]
) -> None:
    make(models.Linear(np.ones((1, 1))), [[1.0]])
    before = tree(tmp_path / "out")
    with pytest.raises(BuildError, match="no-such-thing-zz"):
        make(
            models.Linear(np.ones((1, 1))),
            [[1.0]],
            lock=None,
            requirements=["no-such-thing-zz"],
            index_url=index(),
        )
    assert tree(tmp_path / "out") == before


def test_only_a_bundle_is_replaced(models: Any, make: Callable[..., Packed], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    make(models.Linear(np.ones((1, 1))), [[1.0]])  # an empty folder is nobody's
    first = read_manifest(tmp_path / "out")
    make(models.Linear(np.zeros((1, 1))), [[1.0]])
    assert read_manifest(tmp_path / "out") != first
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("do not lose me")
    with pytest.raises(UsageError, match="not a bundle") as error:
        make(models.Linear(np.ones((1, 1))), [[1.0]], out=tmp_path / "thesis")
    assert "--out" in error.value.hint
    assert tree(tmp_path / "thesis") == {"chapter1.tex": b"do not lose me"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "thesis"]


def test_a_bundle_is_replaced_where_folders_cannot_be_swapped(
    models: Any, make: Callable[..., Packed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mldeploy.bundle.files._exchange", lambda *_: False)
    first = make(models.Linear(np.ones((1, 1))), [[1.0]])
    second = make(models.Linear(np.zeros((1, 1))), [[1.0]])
    assert read_manifest(tmp_path / "out") == second.manifest != first.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_model_that_fails_in_its_environment_is_not_left_behind(
    make: Callable[..., Packed], tmp_path: Path
) -> None:
    def here_alone(x: Any) -> Any:
        import yaml  # is not in the lock

        return x + len(yaml.__name__)

    with pytest.raises(ValidationError, match="No module named 'yaml'") as error:
        make(here_alone, [[1.0]], validate=True)
    finding = error.value.findings[0]
    assert finding.gate == "serving"
    assert finding.hint
    assert list(tmp_path.iterdir()) == []


def test_what_the_pickle_refers_to_is_required_as_installed(models: Any, tmp_path: Path) -> None:
    from mldeploy.bundle.modules import find_needs, pickle_modules

    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps([models.Linear(np.ones(3)), Path("x"), np.float32(1)], protocol=5))
    found = pickle_modules(path)
    assert {"bundle_test_models", "pathlib"} <= found
    needs = find_needs(found)
    assert needs.requirements == (f"numpy=={np.__version__}",)
    assert list(needs.local) == ["bundle_test_models"]
    path.write_bytes(pickle.dumps({"a": [1, "numpy", b"x"]}, protocol=4))
    assert pickle_modules(path) == set()


def test_modules_of_functions_and_of_local_modules_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mldeploy.bundle.modules import find_needs

    (tmp_path / "outer_mod").mkdir()
    (tmp_path / "outer_mod/__init__.py").write_text("from outer_mod import inner\nimport inner_mod, json\n")
    (tmp_path / "outer_mod/inner.py").write_text("import yaml\n")
    (tmp_path / "inner_mod.py").write_text("import packaging.version\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    needs = find_needs({"outer_mod.inner"})
    assert sorted(needs.local) == ["inner_mod", "outer_mod"]
    assert needs.imports == ("packaging.version", "yaml")
    assert [pin.partition("==")[0] for pin in needs.requirements] == ["PyYAML", "packaging"]


_MEMORY = """
import resource, sys
import numpy as np
from mldeploy.bundle.pack import pack
from models import Linear

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

pack(Linear(np.ones((8, 1))), name="small", expires="9d", owner="o", sample_input=np.ones((1, 8)),
     out=sys.argv[1] + "/small", lock=sys.argv[2], validate=False)
model = Linear(np.ones((33_554_432, 1)))  # 256 MiB
before = peak()
pack(model, name="large", expires="9d", owner="o", sample_input=np.broadcast_to(np.ones(1), (1, 33_554_432)),
     method="few", out=sys.argv[1] + "/large", lock=sys.argv[2], validate=False)
print(peak() - before)
"""


def test_a_large_array_is_never_held_twice(lock: bytes, tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_bytes(lock)
    script = _MEMORY.replace("np.broadcast_to(np.ones(1), (1, 33_554_432))", "np.ones((1, 8))").replace(
        "model = Linear(", "Linear.few = lambda self, x: x.sum(axis=1)\nmodel = Linear("
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(tmp_path / "requirements.lock")],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "large/model/buffers/000.bin").stat().st_size == 256 * MIB
    assert int(done.stdout) < 64 * MIB


def test_bytecode_in_a_pickle_binds_it_to_this_python(make: Callable[..., Packed]) -> None:
    other = "3.12" if PYTHON != "3.12" else "3.13"
    with pytest.raises(UsageError, match=f"bytecode of Python {PYTHON}"):
        make(lambda x: x, [[1.0]], python=other)


def test_nothing_heavy_is_imported_with_the_package() -> None:
    code = (
        "import sys, mldeploy.bundle.pack; print(sorted({'numpy', 'cloudpickle', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_models_is_a_module(models: ModuleType) -> None:
    assert models.__name__ == "bundle_test_models"
