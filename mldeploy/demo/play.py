"""The acts of the demo that measure: predictions against labels, and swaps under constant load.

Rules: a figure that is shown was counted here; a promise that did not hold raises DemoError with the numbers.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from mldeploy.demo.load import Load, Tally, v2_answer, v2_request
from mldeploy.demo.scene import MODEL, HeldOut
from mldeploy.errors import MldeployError

if TYPE_CHECKING:
    from mldeploy.client import Client
    from mldeploy.core.types import ModelRef
    from mldeploy.progress import Reporter

CONNECTIONS = 32
PATH = f"/v2/models/{MODEL}/infer"
_BATCH = 50
_STEADY_SECONDS = 2.0
_ANSWERS = 500
_WAIT_SECONDS = 120.0


class DemoError(MldeployError):
    """Something the demo promises did not hold."""


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions checked against what is known."""

    rows: int
    accuracy: float  # against the labels
    disagreements: int  # with what the model answered where it was trained


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """One change of version under load. Latencies in milliseconds."""

    change: str
    seconds: float  # from the command until every host had converged
    p99_before_ms: float
    p99_during_ms: float


class UnderLoad(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the load saw."""

    connections: int
    requests: int
    failed: int
    disagreements: int
    requests_per_second: float
    answers: dict[str, int]
    swaps: tuple[Swap, ...]


def check_answers(host: str, port: int, held_out: HeldOut, version: int) -> Accuracy:
    """Send every held-out row, some rows at a time, and compare with labels and with the trained model."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    got: list[object] = []
    try:
        for first in range(0, len(held_out.rows), _BATCH):
            body = v2_request("x", "FP64", held_out.rows[first : first + _BATCH])
            connection.request("POST", PATH, body)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status != 200:
                raise DemoError(f"a prediction was answered {answer.status}: {data[:200]!r}")
            served, values = v2_answer(data)
            if served != str(version):
                raise DemoError(f"version {served} answered where {version} was promoted")
            got += values
    except OSError as error:
        raise DemoError(f"the daemon does not answer on {host}:{port}: {error}") from error
    finally:
        connection.close()
    wrong = sum(a != b for a, b in zip(got, held_out.answers[version], strict=True))
    if wrong:
        raise DemoError(f"{wrong} of {len(got)} answers differ from those of the trained model")
    right = sum(a == b for a, b in zip(got, held_out.labels, strict=True))
    return Accuracy(rows=len(got), accuracy=right / len(got), disagreements=wrong)


def swap_under_load(
    host: str, port: int, held_out: HeldOut, client: Client, second: ModelRef, reporter: Reporter
) -> UnderLoad:
    """Promote `second` and roll back while 32 connections never pause."""
    load = Load(host, port, PATH, held_out.bodies(), held_out.check(), CONNECTIONS)
    began = time.monotonic()
    load.start()
    try:
        _run_until(load, _STEADY_SECONDS)
        reporter.step(f"promoting {second} under load")
        forward = _measured(load, f"promote {second}", client, lambda: client.promote(str(second)))
        _run_until(load, _STEADY_SECONDS)
        reporter.step("rolling back under load")
        back = _measured(load, f"rollback {MODEL}", client, lambda: client.rollback(MODEL))
        _run_until(load, _STEADY_SECONDS / 2)
    finally:
        tally = load.stop()
    seen = UnderLoad(
        connections=CONNECTIONS,
        requests=tally.total,
        failed=len(tally.failures),
        disagreements=len(tally.disagreements),
        requests_per_second=round(tally.total / (time.monotonic() - began)),
        answers=dict(sorted(tally.answers.items())),
        swaps=(forward, back),
    )
    _judge(seen, tally)
    return seen


def _measured(load: Load, name: str, client: Client, change: Callable[[], object]) -> Swap:
    start = time.monotonic()
    change()
    client.wait(MODEL, timeout=_WAIT_SECONDS)
    end = time.monotonic()
    before = load.tally.percentile(0.99, start - _STEADY_SECONDS, start)
    during = load.tally.percentile(0.99, start, end)
    return Swap(
        change=name,
        seconds=round(end - start, 3),
        p99_before_ms=round(before * 1000, 2),
        p99_during_ms=round(during * 1000, 2),
    )


def _run_until(load: Load, seconds: float) -> None:
    """Let the load run on, for so long and until it has been answered often enough to speak of a p99."""
    start, before = time.monotonic(), load.tally.total
    while time.monotonic() < start + seconds or load.tally.total < before + _ANSWERS:
        if time.monotonic() > start + _WAIT_SECONDS:
            raise DemoError("the daemon hardly answers", "see the daemon's log")
        time.sleep(0.02)


def _judge(seen: UnderLoad, tally: Tally) -> None:
    if seen.failed or seen.disagreements:
        first = (tally.failures + tally.disagreements)[0]
        raise DemoError(
            f"{seen.failed} requests failed and {seen.disagreements} disagreed; the first: {first}"
        )
    if len(seen.answers) != 2:
        raise DemoError(f"both versions should have answered under load, but {seen.answers} did")
