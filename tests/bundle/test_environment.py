"""Requirements to lock to wheels to environment, with the real uv and pip."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mldeploy.bundle import environment, tools
from mldeploy.bundle.interpreters import available_interpreters, find_interpreter
from mldeploy.errors import BuildError, DiskError

from .conftest import PLATFORM, PYTHON

NOWHERE = "http://127.0.0.1:9/simple"


def test_a_second_collection_asks_no_index(
    full_lock: bytes, lock: bytes, tmp_path: Path, alone: None
) -> None:
    first = environment.collect_wheels(full_lock, tmp_path / "a", index_url=NOWHERE)
    second = environment.collect_wheels(lock, tmp_path / "b", index_url=NOWHERE)
    assert first == second
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [wheel.name for wheel in first]
    # one hash for each distribution, and reading the reduced lock again changes nothing
    assert lock.count(b"--hash") == len(first) == 3
    assert environment.reduced_lock(lock, second) == lock


def test_an_altered_wheel_in_the_cache_is_not_used(full_lock: bytes, tmp_path: Path, alone: None) -> None:
    cache = tmp_path / "cache"
    environment.collect_wheels(full_lock, tmp_path / "a", index_url=None, cache=None)
    wheel = environment.collect_wheels(full_lock, tmp_path / "b")[0]
    home = cache / "wheels" / wheel.sha256
    home.mkdir(parents=True)
    (home / wheel.name).write_bytes(b"altered")
    with pytest.raises(BuildError, match="index cannot be reached"):
        environment.collect_wheels(full_lock, tmp_path / "c", index_url=NOWHERE, cache=cache)


def test_build_is_offline_and_imports_under_i_s(lock: bytes, wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_bytes(lock)
    target = tmp_path / "environment"
    environment.build(target, lock=tmp_path / "requirements.lock", wheels=wheels, python=PYTHON)
    about = json.loads((target / "environment.json").read_text())
    assert about["python"] == PYTHON
    assert sorted(path.name for path in target.iterdir()) == ["environment.json", "site"]
    moved = target.rename(tmp_path / "moved")
    interpreter = find_interpreter(PYTHON)
    assert interpreter is not None
    code = "import sys; sys.path.append(sys.argv[1]); import numpy; print(numpy.__file__, numpy.__cached__)"
    done = subprocess.run(
        [interpreter, "-I", "-S", "-B", "-c", code, str(moved / "site")],
        capture_output=True,
        text=True,
        check=True,
    )
    place, cached = done.stdout.split()
    assert Path(place).is_relative_to(moved)
    assert Path(cached).is_file()


def test_an_environment_is_named_by_lock_python_and_platform(packed: Path, lock: bytes, built: Path) -> None:
    from mldeploy.bundle.files import sha256_file
    from mldeploy.bundle.manifest_file import read_manifest

    manifest = read_manifest(packed)
    assert (packed / "requirements.lock").read_bytes() == lock
    identifier = environment.environment_id(manifest, sha256_file(packed / "requirements.lock"))
    assert json.loads((built / "environment.json").read_text())["id"] == identifier


def test_requirements_that_do_not_resolve_are_named(index: Callable[..., str], wheels: Path) -> None:
    url = index(*wheels.iterdir())
    with pytest.raises(BuildError) as error:
        environment.resolve(["no-such-distribution-zz"], PYTHON, PLATFORM, url)
    assert "do not resolve" in error.value.message
    assert "no-such-distribution-zz was not found" in error.value.message
    assert error.value.hint
    with pytest.raises(BuildError, match=r"numpy<1\.20 and numpy>=1\.26"):
        environment.resolve(["numpy<1.20"], PYTHON, PLATFORM, url)


def test_a_distribution_without_a_wheel_is_named(
    index: Callable[..., str], wheels: Path, tmp_path: Path
) -> None:
    sdist = tmp_path / "sourceonly-1.0.tar.gz"
    sdist.write_bytes(b"never opened")
    foreign = tmp_path / "foreign-1.0-cp311-cp311-win_amd64.whl"
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr(
            "foreign-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n"
        )
    url = index(*wheels.iterdir(), sdist, foreign)
    for name in ("sourceonly==1.0", "foreign==1.0"):
        with pytest.raises(BuildError) as error:
            environment.resolve([name], PYTHON, PLATFORM, url)
        assert f"{name} has no wheel for the target" in error.value.message, error.value.message
        assert "ships a wheel" in error.value.hint


def test_a_lock_without_a_wheel_for_the_target_names_it(lock: bytes, index: Callable[..., str], alone: None,
                                                        tmp_path: Path) -> None:  # fmt: skip
    committed = lock + b"absent==1.0 --hash=sha256:" + b"0" * 64 + b"\n"
    with pytest.raises(BuildError) as error:
        environment.collect_wheels(committed, tmp_path / "wheels", index_url=index())
    assert "absent==1.0 has no wheel" in error.value.message


def test_an_index_out_of_reach_is_said_without_credentials(lock: bytes, alone: None, tmp_path: Path) -> None:
    with pytest.raises(BuildError) as error:
        environment.resolve([], PYTHON, PLATFORM, "http://user:secret@127.0.0.1:9/simple")
    assert "index cannot be reached" in error.value.message
    assert "secret" not in error.value.message
    with pytest.raises(BuildError, match="index cannot be reached"):
        environment.collect_wheels(lock, tmp_path / "w", index_url=NOWHERE, cache=tmp_path / "empty")


@pytest.mark.parametrize("text", ["numpy=>1", "two words", "thing @ https://example.com/thing.whl"])
def test_what_is_no_requirement_is_refused(text: str) -> None:
    with pytest.raises(BuildError, match="requirements: ") as error:
        environment.resolve([text], PYTHON, PLATFORM)
    assert error.value.hint


def test_build_names_a_missing_and_an_altered_wheel(lock: bytes, wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_bytes(lock)
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for wheel in wheels.iterdir():
        (fewer / wheel.name).write_bytes(wheel.read_bytes())
    msgspec = next(fewer.glob("msgspec*"))
    data = bytearray(msgspec.read_bytes())
    data[len(data) // 2] ^= 1
    msgspec.write_bytes(data)
    with pytest.raises(BuildError, match="msgspec"):
        environment.build(tmp_path / "a", lock=tmp_path / "requirements.lock", wheels=fewer, python=PYTHON)
    msgspec.unlink()
    with pytest.raises(BuildError, match="the wheel of msgspec is missing"):
        environment.build(tmp_path / "b", lock=tmp_path / "requirements.lock", wheels=fewer, python=PYTHON)
    assert not (tmp_path / "a" / "environment.json").exists()


def test_a_missing_interpreter_is_a_clear_error(lock: bytes, wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_bytes(lock)
    with pytest.raises(BuildError, match=r"no interpreter of Python 3\.19") as error:
        environment.build(tmp_path / "e", lock=tmp_path / "requirements.lock", wheels=wheels, python="3.19")
    assert "install python3.19" in error.value.hint


def test_interpreters_are_asked_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, script in {"python3.18": "echo cpython 3.17 /bin/sh", "python3.19": "exit 127"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_interpreter("3.18") is None
    assert find_interpreter("3.19") is None
    assert PYTHON in available_interpreters()
    (tmp_path / "python3.18").write_text("#!/bin/sh\necho cpython 3.18 /bin/sh\n")
    assert find_interpreter("3.18") == Path("/bin/sh")


@pytest.mark.parametrize(
    ("stderr", "kind", "said"),
    [
        ("error: failed to write `/x`: No space left on device (os error 28)", DiskError, "no space left"),
        (
            "error: failed to copy file from /a/b to /c/d: No space left on device (os error 28)",
            DiskError,
            "of /",
        ),
        ("OSError: [Errno 28] No space left on device", DiskError, "left on the disk of /the/place"),
        (
            "  × No solution found when resolving dependencies:\n  ╰─▶ Because nosuch was not found in the\n"
            "      package registry and you require nosuch, it cannot be.\n",
            BuildError,
            "Because nosuch was not found in the package registry and you require nosuch",
        ),
        ("", BuildError, "exit code 9"),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE FILE.\n    churn==1 from x:\n",
            BuildError,
            "churn==1 is not the file that was locked",
        ),
    ],
)
def test_what_tools_say_becomes_one_line(stderr: str, kind: type[Exception], said: str) -> None:
    error = tools.explained("it", stderr, 9, Path("/the/place"))
    assert type(error) is kind
    assert said in error.message
    assert "\n" not in error.message
    assert error.hint


FIND_AT_ONCE = """
import sys, threading
from mldeploy.bundle import tools
import uv

sys.setswitchinterval(1e-6)
barrier, failed = threading.Barrier(8), []

def find():
    barrier.wait()
    try:
        tools.uv()
    except Exception as error:
        failed.append(error)

threads = [threading.Thread(target=find) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(str(failed[0]) if failed else 0)
"""


def test_uv_is_found_by_many_threads_at_once() -> None:
    for _ in range(5):  # without the lock, 11 of 12 such processes failed
        done = subprocess.run([sys.executable, "-c", FIND_AT_ONCE], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
