"""What carries files to and from S3: the clients, the gate that all transfers of a store share, and retries.

Rules: a request is tried again within a bound, and the gate is told what came of it: how many run at once
grows while that pays, and shrinks where the store throttles or does not answer in time.
Left out: uploads (`store/s3_upload.py`) and downloads (`store/s3_download.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from mldeploy.errors import MldeployError
from mldeploy.store.pace import Gate
from mldeploy.store.retry import Patience, Verdict, persist
from mldeploy.store.s3_errors import passing, throttled
from mldeploy.store.s3_heard import Failed, heard
from mldeploy.store.s3_parts import Multipart
from mldeploy.store.s3_requests import Requests

T = TypeVar("T")

#: Bytes of parts and ranges in memory, for all transfers of a store together.
BUDGET = 64 << 20
#: A part may take long, so that more than for a small request is left for another attempt.
PATIENCE = Patience(bound=120.0, first=0.2, most=5.0)


@dataclass(frozen=True, slots=True)
class Wire:
    """What carries the transfers of one store."""

    requests: Requests
    multipart: Multipart
    url: str
    gate: Gate = field(default_factory=lambda: Gate(BUDGET))
    patience: Patience = PATIENCE
    pool: Callable[[int], Executor] = ThreadPoolExecutor
    monotonic: Callable[[], float] = time.monotonic

    def ask(self, attempt: Callable[[], T], count: int | None = 0) -> T:
        """What `attempt` returns, tried again where that may help; `count`: the bytes it moves, None where
        the caller tells the gate, once they have come.
        """
        begun = 0.0

        def once() -> T:
            nonlocal begun
            begun = self.gate.now()
            return attempt()

        result = persist(once, lambda error: self.judge(error, begun), self.url, self.patience)
        if count is not None:
            self.gate.done(count)
        return result

    def judge(self, error: Exception, begun: float | None = None) -> Verdict:
        """What a failed request says, which was sent then by the gate's clock; the gate is told."""
        if isinstance(error, MldeployError):
            return Verdict(again=False)
        failure = heard(error)
        slower = throttled(failure) or failure.status == 503 or failure.cause == "timeout"
        if slower:
            early = error.sent if isinstance(error, Failed) else None
            self.gate.throttled(begun if early is None else early)
        return Verdict(
            again=passing(failure),
            throttled=slower,
            connected=failure.cause not in ("refused", "unresolved", "unreachable"),
        )
