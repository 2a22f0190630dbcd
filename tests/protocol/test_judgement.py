"""The small world's copy of the fold, of the plan and of what may be deleted says what the real ones say, on
every log that the worlds reach: those in which writers keep the rules, and those with void records in them.
"""

from __future__ import annotations

import hashlib
import itertools
from datetime import timedelta

import pytest

from mldeploy.core import records
from mldeploy.core.collection import deletable, plan_collection, smallest_ulid
from mldeploy.core.fold import fold, refusal
from mldeploy.core.state import State
from mldeploy.store.blobs import blob_key
from tests.protocol.explore import explore
from tests.protocol.judgement import Action, Book, Publish, Restore, Retire, Rules, Sweep, judge, plan
from tests.protocol.world import Config

#: Rules that only writers keep: without one, void records get into the log.
CARELESS = ("intent_is_asked_again", "same_number_until_known")
WORLDS = {
    "two pushes": Config(operations=0),
    "two collectors": Config(pushes=(1,), collectors=(1, 1)),
    "a clock ahead": Config(pushes=(1, 1), ahead=1, operations=0),
    "retired twice": Config(pushes=(1,), operations=3),
    **{f"without {rule}": Config(pushes=(1,), rules=Rules().without(rule)) for rule in CARELESS},
}


def sha(blob: int) -> str:
    return hashlib.sha256(str(blob).encode()).hexdigest()


def shas(mask: int) -> tuple[str, ...]:
    return tuple(sha(blob) for blob in range(mask.bit_length()) if mask >> blob & 1)


def push_id(push: int) -> str:
    return smallest_ulid(2 * push + 1)


def horizon_id(horizon: int) -> str:
    """Above every smaller push, below all others."""
    return smallest_ulid(2 * horizon) if horizon else ""


class Real:
    """The same logs, folded by the real thing. A bundle is a model of its own, its last blob the manifest."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self._states: dict[int, State] = {0: State()}

    def state(self, log: int) -> State:
        """The real state after a log."""
        if log not in self._states:
            parent, number = self.book.logs[log]
            before, record = self.state(parent), self.book.records[number]
            written = records.Record(
                seq=record.seq, id=f"{number}", prev=self.state(record.base).head_sha256,
                time="2026-11-24T00:00:00Z", actor=record.writer,
                actions=(self.action(record.base, record.action),),
            )  # fmt: skip
            self._states[log] = fold(before, before.head + 1, records.encode(written))
        return self._states[log]

    def action(self, log: int, action: Action) -> records.Action:
        """The real action, as it is meant by one who has read `log`."""
        if isinstance(action, Publish):
            return records.Publish(
                model=f"m{action.bundle}", digest=shas(self.book.bundles[action.bundle])[-1], owner="o",
                push=push_id(action.push), brought=dict.fromkeys(shas(action.brought), 1),
                reused=shas(action.reused), expires="2030-01-01", python="3.11", platform="linux-x86_64",
            )  # fmt: skip
        if isinstance(action, Sweep):
            return records.Sweep(horizon=horizon_id(action.horizon), blobs=shas(action.blobs))
        versions = self.book.judged[log].versions
        bundle = versions[action.version].bundle
        number = 1 + sum(version.bundle == bundle for version in versions[: action.version])
        kind = records.Retire if isinstance(action, Retire) else records.Restore
        return kind(model=f"m{bundle}", version=number)


@pytest.mark.parametrize("name", WORLDS)
def test_the_copy_says_what_the_real_fold_says(name: str) -> None:
    config = WORLDS[name]
    found = explore(config, beyond_wrong=0 if config.rules == Rules() else 13)
    book = found.world.book
    real = Real(book)
    pushes, blobs = range(found.world.ids), range(found.world.blobs)
    for log, judged in enumerate(book.judged):
        state = real.state(log)
        assert state.head == judged.length
        assert state.voids == judged.length - len(judged.applied)
        assert state.horizon == horizon_id(judged.horizon)
        live = {sha(blob): push_id(push) for blob, push in enumerate(judged.live) if push >= 0}
        assert {sha256: blob.push for sha256, blob in state.blobs.items()} == live
        versions = sorted(
            (version.seq, name, set(version.blobs), bool(version.retired))
            for name, model in state.models.items()
            for version in model.versions.values()
        )
        assert [version[1:] for version in versions] == [
            (f"m{version.bundle}", set(shas(version.blobs)), version.retired) for version in judged.versions
        ]
        for horizon in pushes[1:]:
            planned = plan(book.rules, judged, horizon)
            sweep = plan_collection(state, 2 * horizon, timedelta(0), orphans=True)
            assert (sweep and (sweep.horizon, set(sweep.blobs))) == (
                planned and (horizon_id(planned.horizon), set(shas(planned.blobs)))
            )
        for blob, push in itertools.product(blobs, pushes):
            may_go = push < judged.horizon and judged.live[blob] != push
            assert deletable(state, blob_key(sha(blob), push_id(push))) == may_go
    assert any(state.voids for state in map(real.state, range(len(book.logs)))) == (config.rules != Rules())
    assert len(book.logs) > 30, len(book.logs)


def test_what_a_writer_is_refused_is_what_the_copy_calls_void() -> None:
    """Every action that is said in a small world, asked of every one of its logs."""
    book = explore(Config(pushes=(1,), operations=2)).world.book
    real = Real(book)
    said = sorted({record.action for record in book.records}, key=str)
    refused = 0
    for log, judged in enumerate(book.judged):
        for action in said:
            if isinstance(action, Retire | Restore) and action.version >= len(judged.versions):
                continue
            void = judge(book.rules, book.bundles, judged, action) is None
            problem = refusal(real.state(log), [real.action(log, action)])
            assert (problem is not None) == void, (log, action, problem)
            refused += void
    assert 100 < refused < len(book.judged) * len(said) - 100
