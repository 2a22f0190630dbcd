"""init, pack, validate, inspect, push, serve and deploy with real environments and real daemons."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from mldeploy.client.daemon import LocalDaemon, running
from mldeploy.errors import DaemonError
from mldeploy.progress import Silent

from .conftest import Ran, World

Cli = Callable[..., Ran]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `init` writes, with the lock that the first pack found: later packs need no index."""
    from mldeploy.bundle.environment import resolve
    from mldeploy.bundle.targets import default_platform, this_python
    from mldeploy.client.scaffold import scaffold

    folder = tmp_path_factory.mktemp("models") / "line"
    scaffold(str(folder), owner="team@example.com")
    lock = resolve(["numpy", "msgspec"], this_python(), default_platform())
    (folder / "requirements.lock").write_bytes(lock)
    return folder


@pytest.fixture
def model(source: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(source, tmp_path / "line"))


def test_init_keeps_what_is_there(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "My Model"
    assert "would write model.yaml" in cli("init", folder, "--dry-run").err
    assert not folder.exists()
    ran = cli("init", folder)
    assert (ran.code, ran.out.strip()) == (0, str(folder))
    assert "name: my-model\n" in (folder / "model.yaml").read_text()
    (folder / "model.py").write_text("mine")
    again = cli("init", folder, "--json").document
    assert (again["written"], (folder / "model.py").read_text()) == ([], "mine")
    assert cli("init", folder, "--name", "Not a name").code == 2


def test_an_owner_that_nobody_knows_is_warned_of(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mldeploy.bundle.assemble.git_email", lambda: "")
    ran = cli("init", tmp_path / "line")
    assert (ran.code, "warning: git knows no e-mail address: model.yaml says owner: you@" in ran.err) == (
        0,
        True,
    )
    assert "warning" not in cli("init", tmp_path / "line").err  # it was kept
    assert "warning" not in cli("init", tmp_path / "other", "--owner", "team@example.com").err


@pytest.mark.parametrize("command", ["pack", "push", "validate", "inspect"])
def test_a_folder_that_is_not_there_is_not_found(cli: Cli, command: str) -> None:
    ran = cli(command, "nope")
    assert (ran.code, "error: there is no nope" in ran.err) == (1, True)


@pytest.mark.parametrize(("name", "owner"), [("no", "a: b # c"), ("2024", '"x" & y'), ("null", "- me")])
def test_init_writes_what_yaml_reads_back(cli: Cli, tmp_path: Path, name: str, owner: str) -> None:
    from mldeploy.bundle.sources.model_yaml import read

    assert cli("init", tmp_path / "m", "--name", name, "--owner", owner).code == 0
    model = read(tmp_path / "m")
    assert (model.name, model.owner) == (name, owner)


def test_init_leaves_no_half_file(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "m"
    whole = Path.write_text

    def full(self: Path, text: str, **options: str) -> int:
        if self.name == "model.py":
            whole(self, text[:10])
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return whole(self, text, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        ran = cli("init", folder)
    assert (ran.code, "no space left" in ran.err) == (1, True)
    assert not (folder / "model.py").exists()
    assert "wrote model.py" in cli("init", folder).err


def test_a_folder_goes_all_the_way(model: Path, tmp_path: Path, cli: Cli, process: Cli) -> None:
    store = tmp_path / "fresh" / "store"
    out = tmp_path / "line.bundle"
    packed = process("pack", model, "--out", out, "--expires", "30d")
    assert (packed.code, packed.out.strip()) == (0, str(out)), packed.err
    assert "packed line (" in packed.err

    inspected = cli("inspect", out, "--json").document
    assert (inspected["manifest"]["name"], inspected["manifest"]["expires"]) == ("line", "30d")
    assert "inputs\tx FP64[-1, 2]" in cli("inspect", out, "--files").out
    validated = cli("validate", out, "--gate", "artifact")
    assert (validated.code, "no findings" in validated.out) == (0, True)

    assert inspected["measured"]["load_ms"] > 0

    would = cli("push", out, "--dry-run", "--promote", "--json", "--store", store).document
    assert (would["actions"][1], would["seq"]) == ("promote line@1 in production", None)
    assert not store.exists()

    pushed = process("push", out, "--store", store)
    assert (pushed.code, pushed.out) == (0, "line@1\n")
    assert f" in {would['uploaded_blobs']} blobs, re-used 0 B in 0 " in pushed.err
    again = cli("push", out, "--store", store, "--json").document
    assert (again["already"], again["version"], again["uploaded_bytes"]) == (True, 1, 0)
    promoted = cli("push", out, "--store", store, "--promote", "--json").document
    assert (promoted["seq"], promoted["new"], promoted["promoted"]) == (2, False, True)
    assert cli("push", out, "--store", store, "--promote", "--json").document["already"]
    assert cli("inspect", "line@1", "--store", store, "--json").document["published"]["roles"] == [
        "stable in production"
    ]

    (model / "model" / "weights.json").write_text("[1.0, 1.0]")
    would = cli("push", out, "--dry-run", "--json", "--store", store).document
    assert (would["already"], would["uploaded_bytes"], would["reused_bytes"]) == (True, 0, 0)
    second = cli("push", model, "--promote", "--store", store, "--json").document
    assert (second["version"], second["seq"], second["new"]) == (2, 3, True)
    assert second["reused_bytes"] > 1 << 20 > second["uploaded_bytes"]  # the wheels went up once
    assert cli("push", out, "--name", "other", "--store", store).code == 2
    assert cli("freeze", "line", "--store", store).code == 0
    assert cli("push", out, "--promote", "--store", store).code == 4


def test_findings_are_code_3_and_name_place_and_cure(
    world: World, model: Path, cli: Cli, tmp_path: Path
) -> None:
    bundle = world.bundle()
    (bundle / "model.pkl").write_text("other")
    ran = cli("validate", bundle)
    assert (ran.code, ran.out) == (3, "")
    lines = ran.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert any(line.startswith("error: model.pkl: ") for line in errors)
    assert sum(line.startswith("hint: ") for line in lines) == len(errors)
    document = cli("validate", bundle, "--json").document
    assert (document["schema"], document["ok"]) == ("mldeploy.validate/1", False)
    pushed = cli("push", bundle, "--json").document
    assert (pushed["schema"], pushed["code"], len(pushed["findings"])) == ("mldeploy.error/1", 3, len(errors))
    assert cli("push", bundle).code == 3
    assert world.head() == 0


@pytest.mark.parametrize(
    ("line", "call", "code", "error", "hint"),
    [
        ("ownr: me", (), 2, "ownr: unknown key", "did you mean 'owner'?"),
        ("", ("--expires", "2020-01-01"), 2, "is not ahead", "90d"),
        ("", ("--expires", "soon"), 2, "neither a date nor a duration", "90d"),
        ("", ("--name", "No Name"), 2, "not a valid model name", "a-z"),
        ("", ("--out", "loop"), 2, "leads nowhere", "--out"),
        ("", ("--out", "."), 2, "the folder you are in", "--out"),
        ("pickle: ../../etc/passwd", (), 2, "pickle", "pickle"),
    ],
)
def test_bad_folders_are_two_lines_and_leave_nothing(
    model: Path, cli: Cli, tmp_path: Path, line: str, call: tuple[str, ...], code: int, error: str, hint: str
) -> None:
    with (model / "model.yaml").open("a") as file:
        file.write(line + "\n")
    Path("loop").symlink_to("loop")
    out = tmp_path / "out"
    ran = cli("pack", model, "--out", out, *call)
    first, second = ran.err.splitlines()
    assert (ran.code, ran.out) == (code, ""), ran
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("hint: ")
    assert hint in second
    assert not out.exists()


def test_where_a_bundle_goes_by_default(cli: Cli, model: Path) -> None:
    ran = cli("pack", model, "--name", "../../line")
    assert (ran.code, "not a valid model name" in ran.err) == (2, True)
    ran = cli("pack", "/")
    assert (ran.code, "--out" in ran.err) == (2, True)


def test_what_packing_found_is_the_result_of_validate(model: Path, cli: Cli) -> None:
    text = (model / "samples/0.request.json").read_text()
    (model / "samples/0.request.json").write_text(text.replace("[1.0, 2.0], [3.0", "[1.0, 2.0, 3.0], [3.0"))
    found = cli("validate", model, "--json")
    assert (found.code, found.document["schema"], found.document["ok"]) == (3, "mldeploy.validate/1", False)
    assert found.document["gates_run"] == ["artifact", "compilation", "serving"]
    assert found.document["findings"][0]["file"] == "samples/0.request.json"


def test_the_first_push_says_that_it_made_the_store(world: World, cli: Cli, tmp_path: Path) -> None:
    from mldeploy.client.connection import Connection

    said = Said()
    Connection(str(tmp_path / "other")).create_store(said)
    assert said.lines == [f"made a new store: file://{tmp_path}/other"]
    Connection(str(tmp_path / "other")).create_store(said)
    assert len(said.lines) == 1
    ran = cli("status", "--store", tmp_path / "gone")
    assert (ran.code, "is it mounted?" in ran.err) == (1, True)
    assert "or by `mldeploy init --store URL`" in ran.err


def test_who_may_make_the_store_makes_it_without_a_push(world: World, cli: Cli, tmp_path: Path) -> None:
    there = ("--store", tmp_path / "new")
    for words, code in ((("init",), 2), (("init", "--name", "churn", *there), 2)):
        ran = cli(*words)
        assert (ran.code, len(ran.err.splitlines())) == (code, 2), ran
    assert f"would make the store file://{tmp_path}/new" in cli("init", *there, "--dry-run").err
    assert not (tmp_path / "new").exists()
    made = cli("init", *there, "--json").document
    assert (made["schema"], made["already"]) == ("mldeploy.init-store/1", False)
    assert "is a store already; nothing written" in cli("init", *there).err
    assert cli("policy", "set", "hold=1h", *there).code == 0


class Said(Silent):
    """Keeps the lines that stay."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


def test_a_folder_that_is_none(cli: Cli, tmp_path: Path) -> None:
    assert "MODEL@VERSION" in cli("inspect", "churn").err
    for call in (("pack", "gone"), ("serve", "gone"), ("validate", "gone"), ("inspect", "gone")):
        ran = cli(*call)
        assert ran.code == 1, ran
        assert len(ran.err.splitlines()) == 2, ran


def test_an_address_that_is_none(cli: Cli, tmp_path: Path) -> None:
    for call in (("serve", tmp_path, "--listen", "x"), ("demo", "--listen", "x")):
        ran = cli(*call)
        assert (ran.code, "error: --listen 'x' is not HOST:PORT\n" in ran.err) == (2, True), ran.err


def ask(url: str, name: str = "line") -> tuple[str, list[float]]:
    request = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [1.0, 1.0]}]}
    with urllib.request.urlopen(
        f"{url}/v2/models/{name}/infer", json.dumps(request).encode(), timeout=30
    ) as got:
        answer = json.loads(got.read())
    return answer["model_version"], answer["outputs"][0]["data"]


def test_serve_reloads_and_leaves_nothing(model: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    serving = subprocess.Popen(
        [sys.executable, "-m", "mldeploy.cli.main", "serve", str(model), "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip
    try:
        assert serving.stdout is not None
        assert serving.stderr is not None
        url = serving.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), serving.communicate()
        assert ask(url) == ("1", [2.5])
        assert [serving.stderr.readline()[:14], serving.stderr.readline()[:4]] == ["line@1 is up a", "curl"]

        with (model / "model.yaml").open("a") as file:
            file.write("ownr: me\n")
        assert "ownr: unknown key" in serving.stderr.readline()
        assert serving.stderr.readline().startswith("hint: ")
        assert ask(url) == ("1", [2.5])  # what served before goes on

        text = (model / "model.yaml").read_text().replace("ownr: me\n", "")
        (model / "model.yaml").write_text(text)
        (model / "model" / "weights.json").write_text("[1.0, 1.0]")
        assert serving.stderr.readline().startswith("reloaded: line@2 in ")
        assert ask(url) == ("2", [2.0])
    finally:
        serving.send_signal(signal.SIGTERM)
        out, err = serving.communicate(timeout=90)
    assert (serving.returncode, out) == (0, ""), err
    assert list(scratch.iterdir()) == []
    assert not _working_in(scratch)


def _working_in(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder) in str((entry / "cwd").readlink()):
                found.append((entry / "cmdline").read_text())
    return found


def test_a_daemon_that_cannot_start_says_why(world: World, tmp_path: Path) -> None:
    first = LocalDaemon(store=world.url, state=tmp_path / "a")
    first.start()
    try:
        assert running(tmp_path / "a") == first.address
        taken = LocalDaemon(
            store=world.url, state=tmp_path / "b", listen=first.address.removeprefix("http://")
        )
        with pytest.raises(DaemonError, match="cannot listen on"):
            taken.start()
        with pytest.raises(DaemonError, match=r"runs in .*/a already"):
            LocalDaemon(store=world.url, state=tmp_path / "a").start()
        assert running(tmp_path / "a") == first.address
    finally:
        first.stop()
    assert running(tmp_path / "a") == ""
    with pytest.raises(DaemonError, match="ended with code 0"):
        first.check()


NOTEBOOK = """
import mldeploy
from line_model import Line

for weight in (2.0, 3.0):
    done = mldeploy.deploy(
        Line(weight), "line", [[1.0, 2.0]], expires="90d", owner="me@example.com",
        requirements=["numpy", "msgspec"], lock="requirements.lock",
    )
    print(done.version, done.started, done.url)
"""
LINE = """
class Line:
    def __init__(self, weight):
        self.weight = weight

    def predict(self, x):
        return x[:, 0] * self.weight
"""


def test_deploy_serves_a_model_from_a_notebook(source: Path, tmp_path: Path, process: Cli) -> None:
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    (tmp_path / "line_model.py").write_text(LINE)
    shutil.copy(source / "requirements.lock", tmp_path)
    try:
        done = subprocess.run(
            [sys.executable, "notebook.py"], cwd=tmp_path, capture_output=True, text=True, check=False,
            timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = [line.split() for line in done.stdout.splitlines() if line[0].isdigit()]
        assert [line[:2] for line in told] == [["1", "True"], ["2", "False"]]
        assert "line@1 answers at http://127.0.0.1:" in done.stdout
        assert ask(told[0][2]) == ("2", [3.0])
        assert process("predict", "line").code == 0  # the default store, and its live host
    finally:
        _stop_daemons(Path(os.environ["XDG_STATE_HOME"]))


def _stop_daemons(states: Path) -> None:
    """End what deploy left running, as a user would: by its process id."""
    for lock in states.glob("mldeploy/*/lock"):
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"mldeploy_daemon.keeper" in words and os.fsencode(lock.parent) in words:
                    os.kill(int(entry.name), signal.SIGTERM)
        deadline = time.monotonic() + 60
        while running(lock.parent):
            assert time.monotonic() < deadline
            time.sleep(0.05)
