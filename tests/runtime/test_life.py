"""A worker's life: what keeps it from serving, how it ends, and what it says of it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mldeploy.runtime import process
from tests.runtime.helpers import (
    ONE,
    SLOW,
    Bundle,
    Front,
    Host,
    calls,
    go,
    infer,
    tensor,
    wait_until,
)


def test_sigterm_answers_all_it_has_received(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    worker = host.fork(make_bundle().code(SLOW).sums(), max_batch=1).ready()
    fronts = [worker.front() for _ in range(3)]
    before = len(calls(host))
    fronts[0].send(99, infer([[300.0, 0, 0, 0]]))
    wait_until(lambda: len(calls(host)) > before, "the slow call")
    worker.kill(signal.SIGTERM)
    for front in fronts:
        front.socket.sendall(b"".join(Front.frame(i, ONE) for i in range(20)) + Front.frame(1, ONE)[:30])
    late = worker.front()  # in the backlog
    late.send(7, ONE)
    go(host)
    assert fronts[0].answers(21)[99][0] == 200
    for front in fronts[1:]:
        assert {status for status, _ in front.answers(20).values()} == {200}
    assert late.answers(1)[7][0] == 200
    assert all(front.at_end() for front in (*fronts, late))
    assert worker.ended()["state"] == "exited"
    assert not worker.listens()
    assert worker.control.read()["state"] == "exited"
    assert worker.control.read() == {}


def test_sigterm_when_idle_and_while_loading(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    idle = host.fork(make_bundle("sums").code(SLOW).sums()).ready()
    front = idle.front()
    idle.kill(signal.SIGTERM)
    assert front.at_end()
    assert idle.ended()["state"] == "exited"
    code = "import time\nclass Model:\n    def load(self, path):\n        time.sleep(0.3)\n"
    code += "    def predict(self, x):\n        return x.sum(axis=1)\n"
    loading = host.fork(make_bundle("slow").code(code).sums())
    loading.kill(signal.SIGTERM)
    assert loading.ended()["state"] == "exited"
    assert not loading.listens()


def test_ends_although_a_front_never_takes_its_answers(
    host: Host, make_bundle: Callable[..., Bundle]
) -> None:
    code = "import numpy as np\nclass Model:\n    def predict(self, x):\n"
    code += "        return np.repeat(x[:, :1], 200_000, axis=1)\n"
    wide = make_bundle()
    wide.manifest["signature"]["outputs"] = [tensor("y", "FP64", -1, 200_000)]
    worker = host.fork(wide.code(code).sample(ONE, []), max_batch=2, drain=0.2).ready()
    deaf = worker.front()
    deaf.socket.sendall(Front.frame(1, ONE) * 4)
    wait_until(lambda: deaf.socket.recv(1), "an answer's first byte")
    worker.kill(signal.SIGTERM)
    assert worker.ended()["state"] == "exited"


@pytest.mark.parametrize(
    ("code", "stage", "reason"),
    [
        ("import nothing_of_that_name", "load", "No module named 'nothing_of_that_name'"),
        ("class Other: pass", "load", "has no attribute 'Model'"),
        ("class Model:\n    def load(self, path): raise SystemExit(3)", "load", "SystemExit"),
        ("class Model: pass", "load", "no method 'predict'"),
        ("class Model:\n    def predict(self, x): return x.sum(axis=1) + 1e-3", "samples", "1.001, packed"),
        ("class Model:\n    def predict(self, x): return x.mean(axis=0)[:3]", "samples", "packed with"),
        ("class Model:\n    def predict(self, x): return ['a', 'b', 'c']", "samples", "which is not FP64"),
        ("class Model:\n    def predict(self, x): return x", "samples", "shape [3, 4], not [-1]"),
        ("class Model:\n    def predict(self, x): return x.sum(axis=1)[:2]", "samples", "2 rows for 3 rows"),
        ("class Model:\n    def predict(self, x): raise RuntimeError('no')", "samples", "RuntimeError: no"),
        ("class Model:\n    def predict(self): return 1", "samples", "TypeError"),
        ("class Model:\n    def predict(self, x): return {'z': x.sum(axis=1)}", "samples", "outputs ['z']"),
        ("class Model:\n    def predict(self, x): return x.sum(axis=1) + (len(x) > 3)", "warmup", ""),
        ("class Model:\n    def predict(self, x): return x.sum(axis=1) + (len(x) < 2)", "samples", "batch"),
    ],
)  # fmt: skip
def test_what_fails_never_listens_and_says_why(
    host: Host, make_bundle: Callable[..., Bundle], code: str, stage: str, reason: str
) -> None:
    if stage == "warmup":
        code = "class Model:\n    def predict(self, x):\n        if len(x) > 20: raise MemoryError('big')\n"
        code += "        return x.sum(axis=1)\n"
        reason = "MemoryError: big"
    worker = host.fork(make_bundle().code(code).sums())
    line = worker.settled()
    assert (line["state"], line["stage"]) == ("failed", stage), line
    assert reason in line["reason"]
    assert worker.control.read() == {}
    assert worker.ended()["reason"] == line["reason"]
    assert not worker.listens()
    assert line["reason"] in worker.log()


def test_broken_bundles_say_which_file(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle().object({"not": "a model"})
    reasons = []

    def settle() -> None:
        line = host.fork(bundle).settled()
        assert line["state"] == "failed"
        reasons.append(line["reason"])

    settle()
    (bundle.folder / "model/model.pkl").write_bytes(b"\x80\x05garbage")
    settle()
    (bundle.folder / "model/model.pkl").unlink()
    settle()
    bundle.object(len, method="__call__", buffers=["../../../etc/passwd"])
    settle()
    bundle.manifest["protocol"] = 2
    bundle.write()
    settle()
    (bundle.folder / "manifest.yaml").write_text("name: churn\n")
    settle()
    (bundle.folder / "manifest.yaml").unlink()
    settle()
    for reason, part in zip(
        reasons,
        (
            "no method 'predict'",
            "model/model.pkl: UnpicklingError",
            "model/model.pkl: FileNotFoundError",
            "leaves the bundle",
            "runtime protocol 2",
            "not a manifest in canonical JSON",
            "manifest.yaml: cannot be read",
        ),
        strict=True,
    ):
        assert part in reason


def test_model_that_changes_directory_and_prints(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    code = """
import os, sys
class Model:
    def load(self, path):
        assert path.is_dir()
        os.chdir(path)
        print("loading from", path.name)
    def predict(self, x):
        print("asked", file=sys.stderr)
        return x.sum(axis=1)
