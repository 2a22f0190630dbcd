"""Actors that write to the log: people and pipelines who push, promote, roll back, retire and collect."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from mldeploy.core import records
from mldeploy.core.checkpoint import fold_format
from mldeploy.core.collection import deletable
from mldeploy.core.records import Action
from mldeploy.core.types import ModelRef
from mldeploy.errors import (
    MldeployError,
    NotAllowedError,
    NotFoundError,
    OutcomeUnknownError,
    RaceLostError,
    StoreError,
)
from mldeploy.store import checkpoints
from mldeploy.store.log import record_key
from tests.world.actors import Actor, Process
from tests.world.bundles import folders
from tests.world.whims import whim

if TYPE_CHECKING:
    from tests.world.world import World

#: What may come of a deed in a storm.
MISHAPS = (NotAllowedError, NotFoundError, StoreError, RaceLostError, OutcomeUnknownError)
#: Between two deeds of an actor, seconds.
PAUSES = (0.0, 1.0, 20.0, 120.0)


class Writer(Actor):
    """Changes what is served, at random: by whatever fits the state it reads."""

    kind = "writer"

    def main(self, process: Process) -> None:
        log = process.log()
        while not self.world.calm:
            process.sleep(self.rng.choice(PAUSES) * self.rng.random())
            if self.rng.random() < 0.3:
                log = process.log()  # as every run of the command line does
            self.act(process, log, self.rng.getrandbits(32))
        self.last(process)

    def act(self, process: Process, log, seed: int) -> None:
        try:
            log.append(
                lambda state: whim(state, random.Random(seed)),
                actor=self.name,
                now=process.now(),
                deadline=self.rng.choice([2.0, 30.0, 30.0, None]),
            )
        except MISHAPS as error:
            self.world.trace(process.life.name, f"append: {type(error).__name__}: {error}")
        if log.checkpoint():
            self.world.counts["checkpoints written"] += 1

    def last(self, process: Process) -> None:
        """In the calm every append succeeds."""
        log = process.log()
        appended = log.append(
            lambda _: [records.Freeze(environment="staging", reason=f"{self.name} was here")],
            actor=self.name,
            now=process.now(),
        )
        assert appended is not None
        self.world.monitor.same(process.life.name, appended.state)


class Vandal(Actor):
    """Writes what is no record where the next one belongs, which takes a number and harms nobody; and hints
    and checkpoints that are false.
    """

    kind = "vandal"

    def main(self, process: Process) -> None:
        for _ in range(self.rng.randint(1, 3)):
            process.sleep(600 * self.rng.random())
            if self.world.calm:
                return
            log = process.log()
            try:
                log.refresh()
                garbage = self.rng.choice([b"", b"{}", b"\xff\x00", b'{"format":1}'])
                self.world.monitor.garbles(garbage)
                process.store.create(record_key(log.state.head + 1), garbage)
                false = checkpoints.Named(log.state.head + 5, fold_format(), sha256(garbage).hexdigest())
                process.store.create(false.key, garbage)
                hint = self.rng.choice([garbage, b'{"newest":["%s"]}' % false.key.encode()])
                process.store.put(checkpoints.hint_key(), hint)
            except MldeployError as error:
                self.world.trace(process.life.name, f"{type(error).__name__}: {error}")


class Pusher(Actor):
    """Pushes bundles, and promotes some in the same record."""

    kind = "pusher"

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.unfinished: Path | None = None
        if self.rng.random() < 0.7:
            self.journals = self.folder / "journals"

    def main(self, process: Process) -> None:
        while not self.world.calm:
            process.sleep(self.rng.choice(PAUSES) * self.rng.random())
            try:
                self.push(process)
            except MISHAPS as error:
                self.world.counts["pushes failed"] += 1
                self.world.trace(process.life.name, f"push: {type(error).__name__}: {error}")
        self.push(process)  # in the calm every push succeeds

    def push(self, process: Process) -> None:
        promote = self.rng.random() < 0.5 and not self.world.cast.operators
        rollout = process.ids()

        def then(ref: ModelRef) -> Sequence[Action]:
            if not promote or self.world.calm:
                return ()
            return [records.Promote(model=ref.name, version=ref.version, rollout=rollout)]

        log = process.log()
        # what was cut is gone on with, or, sometimes, left as it is
        bundle = (
            self.unfinished if self.unfinished and self.rng.random() < 0.7 else self.rng.choice(folders())
        )
        self.unfinished = bundle
        pushed = self.world.parts.push(process, bundle, log, then)
        self.unfinished = None
        self.world.counts["pushes published" if pushed.new else "pushes of what was there"] += 1
        version = log.state.models[pushed.ref.name].versions[pushed.ref.version]
        if version.digest != pushed.digest or version.retired:
            self.world.monitor.wrong(f"{pushed.ref} was pushed and is not there")
        self.world.trace(process.life.name, f"pushed {pushed.ref}")


class Collector(Actor):
    """Collects garbage, now and then, with little grace; and by a clock that may be hours off."""

    kind = "collector"

    def main(self, process: Process) -> None:
        while not self.world.calm:
            process.sleep(self.rng.choice([10.0, 100.0, 600.0]) * self.rng.random())
            try:
                self.collect(process, self.rng.choice([0.0, 0.0, 5.0, 60.0, 600.0]))
            except MISHAPS as error:
                self.world.counts["collections failed"] += 1
                self.world.trace(process.life.name, f"collect: {type(error).__name__}: {error}")
        self.collect(process, 60.0)  # in the calm every collection succeeds

    def collect(self, process: Process, grace: float) -> None:
        now = process.now() if self.rng.random() < 0.3 else datetime.fromtimestamp(self.world.time(), UTC)
        done = self.world.parts.collect(process, process.log(), now, timedelta(seconds=grace))
        counts = self.world.counts
        counts["sweeps"] += len(done.seqs)
        counts["blobs swept"] += done.blobs.objects
        counts["orphans removed"] += done.orphans.objects
        self.world.trace(process.life.name, f"collected {done}")


class Janitor(Collector):
    """Collects once more when all is over: then nothing is left that nobody needs."""

    kind = "janitor"

    def main(self, process: Process) -> None:
        log = process.log()
        self.world.parts.collect(process, log, datetime.fromtimestamp(self.world.time(), UTC), timedelta(0))
        for key in sorted(self.world.bucket.objects):
            if deletable(log.state, key):
                self.world.monitor.wrong(f"{key} is garbage, and is not collected")
