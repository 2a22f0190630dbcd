"""Evidence over the ends of the processes that count it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mldeploy.core.evidence import Comparison, Latency, Measure, Tally
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.measure_file import KEPT, read_measures
from mldeploy_daemon.measures import Measures
from mldeploy_daemon.table import ModelRoutes, ShadowRoute, Table, scopes_in


def measure(requests: int, scope: int = 5, role: str = "stable", version: int = 1) -> Measure:
    tally = Tally(requests=requests, latency=Latency({3: requests}))
    return Measure(model="m", version=version, scope=scope, role=role, tally=tally)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    disk = Disk(tmp_path)
    disk.prepare()
    return disk


def loaded(disk: Disk, clock: Clock | None = None) -> Measures:
    measures = Measures(disk, clock or Clock())
    measures.load()
    return measures


def requests(measures: Measures) -> int:
    return sum(each.tally.requests for each in measures.all())


def test_every_word_replaces_the_one_before_and_a_successor_begins_anew(disk):
    measures = loaded(disk)
    measures.heard("front 0", "a", (measure(3),))
    measures.heard("front 0", "a", (measure(10),))
    measures.heard("front 1", "x", (measure(100),))
    assert requests(measures) == 110
    measures.heard("front 0", "b", (measure(1),))
    measures.heard("front 0", "b", (measure(2),))
    assert requests(measures) == 112
    assert [each.tally.latency.total for each in measures.all()] == [112]


def test_a_new_agent_goes_on_and_counts_nothing_twice(disk, tmp_path):
    first = loaded(disk)
    first.heard("front 0", "a", (measure(10),))
    first.heard("front 0", "b", (measure(1),))
    first.write()
    second = loaded(disk)
    assert requests(second) == 11
    second.heard("front 0", "b", (measure(4),))  # the same front still runs
    assert requests(second) == 14
    second.write()
    third = loaded(disk)
    third.heard("front 0", "c", ())  # it was restarted while no agent ran
    assert requests(third) == 14
    third.write()
    assert sum(each.tally.requests for each in read_measures(tmp_path / "measures.json")) == 14


def test_garbage_is_no_evidence(disk):
    disk.write("measures.json", b'{"past": 7}')
    assert loaded(disk).all() == ()


def test_crashes_and_memory_belong_to_the_role_of_the_worker(disk):
    shadow = ShadowRoute(id="s", version=3, scope=9)
    routes = ModelRoutes(stable=1, candidate=2, scope=5, shadows=(shadow,))
    table = Table(models={"m": routes})
    measures = loaded(disk)
    measures.crashed(scopes_in(table, "m", 2), "m", 2, idle=False)
    measures.crashed(scopes_in(table, "m", 2), "m", 2, idle=False)
    measures.crashed(scopes_in(table, "m", 3), "m", 3, idle=True)
    measures.crashed(scopes_in(table, "m", 7), "m", 7, idle=False)  # nobody's
    measures.weighed(table, "m", 2, 500, idle=False)
    measures.weighed(table, "m", 2, 300, idle=False)
    found = {(each.version, each.scope, each.role): each.tally for each in measures.all()}
    assert found == {
        (2, 5, "candidate"): Tally(crashes=2, memory=500),
        (3, 9, "shadow"): Tally(crashes=1),
    }


def test_weighing_a_worker_looks_at_nothing_but_its_own(disk, monkeypatch):
    measures = loaded(disk)
    table = Table(models={f"m{n}": ModelRoutes(stable=1, candidate=2, scope=5) for n in range(100)})
    key, looks = Measure.key.fget, []
    monkeypatch.setattr(Measure, "key", property(lambda self: looks.append(self) or key(self)))
    for _ in range(2):
        for name in table.models:
            measures.weighed(table, name, 2, 500, idle=False)
    assert 0 < len(looks) <= 10 * len(table.models)
    assert {each.tally.memory for each in measures.all()} == {500}


def test_a_scope_is_kept_for_an_hour_after_its_end(disk):
    clock = Clock()
    measures = loaded(disk, clock)
    table = Table(models={"m": ModelRoutes(stable=1, candidate=2, scope=5)})
    measures.heard("front 0", "a", (measure(3), measure(2, scope=4)))
    measures.keep(table)
    clock.now += KEPT - 1
    measures.keep(table)
    assert {each.scope for each in measures.all()} == {4, 5}
    clock.now += 2
    measures.keep(table)
    assert {each.scope for each in measures.all()} == {5}
    measures.heard("front 0", "a", (measure(3), measure(2, scope=4)))  # the front has not forgotten it yet
    measures.keep(table)
    assert {each.scope for each in measures.all()} == {5}


def test_a_scope_that_is_over_does_not_come_back_while_a_front_tells_of_it(disk, tmp_path):
    clock = Clock()
    clock.now = time.time() - KEPT - 10
    measures = loaded(disk, clock)
    table = Table(models={"m": ModelRoutes(stable=1, candidate=2, scope=5)})
    told = (measure(3), measure(2, scope=4))
    measures.heard("front 0", "a", (measure(9, scope=4),))
    measures.heard("front 0", "b", told)
    measures.keep(table)
    clock.now += KEPT + 1
    for _ in range(3):
        for _ in range(3):  # an agent looks more often than fronts tell
            measures.keep(table)
            assert requests(measures) == 3
        measures.write()
        assert sum(each.tally.requests for each in read_measures(tmp_path / "measures.json")) == 3
        measures = loaded(disk, clock)
        measures.keep(table)
        measures.heard("front 0", "b", told)
    measures.heard("front 0", "c", (measure(1),))
    for _ in range(2):
        measures.keep(table)
    assert requests(measures) == 4
    assert measures.kept.ended == {}, "nobody tells of it any more"


def test_a_scope_that_is_over_is_not_written_again_and_again(disk, tmp_path, monkeypatch):
    clock = Clock()
    measures = Measures(disk, clock, lambda: clock.now)
    measures.heard("front 0", "a", (measure(2, scope=4),))
    measures.keep(Table())
    written = []
    monkeypatch.setattr(measures, "write", lambda: written.append(clock.now))
    measures._changed = False
    for _ in range(3):
        clock.now += KEPT + 1
        measures.keep(Table())
    assert written == []


def test_comparisons_are_kept_too(disk):
    measures = loaded(disk)
    compared = Measure(model="m", version=2, scope=5, role="shadow", comparison=Comparison(pairs=3))
    offered = Measure(model="m", version=2, scope=5, role="shadow", comparison=Comparison(offered=4))
    measures.heard("mirror", "a", (compared,))
    measures.heard("front 0", "a", (offered,))
    (found,) = measures.all()
    assert found.comparison == Comparison(pairs=3, offered=4)
