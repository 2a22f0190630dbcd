"""The store of the simulated world: each fault does what it says, and what the drivers promise holds."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mldeploy.errors import NotFoundError, OutcomeUnknownError, StoreError
from tests.world.bucket import EPOCH, Bucket
from tests.world.faults import Weather
from tests.world.scheduler import Life, Scheduler
from tests.world.store import WorldStore


class Stage:
    """One store and one bucket, with one fault at every call (or none)."""

    def __init__(self, fault: str = "", seed: int = 0, *, cut_off: bool = False) -> None:
        self.scheduler = Scheduler(random.Random(seed))
        self.bucket = Bucket(lambda: self.scheduler.now)
        self.weather = Weather({fault: 100.0} if fault else {}, {}, latency=0.5, timeout=10.0)
        self.life = Life("me")
        self.store = WorldStore(
            self.bucket, self.scheduler, self.weather, random.Random(seed), self.life, cut_off=lambda: cut_off
        )

    def call(self, work: Callable[[WorldStore], object], until: float = float("inf")) -> object:
        """What it returns, or the error it raises."""
        said: list[object] = []

        def task() -> None:
            try:
                said.append(work(self.store))
            except (StoreError, OutcomeUnknownError, NotFoundError) as error:
                said.append(error)

        self.scheduler.spawn(self.life, "task", task)
        self.scheduler.run(until)
        return said[0] if said else None

    def there(self) -> dict[str, bytes]:
        return {key: found.data for key, found in self.bucket.objects.items()}


def many(
    fault: str, work: Callable[[WorldStore], object], *, cut_off: bool = False
) -> list[tuple[str, bool]]:
    """(what it said, whether it stands there in the end) over many seeds, each once."""
    seen = set()
    for seed in range(60):
        stage = Stage(fault, seed, cut_off=cut_off)
        said = stage.call(work)
        seen.add((type(said).__name__ if isinstance(said, Exception) else repr(said), "key" in stage.there()))
    return sorted(seen)


def test_without_faults(tmp_path: Path) -> None:
    stage = Stage()
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"blob")

    def work(store: WorldStore) -> None:
        assert store.get("a/b") is None
        assert store.create("a/b", b"1")
        assert not store.create("a/b", b"2")
        store.put("a/c", b"3")
        store.upload("blobs/x", source)
        assert [entry.key for entry in store.list("a/")] == ["a/b", "a/c"]
        assert store.download("blobs/x", target).startswith("fa2c8cc4f28176bb")
        store.delete("a/c")
        store.delete("a/c")
        found = store.get("a/b")
        assert found is not None
        assert found.data == b"1"
        assert EPOCH < found.modified < EPOCH + 100
        with pytest.raises(NotFoundError):
            store.download("blobs/y", tmp_path / "other")

    stage.call(work)
    assert stage.there() == {"a/b": b"1", "blobs/x": b"blob"}
    assert target.read_bytes() == b"blob"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("slow", [("True", True)]),
        ("lost", [("OutcomeUnknownError", False)]),
        ("dropped", [("OutcomeUnknownError", True)]),
        ("late", [("OutcomeUnknownError", True)]),
        ("refused", [("StoreError", False)]),
        ("throttled", [("StoreError", False)]),
        ("broken", [("OutcomeUnknownError", False), ("OutcomeUnknownError", True)]),
        ("conflict", [("False", False), ("OutcomeUnknownError", False)]),
        ("taken", [("False", True)]),
    ],
)
def test_faults_of_create(fault: str, expected: list[tuple[str, bool]]) -> None:
    assert many(fault, lambda store: store.create("key", b"")) == expected


@pytest.mark.parametrize("fault", ["lost", "dropped", "late", "broken"])
def test_faults_of_put_say_either_error_and_mean_nothing_by_it(fault: str) -> None:
    written = {"lost": {False}, "dropped": {True}, "late": {True}, "broken": {False, True}}[fault]
    expected = sorted((name, there) for name in ("OutcomeUnknownError", "StoreError") for there in written)
    assert many(fault, lambda store: store.put("key", b"")) == expected


@pytest.mark.parametrize("fault", ["lost", "dropped", "refused", "throttled", "broken"])
def test_faults_of_reads_are_errors(fault: str) -> None:
    assert many(fault, lambda store: store.get("key")) == [("StoreError", False)]


def test_cut_off_nothing_arrives() -> None:
    assert many("", lambda store: store.create("key", b""), cut_off=True) == [
        ("OutcomeUnknownError", False),
        ("StoreError", False),
    ]


def test_a_late_delete_arrives_after_its_sender_has_died() -> None:
    arrived = set()
    for seed in range(40):
        stage = Stage("late", seed)
        stage.bucket.write("put", "key", b"", "somebody")
        stage.scheduler.at(3.0, lambda stage=stage: stage.scheduler.kill(stage.life))  # type: ignore[misc]
        stage.call(lambda store: store.delete("key"))
        arrived.add("key" not in stage.there())
    assert arrived == {True, False}  # some are lost with the sender


def test_a_listing_that_is_empty_old_or_partial() -> None:
    stage = Stage()
    stage.bucket.write("put", "a/old", b"", "me")
    stage.scheduler.run(5000)
    for number in range(20):
        stage.bucket.write("put", f"a/{number:02d}", b"", "me")
    stage.bucket.delete("a/old", "me")
    found = {}
    for fault in ("empty", "lagging", "partial"):
        stage.weather = stage.store._weather = Weather({fault: 100.0}, latency=0.01)
        listed = stage.call(lambda store: [entry.key for entry in store.list("a/")])
        assert isinstance(listed, list)
        found[fault] = listed
    assert found["empty"] == []
    assert found["lagging"] == ["a/old"]
    assert 0 < len(found["partial"]) < 20


def test_in_the_calm_nothing_goes_wrong() -> None:
    stage = Stage("lost")
    stage.weather.calm = True
    assert stage.call(lambda store: store.create("key", b"")) is True
