"""The command line as a shell sees it: imports, exit codes, streams, terminals, signals."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Ran, World

Process = Callable[..., Ran]
HEAVY = ("rich", "numpy", "fsspec", "s3fs", "cloudpickle", "watchdog", "msgspec", "yaml")
COMMANDS = (
    "init", "pack", "validate", "inspect", "serve",
    "push", "promote", "plan", "apply", "rollback", "pause", "resume", "shadow", "freeze", "unfreeze",
    "retire", "restore", "extend", "policy", "gc",
    "status", "history", "report", "which", "host", "why", "wait", "predict", "demo",
)  # fmt: skip


def imported(*args: str) -> set[str]:
    """The modules a call has loaded when it ends, from a process of its own."""
    code = (
        "import sys; from mldeploy.cli.main import run; code = run(sys.argv[1:]);"
        "print('\\n'.join(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_help_loads_nothing_heavy() -> None:
    assert not imported("--help") & {*HEAVY, "mldeploy.client", "mldeploy.cli.look"}
    assert not imported("push", "--help") & set(HEAVY)


def test_status_and_mldeploy_load_no_numpy_and_no_store_drivers(world: World) -> None:
    world.publish()
    heavy = {"numpy", "fsspec", "s3fs", "cloudpickle", "rich", "yaml"}
    assert not imported("status") & heavy
    assert not imported("status", "churn", "--json") & heavy
    code = "import sys, mldeploy; mldeploy.Client; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & heavy


def test_importing_mldeploy_costs_nothing_and_names_its_parts() -> None:
    code = (
        "import sys, mldeploy; assert not any(name.startswith('mldeploy.') for name in sys.modules);"
        "from mldeploy import Client, deploy, pack; assert callable(mldeploy.deploy);"
        "assert mldeploy.__version__ and {'Client', 'deploy', 'pack'} <= set(dir(mldeploy))"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_every_command_has_help_with_the_global_options(process: Process) -> None:
    text = process("--help").out
    assert re.findall(r"^  (\w+)  +\w", text, re.M)[: len(COMMANDS)] == list(COMMANDS)
    from mldeploy.cli.main import build

    root = build()
    with root.make_context("mldeploy", [], resilient_parsing=True) as ctx:
        for name in COMMANDS:
            command = root.get_command(ctx, name)
            with command.make_context(name, [], parent=ctx, resilient_parsing=True) as inner:
                shown = command.get_help(inner)
            assert "Global options:" in shown
            assert "--json" in shown
            assert "--store URL" in shown
            assert "<str>" not in shown, "every value has a name"


def test_exit_codes_and_streams(world: World, process: Process) -> None:
    world.publish()
    world.publish(content="2")
    done = process("promote", "churn@1")
    assert (done.code, done.out) == (0, "")
    assert process("--json", "--store", world.url, "status").document["schema"] == "mldeploy.status/1"
    assert process("status", "--json", "--store", world.url).document["schema"] == "mldeploy.status/1"
    failed = process("retire", "churn@1")
    assert (failed.code, failed.out, len(failed.err.splitlines())) == (4, "", 2)
    assert process("wait", "churn", "--timeout", "1s").code == 7
    assert process("--version").out.startswith("mldeploy ")
    for words in (("--version", "--json"), ("--json", "--version"), ("push", "--version", "--json")):
        assert process(*words).document["schema"] == "mldeploy.version/1", words


@pytest.mark.parametrize(
    ("call", "error", "hint"),
    [
        (("stauts",), "no such command: 'stauts'", "did you mean `mldeploy status`?"),
        (("xyz",), "no such command: 'xyz'", "`mldeploy --help` lists the commands"),
        (("status", "--limt"), "no such option: --limt", "`mldeploy status --help`"),
        (("history", "--limt", "3"), "no such option: --limt", "did you mean --limit?"),
        (("--jsn", "status"), "no such option: --jsn", "did you mean --json?"),
        (("promote",), "missing argument 'MODEL@VERSION'", "`mldeploy promote --help`"),
        (("history", "--limit", "many"), "invalid value for '--limit'", "`mldeploy history --help`"),
        (("history", "--limit"), "option '--limit' requires an argument", "`mldeploy history --help`"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_two_lines_and_code_2(
    cli: Process, call: tuple[str, ...], error: str, hint: str
) -> None:
    ran = cli(*call)
    first, second = ran.err.splitlines()
    assert (ran.code, ran.out) == (2, "")
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("hint: ")
    assert hint in second
    told = cli("--json", *call)
    assert (told.err, told.document["code"], told.document["hint"]) == ("", 2, second[6:])


def test_no_command_shows_the_help_and_is_a_wrong_call(process: Process) -> None:
    ran = process()
    assert (ran.code, ran.out, "Make a bundle" in ran.err) == (2, "", True)


def test_our_own_bugs_are_70_with_a_traceback_only_when_asked(world: World) -> None:
    code = (
        "import sys; from mldeploy.cli import main, look; from mldeploy.client import Client\n"
        "def broken(self, **_): raise ZeroDivisionError('oh')\n"
        "Client.status = broken; main.main(sys.argv[1:])"
    )

    def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, "status", *args],
            capture_output=True, text=True, check=False, env={**os.environ, **env},
        )  # fmt: skip

    plain = run()
    assert plain.returncode == 70
    assert plain.stderr.splitlines()[0] == "error: unexpected ZeroDivisionError: oh"
    assert "report it" in plain.stderr.splitlines()[1]
    assert "Traceback" not in plain.stderr
    assert "Traceback" in run("--verbose").stderr
    assert "Traceback" in run(MLDEPLOY_DEBUG="1").stderr
    told = json.loads(run("--json", "-v").stdout)
    assert (told["code"], "Traceback" in told["traceback"]) == (70, True)


def test_an_interrupt_is_130_and_a_reader_that_left_is_no_error(world: World, process: Process) -> None:
    world.publish()
    world.join()
    process("promote", "churn@1")
    command = [sys.executable, "-m", "mldeploy.cli.main"]
    waiting = subprocess.Popen(
        [*command, "wait", "churn", "--timeout", "60s"], stderr=subprocess.PIPE, text=True
    )
    hints = world.path / "hints" / "clock"
    world.serve(1, state="loading")
    deadline = time.monotonic() + 30
    while not hints.exists():  # it has looked once
        assert time.monotonic() < deadline
        select.select([], [], [], 0.02)
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=30)
    assert (waiting.returncode, said.splitlines()[0]) == (130, "error: interrupted")

    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*command, "history"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_ctrl_c_leaves_at_once(world: World, tmp_path: Path) -> None:
    """Also where a server does not answer what was sent."""
    code = (
        "import sys, threading; from pathlib import Path; import mldeploy.cli.main as main\n"
        "from mldeploy.bundle.upload import Piece, upload; from mldeploy.client import Client\n"
        "from mldeploy.progress import Silent\n"
        "class Never:\n"
        "    def upload(self, *_): print('sending', flush=True); threading.Event().wait()\n"
        "class Told(Silent):\n"
        "    def info(self, text): print(text, flush=True)\n"
        "def stuck(self, **_): upload(Never(), {sha256: Piece(Path(path), 0)}, '0', Told())\n"
        "path, sha256 = sys.argv[1:]; Client.status = stuck; main.main(['status'])"
    )
    (tmp_path / "empty").write_bytes(b"")
    nothing = hashlib.sha256(b"").hexdigest()
    sending = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "empty"), nothing],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert sending.stdout is not None
    assert sending.stdout.readline() == "sending\n"
    sending.send_signal(signal.SIGINT)
    assert sending.stdout.readline() == "ending what is on its way; Ctrl-C again leaves at once\n"
    sending.send_signal(signal.SIGINT)
    _, said = sending.communicate(timeout=30)
    assert (sending.returncode, said.splitlines()[0]) == (130, "error: interrupted")


@pytest.mark.parametrize("unbuffered", ["", "1"])  # "": Python holds what it could not write until its end
@pytest.mark.parametrize("options", [(), ("--json",), ("--json", "nobody")])
def test_a_full_disk_below_standard_output(world: World, options: tuple[str, ...], unbuffered: str) -> None:
    world.publish()
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mldeploy.cli.main", "history", *options],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    first, second = done.stderr.splitlines()
    assert (done.returncode, "No space left" in first, second[:6]) == (1, True, "hint: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_that_is_ended_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """What a CI does to a job that takes too long: the same as Ctrl-C."""
    code = (
        "import sys, time, mldeploy.cli.main as m\n"
        "def slow(staging, *rest):\n"
        "    (staging / 'big').write_text('x'); print('there', flush=True); time.sleep(60)\n"
        "import mldeploy.bundle.sources.folder as f; f.provide = slow\n"
        "sys.exit(m.run(sys.argv[1:]))"
    )
    assert (
        subprocess.run([sys.executable, "-m", "mldeploy.cli.main", "init", "line"], check=False).returncode
        == 0
    )
    packing = subprocess.Popen(
        [sys.executable, "-c", code, "pack", "line", "--out", str(tmp_path / "out" / "bundle")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert packing.stdout is not None
    assert packing.stdout.readline() == "there\n"
    packing.send_signal(number)
    _, said = packing.communicate(timeout=30)
    assert (packing.returncode, said.splitlines()[0]) == (130, "error: interrupted")
    assert list((tmp_path / "out").iterdir()) == []


def on_terminal(args: list[str], **env: str) -> tuple[str, str]:
    """Standard output and standard error of a call whose streams are two terminals."""
    out, out_end = pty.openpty()
    err, err_end = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "mldeploy.cli.main", *args], stdin=subprocess.DEVNULL, stdout=out_end,
        stderr=err_end, env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", **env},
    )  # fmt: skip
    os.close(out_end)
    os.close(err_end)
    said = {out: b"", err: b""}
    talking = {out, err}
    while talking:
        ready, _, _ = select.select(list(talking), [], [], 60)
        assert ready, "the command says nothing"
        for fd in ready:
            try:
                data = os.read(fd, 65536)
            except OSError:  # the other end is closed
                data = b""
            said[fd] += data
            if not data:
                talking.discard(fd)
                os.close(fd)
    child.wait(30)
    return said[out].decode(), said[err].decode()


def test_colour_and_tables_on_a_terminal_only(world: World, process: Process) -> None:
    world.publish()
    process("promote", "churn@1")
    out, _ = on_terminal(["status"])
    assert "\x1b[" in out
    assert "ENVIRONMENT" in out
    for quiet in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        out, err = on_terminal(["status"], **quiet)
        assert "\x1b" not in out + err
        assert "ENVIRONMENT" in out
    piped = process("status").out
    assert piped.startswith("churn\tproduction\t1\t-\t-\t")
    assert "\x1b" not in piped
    _, err = on_terminal(["retire", "churn@1"])
    assert "\x1b[1;31merror\x1b[0m: churn@1 is stable" in err
    out, err = on_terminal(["status", "--json"])
    assert json.loads(out)["schema"] == "mldeploy.status/1"
    assert err == ""


def test_progress_moves_on_a_terminal_only(world: World, process: Process, cli: Process) -> None:
    world.publish()
    world.join()
    process("promote", "churn@1")
    world.serve(1, state="loading")
    call = ["wait", "churn", "--timeout", "1s"]
    _, err = on_terminal(call)
    assert "0 of 1 hosts are there" in err
    _, err = on_terminal([*call, "--no-progress"])
    assert "hosts are there" not in err
    assert "hosts are there" not in cli(*call).err


def test_shell_completion_knows_commands_and_options(process: Process) -> None:
    ran = process(
        env={"_MLDEPLOY_COMPLETE": "complete_bash", "COMP_WORDS": "mldeploy pro", "COMP_CWORD": "1"}
    )
    assert ran.out.split() == ["promote"]
    ran = process(
        env={"_MLDEPLOY_COMPLETE": "complete_bash", "COMP_WORDS": "mldeploy promote --st", "COMP_CWORD": "2"}
    )
    assert set(ran.out.split()) == {"--steps", "--store"}


def test_a_folder_that_cannot_be_written(tmp_path: Path, process: Process) -> None:
    (tmp_path / "file").write_text("")
    ran = process("init", tmp_path / "file" / "model")
    assert (ran.code, ran.err.splitlines()[0].startswith("error: "), "hint: " in ran.err) == (1, True, True)
