"""MODE check: gate 3, and recording."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.runtime.helpers import SUMS, Bundle, X, infer, tensor

Check = Callable[..., dict[str, Any]]
Make = Callable[..., Bundle]


def test_measures_and_lists_what_was_imported(check: Check, make_bundle: Make) -> None:
    code = "import numpy.fft, numpy.polynomial.chebyshev, json\nprint('noise')\n" + SUMS
    result = check(make_bundle().code(code).sums())
    assert result["ok"], result
    assert result["findings"] == []
    assert "noise" in result["stderr"]
    measured = result["measured"]
    assert all(isinstance(value, float) for value in measured.values())
    assert measured["load_ms"] > 0
    assert measured["latency_ms"] > 0
    assert measured["samples"] == 1
    assert measured["batch_rows"] == 64
    assert measured["memory_bytes"] >= 0
    assert "numpy.fft" in result["imports"]
    assert "numpy.polynomial" in result["imports"]
    assert not [name for name in result["imports"] if name.startswith(("json", "served", "mldeploy"))]


@pytest.mark.parametrize(
    ("code", "file", "key", "message", "hint"),
    [
        ("import absent", "code/served.py", "", "No module named 'absent'", "requirements"),
        (SUMS + "   oops", "code/served.py", "", "IndentationError", ""),
        (
            SUMS.replace("axis=1)", "axis=1) * 1.01"),
            "samples/0.response.json", "outputs.y", "at [0] 1.01, packed with 1.0 (3 of 3 values differ)",
            "differ from those it was packed with",
        ),
        (
            SUMS.replace("x.sum(axis=1)", "x.sum(axis=1) + (len(x) == 1)"),
            "manifest.yaml", "batching.max_size", "batching changes output 'y'", "max_size to 1",
        ),
        (
            "import socket\nclass Model:\n    def load(self, path): socket.socket(socket.AF_INET)\n",
            "code/served.py", "", "PermissionError", "no network",
        ),
        (SUMS.replace("predict", "guess"), "manifest.yaml", "entry.method", "no method 'predict'", "method"),
    ],
)  # fmt: skip
def test_findings_say_file_key_and_cure(
    check: Check, make_bundle: Make, code: str, file: str, key: str, message: str, hint: str
) -> None:
    result = check(make_bundle().code(code).sums())
    assert not result["ok"]
    (finding,) = result["findings"]
    assert (finding["file"], finding["key"]) == (file, key)
    assert message in finding["message"]
    assert hint in finding["hint"]


def test_max_size_one_may_depend_on_the_batch(check: Check, make_bundle: Make) -> None:
    bundle = make_bundle().code(SUMS.replace("x.sum(axis=1)", "x.sum(axis=1) + (len(x) == 1)"))
    bundle.manifest["batching"] = {"max_size": 1}
    assert check(bundle.sums())["ok"]


def test_tolerances_of_a_sample(check: Check, make_bundle: Make) -> None:
    bundle = make_bundle().code(SUMS.replace("axis=1)", "axis=1) + 0.01"))
    outputs = [{"name": "y", "datatype": "FP64", "shape": [1], "data": [10.0]}]
    bundle.sample(infer([[1, 2, 3, 4]]), outputs, atol=0.1)
    assert check(bundle)["ok"]
    bundle.sample(infer([[1, 2, 3, 4]]), outputs, atol=0.001)
    result = check(bundle)
    assert [finding["file"] for finding in result["findings"]] == ["samples/1.response.json"]


@pytest.mark.parametrize(
    ("request_", "outputs", "file", "message"),
    [
        (infer([[1, 2, 3]]), [], "samples/0.request.json", "input 'x' has shape [1, 3]"),
        (infer([[1, 2, 3, 4]], "z"), [], "samples/0.request.json", "input 'z' is unknown"),
        (infer([[1, 2, 3, 4]]), [{**X, "shape": [1, 4], "data": [1] * 4}], "samples/0.response.json", "'x'"),
        (
            infer([[1, 2, 3, 4]]),
            [{"name": "y", "datatype": "FP64", "shape": [2], "data": [1, 2]}],
            "samples/0.response.json",
            "shape [1], packed with [2]",
        ),
    ],
)
def test_samples_that_do_not_fit(
    check: Check, make_bundle: Make, request_: Any, outputs: Any, file: str, message: str
) -> None:
    result = check(make_bundle().code(SUMS).sample(request_, outputs))
    assert [finding["file"] for finding in result["findings"]] == [file]
    assert message in result["findings"][0]["message"]


def test_a_bundle_that_proves_nothing(check: Check, make_bundle: Make) -> None:
    assert check(make_bundle().code(SUMS))["findings"][0]["key"] == "samples"
    bundle = make_bundle("lost").code(SUMS).sums()
    (bundle.folder / "samples/0.response.json").unlink()
    assert check(bundle)["findings"][0]["file"] == "samples/0.response.json"
    bundle.manifest["signature"]["inputs"][0] = tensor("x", "FP128", -1, 4)
    assert check(bundle.write())["findings"][0]["key"] == "signature.inputs[0].datatype"


def recorded(result: dict[str, Any]) -> list[dict[str, Any]]:
    assert result["ok"], result
    responses: list[dict[str, Any]] = result["responses"]
    return responses


def test_recording_infers_the_signature(check: Check, make_bundle: Make) -> None:
    code = """
