from __future__ import annotations

import hashlib
import json
from datetime import date
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mldeploy.core.manifest import File, Manifest, canonical, check, digest, nearest_key_error, parse
from mldeploy.errors import ManifestError
from tests.core.strategies import manifests, refused, sha


def good() -> dict[str, Any]:
    return {
        "name": "churn",
        "owner": "team@example.com",
        "expires": "90d",
        "entry": {"kind": "python-object", "pickle": "model/model.pkl"},
        "signature": {
            "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 4]}],
            "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}],
        },
        "python": "3.11",
        "platform": "linux-x86_64",
        "samples": [{"request": "samples/0.request.json", "response": "samples/0.response.json"}],
        "files": [
            {"path": path, "sha256": sha(path), "size": 3}
            for path in (
                "model/model.pkl",
                "requirements.lock",
                "samples/0.request.json",
                "samples/0.response.json",
            )
        ],
        "wheels": [
            {"name": "numpy-2.0.0-cp311-cp311-manylinux_2_17_x86_64.whl", "sha256": sha("n"), "size": 9}
        ],
    }


def with_key(path: str, value: object) -> dict[str, Any]:
    """`good()` with one dotted key set, or removed where the value is `...`."""
    data: Any = good()
    at = data
    *parts, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    for part in parts:
        at = at[part] if isinstance(at, list) else at.setdefault(part, {})
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return data  # type: ignore[no-any-return]


def test_the_good_one_is_good() -> None:
    assert check(parse(good())) == []


@given(manifests())
@settings(max_examples=60)
def test_round_trip_and_canonical_form(manifest: Manifest) -> None:
    assert check(manifest) == []
    data = canonical(manifest)
    again = parse(json.loads(data))
    assert again == manifest
    assert canonical(again) == data
    assert digest(again) == hashlib.sha256(data).hexdigest()
    assert parse(msgspec.to_builtins(manifest)) == manifest


def test_the_canonical_form_depends_on_the_fields_alone() -> None:
    short, long = good(), good()
    long.update(lock="requirements.lock", rollout={"steps": [], "hold": None}, batching={"max_size": 64})
    long["files"][0]["mode"] = int("420")
    long["samples"][0]["rtol"] = float("1e-5")
    turned = dict(reversed(long.items()))
    forms = {canonical(parse(data)) for data in (short, long, turned)}
    assert len(forms) == 1
    text = forms.pop().decode()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert '"mode"' not in text


