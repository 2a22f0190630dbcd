"""Long logs of many models, as a fleet of years writes them: for tests that count and benchmarks that time.

Every record is valid and none is void. Ten records a model make a cycle: four versions are published and
promoted, an expiry is moved, the oldest version is retired. A version brings six blobs of its own and reuses
the twelve wheels of one of forty environments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from mldeploy.core import records
from mldeploy.core.records import GENESIS, Action, Record
from mldeploy.store.log import record_key
from mldeploy.store.memory import MemoryStore

TIME = "2026-11-23T22:59:01.123Z"
#: Members of the fleet; their joins are the first records.
HOSTS = 50
_OWN, _WHEELS, _ENVIRONMENTS = 6, 12, 40


def long_log(count: int, models: int) -> Iterator[tuple[int, bytes]]:
    """`count` records over `models` models, chained, each with its number."""
    prev = GENESIS
    for seq, action in zip(range(1, count + 1), _actions(models), strict=False):
        record = Record(
            seq=seq, id=ulid(seq), prev=prev, time=TIME, actor=f"ci-{seq % 7}@example.com", actions=(action,)
        )
        data = records.encode(record)
        prev = hashlib.sha256(data).hexdigest()
        yield seq, data


def fill(store: MemoryStore, count: int, models: int) -> list[bytes]:
    """Put such a log into a store; returns its records in order."""
    found = []
    for seq, data in long_log(count, models):
        assert store.create(record_key(seq), data)
        found.append(data)
    return found


def ulid(number: int) -> str:
    """A valid ULID that sorts by `number`."""
    return f"01k{number:023d}"


def _actions(models: int) -> Iterator[Action]:
    for host in range(HOSTS):
        yield records.Join(host=f"host-{host}", hostname=f"h{host}.example", labels={"zone": f"z{host % 3}"})
    known: set[str] = set()
    number = 0
    for turn in range(1 << 30):
        cycle, step = divmod(turn, 10)
        for model in range(models):
            number += 1
            yield _action(model, cycle, step, number, known)


def _action(model: int, cycle: int, step: int, number: int, known: set[str]) -> Action:
    name = f"model-{model:05d}"
    version = cycle * 4 + step // 2 + 1
    if step == 8:
        return records.Extend(model=name, version=version - 1, expires=f"2031-01-{1 + cycle % 28:02d}")
    if step == 9:
        return records.Retire(model=name, version=cycle * 4 + 1, reason="expired and unused")
    if step % 2:
        return records.Promote(model=name, version=version, rollout=ulid(number))
    return _publish(name, model, version, number, known)


def _publish(name: str, model: int, version: int, number: int, known: set[str]) -> records.Publish:
    own = [_sha(f"{name}@{version}/{blob}") for blob in range(_OWN)]
    wheels = [_sha(f"wheel {(model % _ENVIRONMENTS) * 5 + wheel}") for wheel in range(_WHEELS)]
    new = [wheel for wheel in wheels if wheel not in known]
    known.update(new)
    sizes = {blob: 1_000 + number % 997 * (place + 1) for place, blob in enumerate(own)}
    return records.Publish(
        model=name, digest=own[0], push=ulid(number), brought={**sizes, **dict.fromkeys(new, 9_000_000)},
        reused=tuple(wheel for wheel in wheels if wheel not in new),
        owner=f"team-{model % 90}@example.com", expires="2030-01-01", python="3.11",
        platform="linux-x86_64", packed=TIME,
        metrics={"auc": 0.5 + number % 499 / 1000}, measured={"load_ms": 12.5, "memory_bytes": 1.5e8},
    )  # fmt: skip


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
