"""The three gates: what each finds, with the file, the key and the cure."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mldeploy.bundle.files import sha256_file
from mldeploy.bundle.interpreters import find_interpreter
from mldeploy.bundle.launch import model_environ, run_check, runtime_command
from mldeploy.bundle.manifest_file import read_manifest, write_manifest
from mldeploy.bundle.validate import validate
from mldeploy.core.manifest import File, Manifest, canonical
from mldeploy.errors import Finding, UsageError

from .conftest import PYTHON

NOW = datetime.now(UTC)


def artifact(folder: Path) -> tuple[Finding, ...]:
    """The findings of gate 1."""
    report = validate(folder, now=NOW, gates=["artifact"])
    assert report.gates_run == ("artifact",)
    return report.findings


def change(folder: Path, **changes: Any) -> Manifest:
    """Write the manifest again with other fields."""
    manifest = msgspec.structs.replace(read_manifest(folder), **changes)
    write_manifest(folder, manifest)
    return manifest


def refresh(folder: Path, path: str) -> None:
    """List a changed file as it is now."""
    files = tuple(
        file if file.path != path
        else File(path=path, sha256=sha256_file(folder / path), size=(folder / path).stat().st_size)
        for file in read_manifest(folder).files
    )  # fmt: skip
    change(folder, files=files)


def test_a_whole_bundle_passes_and_is_not_changed(packed: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in packed.rglob("*")}
    report = validate(packed, now=NOW)
    assert report.ok
    assert report.gates_run == ("artifact", "compilation", "serving")
    assert report.gates_skipped == {}
    assert {"load_ms", "latency_ms", "memory_bytes"} <= set(report.measured)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in packed.rglob("*")} == before


def _altered(folder: Path) -> None:
    path = folder / "model/factor.json"
    path.write_text("3")


def _truncated(folder: Path) -> None:
    os.truncate(next((folder / "wheels").glob("numpy*")), 1000)


def _no_msgspec(folder: Path) -> None:
    next((folder / "wheels").glob("msgspec*")).unlink()


def _mode(folder: Path) -> None:
    (folder / "code/doubling.py").chmod(0o755)


def _unlisted(folder: Path) -> None:
    (folder / "code/extra.py").write_text("")


def _link(folder: Path) -> None:
    (folder / "model/factor.json").unlink()
    (folder / "model/factor.json").symlink_to("/etc/hostname")


def _linked_folder(folder: Path) -> None:
    (folder / "code/more").symlink_to("/etc")


@pytest.mark.parametrize(
    ("break_it", "file", "key", "said"),
    [
        (_altered, "model/factor.json", "sha256", "other bytes"),
        (_truncated, "wheels/numpy", "size", "1,000 bytes instead of"),
        (lambda folder: (folder / "model/factor.json").unlink(), "model/factor.json", "files", "not there"),
        (_no_msgspec, "wheels/msgspec", "files", "not there"),
        (_mode, "code/doubling.py", "mode", "755 instead of 644"),
        (_unlisted, "code/extra.py", "files", "not listed"),
        (_link, "model/factor.json", "", "symbolic link"),
        (_linked_folder, "code/more", "", "symbolic link"),
        (lambda folder: os.mkfifo(folder / "pipe"), "pipe", "", "is a pipe"),
        (lambda folder: (folder / "manifest.yaml").unlink(), "manifest.yaml", "", "No such file"),
        (lambda folder: (folder / "manifest.yaml").write_bytes(b"\xff"), "manifest.yaml", "", "UTF-8"),
        (lambda folder: change(folder, expires="2001-01-01"), "manifest.yaml", "expires", "not ahead"),
        (lambda folder: change(folder, name="Bad Name"), "manifest.yaml", "name", "not a valid model name"),
        (lambda folder: change(folder, samples=()), "manifest.yaml", "samples", "no sample"),
        (lambda folder: change(folder, wheels=()), "manifest.yaml", "wheels", "the wheel of cloudpickle==", ),
        (lambda folder: change(folder, platform="linux-vax"), "manifest.yaml", "platform", "linux-vax"),
    ],
)  # fmt: skip
def test_gate_1_names_file_key_and_cure(
    break_it: Callable[[Path], object], file: str, key: str, said: str, bundle: Path
) -> None:
    break_it(bundle)
    findings = artifact(bundle)
    found = [finding for finding in findings if finding.file.startswith(file) and said in finding.message]
    assert found, findings
    assert found[0].key == key
    assert found[0].hint
    assert found[0].gate == "artifact"


def test_gate_1_finds_paths_that_leave_or_clash(bundle: Path) -> None:
    files = read_manifest(bundle).files
    outside = File(path="../outside", sha256="0" * 64, size=1)
    change(bundle, files=tuple(sorted([*files, outside], key=lambda file: file.path)))
    assert any("leaves the bundle" in finding.message for finding in artifact(bundle))
    clash = msgspec.structs.replace(files[0], path="CODE/doubling.py")
    change(bundle, files=tuple(sorted([*files, clash], key=lambda file: file.path)))
    assert any("case alone" in finding.message for finding in artifact(bundle))


def test_gate_1_names_the_line_of_an_unknown_key(bundle: Path) -> None:
    text = (bundle / "manifest.yaml").read_text()
    (bundle / "manifest.yaml").write_text(text.replace("owner:", "ownr:"))
    finding = artifact(bundle)[0]
    assert (finding.file, finding.key, finding.message) == ("manifest.yaml", "ownr", "unknown key")
    assert "owner" in finding.hint


@pytest.mark.parametrize(
    ("old", "new", "key", "said"),
    [
        ("numpy==", "nunpy==", "numpy", "is not locked"),
        ("numpy==2", "numpy==1", "numpy", "is outside what the runtime knows"),
        ("    --hash=sha256:", "    --hash=sha256:0000", "cloudpickle", "no sha256"),
        ("msgspec==", "msgspec>=", "msgspec", "not pinned"),
    ],
)
def test_gate_1_reads_the_lock(old: str, new: str, key: str, said: str, bundle: Path) -> None:
    path = bundle / "requirements.lock"
    path.write_text(path.read_text().replace(old, new))
    refresh(bundle, "requirements.lock")
    findings = [finding for finding in artifact(bundle) if finding.file == "requirements.lock"]
    assert any(finding.key == key and said in finding.message and finding.hint for finding in findings), (
        findings
    )


def test_gate_1_compares_wheels_with_lock_and_target(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    numpy = next(wheel for wheel in manifest.wheels if wheel.name.startswith("numpy"))
    lock = bundle / "requirements.lock"
    lock.write_text(lock.read_text().replace(numpy.sha256, "0" * 64))
    refresh(bundle, "requirements.lock")
    assert "is not the file that is locked for numpy" in artifact(bundle)[0].message
    other = "3.12" if PYTHON != "3.12" else "3.13"
    change(bundle, python=other)
    assert any(f"does not run on Python {other}" in finding.message for finding in artifact(bundle))


def test_gate_2_says_why_the_environment_does_not_build(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    wheel = next(wheel for wheel in manifest.wheels if wheel.name.startswith("msgspec"))
    path = bundle / "wheels" / wheel.name
    path.write_bytes(b"not a wheel, but locked so")
    digest, size = sha256_file(path), path.stat().st_size
    lock = bundle / "requirements.lock"
    lock.write_text(lock.read_text().replace(wheel.sha256, digest))
    wheels = tuple(
        msgspec.structs.replace(one, sha256=digest, size=size) if one == wheel else one
        for one in manifest.wheels
    )
    change(bundle, wheels=wheels)
    refresh(bundle, "requirements.lock")
    report = validate(bundle, now=NOW)
    assert [finding.gate for finding in report.findings] == ["compilation"]
    assert "msgspec" in report.findings[0].message
    assert report.findings[0].file == "requirements.lock"
    assert report.gates_skipped == {"serving": "the gate before it (compilation) has findings"}


def test_gate_3_finds_a_sample_that_is_answered_otherwise(bundle: Path, built: Path) -> None:
    path = bundle / "samples/0.response.json"
    path.write_text(path.read_text().replace("6.0", "6.5"))
    refresh(bundle, "samples/0.response.json")
    report = validate(bundle, now=NOW, environment=built)
    (finding,) = report.findings
    assert (finding.gate, finding.file, finding.key) == ("serving", "samples/0.response.json", "outputs.y")
    assert "6.0, packed with 6.5" in finding.message
    assert finding.hint


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os\nos.kill(os.getpid(), 9)\n", "killed by signal 9 (SIGKILL)"),
        ("import os\nos._exit(3)\n", "ended with exit code 3"),
        ("import no_such_module\n", "No module named 'no_such_module'"),
    ],
)
def test_gate_3_outlives_what_a_model_does(code: str, said: str, bundle: Path, built: Path) -> None:
    (bundle / "code/doubling.py").write_text(code)
    refresh(bundle, "code/doubling.py")
    report = validate(bundle, now=NOW, environment=built)
    assert len(report.findings) == 1
    assert said in report.findings[0].message
    assert report.findings[0].hint


def test_a_check_that_hangs_is_ended_with_its_children(bundle: Path, built: Path, tmp_path: Path) -> None:
    (bundle / "code/doubling.py").write_text(
        "import os, time\nif not os.fork():\n    time.sleep(600)\n    os._exit(0)\ntime.sleep(600)\n"
    )
    plain = tmp_path / "manifest.json"
    plain.write_bytes(canonical(read_manifest(bundle)))
    (tmp_path / "work").mkdir()
    interpreter = find_interpreter(PYTHON)
    assert interpreter is not None
    checked = run_check(
        interpreter, bundle=bundle, manifest=plain, environment=built, scratch=tmp_path / "work", deadline=3.0
    )
    assert "within 3 s" in checked.findings[0].message
    assert runtime_command(interpreter, "check", {})[:3] == [str(interpreter), "-I", "-S"]


SECRETS = dict.fromkeys(
    ("FSSPEC_S3_SECRET", "FSSPEC_GCS_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLDEPLOY_STORE", "HF_TOKEN"), "secret"
)


def test_model_code_sees_no_credentials(
    bundle: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    (bundle / "code/doubling.py").write_text(
        "import os\nraise OSError('sees ' + ' '.join(k for k in os.environ if os.environ[k] == 'secret'))\n"
    )
    plain = tmp_path / "manifest.json"
    plain.write_bytes(canonical(read_manifest(bundle)))
    (tmp_path / "work").mkdir()
    interpreter = find_interpreter(PYTHON)
    assert interpreter is not None
    checked = run_check(
        interpreter, bundle=bundle, manifest=plain, environment=built, scratch=tmp_path / "work"
    )
    said = checked.findings[0].message
    assert "sees" in said
    assert [name for name in SECRETS if name in said] == []


def test_what_model_code_sees_is_what_is_listed() -> None:
    given = {"PATH": "/bin", "LC_ALL": "C", "TZ": "UTC", "CUDA_VISIBLE_DEVICES": "0"}
    assert model_environ({**given, **SECRETS, "PATHS": "x", "HTTPS_PROXY": "http://u:p@h"}) == given


def test_gates_of_another_platform_or_python_are_skipped_and_said(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    other = "linux-aarch64" if manifest.platform != "linux-aarch64" else "linux-x86_64"
    pure = tuple(wheel for wheel in manifest.wheels if wheel.name.endswith("none-any.whl"))
    assert pure
    change(bundle, platform=other)
    report = validate(bundle, now=NOW, gates=["compilation", "serving"])
    assert report.ok
    assert report.gates_run == ()
    assert set(report.gates_skipped) == {"compilation", "serving"}
    assert other in report.gates_skipped["serving"]
    change(bundle, platform=manifest.platform, python="3.19")
    assert "no Python 3.19" in validate(bundle, now=NOW, gates=["serving"]).gates_skipped["serving"]


def test_expiry_is_judged_at_the_time_given(packed: Path) -> None:
    assert validate(packed, now=NOW + timedelta(days=3650), gates=["artifact"]).ok  # 90d from then


def test_unknown_gates_and_folders_are_usage_errors(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'smell' is not a gate") as error:
        validate(packed, now=NOW, gates=["smell"])
    assert "artifact" in error.value.hint
    with pytest.raises(UsageError, match="is not a folder"):
        validate(tmp_path / "absent", now=NOW)
