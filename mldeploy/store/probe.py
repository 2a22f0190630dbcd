"""Is this store fit to be one? Races exclusive creates and counts the winners.

Rules: in each of 200 rounds 16 threads create the same key at the same moment, and exactly one may win, and
what is there afterwards must be the winner's. A store that fails is refused before anything is in it: on
such a store two writers could both believe that they wrote the same record of the log.
A local folder is probed without fsync, which the exclusiveness of a hard link does not depend on; that is
why it takes a fraction of a second there.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

from mldeploy.errors import MldeployError, OutcomeUnknownError, StoreError
from mldeploy.store.ids import new_ulid
from mldeploy.store.objects import ObjectStore

ROUNDS = 200
RACERS = 16


def probe(store: ObjectStore, *, rounds: int = ROUNDS, racers: int = RACERS) -> None:
    """Race creates below `probe/`, and remove them again. Raises StoreError if the store fails."""
    base = f"probe/{new_ulid()}"
    keys = [f"{base}-{turn}" for turn in range(rounds)]
    made: list[str] = []
    few = -(-rounds // 10)  # what is blatantly unfit need not be raced to the end
    try:
        for some in (keys[:few], keys[few:]):
            made += some
            won = _race(store, some, racers)
            for turn, key in enumerate(some):
                _judge(store, key, [answers[turn] for answers in won])
    finally:
        with ThreadPoolExecutor(racers) as pool:
            list(pool.map(lambda key: _remove(store, key), made))


def _race(store: ObjectStore, keys: list[str], racers: int) -> list[list[bool | None]]:
    """What each racer was told of each key."""
    barrier = threading.Barrier(racers)

    def race(racer: int) -> list[bool | None]:
        try:
            return [_attempt(store, barrier, key, racer) for key in keys]
        except BaseException:
            barrier.abort()  # or the others would wait for ever
            raise

    with ThreadPoolExecutor(racers) as pool:
        running = [pool.submit(race, racer) for racer in range(racers)]
    errors = [error for error in (future.exception() for future in running) if error]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    return [future.result() for future in running]


def _remove(store: ObjectStore, key: str) -> None:
    with contextlib.suppress(MldeployError):  # what stays behind below probe/ harms nothing
        store.delete(key)


def _attempt(store: ObjectStore, barrier: threading.Barrier, key: str, racer: int) -> bool | None:
    barrier.wait()
    try:
        return store.create(key, str(racer).encode())
    except OutcomeUnknownError:
        return None


def _judge(store: ObjectStore, key: str, answers: list[bool | None]) -> None:
    found = store.get(key)
    winners = [racer for racer, won in enumerate(answers) if won]
    there = found.data.decode(errors="replace") if found else "nothing"
    # a racer whose answer was lost may be the one winner
    unsure = {str(racer) for racer, won in enumerate(answers) if won is None}
    if there in ({str(winner) for winner in winners} if winners else unsure) and len(winners) <= 1:
        return
    raise StoreError(
        f"{store.url} is not fit to be a store: of {len(answers)} creates of one key at the same moment "
        f"{len(winners)} were told that they had won, and {there!r} is there; two writers could both believe "
        "that they wrote the same record",
        "use a store with an exclusive create: a local folder, or S3 with conditional writes",
    )
