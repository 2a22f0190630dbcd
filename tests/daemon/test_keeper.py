"""The keeper: options, refusals, its children's lives, signals, systemd's protocol."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import mldeploy
from mldeploy.core.pausing import Marks
from mldeploy.core.types import NAME
from mldeploy_daemon import options
from mldeploy_daemon.file_tables import TABLES
from mldeploy_daemon.front.config import Limits
from mldeploy_daemon.options import Refused
from mldeploy_daemon.system import OPEN_FILES, start_ticks
from tests.daemon.conftest import Place
from tests.support.daemons import Daemon, until

Start = Callable[..., Daemon]
UNITS = Path(__file__).parents[2] / "daemon/systemd"


def run(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    """One mldeployd that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "mldeploy_daemon.keeper", *arguments],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False, **more,
    )  # type: ignore[call-overload,no-any-return]  # fmt: skip


def test_it_imports_the_standard_library_alone() -> None:
    code = (
        "import sys, mldeploy_daemon.keeper\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)))\n"
    )
    out = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env={
        "PYTHONPATH": str(Path(options.__file__).parents[1])})  # fmt: skip
    assert set(eval(out.stdout)) <= {"mldeploy_daemon", "__main__", "__mp_main__"}


def test_help_is_for_operators() -> None:
    ended = run("--help")
    assert ended.returncode == 0
    for word in ("--store", "--state", "127.0.0.1:8080", "exit codes", "examples:", "--drain"):
        assert word in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--store is missing"),
        (["--store", "s"], "--state is missing"),
        (["--store", "s", "--state", "t", "--listen", "nowhere"], "is not HOST:PORT"),
        (["--store", "s", "--state", "t", "--listen", "127.0.0.1:99999"], "is not HOST:PORT"),
        (["--store", "s", "--state", "t", "--label", "zone"], "is not KEY=VALUE"),
        (["--store", "s", "--state", "t", "--fronts", "-1"], "out of range"),
        (["--store", "s", "--state", "t", "--drain", "-1"], "drain is -1"),
        (["--store", "s", "--state", "t", "--poll", "0"], "poll and report"),
        (["--store", "s", "--state", "t", "--poll", "30.1"], "at most 30 seconds"),
        (["--store", "s", "--state", "t", "--report", "300"], "at most 60 seconds"),
        (["--store", "s", "--state", "t", "--environment", "Bad X"], "is not a valid environment name"),
        (["--store", "s", "--state", "t", "--environment", ""], "is not a valid environment name"),
        (["--store", "s", "--state", "t", "--config", "/nowhere.toml"], "cannot be read"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_is_said_in_two_lines_with_code_2(arguments: list[str], words: str) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_file_is_read_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "d.toml"
    file.write_text('store = "s3://b/p"\nstate = "/x"\nlog-level = "debug"\npoll = 3\n[labels]\nzone = "a"\n')
    read = options.read(["--config", str(file), "--poll", "2", "--label", "disk=ssd"])
    assert (read["store"], read["poll"], read["log_level"]) == ("s3://b/p", 2.0, "debug")
    assert read["labels"] == {"zone": "a", "disk": "ssd"}
    assert read["fronts"] >= 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pol = 1", "did you mean 'poll'"),
        ("poll = 'x'", "poll is not a float"),
        ("[", "is not TOML"),
        ("[limits]\nconnection = 3", "limits: unknown key 'connection' did you mean 'connections'"),
        ("[limits]\nconnections = 'many'", "limits: connections is not a whole number from 0 up"),
        ("[limits]\nconnections = 3.5", "limits: connections is not a whole number from 0 up"),
        ("[limits]\nidle_seconds = inf", "limits: idle_seconds is not a number from 0 up"),
        ("[limits]\nwaiting = true", "limits: waiting is not a whole number from 0 up"),
        ("[pause]\npresure = 0.1", "pause: unknown key 'presure' did you mean 'pressure'"),
        ("[pause]\nqueue = -1", "pause: queue is not a number from 0 up"),
        ("[labels]\nzone = 1", "labels: zone is not a text"),
        ("environment = 'Bad X'\nstore = 's'\nstate = 't'", "is not a valid environment name"),
        ("log-level = 'loud'\nstore = 's'\nstate = 't'", "log_level is 'loud' write one of debug"),
    ],
)
def test_a_wrong_file_names_the_key(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "d.toml"
    file.write_text(text)
    with pytest.raises(Refused) as caught:
        options.read(["--config", str(file)])
    assert caught.value.code == 2
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_the_tables_of_the_file_are_those_that_the_processes_know(tmp_path: Path) -> None:
    for table, known in (("limits", Limits), ("pause", Marks)):
        fields = {field.name: field.type for field in msgspec.structs.fields(known)}
        assert TABLES[table] == fields
        file = tmp_path / "d.toml"
        given = "\n".join(f"{name} = 1" for name in fields)
        file.write_text(f'store = "s"\nstate = "t"\n[{table}]\n{given}\n')
        assert msgspec.convert(options.read(["--config", str(file)])[table], known)
    assert options._NAME.pattern == NAME.pattern


def test_the_file_of_the_docs_is_one(tmp_path: Path) -> None:
    text = (UNITS.parents[1] / "docs/hosts.md").read_text()
    file = tmp_path / "d.toml"
    file.write_text(text.partition("```toml name=mldeployd\n")[2].partition("```")[0])
    read = options.read(["--config", str(file), "--state", str(tmp_path)])
    assert read["labels"] == {"zone": "a"} and read["limits"] == {"body_bytes": 16 << 20}
    assert read["memory"] == 16 << 30


def test_the_version_is_told() -> None:
    assert run("--version").stdout == f"mldeployd {mldeploy.__version__}\n"


def test_a_plain_path_as_store_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert options.read(["--store", "s", "--state", "t"])["store"] == str(tmp_path / "s")


def test_a_taken_port_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run("--store", "s", "--state", str(tmp_path / "state"), "--listen", address)
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        f"error: cannot listen on {address}: the port is taken",
        "hint: stop what listens there, or give another --listen (port 0 takes a free one)",
    ]


