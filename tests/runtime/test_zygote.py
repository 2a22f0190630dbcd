"""The zygote: one environment imported once, one fork a worker, and how workers end."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from mldeploy.runtime import process, scratch
from tests.runtime.helpers import ONE, Bundle, Host, wait_until

# the classes below are not where a worker could import them from
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_status_ping_and_what_is_no_request(host: Host) -> None:
    status = host.start(imports=["numpy.linalg", "nothing_of_that_name", "json"])
    assert host.zygote is not None
    assert status["pid"] == host.zygote.pid
    assert status["start_ticks"] == process.start_ticks(host.zygote.pid)
    assert status["threads"] == 1
    assert list(status["failed_imports"]) == ["nothing_of_that_name"]
    control = host.control()
    assert control.ask({"op": "ping"}) == {"ok": True, "pid": status["pid"], "workers": []}
    for bad in (["no"], {"op": "dance"}, {"op": "fork"}, {"op": "fork", "worker": {"id": 3}}, "x" * 1000):
        assert control.ask(bad)["ok"] is False
    # a request in two parts, and two in one
    control.socket.sendall(b'{"op":')
    control.socket.sendall(b'"ping"}\n{"op":"ping"}\n')
    assert control.read()["ok"]
    assert control.read()["ok"]
    endless = host.control()
    try:
        endless.socket.sendall(b"x" * (3 << 20))
    except (BrokenPipeError, ConnectionResetError):
        pass
    else:
        assert endless.socket.recv(1) == b""
    assert control.ask({"op": "ping"})["ok"]


def test_runs_no_model_code_and_has_imported_ahead(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    code = """
import sys
AHEAD = "numpy.fft" in sys.modules
class Model:
    def predict(self, x):
        return x.sum(axis=1) + (0 if AHEAD else 1)
"""
    host.start(imports=["numpy.fft"])
    worker = host.fork(make_bundle().code(code).sums()).ready()
    assert worker.front().ask(ONE)[0] == 200
    assert host.control().ask({"op": "ping"})["workers"] == [worker.pid]


def test_an_import_that_starts_a_thread_is_left_out(host: Host, sums: Bundle, tmp_path: Path) -> None:
    environment = tmp_path / "threaded"
    (environment / "site").mkdir(parents=True)
    for package in (host.environment / "site").iterdir():
        (environment / "site" / package.name).symlink_to(package)
    (environment / "site" / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    host.environment = environment
    status = host.start(imports=["threaded"], read=["bundles", str(tmp_path)], confine="off")
    assert status["threads"] == 1
    assert "started threads" in (host.state / "zygote.log").read_text()
    host.fork(sums).ready()


def test_a_crash_in_load_says_the_signal(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    crash = make_bundle("crash").code(
        "import os, signal\nclass Model:\n    def load(self, path): os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    worker = host.fork(crash.sums())
    assert worker.settled() == {}  # its end, without a word
    status = worker.ended()
    assert (status["state"], status["stage"]) == ("failed", "load")
    assert status["reason"] == "killed by signal 11 (SIGSEGV)"
    assert status["pid"] == worker.pid
    leaving = make_bundle("exit").code("import os\nclass Model:\n    def load(self, path): os._exit(3)\n")
    worker = host.fork(leaving.sums())
    assert worker.settled() == {}
    assert worker.ended()["reason"] == "exited with status 3"


def test_a_worker_killed_while_serving_is_told_of(host: Host, sums: Bundle) -> None:
    worker = host.fork(sums).ready()
    other = host.fork(sums).ready()
    worker.kill(signal.SIGKILL)
    assert worker.control.read() == {}
    status = worker.ended()
    assert (status["state"], status["reason"]) == ("exited", "killed by signal 9 (SIGKILL)")
    assert status["memory_bytes"] > 0  # what it said before is kept
    assert host.control().ask({"op": "ping"})["workers"] == [other.pid]
    assert other.front().ask(ONE)[0] == 200


def test_workers_outlive_their_zygote(host: Host, sums: Bundle) -> None:
    workers = [host.fork(sums).ready() for _ in range(2)]
    fronts = [worker.front() for worker in workers]
    assert host.zygote is not None
    host.zygote.kill()
    host.zygote.wait()
    for worker, front in zip(workers, fronts, strict=True):
        assert front.ask(ONE)[0] == 200
        assert worker.front().ask(ONE)[0] == 200
    workers[0].kill(signal.SIGTERM)
    assert workers[0].ended()["state"] == "exited"
    # and a new one takes its place
    (host.state / "run/zygote.json").unlink()
    host.start()
    assert host.fork(sums).ready().front().ask(ONE)[0] == 200


def test_workers_outlive_whoever_asked_for_them(host: Host, sums: Bundle) -> None:
    worker = host.fork(sums).ready()
    worker.control.socket.close()
    assert worker.front().ask(ONE)[0] == 200
    early = host.fork(sums)
    early.control.socket.close()
    wait_until(early.listens, "the worker nobody waits for")
    assert early.front().ask(ONE)[0] == 200


def test_hold_false_lets_the_connection_go(host: Host, sums: Bundle) -> None:
    worker = host.fork(sums, hold=False).ready()
    assert worker.control.read() == {}
    assert worker.front().ask(ONE)[0] == 200


def test_stop_waits_for_its_workers_and_sigterm_does_not(host: Host, sums: Bundle) -> None:
    worker = host.fork(sums).ready()
    assert host.control().ask({"op": "stop"}) == {"ok": True}
    wait_until(lambda: not (host.state / "run/zygote.sock").exists(), "the zygote to stop listening")
    assert host.zygote is not None
    assert host.zygote.poll() is None
    assert worker.front().ask(ONE)[0] == 200
    worker.kill(signal.SIGTERM)
    assert host.zygote.wait(30) == 0
    (host.state / "run/zygote.json").unlink()
    host.start()
    worker = host.fork(sums).ready()
    host.zygote.terminate()
    assert host.zygote.wait(30) == 0
    assert not (host.state / "run/zygote.sock").exists()
    assert worker.front().ask(ONE)[0] == 200


def test_replicas_have_random_streams_of_their_own(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    code = """
import random
import numpy as np
class Model:
    def load(self, path):
        self.drawn = np.array([random.random(), np.random.random()])
    def predict(self, x):
        return np.repeat(self.drawn[None], len(x), axis=0)
