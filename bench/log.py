"""The log: appending to a folder, and folding what was appended."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from mldeploy.core.fold import fold_many
from mldeploy.core.records import Extend, Join, Publish
from mldeploy.core.state import State
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import Log, record_key
from mldeploy.store.objects import open_store

_RECORDS = 1_000
_FOLDS = 20


def run() -> Iterator[str]:
    """Records a second each way, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"{folder}/store", create=True)
        log = Log(store)
        digest = "ab" * 32
        log.append(
            lambda _: [
                Publish(
                    model="m", digest=digest, push=new_ulid(), brought={digest: 1}, owner="o",
                    expires="2030-01-01", python="3.11", platform="linux-x86_64",
                )
            ],
            actor="bench", now=datetime.now(UTC),
        )  # fmt: skip
        began = time.perf_counter()
        for number in range(_RECORDS):
            action = (
                Extend(model="m", version=1, expires=f"2030-01-{2 + number % 27:02}")
                if number % 2
                else Join(host=f"h{number}")
            )
            log.append(lambda _, action=action: [action], actor="bench", now=datetime.now(UTC))
        append = _RECORDS / (time.perf_counter() - began)
        found = [
            (seq, fetched.data)
            for seq in range(1, log.state.head + 1)
            if (fetched := store.get(record_key(seq))) is not None
        ]
        began = time.perf_counter()
        for _ in range(_FOLDS):
            fold_many(State(), found)
        fold = _FOLDS * len(found) / (time.perf_counter() - began)
    yield f"append {append:8.0f} records/s (each fsynced, one writer)"
    yield f"fold   {fold:8.0f} records/s, {fold / append:.0f} × append"