def test_a_state_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for state in (tmp_path / "file", tmp_path / "file/below", Path("/proc/nothing")):
        ended = run("--store", "s", "--state", str(state), "--listen", "127.0.0.1:0")
        assert ended.returncode == 1, ended.stderr
        assert ended.stderr.startswith(f"error: the state folder {state} cannot be used: ")
        assert "\nhint: " in ended.stderr


def test_a_state_folder_has_one_daemon(place: Place, start: Start) -> None:
    daemon = start()
    daemon.wait_ready()
    ended = run("--store", str(place.folder), "--state", str(daemon.state), "--listen", "127.0.0.1:0")
    assert ended.returncode == 1
    assert daemon.process is not None
    assert f"in use by process {daemon.process.pid}" in ended.stderr
    assert daemon.ready()


def test_a_store_of_no_known_kind_ends_it(tmp_path: Path) -> None:
    ended = run("--store", "nonsense-scheme://x", "--state", str(tmp_path / "s"), "--listen", "127.0.0.1:0")
    assert ended.returncode == 1
    assert "error: " in ended.stderr
    assert "nonsense-scheme" in ended.stderr


def test_a_limit_that_is_none_ends_it(tmp_path: Path) -> None:
    (tmp_path / "mldeployd.toml").write_text('limits = { body_bytes = "much" }\n')
    ended = run(
        "--store", str(tmp_path / "store"), "--state", str(tmp_path / "state"),
        "--listen", "127.0.0.1:0", "--config", str(tmp_path / "mldeployd.toml"),
    )  # fmt: skip
    assert ended.returncode == 2
    assert "body_bytes" in ended.stderr
    assert "\nhint: " in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_order_and_leaves_nothing(place: Place, start: Start, number: signal.Signals) -> None:
    place.push(1.0)
    daemon = start()
    daemon.wait_answer(1.0)
    assert daemon.stop(number) == 0
    assert daemon.processes() == []
    assert not (daemon.state / "run/listen").exists()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", _port(daemon)), timeout=1).close()


def _port(daemon: Daemon) -> int:
    (line,) = [line for line in daemon.text().splitlines() if "listening on" in line]
    return int(line.partition("127.0.0.1:")[2].partition(",")[0])


def test_draining_says_not_ready_and_goes_on_serving_until_told_to_hurry(place: Place, start: Start) -> None:
    place.push(1.0)
    daemon = start(drain=60.0)
    daemon.wait_answer(1.0)
    daemon.wait_ready()
    assert daemon.process is not None
    daemon.process.terminate()
    until(lambda: not daemon.ready(), "it says so")
    assert daemon.ask() == (200, (1.0, 1))
    assert daemon.stop(signal.SIGINT) == 130
    assert daemon.processes() == []


def test_a_shells_limit_of_open_files_is_not_a_fronts(place: Place, start: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard) if hard >= 0 else 256, hard))
    try:
        daemon = start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    until(lambda: daemon.processes("mldeploy_daemon.front"), "a front")
    pids = [daemon.agent(), *daemon.processes("mldeploy_daemon.front")]
    allowed = hard if 0 <= hard < OPEN_FILES else OPEN_FILES
    assert [resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids] == [(allowed, hard)] * len(pids)