import numpy as np
class Model:
    def predict(self, x):
        return np.where(x[:, 0] > 1, "high", "low"), x[:, :2].astype("float32"), [len(r) for r in x]
"""
    bundle = make_bundle().code(code)
    bundle.manifest["signature"] = {}
    bundle.sample(infer([[1, 2, 3, 4], [5, 6, 7, 8]], id="mine"), None).sample(infer([[0, 0, 0, 0]]), None)
    result = check(bundle, record=True)
    first, second = recorded(result)
    assert result["signature"] == {
        "inputs": [X],
        "outputs": [tensor("y0", "BYTES", -1), tensor("y1", "FP32", -1, 2), tensor("y2", "INT64", -1)],
    }
    assert first["model_name"] == "churn"
    assert first["id"] == "mine"
    assert "model_version" not in first
    assert first["outputs"][0] == {"name": "y0", "shape": [2], "datatype": "BYTES", "data": ["low", "high"]}
    assert second["outputs"][1]["data"] == [0.0, 0.0]
    # what was recorded passes
    bundle.manifest["signature"] = result["signature"]
    for sample, response in zip(bundle.manifest["samples"], (first, second), strict=True):
        sample["response"] = sample["request"].replace("request", "response")
        (bundle.folder / sample["response"]).write_text(json.dumps(response))
    assert check(bundle.write())["ok"]


def test_recording_keeps_what_is_stated(check: Check, make_bundle: Make) -> None:
    bundle = make_bundle().code(SUMS)
    bundle.manifest["signature"] = {"inputs": [X], "outputs": [tensor("total", "FP32", -1)]}
    result = check(bundle.sample(infer([[1, 2, 3, 4]]), None), record=True)
    assert recorded(result)[0]["outputs"] == [{**tensor("total", "FP32", 1), "data": [10.0]}]
    assert result["signature"]["outputs"] == [tensor("total", "FP32", -1)]


@pytest.mark.parametrize(
    ("returned", "outputs"),
    [
        ("x.sum(axis=1)", [tensor("y", "FP64", -1)]),
        ("list(x.sum(axis=1))", [tensor("y", "FP64", -1)]),
        ("{'b': x, 'a': x[:, 0] > 0}", [tensor("b", "FP64", -1, 4), tensor("a", "BOOL", -1)]),
        ("x.mean()", [tensor("y", "FP64")]),
        ("x.mean(axis=0)", [tensor("y", "FP64", 4)]),
        ("[x[0], x[0]]", [tensor("y0", "FP64", 4), tensor("y1", "FP64", 4)]),
    ],
)
def test_recording_the_forms_of_an_answer(
    check: Check, make_bundle: Make, returned: str, outputs: list[dict[str, Any]]
) -> None:
    bundle = make_bundle().code(f"class Model:\n    def predict(self, x): return {returned}\n")
    bundle.manifest["signature"] = {}
    result = check(bundle.sample(infer([[1, 2, 3, 4], [5, 6, 7, 8]]), None), record=True)
    assert recorded(result)
    assert result["signature"]["outputs"] == outputs


@pytest.mark.parametrize(
    ("returned", "key", "message"),
    [
        ("x.astype('float16')", "outputs.y", "float16"),
        ("x + 1j", "outputs.y", "complex128"),
        ("None", "outputs.y", "object"),
        ("[[1], [1, 2]]", "outputs.y", "not an array"),
        ("x / 0", "", "NaN or Infinity"),
        ("1 / 0", "", "ZeroDivisionError"),
    ],
)
def test_recording_what_cannot_be_said(
    check: Check, make_bundle: Make, returned: str, key: str, message: str
) -> None:
    bundle = make_bundle().code(f"class Model:\n    def predict(self, x): return {returned}\n")
    bundle.manifest["signature"] = {}
    result = check(bundle.sample(infer([[1, 2, 3, 4]]), None), record=True)
    assert not result["ok"]
    assert result["findings"][0]["key"] == key
    assert message in result["findings"][0]["message"]


def test_a_plain_function_as_an_object(check: Check, make_bundle: Make) -> None:
    bundle = make_bundle().object(lambda x: x.sum(axis=1), method="__call__").sums()
    assert check(bundle)["ok"]
