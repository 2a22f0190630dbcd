"""A small world of pushes, collections and an operator on one store, as states and the steps between them.

Every step that the others can see is a step of its own, and any actor may stand still for ever: so a crash is
any state an actor is not heard of again in. What has been asked of the store and not been answered is a part
of the state: a create, a PUT or a DELETE that is under way may arrive at any later time, or never, whatever
became of who sent it. Acknowledgements get lost: whoever waits for one goes by what it reads.

  push        draws an id · reads the log · uploads what the state does not have · reads again and creates its
              record · reads what stands at that number · begins again where it was swept. It may be cut off
              and resumed from its journal, or begun anew; a PUT may arrive a second time.
  collection  reads, takes any horizon up to now (so clocks and graces of every kind) and creates its sweep ·
              reads what stands there · deletes what the state so reached lets go, all at once.
  operator    retires and restores.

A blob's key names its digest, so what bytes are in it is not in question; a record's key is, and a create is
exclusive. `Config` says how much of all this there is. `World.wrong` is the invariant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.protocol.judgement import (
    Action,
    Book,
    Judged,
    Publish,
    Record,
    Restore,
    Retire,
    Rules,
    Sweep,
    has_live,
    judge,
    needed,
    plan,
)

START, READ, UPLOAD, APPEND, WAIT, DONE = range(6)
PUBLISHED, FOUND, FAILED, GAVE_UP = range(1, 5)


class Push(NamedTuple):
    """One who pushes. `brought` and `journal` are masks of blobs: to be named, and uploaded."""

    at: int = START
    id: int = -1
    tries: int = 0
    brought: int = 0
    journal: int = 0
    record: int = -1  # being created, or acknowledged
    crashes: int = 0  # still to come
    outcome: int = 0


class Collector(NamedTuple):
    """One who collects."""

    at: int = READ
    record: int = -1  # the sweep being created
    runs: int = 1  # still to come, this one included


class State(NamedTuple):
    """`store`, `puts` and `deletes` are masks of keys; `creates` are records under way."""

    log: int
    store: int
    puts: int
    deletes: int
    creates: frozenset[int]
    beyond: frozenset[int]  # created at a number behind a hole
    drawn: int  # push ids
    operations: int
    again: int  # PUTs that may arrive twice
    pushes: tuple[Push, ...]
    collectors: tuple[Collector, ...]


@dataclass(frozen=True)
class Config:
    """How large the world is. Blob 0 is what version 0 needs; `pushes` are the bundles being pushed."""

    bundles: tuple[int, ...] = (0b01, 0b11, 0b01)  # masks of blobs; bundle 0 is published already
    pushes: tuple[int, ...] = (1, 2)
    collectors: tuple[int, ...] = (1,)  # how often each runs
    operations: int = 1
    crashes: tuple[int, ...] = ()  # of the first push, the second
    again: int = 0
    ahead: int = 0  # how far the clock of a collector may be ahead
    rules: Rules = field(default_factory=Rules)


Step = tuple[tuple[object, ...], State]  # who does what, and what it leads to


class World:
    """The steps of one Config."""

    def __init__(self, config: Config) -> None:
        self.config, self.rules = config, config.rules
        self.blobs = max(bundle.bit_length() for bundle in config.bundles)
        self.book = Book(config.rules, config.bundles, self.blobs)
        # each attempt but the first begins because of a sweep
        self.tries = 1 + sum(config.collectors)
        jumps = config.ahead * sum(config.collectors)  # of a push that begins after a horizon ahead of it
        self.ids = 1 + jumps + len(config.pushes) * self.tries + sum(config.crashes)
        self._needs: dict[int, int | None] = {}  # log -> the keys that have to be there

    def start(self) -> State:
        book = self.book
        first = book.record(Record("first", 1, 0, Publish(0, 0, self.config.bundles[0], 0)))
        log = book.child(0, first)
        log = book.child(log, book.record(Record("operator", 2, log, Retire(0))))
        store = 0
        for blob in range(self.blobs):
            if self.config.bundles[0] >> blob & 1:
                store |= self.key(blob, 0)
        return State(
            log, store, 0, 0, frozenset(), frozenset(), 1, self.config.operations, self.config.again,
            tuple(map(self._pusher, range(len(self.config.pushes)))),
            tuple(Collector(runs=runs) for runs in self.config.collectors),
        )  # fmt: skip

    def _pusher(self, index: int) -> Push:
        crashes = self.config.crashes
        return Push(crashes=crashes[index] if index < len(crashes) else 0)

    def key(self, blob: int, push: int) -> int:
        """The bit of a key."""
        return 1 << (blob * self.ids + (push if self.rules.keys_carry_the_push else 0))

    # --- the invariant

    def wrong(self, state: State) -> str | None:
        """What must never be, in words; None where all is well."""
        if state.log not in self._needs:
            self._needs[state.log] = self._needed_keys(self.book.judged[state.log])
        needs = self._needs[state.log]
        if needs is None:
            return "a version that is not retired needs a blob that is not live"
        if needs & ~state.store:
            return "a version that is not retired lacks a blob at its live key"
        for push in state.pushes:
            if push.outcome == PUBLISHED and push.record not in self.book.judged[state.log].applied:
                return "a publish that was acknowledged is lost"
            if push.outcome == FAILED:
                return "a push began again and again, and never got through"
        return None

    def _needed_keys(self, judged: Judged) -> int | None:
        mask, keys = needed(judged), 0
        for blob, push in enumerate(judged.live):
            if mask >> blob & 1:
                if push < 0:
                    return None
                keys |= self.key(blob, push)
        return keys

    # --- steps

    def steps(self, state: State) -> Iterator[Step]:
        """Everything that can happen next."""
        yield from self._arrivals(state)
        for index, push in enumerate(state.pushes):
            if push.at != DONE:
                yield from self._push(state, index, push)
        for index, collector in enumerate(state.collectors):
            # two that are alike do alike
            if collector.at != DONE and collector not in state.collectors[:index]:
                yield from self._collector(state, index, collector)
        if state.operations:
            yield from self._operator(state)

    def _arrivals(self, state: State) -> Iterator[Step]:
        for record in state.creates:
            yield ("create", record), self._arrive(state, record)
        for key in _bits(state.puts):
            yield ("put", key), state._replace(puts=state.puts & ~key, store=state.store | key)
        for key in _bits(state.deletes & state.store):
            yield ("delete", key), state._replace(deletes=state.deletes & ~key, store=state.store & ~key)

    def _arrive(self, state: State, number: int) -> State:
        book, seq = self.book, self.book.records[number].seq
        length = book.judged[state.log].length
        creates = state.creates - {number}
        if seq == length + 1:
            return self._settled(state._replace(log=book.child(state.log, number), creates=creates))
        if seq > length + 1:
            taken = any(book.records[there].seq == seq for there in state.beyond)
            return state._replace(creates=creates, beyond=state.beyond if taken else state.beyond | {number})
        if self.rules.create_is_exclusive:
            return state._replace(creates=creates)
        log = book.child(book.prefix(state.log, seq - 1), number)  # overwritten
        for later in range(seq + 1, length + 1):
            log = book.child(log, book.at(state.log, later))
        return state._replace(log=log, creates=creates)

    def _settled(self, state: State) -> State:
        """After the log has grown: what stands behind a hole joins it, and creates of taken numbers fail."""
        book, log, beyond, creates = self.book, state.log, state.beyond, state.creates
        for there in sorted(beyond, key=lambda number: book.records[number].seq):
            if book.records[there].seq == book.judged[log].length + 1:
                log, beyond = book.child(log, there), beyond - {there}
        if creates and self.rules.create_is_exclusive:
            length = book.judged[log].length
            creates = frozenset(number for number in creates if book.records[number].seq > length)
        return state._replace(log=log, beyond=beyond, creates=creates)

    def _stands(self, state: State, seq: int) -> int | None:
        """The record that a reader finds at this number."""
        book = self.book
        if book.judged[state.log].length >= seq:
            return book.at(state.log, seq)
        return next((there for there in state.beyond if book.records[there].seq == seq), None)

    # --- a push

    def _push(self, state: State, index: int, push: Push) -> Iterator[Step]:
        bundle = self.config.pushes[index]
        if push.at == START:
            yield self._draws(state, index, push)
        elif push.at == READ:
            yield self._reads(state, index, bundle, push)
        elif push.at == UPLOAD:
            yield from self._uploads(state, index, bundle, push)
        elif push.at == APPEND:
            yield self._appends(state, index, bundle, push)
        else:
            yield from self._waits(state, index, bundle, push)
        if push.crashes and push.at in (UPLOAD, APPEND, WAIT):
            cut = push._replace(at=READ, record=-1, brought=0, crashes=push.crashes - 1)
            yield _pushed(state, index, "is cut off, and resumes", cut)
            anew = cut._replace(at=START, id=-1, journal=0, tries=push.tries - 1)
            yield _pushed(state, index, "is cut off, and begins anew", anew)

    def _draws(self, state: State, index: int, push: Push) -> Step:
        if push.tries == self.tries:
            return _pushed(state, index, "gives up", push._replace(at=DONE, outcome=FAILED))
        journal = 0 if self.rules.journal_counts_for_its_own_id else push.journal
        begun = push._replace(at=READ, tries=push.tries + 1, journal=journal, brought=0)
        if push.id >= 0 and not self.rules.resume_only_above_horizon:
            return _pushed(
                state, index, f"begins again as push {push.id}", begun._replace(journal=push.journal)
            )
        fresh = state.drawn
        if self.rules.push_begins_after_horizon:
            fresh = max(fresh, self.book.judged[state.log].horizon)
        drawn = state._replace(drawn=fresh + 1)
        return _pushed(drawn, index, f"begins as push {fresh}", begun._replace(id=fresh))

    def _reads(self, state: State, index: int, bundle: int, push: Push) -> Step:
        judged = self.book.judged[state.log]
        if has_live(judged, bundle):
            return _pushed(state, index, "finds it published", push._replace(at=DONE, outcome=FOUND))
        if (
            push.id < judged.horizon
            and self.rules.old_pushes_are_void
            and self.rules.resume_only_above_horizon
        ):
            return _pushed(state, index, "finds its id below the horizon", push._replace(at=START))
        needs = self.config.bundles[bundle]
        brought = needs & ~_mask(judged.live)
        journal = push.journal
        if not self.rules.state_decides_what_exists:
            journal |= self._seen(state.store)
        todo = brought & ~journal
        ready = push._replace(at=UPLOAD if todo else APPEND, brought=brought, journal=journal)
        return _pushed(state, index, "reads the log", ready)

    def _seen(self, store: int) -> int:
        """The blobs that a listing shows, under whatever key."""
        every = (1 << self.ids) - 1
        return sum(1 << blob for blob in range(self.blobs) if store >> blob * self.ids & every)

    def _uploads(self, state: State, index: int, bundle: int, push: Push) -> Iterator[Step]:
        todo = push.brought & ~push.journal
        first = todo & -todo
        key = self.key(first.bit_length() - 1, push.id)
        journal = push.journal | first
        done = push._replace(at=UPLOAD if todo != first else APPEND, journal=journal)
        there = state._replace(store=state.store | key)
        yield _pushed(there, index, f"uploads {self.named(key)}", done)
        if state.again:
            twice = there._replace(puts=state.puts | key, again=state.again - 1)
            yield _pushed(twice, index, f"uploads {self.named(key)} at the second attempt", done)
        if push.crashes:
            cut = push._replace(at=READ, brought=0, crashes=push.crashes - 1)
            under_way = state._replace(puts=state.puts | key)
            yield _pushed(under_way, index, f"is cut off uploading {self.named(key)}, and resumes", cut)

    def _appends(self, state: State, index: int, bundle: int, push: Push, said: str = "") -> Step:
        """Reads to the head, checks the intent, and asks for its record to be created."""
        judged = self.book.judged[state.log]
        again = bool(said) and not self.rules.intent_is_asked_again
        if has_live(judged, bundle) and not again:
            found = push._replace(at=DONE, outcome=FOUND)
            return _pushed(state, index, f"{said}finds it published", found)
        reused = self.config.bundles[bundle] & ~push.brought
        action = Publish(bundle, push.id, push.brought, reused)
        if judge(self.rules, self.book.bundles, judged, action) is None and not again:
            return _pushed(state, index, f"{said}finds that it was swept", push._replace(at=START))
        return self._creates(state, index, push, action, said)

    def _creates(self, state: State, index: int, push: Push, action: Action, said: str) -> Step:
        seq = self.book.judged[state.log].length + 1
        number = self.book.record(Record("AB"[index], seq, state.log, action))
        waiting = push._replace(at=WAIT, record=number)
        return _pushed(
            state._replace(creates=state.creates | {number}),
            index,
            f"{said}asks to create record {seq}",
            waiting,
        )

    def _waits(self, state: State, index: int, bundle: int, push: Push) -> Iterator[Step]:
        book = self.book
        record = book.records[push.record]
        there = self._stands(state, record.seq)
        if there is not None:
            if there == push.record or not self.rules.taken_is_read:
                done = push._replace(at=DONE, outcome=PUBLISHED)
                yield _pushed(state, index, f"takes record {record.seq} for written", done)
            else:
                yield self._appends(state, index, bundle, push, "lost the race, ")
            return
        if not self.rules.same_number_until_known and record.base == state.log:
            ahead = book.child(record.base, push.record)
            number = book.record(record._replace(seq=record.seq + 1, base=ahead))
            waiting = push._replace(record=number)
            asked = state._replace(creates=state.creates | {number})
            yield _pushed(asked, index, f"times out, and asks to create record {record.seq + 1}", waiting)
        if not self.rules.unknown_is_not_failed:
            keys = 0
            for blob in range(self.blobs):
                if push.brought >> blob & 1:
                    keys |= self.key(blob, push.id)
            undone = push._replace(at=DONE, outcome=GAVE_UP)
            asked = state._replace(deletes=state.deletes | keys)
            yield _pushed(asked, index, "times out, and deletes what it uploaded", undone)

    # --- a collection

    def _collector(self, state: State, index: int, collector: Collector) -> Iterator[Step]:
        if collector.at == READ:
            judged = self.book.judged[state.log]
            first = judged.horizon if self.rules.horizon_never_goes_back else 0
            yield self._deletes(state, index, collector, state.log, "reads the log, and ")
            for horizon in range(first, state.drawn + self.config.ahead + 1):
                sweep = plan(self.rules, judged, horizon)
                if sweep is not None:
                    yield self._sweeps(state, index, collector, sweep, "")
            return
        record = self.book.records[collector.record]
        there = self._stands(state, record.seq)
        if there == collector.record:
            assert isinstance(record.action, Sweep)
            known = self.book.prefix(state.log, record.seq)
            applied = collector.record in self.book.judged[known].applied
            swept = self._swept(record.base, record.action) if applied else 0
            yield self._deletes(state, index, collector, known, f"finds its record {record.seq}, and ", swept)
        elif there is not None:
            assert isinstance(record.action, Sweep)
            if not self.rules.reached_state_decides_deletes:
                keys = self._swept(record.base, record.action)
                yield self._asks(state, index, collector, keys, "lost the race, and deletes what it planned")
                return
            sweep = plan(self.rules, self.book.judged[state.log], record.action.horizon)
            if not self.rules.intent_is_asked_again:
                sweep = record.action
            if sweep is None:
                yield self._deletes(
                    state, index, collector, state.log, "lost the race, has nothing to sweep, "
                )
            else:
                yield self._sweeps(state, index, collector, sweep, "lost the race, ")

    def _sweeps(self, state: State, index: int, collector: Collector, sweep: Sweep, said: str) -> Step:
        judged = self.book.judged[state.log]
        number = self.book.record(Record(f"collector {index + 1}", judged.length + 1, state.log, sweep))
        label = f"{said}asks to create record {judged.length + 1}: {self.told(sweep)}"
        asked = state._replace(creates=state.creates | {number})
        if not self.rules.sweep_before_deletes:
            asked = asked._replace(deletes=state.deletes | self._swept(state.log, sweep))
            label += ", and to delete it meanwhile"
        return _collected(asked, index, label, collector._replace(at=WAIT, record=number))

    def _deletes(
        self, state: State, index: int, collector: Collector, known: int, said: str, swept: int = 0
    ) -> Step:
        keys = self._keys(state, self.book.judged[known]) | swept
        label = f"{said}asks to delete {' '.join(map(self.named, _bits(keys))) or 'nothing'}"
        return self._asks(state, index, collector, keys, label)

    def _asks(self, state: State, index: int, collector: Collector, keys: int, label: str) -> Step:
        runs = collector.runs - 1
        done = Collector(READ if runs else DONE, runs=runs)
        return _collected(state._replace(deletes=state.deletes | keys), index, label, done)

    def _swept(self, log: int, sweep: Sweep) -> int:
        """The keys of the blobs that a sweep took in this state."""
        live = self.book.judged[log].live
        blobs = range(self.blobs)
        return sum(
            self.key(blob, live[blob]) for blob in blobs if sweep.blobs >> blob & 1 and live[blob] >= 0
        )

    def _keys(self, state: State, judged: Judged) -> int:
        """The keys that may go by this state, of those that are there or under way."""
        keys = 0
        for key in _bits(state.store | state.puts):
            blob, push = divmod(key.bit_length() - 1, self.ids)
            if not self.rules.keys_carry_the_push:  # what a push brings looks like what one has left
                keys |= key if judged.swept >> blob & 1 else 0
            elif judged.live[blob] != push and (push < judged.horizon or not self.rules.delete_only_older):
                keys |= key
        return keys

    # --- the operator

    def _operator(self, state: State) -> Iterator[Step]:
        judged = self.book.judged[state.log]
        for number in range(len(judged.versions)):
            for action in (Retire(number), Restore(number)):
                if judge(self.rules, self.book.bundles, judged, action) is None:
                    continue
                record = self.book.record(Record("operator", judged.length + 1, state.log, action))
                log = self.book.child(state.log, record)
                done = state._replace(log=log, operations=state.operations - 1)
                yield ("the operator", f"{action.kind}s version {number}"), self._settled(done)

    # --- words

    def named(self, key: int) -> str:
        """A key as people read it: the blob's letter and the push."""
        blob, push = divmod(key.bit_length() - 1, self.ids)
        return f"{_LETTERS[blob]}.{push}" if self.rules.keys_carry_the_push else _LETTERS[blob]

    def told(self, action: Action) -> str:
        """An action as people read it."""
        if isinstance(action, Publish):
            brought, reused = self._letters(action.brought), self._letters(action.reused)
            return (
                f"publish bundle {action.bundle} by push {action.push}, bringing {brought}, reusing {reused}"
            )
        if isinstance(action, Sweep):
            return f"sweep {self._letters(action.blobs)} below {action.horizon}"
        return f"{action.kind} version {action.version}"

    def _letters(self, blobs: int) -> str:
        return " ".join(_LETTERS[blob.bit_length() - 1] for blob in _bits(blobs)) or "nothing"


_LETTERS = "vwxyz"


def _bits(mask: int) -> Iterator[int]:
    while mask:
        bit = mask & -mask
        yield bit
        mask ^= bit


def _mask(live: tuple[int, ...]) -> int:
    return sum(1 << blob for blob, push in enumerate(live) if push >= 0)


def _pushed(state: State, index: int, label: str, push: Push) -> Step:
    pushes = (*state.pushes[:index], push, *state.pushes[index + 1 :])
    return (f"push {'AB'[index]}", label), state._replace(pushes=pushes)


def _collected(state: State, index: int, label: str, collector: Collector) -> Step:
    others = (*state.collectors[:index], collector, *state.collectors[index + 1 :])
    return ("a collector", label), state._replace(collectors=tuple(sorted(others)))
