"""The log: records 1, 2, 3… in the store, each created exclusively, folded into the State.

How a record is written (`append`): read to the head, ask the intent what to do in that state, freeze the
bytes of the next number, create that key. Every answer but success is resolved by reading the key:
  - our own bytes are there: written, whatever was answered (a driver may have retried its own success);
  - another's are there: fold them, step aside for a moment, ask the intent again, go for the next number
    with the same id. That is safe, because a number that is taken can never become ours any more;
  - nothing is there: the same bytes at the same number again, never the next number, because the first
    attempt may still arrive;
  - the deadline passes: OutcomeUnknownError. Nothing is deleted; reading the log will tell.
A record that is missing below one that is known to have been written (a hole) would be filled by the next
writer, and another history begun there: so writers look for one first, and refuse.
Left out: reading (`store/reader.py`); who may write what.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b

from mldeploy.core.fold import refusal
from mldeploy.core.records import Action, Record, encode, format_time
from mldeploy.core.state import State
from mldeploy.errors import (
    MldeployError,
    NotAllowedError,
    NotFoundError,
    OutcomeUnknownError,
    RaceLostError,
    StoreError,
)
from mldeploy.store import checkpoints
from mldeploy.store.ids import new_ulid
from mldeploy.store.objects import Fetched
from mldeploy.store.reader import Reader
from mldeploy.store.tail import hole
from mldeploy.store.tail import record_key as record_key

#: Seconds that `append` goes on trying.
DEADLINE = 30.0

Intent = Callable[[State], Sequence[Action]]


@dataclass(frozen=True, slots=True)
class Appended:
    """A record that was written: its number and id, and the state right after it."""

    seq: int
    id: str
    state: State


class Log(Reader):
    """A reader that writes too. See `Reader` for what it is made of; not for several threads at once."""

    def append(
        self,
        intent: Intent,
        *,
        actor: str,
        now: datetime,
        ids: Callable[[], str] = new_ulid,
        deadline: float | None = DEADLINE,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Appended | None:
        """Write one record of the actions that `intent` gives for the present state; None if it gives none.

        `intent` is asked again whenever another writer was quicker, so it must decide from the state it is
        given alone. `now` is shown to people, `deadline` is in seconds (None: no limit). Raises what the
        intent raises; NotAllowedError or NotFoundError where the actions do not fit the state; RaceLostError
        where they did until another record came first; OutcomeUnknownError at the deadline; StoreError or
        DiskError where certainly nothing was written.
        """
        until = None if deadline is None else monotonic() + deadline
        clock = _Clock(until, monotonic, sleep)
        record_id = ids()
        self.refresh()
        self._look_for_hole()
        lost = 0
        while True:
            actions = self._decide(intent, lost)
            if not actions:
                return None
            state = self._state
            seq = state.head + 1
            record = Record(
                seq=seq,
                id=record_id,
                prev=state.head_sha256,
                time=format_time(now),
                actor=actor,
                actions=actions,
            )
            data = encode(record)
            there = self._commit(seq, data, clock)
            self._take(seq, there)
            if there == data:
                return Appended(seq, record_id, self._state)
            lost += 1
            if clock.late():
                raise RaceLostError(
                    f"{lost} other records came first, and the deadline has passed", "run it again"
                )
            clock.pause(_jitter(record_id, lost))
            self.refresh()

    def _look_for_hole(self) -> None:
        """LogHoleError where the log ends before a record that is there or that the hint names, or no longer
        has its head.
        """
        if self._state.head:
            self._refuse_other_head()
        beyond = self._state.head + 2
        if self._store.get(record_key(beyond)) is not None:
            self.refresh()  # others may just have written that far
            if self._state.head < beyond:
                raise hole(self._store, self._state.head + 1)
        self._known = checkpoints.read_hint(self._store)
        if self._state.head < self._checkpointed:
            self.refresh()  # others may just have written that far; else it raises

    def _decide(self, intent: Intent, lost: int) -> tuple[Action, ...]:
        try:
            actions = tuple(intent(self._state))
            problem = refusal(self._state, actions) if actions else None
            if problem is not None:
                raise problem
        except (NotAllowedError, NotFoundError) as error:
            if not lost:
                raise
            raise RaceLostError(f"another record came first, and now: {error.message}", error.hint) from error
        return actions

    def _commit(self, seq: int, data: bytes, clock: _Clock) -> bytes:
        """Try to write `data` at `seq`; returns the bytes that stand there for ever, ours or another's."""
        key = record_key(seq)
        unsure = False  # an attempt of ours may have been written, or may still be
        pause = 0.01
        while True:
            try:
                if self._store.create(key, data):
                    return data
                unsure = True  # "taken" may be our own write, retried on the way
            except OutcomeUnknownError:
                unsure = True
            except MldeployError:
                if not unsure:
                    raise
            found = self._look(key)
            if found is not None:
                return found.data
            if clock.late():
                raise OutcomeUnknownError(
                    f"it is not known whether record {seq} was written: the store did not answer in time",
                    "nothing was undone; look with `mldeploy history` before you run it again",
                )
            clock.pause(pause)
            pause = min(pause * 2, 1.0)

    def _look(self, key: str) -> Fetched | None:
        try:
            return self._store.get(key)
        except (StoreError, OutcomeUnknownError):
            return None  # tried again until the deadline


def _jitter(record_id: str, lost: int) -> float:
    """Seconds to step aside after a lost race, so that many writers do not meet at every number.

    Up to 16 ms at first and 128 ms at last, and random by the record's id: no two writers wait the same.
    """
    chance = int.from_bytes(blake2b(f"{record_id}{lost}".encode(), digest_size=4).digest()) / 2**32
    return chance * 0.008 * (1 << min(lost, 4))


@dataclass(frozen=True, slots=True)
class _Clock:
    until: float | None
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]

    def late(self) -> bool:
        return self.until is not None and self.monotonic() >= self.until

    def pause(self, seconds: float) -> None:
        if self.until is not None:
            seconds = min(seconds, max(self.until - self.monotonic(), 0.0))
        self.sleep(seconds)
