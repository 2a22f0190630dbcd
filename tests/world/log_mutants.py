"""Variants of the log that break one rule each: see `variants.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mldeploy.core.checkpoint import decode
from mldeploy.core.fold import refusal
from mldeploy.core.records import Action, Record, encode, format_time
from mldeploy.core.state import State
from mldeploy.errors import MldeployError, OutcomeUnknownError, StoreError
from mldeploy.store.log import Appended, Intent, record_key
from tests.world.actors import WatchedLog
from tests.world.faults import Weather
from tests.world.variants import Mutant, patched
from tests.world.world import Cast, Parts

# --- the log: facts about appending that each look harmless


class NaiveLog(WatchedLog):
    """One attempt for each number, and then what the variant says."""

    skipped = 0

    def write(self, intent: Intent, **given: Any) -> Appended | None:
        record_id = given["ids"]()
        self.refresh()
        for _ in range(20):
            actions = tuple(intent(self.state))
            problem = self.problem(actions) if actions else None
            if problem is not None:
                raise problem
            if not actions:
                return None
            seq = self.state.head + 1 + self.skipped
            data = encode(
                Record(seq=seq, id=record_id, prev=self.state.head_sha256, time=format_time(given["now"]),
                       actor=given["actor"], actions=actions)
            )  # fmt: skip
            try:
                won = self.attempt(record_key(seq), data)
            except OutcomeUnknownError as error:
                self.unanswered(error)
                continue
            if won or self.taken(seq, data):
                self.refresh()
                truth = self.world_monitor.truth  # which may not reach so far: "taken" may be said of nothing
                return Appended(seq, record_id, truth[seq] if seq < len(truth) else self.state)
        raise StoreError("it was not written", "run it again")

    def problem(self, actions: Sequence[Action]) -> MldeployError | None:
        """Why a record of these would be void. Sound: ask the fold."""
        return refusal(self.state, actions)

    def attempt(self, key: str, data: bytes) -> bool:
        """Whether it was written. Sound: only where nothing stands."""
        return self.process.store.create(key, data)

    def unanswered(self, error: OutcomeUnknownError) -> None:
        """The attempt may have been written. Sound: the same bytes at the same number again."""
        raise error

    def taken(self, seq: int, data: bytes) -> bool:
        """Whether what stands there is ours. Sound: read it."""
        self.refresh()
        found = self.process.store.get(record_key(seq))
        return found is not None and found.data == data


class AppendsElsewhere(NaiveLog):
    """After a timeout it appends at the next number."""

    def unanswered(self, error: OutcomeUnknownError) -> None:
        self.refresh()


class Skips(NaiveLog):
    """After a timeout it leaves the number free, in case that the write arrives."""

    def unanswered(self, error: OutcomeUnknownError) -> None:
        head = self.state.head
        self.refresh()
        self.skipped = int(self.state.head == head)


class Overwrites(NaiveLog):
    """What stands at the number is written over."""

    def attempt(self, key: str, data: bytes) -> bool:
        self.process.store.put(key, data)
        return True


class AsksNobody(NaiveLog):
    """It is written whether it fits or not."""

    def problem(self, actions: Sequence[Action]) -> MldeployError | None:
        return None


class GivesUp(NaiveLog):
    """A timeout is a failure."""

    def unanswered(self, error: OutcomeUnknownError) -> None:
        raise StoreError(error.message, error.hint) from error


class TakenIsFailure(NaiveLog):
    """What is taken (412) was taken by another."""

    def taken(self, seq: int, data: bytes) -> bool:
        self.refresh()
        return False


class TakenIsMine(NaiveLog):
    """What is taken (412) is its own success, which some driver retried."""

    def taken(self, seq: int, data: bytes) -> bool:
        return True


class Forgetful(WatchedLog):
    """A store that cannot be read holds nothing."""

    def refresh(self, limit: int | None = None) -> int:
        try:
            return super().refresh(limit)
        except StoreError:
            self._state = State()
            self.world_looks()
            raise


def _half_of_it(data: bytes, *, any_fold: bool = False) -> State:
    """A checkpoint that leaves something out."""
    return msgspec.structs.replace(decode(data, any_fold=any_fold), environments={})


def fair() -> Weather:
    """Nothing goes wrong, but for answers that take a while."""
    return Weather({}, {}, latency=0.2)


LOGS = Cast(writers=4, pushers=1, collectors=0, vandals=0, hosts=0, storm=600.0)

LOG_MUTANTS = {
    "append at the next number after a timeout": Mutant(
        "duplicate|ghost", Parts(log=AppendsElsewhere), cast=LOGS
    ),
    "a number is left free after a timeout": Mutant("gap", Parts(log=Skips), cast=LOGS),
    "what stands there is written over": Mutant(
        "changed record", Parts(log=Overwrites), cast=LOGS, weather=fair,
    ),
    "nobody asks whether it fits": Mutant("record .* is void", Parts(log=AsksNobody), cast=LOGS),
    "a timeout is a failure": Mutant("ghost", Parts(log=GivesUp), cast=LOGS),
    "taken is a failure": Mutant("duplicate|ghost", Parts(log=TakenIsFailure), cast=LOGS),
    "taken is a success": Mutant("lost: .* was acknowledged", Parts(log=TakenIsMine), cast=LOGS),
    "a store that cannot be read is empty": Mutant("went back", Parts(log=Forgetful), cast=LOGS),
    "half a checkpoint": Mutant(
        "folds the log .* to another state", cast=LOGS,
        patches=(patched("mldeploy.core.checkpoint.decode", _half_of_it),),
    ),
}  # fmt: skip