@pytest.mark.parametrize(
    ("path", "value", "message", "hint"),
    [
        ("expire", "90d", "expire: unknown key", "'expires'"),
        ("entry.pickel", "x", "entry.pickel: unknown key", "'pickle'"),
        ("signature.inputs.0.dtype", "x", "signature.inputs[0].dtype: unknown key", "'datatype'"),
        ("zzz", 1, "zzz: unknown key", "valid keys here are"),
        ("expires", ..., "expires: missing", "90d"),
        ("owner", ..., "owner: missing", "team@example.com"),
        ("entry.kind", ..., "entry.kind: missing", "kind"),
        ("python", 3.11, "python: 3.11 is read as a number", '"3.11"'),
        ("files.0.size", "3", "files[0].size: expected a whole number, got a text", ""),
        ("batching", [], "batching: expected keys and values, got a list", ""),
        ("samples.0.rtol", float("nan"), "samples[0].rtol: nan is not a number", "finite"),
        ("resources.memory", 2**70, "resources.memory: the number is too large", "64 bits"),
        ("owner", "\ud800", "owner: the text is not valid Unicode", "UTF-8"),
        ("format", 99, "format: this bundle has format 99", "upgrade"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_names_the_key_and_the_cure(
    path: str, value: object, message: str, hint: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(with_key(path, value))
    assert caught.value.message.startswith(message)
    assert hint in caught.value.hint
    assert caught.value.hint


def test_yaml_reads_a_date_as_a_date() -> None:
    assert parse(with_key("expires", date(2027, 6, 30))).expires == "2027-06-30"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.datetimes(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["name", "entry", "kind", "files", "signature", "inputs"])
                | st.text()
                | st.integers(),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_anything_is_read_or_refused_with_a_hint(data: object) -> None:
    problem = refused(lambda: parse(data))
    assert problem is None or isinstance(problem, ManifestError)


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ("name", "Bad Name", "name"),
        ("owner", " ", "owner"),
        ("owner", "a\nb", "owner"),
        ("expires", "soon", "expires"),
        ("python", "3", "python"),
        ("python", "3.011", "python"),
        ("platform", "Linux x86", "platform"),
        ("protocol", 2, "protocol"),
        ("imports", ["os; rm"], "imports[0]"),
        ("signature.inputs", [], "signature.inputs"),
        ("signature.inputs.0.name", "", "signature.inputs[0].name"),
        ("signature.inputs.0.datatype", "FLOAT", "signature.inputs[0].datatype"),
        ("signature.inputs.0.shape", [0, 4], "signature.inputs[0].shape"),
        ("signature.inputs.0.shape", [-2], "signature.inputs[0].shape"),
        ("signature.inputs.0.shape", [10**18], "signature.inputs[0].shape"),
        ("signature.inputs.0.shape", [2**20, 2**20], "signature.inputs[0].shape"),
        ("signature.inputs.0.shape", [1] * 17, "signature.inputs[0].shape"),
        ("entry.kind", "tensorflow", "entry.kind"),
        ("entry.pickle", "model/none.pkl", "entry.pickle"),
        ("entry.pickle", None, "entry.pickle"),
        ("entry.buffers", ["model/none"], "entry.buffers[0]"),
        ("entry.module", "m", "entry.module"),
        ("entry.method", "a b", "entry.method"),
        ("entry.input", "both", "entry.input"),
        ("entry", {"kind": "python-class", "module": "m", "name": "C"}, "entry.module"),
        ("entry", {"kind": "python-class", "name": "C"}, "entry.module"),
        ("batching.max_size", 0, "batching.max_size"),
        ("resources.memory", 0, "resources.memory"),
        ("resources.threads", -1, "resources.threads"),
        ("resources.replicas", 10**6, "resources.replicas"),
        ("rollout.hold", -1, "rollout.hold"),
        ("rollout.guards", ["p99 <= 80ms"], "rollout.guards"),
        ("rollout.guards", ["p99 < 2x"] * 51, "rollout.guards"),
        ("rollout.min_requests", -1, "rollout.min_requests"),
        ("rollout.deadline", 0, "rollout.deadline"),
        ("rollout.shadow_fraction", 10_001, "rollout.shadow_fraction"),
        ("rollout.steps", [500, 100], "rollout.steps"),
        ("rollout.steps", [0], "rollout.steps"),
        ("rollout.steps", [100, 0], "rollout.steps"),
        ("rollout.steps", [0, 0, 100], "rollout.steps"),
        ("rollout.steps", [10_001], "rollout.steps"),
        ("routing.key", "cookie:user", "routing.key"),
        ("routing.key", "header:x user", "routing.key"),
        ("routing.key", "input:nobody", "routing.key"),
        ("lock", "other.lock", "lock"),
        ("samples.0.request", "samples/9.json", "samples[0].request"),
        ("samples.0.atol", -1.0, "samples[0].atol"),
        ("files.0.mode", 0o777, "files[0].mode"),
        ("files.0.size", -1, "files[0].size"),
        ("files.0.sha256", "A" * 64, "files[0].sha256"),
        ("wheels.0.name", "../numpy.whl", "wheels[0].name"),
        ("wheels.0.size", 2**60, "wheels[0].size"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_found_with_its_key(path: str, value: object, key: str) -> None:
    found = check(parse(with_key(path, value)))
    assert key in [problem[0] for problem in found]
    assert all(problem[1] and problem[2] for problem in found)


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a\\b", "a\0b", "a\nb", "C:/x", "x" * 300,
     "manifest.yaml", "Manifest.YAML", "wheels/x.whl"],
)  # fmt: skip
def test_a_path_that_leaves_the_bundle_or_is_not_its_own(path: str) -> None:
    data = good()
    data["files"].append({"path": path, "sha256": sha(path), "size": 1})
    assert f"files[{len(data['files']) - 1}].path" in [key for key, _, _ in check(parse(data))]


@pytest.mark.parametrize(
    "paths",
    [("code/a.py", "code/a.py"), ("code/a.py", "code/A.py"), ("code/a", "code/a/b"), ("code/a/b", "code/a"),
     ("Code/a.py", "code/b.py")],
)  # fmt: skip
def test_paths_that_cannot_stand_side_by_side(paths: tuple[str, str]) -> None:
    manifest = parse(good())
    files = [*manifest.files, *(File(path=path, sha256=sha(path), size=1) for path in paths)]
    manifest = msgspec.structs.replace(manifest, files=tuple(files))
    found = check(manifest)
    assert any(key == f"files[{len(files) - 1}].path" for key, _, _ in found), found


def test_files_and_wheels_are_sorted_and_tensors_unique() -> None:
    data = good()
    data["files"].reverse()
    data["signature"]["inputs"] *= 2
    data["wheels"] = [
        {**data["wheels"][0], "name": name} for name in ("b-1-py3-none-any.whl", "a-1-py3-none-any.whl")
    ]
    keys = [key for key, _, _ in check(parse(data))]
    assert keys == ["signature.inputs[1].name", "files", "wheels"]


def test_a_python_class_is_looked_for_under_code() -> None:
    data = with_key("entry", {"kind": "python-class", "module": "churn.model", "name": "Churn"})
    data["files"].insert(0, {"path": "code/churn/model.py", "sha256": sha("m"), "size": 1})
    assert check(parse(data)) == []


def test_other_structs_get_the_same_hints() -> None:
    class Source(msgspec.Struct):
        entry: str
        sample: list[File] = []

    assert nearest_key_error(Source, {"entry": "x"}) is None
    error = nearest_key_error(Source, {"entrie": "x"}, "model.yaml")
    assert error is not None
    assert error.message == "model.yaml.entrie: unknown key"
    assert error.hint == "did you mean 'entry'?"
    error = nearest_key_error(Source, {"sample": [{"pth": "x"}]})
    assert error is not None
    assert error.message == "sample[0].pth: unknown key"
