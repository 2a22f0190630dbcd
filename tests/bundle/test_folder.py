"""`pack DIR`: a folder with a model.yaml becomes a bundle, the same one anywhere."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mldeploy.bundle.manifest_file import read_manifest
from mldeploy.bundle.pack import Packed, pack_folder
from mldeploy.bundle.validate import validate
from mldeploy.core.manifest import Tensor
from mldeploy.errors import BuildError, DiskError, ManifestError, UsageError, ValidationError
from tests import faults

from .conftest import MODEL_YAML, PLATFORM, write_source

SIGNATURE = """\
signature:
  inputs:
    - {name: x, datatype: FP64, shape: [-1, 2]}
  outputs:
    - {name: y, datatype: FP64, shape: [-1]}
"""
RESPONSE = '{"outputs":[{"name":"y","shape":[2],"datatype":"FP64","data":[6.0,14.0]}]}'


def commit_answers(source: Path) -> None:
    """What a folder needs so that nothing has to be run to pack it."""
    (source / "samples/0.response.json").write_text(RESPONSE)
    (source / "model.yaml").write_text(MODEL_YAML + SIGNATURE)


def test_answers_and_signature_are_found_by_running_in_the_environment(packed: Path) -> None:
    manifest = read_manifest(packed)
    assert manifest.signature.inputs == (Tensor(name="x", datatype="FP64", shape=(-1, 2)),)
    assert manifest.signature.outputs == (Tensor(name="y", datatype="FP64", shape=(-1,)),)
    response = json.loads((packed / "samples/0.response.json").read_text())
    assert response == {"outputs": [{"name": "y", "shape": [2], "datatype": "FP64", "data": [6.0, 14.0]}]}
    assert [file.path for file in manifest.files] == [
        "code/doubling.py", "model/factor.json", "requirements.lock", "samples/0.request.json",
        "samples/0.response.json",
    ]  # fmt: skip
    assert manifest.entry.kind == "python-class"
    assert (manifest.entry.module, manifest.entry.name) == ("doubling", "Double")


def test_two_folders_with_the_same_files_have_the_same_digest(
    full_lock: bytes, tmp_path: Path, packed: Path
) -> None:
    write_source(tmp_path / "somewhere", full_lock)
    write_source(tmp_path / "else" / "where", full_lock)
    os.utime(tmp_path / "else/where/doubling.py", (1, 1))
    for source in ("somewhere", "else/where"):
        commit_answers(tmp_path / source)
    one = pack_folder(tmp_path / "somewhere", out=tmp_path / "a", validate=False)
    other = pack_folder(tmp_path / "else/where", out=tmp_path / "b", validate=False)
    assert one.digest == other.digest
    # and it is the digest of the folder whose answers were recorded: they are the same answers
    (tmp_path / "somewhere/samples/0.response.json").write_bytes(
        (packed / "samples/0.response.json").read_bytes()
    )
    assert pack_folder(tmp_path / "somewhere", out=tmp_path / "a", validate=False).manifest == read_manifest(
        packed
    )
    (tmp_path / "somewhere/model/factor.json").write_text("3")
    assert pack_folder(tmp_path / "somewhere", out=tmp_path / "a", validate=False).digest != one.digest


def test_nothing_is_run_where_everything_is_committed(source: Path, tmp_path: Path) -> None:
    commit_answers(source)
    (source / "doubling.py").write_text("raise RuntimeError('was run')\n")
    assert pack_folder(source, out=tmp_path / "out", validate=False).digest
    (source / "samples/0.response.json").unlink()
    with pytest.raises(ValidationError, match="was run"):
        pack_folder(source, out=tmp_path / "other", validate=False)


def test_answers_that_cannot_be_recorded_here_are_asked_for(source: Path, tmp_path: Path) -> None:
    for elsewhere in (
        {"platform": "linux-aarch64" if "x86" in PLATFORM else "linux-x86_64"},
        {"python": "3.19"},
    ):
        with pytest.raises(UsageError, match="cannot be recorded") as error:
            pack_folder(source, out=tmp_path / "out", **elsewhere)  # type: ignore[arg-type, unused-ignore]
        assert "commit signature and samples/N.response.json" in error.value.hint


def test_a_pickled_object_and_the_command_line_s_own_words(
    full_lock: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    from pickle_fixture import Constant  # type: ignore[import-not-found, unused-ignore]

    source = tmp_path / "source"
    write_source(source, full_lock)
    (source / "pickle_fixture.py").write_bytes(Path(__file__).with_name("pickle_fixture.py").read_bytes())
    (source / "trained.pkl").write_bytes(pickle.dumps(Constant(7), protocol=5))
    (source / "model.yaml").write_text(
        "entry: {pickle: trained.pkl}\nexclude: [doubling.py]\nimports: [numpy]\n"
    )
    packed = pack_folder(
        source, out=tmp_path / "out", name="other", owner="them@example.com", expires="2100-01-01"
    )
    manifest = packed.manifest
    assert (manifest.name, manifest.owner, manifest.expires) == ("other", "them@example.com", "2100-01-01")
    assert manifest.entry.pickle == "model/trained.pkl"
    assert manifest.imports == ("numpy",)
    assert {"code/pickle_fixture.py", "model/trained.pkl"} <= {file.path for file in manifest.files}
    assert "code/doubling.py" not in {file.path for file in manifest.files}
    assert packed.report is not None
    assert packed.report.ok


def test_everything_a_model_yaml_may_say(source: Path, tmp_path: Path) -> None:
    commit_answers(source)
    (source / "model.yaml").write_text(
        SIGNATURE
        + """\
