"""Confinement, asked of the kernel that runs the tests."""

from __future__ import annotations

import ctypes
import json
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mldeploy.runtime.syscalls import MACHINES, build_filter
from tests.runtime.helpers import BOOT, ONE, PYTHON, Bundle, Host

#: Tries everything a model must not do; the answer's strings say what happened. Chosen to do no harm where
#: nothing confines it: it writes inside the test's folder alone, and system calls get senseless arguments.
PROBE = """
import ctypes, os, signal, socket, subprocess, tempfile
import numpy as np

def tried(do):
    try:
        do()
    except OSError as error:
        return type(error).__name__
    except Exception as error:
        return repr(error)
    return "done"

def write(path):
    with open(path, "w") as file:
        file.write("x")

def unix(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(path))

def call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

class Model:
    def load(self, path):
        self.path = path
    def predict(self, x):
        bundle = self.path.parent
        outside = bundle.parent.parent / "outside"
        results = {
            "own": tried(lambda: open(bundle / "manifest.yaml").read()),
            "write own": tried(lambda: write(bundle / "manifest.yaml")),
            "unlink own": tried(lambda: os.unlink(bundle / "code" / "spare.py")),
            "mkdir own": tried(lambda: os.mkdir(bundle / "made")),
            "other": tried(lambda: open(bundle.parent / "other" / "manifest.yaml").read()),
            "outside": tried(lambda: open(outside).read()),
            "write outside": tried(lambda: write(outside)),
            "list": tried(lambda: os.listdir(outside.parent)),
            "truncate": tried(lambda: os.truncate(outside, 0)),
            "hosts": tried(lambda: open("/etc/hosts").read()),
            "root": tried(lambda: os.listdir("/")),
            "tcp": tried(lambda: socket.create_connection(("127.0.0.1", 1))),
            "udp": tried(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)),
            "netlink": tried(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
            "packet": tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
            "datagram": tried(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)),
            "routes": tried(lambda: write(bundle.parent.parent / "run" / "routes.json")),
            "sibling": tried(lambda: write(bundle.parent.parent / "run" / "w-other" / "status.json")),
            "hijack": tried(lambda: os.unlink(bundle.parent.parent / "run" / "w-other" / "socket")),
            "unix": tried(lambda: unix(bundle.parent.parent / "run" / "zygote.sock")),
            "signal": tried(lambda: os.kill(int(os.environ["OUTSIDE_PID"]), 0)),
            "ptrace": tried(lambda: call("ptrace", 1, -1, None, None)),
            "unshare": tried(lambda: call("unshare", 0)),
            "mount": tried(lambda: call("mount", None, None, None, 0, None)),
            "pair": tried(lambda: [s.close() for s in socket.socketpair()]),
            "scratch": tried(lambda: tempfile.TemporaryFile().close()),
            "random": tried(lambda: open("/dev/urandom", "rb").read(1)),
            "thread": tried(lambda: __import__("threading").Thread(target=int).start()),
            "process": tried(lambda: subprocess.run(["/bin/true"], check=True)),
        }
        return np.array([[f"{k}={v}" for k, v in results.items()]] * len(x))
"""
ALLOWED = {"own", "pair", "scratch", "random", "thread", "process"}
PROBES = 29


def landlock() -> int:
    """The kernel's Landlock ABI, 0 for none."""
    return max(ctypes.CDLL(None).syscall(444, None, 0, 1), 0)


LEVEL = f"landlock-{landlock()}+seccomp" if landlock() else "seccomp"


@pytest.fixture
def probe(make_bundle: Callable[..., Bundle], tmp_path: Path) -> Bundle:
    bundle = make_bundle("probe")
    make_bundle("other").code("")
    (tmp_path / "state" / "outside").write_text("secret")
    (tmp_path / "state" / "run" / "w-other").mkdir(parents=True)
    (tmp_path / "state" / "run" / "w-other" / "socket").touch()
    (bundle.folder / "code" / "spare.py").write_text("")
    bundle.manifest["signature"]["outputs"] = [{"name": "y", "datatype": "BYTES", "shape": [-1, PROBES]}]
    return bundle.code(PROBE).sample(ONE, [])