def test_no_limit_of_open_files_is_lowered() -> None:
    code = (
        "import resource; from mldeploy_daemon.system import allow_open_files\n"
        "for soft, hard in ((70, 90), (60, 90), (80, 80)):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)); allow_open_files()\n"
        "    print(resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "(90, 90)\n(90, 90)\n(80, 80)\n"


def test_dead_children_are_started_again(place: Place, start: Start) -> None:
    place.push(1.0)
    daemon = start(fronts=2)
    daemon.wait_answer(1.0)
    fronts = daemon.processes("mldeploy_daemon.front")
    assert len(fronts) == 2
    for pid in fronts:
        os.kill(pid, signal.SIGKILL)
    daemon.wait_answer(1.0)
    until(lambda: len(set(daemon.processes("mldeploy_daemon.front")) - set(fronts)) == 2, "two new fronts")
    agent = daemon.agent()
    os.kill(agent, signal.SIGKILL)
    until(lambda: daemon.agent() != agent, "a new agent")
    place.push(2.0)
    daemon.wait_answer(2.0)


def test_a_killed_keeper_takes_agent_and_fronts_along_and_workers_are_adopted(
    place: Place, start: Start
) -> None:
    place.push(1.0)
    daemon = start()
    daemon.wait_answer(1.0)
    (worker,) = [each["pid"] for each in daemon.workers()]
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()
    until(lambda: not daemon.processes("mldeploy_daemon"), "agent and fronts have gone")
    assert worker in daemon.processes("boot.py")
    again = start()
    again.wait_answer(1.0)
    until(lambda: [each["pid"] for each in again.workers()] == [worker], "the worker was adopted")
    place.push(2.0)
    again.wait_answer(2.0)
    until(lambda: worker not in again.processes("boot.py"), "it could be stopped")
    assert again.stop() == 0
    assert again.processes() == []


def test_systemd_passes_the_socket_and_hears_what_it_needs(place: Place) -> None:
    place.push(1.0)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        told = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        told.bind(str(place.root / "notify"))
        told.settimeout(60)
        # the descriptor has to be 3 and the pid the keeper's own: a shell's exec keeps both
        command = 'export LISTEN_PID=$$; exec "$0" "$@" 3<&"$LISTENER"'
        number = listener.fileno()
        os.set_inheritable(number, True)
        daemon = place.daemon(listen="127.0.0.1:1")
        passed = {
            "LISTEN_FDS": "1",
            "LISTENER": str(number),
            "NOTIFY_SOCKET": str(place.root / "notify"),
        }
        config = place.root / "c.toml"
        config.write_text("fronts = 1\n")
        daemon.process = subprocess.Popen(
            ["/bin/bash", "-c", command, sys.executable, "-m", "mldeploy_daemon.keeper", "--store",
             str(place.folder), "--state", str(daemon.state), "--config", str(config)],
            env={**os.environ, **passed}, pass_fds=[number], stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert "READY=1" in _heard(told, "READY=1")
        assert daemon.address()[1] == listener.getsockname()[1]
        daemon.wait_answer(1.0)
        daemon.process.terminate()
        assert "STOPPING=1" in _heard(told, "STOPPING=1")
        assert daemon.process.wait(60) == 0
        # systemd still holds the socket: who connects now waits for the next start
        socket.create_connection(listener.getsockname(), timeout=5).close()


def _heard(told: socket.socket, word: str) -> str:
    while True:
        text = told.recv(4096).decode()
        if word in text:
            return text


def test_the_units_are_right(tmp_path: Path) -> None:
    service = _unit(UNITS / "mldeployd.service")
    assert service["Service"]["Type"] == "notify"
    assert service["Service"]["KillMode"] == "mixed"
    assert service["Service"]["NoNewPrivileges"] == "yes"
    assert service["Service"]["ProtectSystem"] == "strict"
    assert service["Service"]["StateDirectory"] == "mldeploy"
    assert service["Service"]["ExecStart"].startswith("/usr/bin/mldeployd --config ")
    for forbidden in ("MemoryDenyWriteExecute", "ProcSubset"):
        assert forbidden not in service["Service"]
    assert _unit(UNITS / "mldeployd.socket")["Socket"]["ListenStream"] == "127.0.0.1:8080"
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return  # a bare machine: the keys were checked
    for name in ("mldeployd.service", "mldeployd.socket"):
        text = (UNITS / name).read_text().replace("/usr/bin/mldeployd", "/bin/true")
        (tmp_path / name).write_text(text)
    ended = subprocess.run(
        [analyze, "verify", *map(str, sorted(tmp_path.glob("mldeployd.*")))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    # misspelt keys leave the exit code at 0
    assert (ended.returncode, ended.stderr) == (0, "")


def _unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser


def test_a_forged_status_file_gets_nobody_signalled(place: Place, start: Start) -> None:
    place.push(1.0)
    with subprocess.Popen(["sleep", "600"]) as bystander:
        daemon = start()
        daemon.wait_answer(1.0)
        forged = {
            "id": "w-000000000000-1-0-ffffff",
            "pid": bystander.pid,
            "start_ticks": start_ticks(bystander.pid),
            "model": "answer",
            "version": 9,
            "digest": "0" * 64,
            "replica": 0,
            "state": "ready",
        }
        path = daemon.state / f"run/workers/{forged['id']}/status.json"
        path.parent.mkdir()
        path.write_text(json.dumps(forged))
        until(lambda: not path.exists(), "it is thrown away")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(forged))
        assert daemon.stop() == 0
        assert bystander.poll() is None
        bystander.kill()