"""
    worker = host.fork(make_bundle().code(code).sums()).ready()
    assert worker.front().ask(ONE)[0] == 200
    worker.kill(signal.SIGTERM)
    assert worker.ended()["state"] == "exited"
    assert not worker.listens()
    assert "loading from model\nasked" in worker.log()


def test_a_log_on_a_full_disk_fails_no_request(host: Host, make_bundle: Callable[..., Bundle]) -> None:
    code = """
import sys
class Model:
    def predict(self, x):
        print("asked")
        print("asked", "x" * 10_000, file=sys.stderr)
        if x[0, 0] == 13:
            raise KeyError("thirteen")
        if x[0, 0] == 14:
            sys.stderr.close()
            raise KeyError("fourteen")
        return x.sum(axis=1)
"""
    log = host.state / "run" / "full"
    log.symlink_to("/dev/full")
    worker = host.fork(make_bundle().code(code).sums(), log="run/full")
    assert worker.settled()["state"] == "ready"  # `ready` would read the log, which has no end
    front = worker.front()
    assert front.ask(infer([[13.0, 0, 0, 0]])) == (500, {"error": "KeyError: 'thirteen'"})
    assert front.ask(ONE)[0] == 200
    assert front.ask(infer([[14.0, 0, 0, 0]])) == (500, {"error": "KeyError: 'fourteen'"})
    assert front.ask(ONE) == (500, {"error": "ValueError: I/O operation on closed file."})


def test_a_model_that_prints_what_is_no_unicode_and_silences_its_output(
    host: Host, make_bundle: Callable[..., Bundle]
) -> None:
    """Its log stays open in its process: by that a new agent knows it."""
    code = """
import os
class Model:
    def load(self, path):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
    def predict(self, x):
        print("\\ud800")
        return x.sum(axis=1)
"""
    worker = host.fork(make_bundle().code(code).sums()).ready()
    assert worker.front().ask(ONE)[0] == 200
    opened = {each.readlink() for each in Path(f"/proc/{worker.pid}/fd").iterdir()}
    assert (host.state / worker.spec["log"]).resolve() in opened


def test_what_a_model_says_as_it_fails_to_load_need_not_be_unicode(
    host: Host, make_bundle: Callable[..., Bundle]
) -> None:
    code = """
class Model:
    def load(self, path):
        raise ValueError("no file \\udcff")
    def predict(self, x):
        return x
"""
    ended = host.fork(make_bundle().code(code).sums()).ended()
    assert (ended["state"], ended["stage"]) == ("failed", "load")
    assert "no file \\udcff" in ended["reason"]


def test_a_log_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    with path.open("ab") as log:
        log.write(b"a" * 1000 + b"end")
        log.flush()
        process.bound_log(str(path), limit=2000, tail=10)
        assert path.stat().st_size == 1003
        process.bound_log(str(path), limit=500, tail=10)
        log.write(b"more")
    assert path.read_bytes() == b"... cut ...\naaaaaaaendmore"