name: double
owner: team@example.com
expires: 2100-01-01
description: doubles
entry: {class: "doubling:Double", method: predict, input: positional}
samples:
  - {request: samples/0.request.json, response: samples/0.response.json, rtol: 0.5}
batching: {max_size: 8}
resources: {memory: 1000000, threads: 2, replicas: 3}
rollout: {steps: [1, 12.5, 100%], hold: 10m}
routing: {key: "header:X-User"}
metrics: {auc: 0.9}
requirements: [numpy]
"""
    )
    manifest = pack_folder(source, out=tmp_path / "out", validate=False).manifest
    assert manifest.expires == "2100-01-01"
    assert manifest.rollout.steps == (100, 1250, 10_000)
    assert manifest.rollout.hold == 600
    assert manifest.routing.key == "header:X-User"
    assert (manifest.resources.threads, manifest.resources.replicas, manifest.batching.max_size) == (2, 3, 8)
    assert manifest.samples[0].rtol == 0.5
    assert json.loads((tmp_path / "out/packed.json").read_text())["metrics"] == {"auc": 0.9}


def yaml_with(**changes: str | None) -> str:
    lines = dict(line.split(": ", 1) for line in MODEL_YAML.splitlines())
    lines.update({key: value for key, value in changes.items() if value is not None})
    return "".join(f"{key}: {value}\n" for key, value in lines.items() if key not in changes or changes[key])


@pytest.mark.parametrize(
    ("text", "said", "hinted"),
    [
        (yaml_with(expirse="90d"), "model.yaml: expirse: unknown key", "expires"),
        (yaml_with(batching="{max_sise: 4}"), "batching.max_sise: unknown key", "max_size"),
        (yaml_with(expires=None), "expiry is missing", "90d"),
        (yaml_with(expires="2001-02-03"), "2001-02-03 is not ahead", "future"),
        (yaml_with(expires="2001-02-31"), "2001-02-31", "YYYY"),
        (yaml_with(name="Double!"), "'Double!' is not a valid model name", "a-z"),
        (yaml_with(name="12"), "name: 12 is read as a number", "quote"),
        (yaml_with(entry=None), "neither a class nor a pickle", "entry:"),
        (yaml_with(entry="doubling.Double"), "not MODULE:CLASS", "churn.model:Churn"),
        (yaml_with(entry="absent:Double"), "no module 'absent'", "absent.py"),
        (
            yaml_with(pickle="../../etc/passwd", entry=None),
            "pickle: '../../etc/passwd' leaves the bundle",
            "'..'",
        ),
        (yaml_with(pickle="/etc/passwd", entry=None), "absolute path", "relative"),
        (yaml_with(pickle="absent.pkl", entry=None), "absent.pkl: No such file", "file of this folder"),
        (yaml_with(pickle="model", entry=None), "no regular file", "copy"),
        (
            yaml_with(samples="[{request: ../secret.json}]"),
            "samples[0].request: '../secret.json' leaves",
            "'..'",
        ),
        (yaml_with(samples="[]"), "no sample request", "samples/0.request.json"),
        (yaml_with(rollout="{steps: [120]}"), "rollout: '120' is not a percentage", "0 to 100"),
        (yaml_with(rollout="{steps: [50, 10]}"), "rollout.steps", "larger"),
        (yaml_with(python="3.11"), "python: 3.11 is read as a number", "quote"),
        (yaml_with(platform="vax-vms"), "'vax-vms' is not a platform", "linux-x86_64"),
        ("name: [", "not YAML: line", "mend"),
        ("name: a\nname: b\n", "'name' stands twice", "mend"),
        ("? [a, b]\n: c\n", "a key is not a text", "mend"),
        ("name: no\n", "name: it is read as false", "quotes"),
        ("a: &a [1]\nb: *a\n", "alias", "mend"),
        ("- a\n", "expected keys and values", "key: value"),
        ("\x00", "not YAML", "mend"),
    ],
)
def test_bad_folders_say_what_and_leave_what_was_there(
    text: str, said: str, hinted: str, source: Path, tmp_path: Path, bundle: Path
) -> None:
    commit_answers(source)
    (source / "model.yaml").write_text(text + (SIGNATURE if ": " in text else ""))
    before = read_manifest(bundle)
    with pytest.raises((UsageError, ManifestError)) as error:
        pack_folder(source, out=bundle, validate=False)
    assert said in error.value.message
    assert hinted in error.value.hint
    assert read_manifest(bundle) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "source"]


def test_links_are_refused_and_not_followed(source: Path, tmp_path: Path) -> None:
    commit_answers(source)
    (tmp_path / "secret").write_text("secret")
    (source / "data.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match=r"data\.txt is a symbolic link") as error:
        pack_folder(source, out=tmp_path / "out", validate=False)
    assert "copy" in error.value.hint
    (source / "data.txt").unlink()
    os.mkfifo(source / "data.txt")
    with pytest.raises(UsageError, match=r"data\.txt is a pipe"):
        pack_folder(source, out=tmp_path / "out", validate=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("place", "said", "hinted"),
    [
        ("absent", "is not a folder", "model.yaml"),
        ("empty", "has no model.yaml", "mldeploy init"),
        ("bundle", "is a bundle already", "push it"),
    ],
)
def test_other_places_are_no_sources(
    place: str, said: str, hinted: str, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=said) as error:
        pack_folder(tmp_path / place, out=tmp_path / "out")
    assert hinted in error.value.hint


def test_requirements_are_resolved_where_no_lock_is_committed(
    source: Path, tmp_path: Path, index: Callable[..., str], wheels: Path
) -> None:
    commit_answers(source)
    (source / "requirements.lock").unlink()
    (source / "wanted.txt").write_text("# what we need\ncloudpickle  # for nothing\n")
    yaml = (source / "model.yaml").read_text()
    (source / "model.yaml").write_text(yaml + "requirements: wanted.txt\n")
    packed = pack_folder(source, out=tmp_path / "out", validate=False, index_url=index(*wheels.iterdir()))
    assert [wheel.name.split("-")[0] for wheel in packed.manifest.wheels] == [
        "cloudpickle",
        "msgspec",
        "numpy",
    ]
    assert "code/wanted.txt" not in {file.path for file in packed.manifest.files}
    (source / "wanted.txt").write_text("nothing-of-this-name-zz\n")
    with pytest.raises(BuildError, match="nothing-of-this-name-zz was not found"):
        pack_folder(source, out=tmp_path / "out", index_url=index())


def test_what_the_model_does_wrong_while_recording_is_a_finding(source: Path, tmp_path: Path) -> None:
    (source / "doubling.py").write_text(
        "class Double:\n    def predict(self, x):\n        raise KeyError('age')\n"
    )
    with pytest.raises(
        ValidationError, match=r"samples/0\.request\.json: the model raised KeyError: 'age'"
    ) as error:
        pack_folder(source, out=tmp_path / "out")
    assert error.value.hint
    assert not (tmp_path / "out").exists()


def test_a_broken_pickle_is_named(source: Path, tmp_path: Path) -> None:
    (source / "trained.pkl").write_bytes(b"not a pickle")
    (source / "samples/0.response.json").write_text(RESPONSE)
    (source / "model.yaml").write_text(yaml_with(pickle="trained.pkl", entry=None) + SIGNATURE)
    with pytest.raises(UsageError, match=r"model/trained\.pkl is not a pickle"):
        pack_folder(source, out=tmp_path / "out", validate=False)


def _packed_in_a_child(source: Path, out: Path, scratch: Path, at: int, action: str) -> int:
    """Pack with a fault at the `at`-th write beside `out`; the wait status."""
    scratch.mkdir()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.environ.update(faults.armed(scratch, under=[out.parent], at=at, action=action))
            faults.arm()
            pack_folder(source, out=out, validate=False)
            code = 0
        except DiskError as error:
            code = 7 if error.hint else 8
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def test_whatever_happens_while_packing_the_bundle_that_was_there_is_whole(
    source: Path, bundle: Path, tmp_path: Path
) -> None:
    commit_answers(source)
    home = tmp_path / "home"
    out, before = home / "bundle", read_manifest(bundle)
    (source / "model/factor.json").write_text("3")
    refused = at = 0
    fired = True
    while fired:
        at += 1
        for action in ("ENOSPC", "kill"):
            shutil.rmtree(home, ignore_errors=True)
            shutil.copytree(bundle, out, copy_function=os.link)
            scratch = tmp_path / f"{action}-{at}"
            status = _packed_in_a_child(source, out, scratch, at, action)
            fired = faults.fired(scratch)
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7:
                refused += 1
                assert read_manifest(out) == before
                assert [path.name for path in home.iterdir()] == ["bundle"], at
            else:
                # killed, or what failed did not matter: a folder that was there, or clearing up
                assert os.WIFSIGNALED(status) == (fired and action == "kill"), at
            assert validate(out, now=datetime.now(UTC), gates=["artifact"]).ok, (at, action)
    assert refused > 15


def test_a_place_that_cannot_be_written_is_named(source: Path, tmp_path: Path) -> None:
    commit_answers(source)
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"file") as error:
        pack_folder(source, out=tmp_path / "file" / "out")
    assert "check that" in error.value.hint


def test_the_registry_holds_kinds_that_keep_the_protocol() -> None:
    from importlib import import_module

    from mldeploy.bundle import sources

    for name in sources.KINDS:
        kind: Any = import_module(f"mldeploy.bundle.sources.{name}")
        assert callable(kind.matches)
        assert callable(kind.pack)
    assert Packed.__module__ == "mldeploy.bundle.assemble"