"""
    bundle = make_bundle()
    bundle.manifest["signature"]["outputs"] = [{"name": "y", "datatype": "FP64", "shape": [-1, 2]}]
    bundle.code(code).sample(ONE, [])
    drawn = [host.fork(bundle).ready().front().ask(ONE)[1]["outputs"][0]["data"] for _ in range(3)]
    assert len({value for pair in drawn for value in pair}) == 6


def test_threads_are_set_by_library_call(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    code = """
import os
import numpy as np
class Model:
    def predict(self, x):
        a = np.ones((600, 600))
        a @ a
        return np.full(len(x), float(len(os.listdir("/proc/self/task"))))
"""
    bundle = make_bundle().code(code).sample(ONE, [])
    counts = [
        host.fork(bundle, threads=threads).ready().front().ask(ONE)[1]["outputs"][0]["data"]
        for threads in (1, 2)
    ]
    assert counts == [[1.0], [2.0]]
    assert host.zygote is not None
    assert len(list(Path(f"/proc/{host.zygote.pid}/task").iterdir())) == 1


def test_replicas_share_the_pages_of_a_mapped_array(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    size = 96 << 20
    table = np.ones((size // 8 // 4, 4))
    bundle = make_bundle().object(Lookup(table), method="predict").sums(1.0, 2.0)
    assert (bundle.folder / "model/model.pkl").stat().st_size < 10_000
    assert (bundle.folder / bundle.manifest["entry"]["buffers"][0]).stat().st_size == size
    del table
    workers = [host.fork(bundle).ready() for _ in range(2)]
    for worker in workers:
        # every page was read by the samples
        assert worker.front().ask(ONE)[1]["outputs"][0]["data"] == [10.0]
    memory = [process.memory(worker.pid) for worker in workers]
    for one in memory:
        assert one.rss > size
        assert one.private < size // 8
    assert sum(one.pss for one in memory) < 1.4 * size
    # what one of them writes is its own, and never reaches the file
    writer = host.fork(make_bundle("writer").object(Lookup(np.ones((1000, 4)), 5.0)).sums(1.0)).ready()
    assert writer.front().ask(ONE)[1]["outputs"][0]["data"] == [10.0]
    buffer = make_bundle("other").folder.parent / "writer/model/buffer-0"
    assert np.all(np.frombuffer(buffer.read_bytes()) == 1.0)


class Lookup:
    """Reads the whole of its table at every prediction, and may write to it."""

    def __init__(self, table: object, write: float = 0.0) -> None:
        self.table = table
        self.write = write

    def predict(self, x):  # type: ignore[no-untyped-def]
        if self.write:
            self.table[:] = self.write
            self.table[:] = 1.0
        return (x * self.table.max(axis=0)).sum(axis=1)


def test_empty_buffers_are_loaded(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle()
    model = Lookup(np.ones((1, 4)))
    model.nothing = np.zeros((0, 5))  # type: ignore[attr-defined]
    bundle.object(model).sums()
    sizes = [(bundle.folder / name).stat().st_size for name in bundle.manifest["entry"]["buffers"]]
    assert 0 in sizes
    assert host.fork(bundle).ready().front().ask(ONE)[0] == 200


def test_temporary_files_and_caches_are_in_a_folder_of_the_workers_own(
    host: Host, make_bundle: Callable[..., Bundle]
) -> None:
    code = """
