"""The demo, start to end: train, pack, push, serve, predict, swap under load, roll back, retire, look back.

Rules: everything goes through the commands' own functions (`mldeploy.Client`, the bundle package, a real
`mldeployd`); it succeeds only if all of it held; whatever happens, nothing is left running or lying about
unless `keep` was asked for and everything held.
"""

from __future__ import annotations

import shutil
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from mldeploy.bundle.scratch import Held, held_folder
from mldeploy.demo import play, scene
from mldeploy.demo.scene import MODEL
from mldeploy.errors import DaemonError, DiskError, UsageError

if TYPE_CHECKING:
    from mldeploy.client.types import Pushed
    from mldeploy.progress import Reporter

#: Two bundles, their wheels, the store's copies and an environment or three take a third of this.
_NEEDED_BYTES = 2 << 30


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. Sizes in bytes, times in seconds unless the name says otherwise."""

    store: str
    address: str
    kept: bool
    versions: tuple[str, ...]
    accuracy: play.Accuracy
    load: play.UnderLoad
    first_push_bytes: int
    second_push_bytes: int
    second_push_reused_bytes: int
    history: tuple[str, ...]
    seconds: float
    stop: str = ""  # how to stop what was kept


def run(*, store: str | None, listen: str, keep: bool, reporter: Reporter) -> dict[str, Any]:
    """Play it. `store`: a URL (default: a folder of the demo's own). `listen`: HOST:PORT of the daemon.

    Raises DaemonError for a port that is taken, DiskError without space, BuildError without an index, and
    DemoError where a promise did not hold.
    """
    began = time.monotonic()
    check_port(listen)
    with ExitStack() as cleanup:
        held = workspace(cleanup)
        result = _play(store, listen, keep, held, reporter, cleanup)
    took = msgspec.structs.replace(result, seconds=round(time.monotonic() - began, 1))
    _tell(took, reporter)
    answer: dict[str, Any] = msgspec.to_builtins(took)
    return answer


def _play(
    store: str | None, listen: str, keep: bool, held: Held, reporter: Reporter, cleanup: ExitStack
) -> Result:
    from mldeploy.client import Client
    from mldeploy.client.daemon import LocalDaemon

    folder = held.path
    client = Client(store or str(folder / "store"))
    packed, held_out = bundles(folder, client, reporter)
    pushed = [push(client, bundle, reporter) for bundle in packed]
    first, second = (push.ref for push in pushed)
    assert first is not None and second is not None  # only a dry run leaves the version open
    held_out = held_out.renumbered({1: first.version, 2: second.version})

    reporter.step("starting mldeployd")
    daemon = LocalDaemon(
        store=client.store, state=folder / "host", listen=listen, environment=client.environment,
        holds=(held.lock,),
    )  # fmt: skip
    daemon.start()
    cleanup.callback(daemon.stop)
    host, port = address_of(daemon.address)
    reporter.info(f"mldeployd serves on {daemon.address}")

    reporter.step(f"promoting {first}")
    client.promote(str(first))
    client.wait(MODEL, timeout=120)
    accuracy = play.check_answers(host, port, held_out, first.version)
    reporter.info(
        f"{accuracy.rows} held-out digits predicted over HTTP: {accuracy.accuracy:.1%} right, "
        "every answer that of the trained model"
    )
    load = play.swap_under_load(host, port, held_out, client, second, reporter)
    client.retire(str(second))
    client.wait(MODEL, timeout=120)
    reporter.info(f"{second} is retired")
    history = _look_back(client, reporter)
    stop = ""
    if keep:
        cleanup.pop_all()
        stop = f"kill {daemon.pid}; rm -r {folder}"
    return Result(
        store=client.store,
        address=daemon.address,
        kept=keep,
        versions=tuple(str(push.ref) for push in pushed),
        accuracy=accuracy,
        load=load,
        first_push_bytes=pushed[0].uploaded_bytes,
        second_push_bytes=pushed[1].uploaded_bytes,
        second_push_reused_bytes=pushed[1].reused_bytes,
        history=history,
        seconds=0.0,
        stop=stop,
    )


def bundles(folder: Path, client: Any, reporter: Reporter) -> tuple[list[Path], scene.HeldOut]:
    """Build the environment, train in it, and pack both models with the same lock."""
    from mldeploy.bundle.environment import build, collect_wheels, resolve
    from mldeploy.bundle.interpreters import find_interpreter
    from mldeploy.bundle.targets import default_platform, this_python

    python = this_python()
    reporter.step("resolving and collecting scikit-learn and what it needs")
    lock = resolve(scene.REQUIREMENTS, python, default_platform())
    wheels, environment = folder / "wheels", folder / "training"
    wheels.mkdir()
    collected = collect_wheels(lock, wheels)
    reporter.info(
        f"{len(collected)} wheels, {mib(sum(wheel.size for wheel in collected))} MiB, locked by hash"
    )

    reporter.step("building their environment, and training two models in it")
    (folder / "requirements.lock").write_bytes(lock)
    build(
        environment,
        lock=folder / "requirements.lock",
        wheels=wheels,
        python=python,
        compile_bytecode=False,
    )
    interpreter = find_interpreter(python)
    assert interpreter is not None  # build() would have raised
    held_out = scene.train(interpreter, environment / "site", folder / "trained")
    told = ", ".join(f"version {version} {held_out.accuracy(version):.1%}" for version in scene.VERSIONS)
    reporter.info(f"trained on two thirds of the digits; right on the rest: {told}")

    made = []
    for version in scene.VERSIONS:
        reporter.step(f"packing version {version}, and validating it in its own environment")
        source = scene.write_source(folder / f"source-{version}", version, lock, folder / "trained", held_out)
        packed = client.pack(source, out=folder / f"bundle-{version}", reporter=reporter)
        made.append(packed.folder)
        reporter.info(f"packed and validated: {packed.digest[:12]}")
    return made, held_out


def push(client: Any, bundle: Path, reporter: Reporter) -> Pushed:
    """Push a bundle, and say what went over the wire."""
    reporter.step("pushing")
    pushed: Pushed = client.push(bundle, reporter=reporter)
    sent, reused = mib(pushed.uploaded_bytes), mib(pushed.reused_bytes)
    reporter.info(f"pushed {pushed.ref}: {sent} MiB sent, {reused} MiB re-used")
    return pushed


def _look_back(client: Any, reporter: Reporter) -> tuple[str, ...]:
    status = client.status()
    for model in status.models:
        reporter.info(
            f"status: {model.model} in {model.environment}: stable {model.stable}, {model.state}, "
            f"{model.converged} of {model.hosts} hosts"
        )
    told = tuple(
        f"{event.seq:>3} {event.time} {event.actor}: {'; '.join(event.actions)}"
        for event in reversed(client.history().events)
    )
    for line in told:
        reporter.info(f"history: {line}")
    return told


def _tell(result: Result, reporter: Reporter) -> None:
    load = result.load
    reporter.info(
        f"under {load.connections} connections: {load.requests} requests, {load.failed} failed, "
        f"{load.disagreements} answers at odds with the version they name, {load.requests_per_second}/s"
    )
    for swap in load.swaps:
        reporter.info(
            f"{swap.change}: {swap.seconds:.2f} s, "
            f"p99 {swap.p99_before_ms} ms before, {swap.p99_during_ms} ms during"
        )
    reporter.info(
        f"the second push sent {mib(result.second_push_bytes)} MiB and re-used "
        f"{mib(result.second_push_reused_bytes)} MiB; all of it took {result.seconds} s"
    )
    if result.kept:
        reporter.info(f"left running: {result.address}, store {result.store}")
        reporter.info(f"to end it: {result.stop}")


def check_port(listen: str) -> None:
    """Say that a port is taken before minutes are spent, not after. Raises DaemonError."""
    try:
        host, port = address_of(f"http://{listen}")
    except UsageError as error:
        raise UsageError(f"--listen {listen!r} is not HOST:PORT", error.hint) from error
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise DaemonError(
            f"cannot listen on {listen}: {error.strerror or error}",
            "name a free one with --listen 127.0.0.1:PORT (port 0 takes any)",
        ) from error


def address_of(url: str) -> tuple[str, int]:
    """Host and port of a URL. Raises UsageError."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or port is None:
        raise UsageError(f"{url!r} is not HOST:PORT", "write for example 127.0.0.1:8080")
    return parts.hostname, port


def workspace(cleanup: ExitStack) -> Held:
    """A folder with room for a demo, removed by `cleanup`; its daemon is to hold it too. Raises DiskError."""
    held = cleanup.enter_context(held_folder())
    free = shutil.disk_usage(held.path).free
    if free < _NEEDED_BYTES:
        raise DiskError(
            f"{held.path.parent} has {mib(free)} MiB free, and the demo needs {mib(_NEEDED_BYTES)}",
            "free some space, or set TMPDIR to a folder on a larger disk",
        )
    return held


def mib(size: int) -> str:
    """Bytes as MiB, for people."""
    return f"{size / (1 << 20):.1f}"