def results(host: Host, probe: Bundle, monkeypatch: pytest.MonkeyPatch, level: str) -> dict[str, str]:
    # a process outside that the worker could signal, were it not confined
    outside = subprocess.Popen([PYTHON, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        monkeypatch.setenv("OUTSIDE_PID", str(outside.pid))
        assert host.start(confine=level)["confinement"] == (LEVEL if level != "off" else "off")
        worker = host.fork(probe).ready()
        assert worker.status()["confinement"] == (LEVEL if level != "off" else "off")
        answer = worker.front().ask(ONE)[1]
        return dict(text.split("=", 1) for text in answer["outputs"][0]["data"])
    finally:
        outside.communicate(b"\n")


def test_a_confined_worker_reaches_nothing_outside(
    host: Host, probe: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not landlock():
        # fails closed, and says so where the agent looks
        assert host.start(confine="require")["state"] == "failed"
        return
    found = results(host, probe, monkeypatch, "require")
    assert {name for name, result in found.items() if result == "done"} == ALLOWED, found
    assert {result for name, result in found.items() if name not in ALLOWED} == {"PermissionError"}, found
    assert (host.state / "outside").read_text() == "secret"


def test_off_is_off(host: Host, probe: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    found = results(host, probe, monkeypatch, "off")
    for name in ("own", "outside", "hosts", "root", "datagram", "unix", "signal", "unshare"):
        assert found[name] == "done"


#: Makes the two system calls fail as on a kernel without them, then runs boot.py.
WITHOUT = """
import ctypes, json, runpy, struct, sys
def deny(numbers):
    op = lambda code, value, yes=0, no=0: struct.pack("=HBBI", code, yes, no, value)
    program = [op(0x20, 0)]
    for number in numbers:
        program += [op(0x15, number, 0, 1), op(0x06, 0x00050000 | 38)]
    code = b"".join([*program, op(0x06, 0x7FFF0000)])
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    given = Program(len(code) // 8, code)
    assert libc.prctl(22, 2, ctypes.c_ulong(ctypes.addressof(given)), 0, 0) == 0
deny(json.loads(sys.argv[1]))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
PRCTL = {"x86_64": 157, "aarch64": 167}


def without(numbers: list[int], mode: str, options: dict[str, object], cwd: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [PYTHON, "-I", "-S", "-c", WITHOUT, json.dumps(numbers), str(BOOT), mode, json.dumps(options)],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("missing", "part"), [([444], "Landlock"), ([PRCTL[platform.machine()]], "seccomp")])
def test_require_fails_closed_where_the_kernel_lacks_it(
    host: Host, sums: Bundle, missing: list[int], part: str
) -> None:
    options = {"environment": str(host.environment), "socket": "run/z.sock", "status": "run/z.json",
               "confine": "require", "write": ["run"]}  # fmt: skip
    code, _, stderr = without(missing, "zygote", options, host.state)
    assert code == 78
    assert part in stderr
    status = json.loads((host.state / "run/z.json").read_text())
    assert status["state"] == "failed"
    assert part in status["reason"]
    assert not (host.state / "run/z.sock").exists()
    check = {"environment": str(host.environment), "bundle": str(sums.folder), "confine": "require"}
    code, stdout, _ = without(missing, "check", check, host.state)
    assert code == 78
    result = json.loads(stdout)
    assert result["ok"] is False
    assert part in result["findings"][0]["message"]


def test_best_effort_takes_what_there_is(host: Host, sums: Bundle) -> None:
    check = {"environment": str(host.environment), "bundle": str(sums.folder), "confine": "best-effort"}
    code, stdout, _ = without([444], "check", check, host.state)
    assert code == 0
    assert json.loads(stdout)["confinement"] == "seccomp"


def test_bad_calls_of_boot(tmp_path: Path) -> None:
    for arguments in ([], ["zygote"], ["dance", "{}"], ["zygote", "{"], ["zygote", "{}"], ["zygote", "[]"]):
        done = subprocess.run(
            [PYTHON, "-I", "-S", str(BOOT), *arguments], cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode == 2, arguments
        assert done.stderr.startswith(b"usage: ")
    options = json.dumps({"environment": "x", "confine": "perhaps"})
    done = subprocess.run(
        [PYTHON, "-I", "-S", str(BOOT), "check", options], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 78
    assert b"perhaps" in done.stdout


def test_filters_are_programs_of_both_machines() -> None:
    for machine in MACHINES.values():
        code = build_filter(machine, deny_truncate=True)
        assert len(code) % 8 == 0
        assert len(code) // 8 < 4096  # the kernel's limit
        assert len(set(machine.numbers.values())) == len(machine.numbers)