import os, tempfile
import numpy as np
NAMES = ("TMPDIR", "HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")
class Model:
    def predict(self, x):
        kept = tempfile.NamedTemporaryFile(delete=False)
        said = [os.path.dirname(kept.name), *(os.environ[name] for name in NAMES)]
        return np.array([said] * len(x))
"""
    bundle = make_bundle()
    bundle.manifest["signature"]["outputs"] = [{"name": "y", "datatype": "BYTES", "shape": [-1, 6]}]
    bundle.code(code).sample(ONE, [])
    (host.state / "run/zygote-tmp").mkdir()
    host.start(scratch="run/zygote-tmp")
    for name in ("w-1", "w-2"):
        folder = f"run/{name}/tmp"
        worker = host.fork(bundle, scratch=folder, write=[]).ready()
        said = worker.front().ask(ONE)[1]["outputs"][0]["data"]
        assert set(said) == {str(host.state / folder)}
        assert list((host.state / folder).iterdir())


def test_what_was_imported_before_looks_for_its_folder_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    numba = types.SimpleNamespace(reload_config=lambda: looked.append(os.environ["NUMBA_CACHE_DIR"]))
    monkeypatch.setitem(sys.modules, "numba.core.config", numba)  # type: ignore[arg-type]
    monkeypatch.setattr(tempfile, "tempdir", "/where/the/zygote/was")
    for name in scratch._VARIABLES:
        monkeypatch.setenv(name, "/where/the/zygote/was")
    scratch.use_scratch(str(tmp_path))
    assert tempfile.gettempdir() == str(tmp_path) and looked == [str(tmp_path)]


def test_status_files_are_always_whole(host: Host, sums: Bundle) -> None:
    worker = host.fork(sums)
    seen = set()
    path = host.state / worker.spec["status"]
    wait_until(path.exists, "a status")
    while "ready" not in seen:
        seen.add(json.loads(path.read_text())["state"])
    assert seen <= {"loading", "ready"}
    assert list((host.state / "run").rglob("*.tmp")) == []


def test_a_zygote_left_over_socket_file_is_no_obstacle(host: Host, sums: Bundle) -> None:
    (host.state / "run/zygote.sock").write_bytes(b"")
    host.start()
    assert host.fork(sums).ready().front().ask(ONE)[0] == 200


def test_code_is_one_module_for_pickles_too(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle()
    (bundle.folder / "code" / "helper_of_model.py").write_text("def total(x): return x.sum(axis=1)\n")
    module = types.ModuleType("helper_of_model")
    exec("def total(x): return x.sum(axis=1)", module.__dict__)
    sys.modules["helper_of_model"] = module
    try:
        bundle.object(module.total, method="__call__").sums()
    finally:
        del sys.modules["helper_of_model"]
    assert host.fork(bundle).ready().front().ask(ONE)[0] == 200
