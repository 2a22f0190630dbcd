"""A host's part in steering: who looks, how often, by how many requests, and who replaces the dead."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mldeploy.core import records
from mldeploy.core.controller import WATCHERS, freshness, ranked
from mldeploy.core.evidence import Evidence, GuardVerdict
from mldeploy.core.fold import refusal
from mldeploy.core.records import Advance, Halt
from mldeploy.core.state import State
from mldeploy.store.fleet import GROUP, Fleet, group_of, groups_of, merged_key
from mldeploy.store.objects import Fetched
from mldeploy.store.reports import HostReport, report_key, write_report
from mldeploy.store.tail import record_key
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.fronts import Total
from mldeploy_daemon.steering import MINUTE, QUIET, RATE, Steering, Turn, still
from mldeploy_daemon.uses import Uses
from tests.core.strategies import ulid
from tests.core.test_actions import after, promote
from tests.store.test_fleet import Counting, fleet_of, measure

GUARDS = ("error_rate < 10%",)
STABLE = after(records.Rollback(model="churn"), state=fleet_of(0))
RAMP = after(promote(2, 20, steps=(100, 10_000), guards=GUARDS), state=STABLE)


class Here(Executor):
    """Does the work at once."""

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*args, **kwargs))
        return done


class Timed(Counting):
    """A store whose clock is set."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 1_000_000.0
        self.written: dict[str, float] = {}

    def put(self, key: str, data: bytes) -> None:
        self.written[key] = self.clock
        super().put(key, data)

    def get(self, key: str) -> Fetched | None:
        found = super().get(key)
        return Fetched(found.data, self.written[key]) if found is not None else None


class World:
    """Steering of every host over one store, and one clock for all."""

    def __init__(self, state: State, report: float = 10.0) -> None:
        self.store, self.state, self.mono = Timed(), state, 0.0
        self.store.put(record_key(RAMP.head), b"{}")
        self.store.put(record_key(1), b"{}")
        self.order = ranked(state.hosts, "production")
        self.hosts = {
            host: Steering("production", host, Fleet(self.store, lambda _: Here()), report, lambda: self.mono)
            for host in state.hosts
        }

    def sleep(self, seconds: float) -> None:
        self.mono += seconds
        self.store.clock += seconds

    def report(self, *silent: str, requests: int = 100, head: int = 0) -> None:
        for host in self.hosts:
            if host not in silent:
                write_report(
                    self.store,
                    HostReport(
                        host=host, environment="production", head=head or self.state.head,
                        measures=(measure(requests, RAMP.head),),
                    ),
                )  # fmt: skip

    def look(self, host: str) -> tuple[Turn, int]:
        """One look, and how many requests it took."""
        before = self.store.asked.total()
        turn = self.hosts[host].look(self.state)
        return turn, self.store.asked.total() - before


@pytest.fixture
def world() -> World:
    made = World(fleet_of(10, state=RAMP))
    made.report()
    made.sleep(1)
    return made


def test_the_first_acts_at_once_the_second_after_a_while_and_the_fourth_not_at_all(world: World) -> None:
    first, second, third, fourth = world.order[:4]
    (action,) = world.look(first)[0].actions
    assert isinstance(action, Advance)
    assert world.look(second)[0].actions == world.look(third)[0].actions == ()
    world.sleep(21)
    assert world.look(second)[0].actions != ()
    assert world.look(third)[0].actions == ()
    world.sleep(20)
    assert world.look(third)[0].actions != ()
    world.sleep(MINUTE)
    turn, requests = world.look(fourth)
    assert (turn.actions, requests) == ((), 1 + WATCHERS)


def drained(world: World, *hosts: str) -> None:
    world.state = msgspec.structs.replace(world.state, drained=dict.fromkeys(hosts, "disk"))


def test_a_drained_host_leaves_steering_to_the_others_at_once(world: World) -> None:
    first, second = world.order[:2]
    drained(world, first)
    turn, requests = world.look(first)
    assert (turn.actions, requests) == ((), 0)
    world.report(first)  # nor is anybody waiting for its word
    (action,) = world.look(second)[0].actions
    assert isinstance(action, Advance)
    drained(world, *world.order)
    world.report()
    world.sleep(11)
    assert world.look(first)[0].actions != (), "with everybody drained somebody has to"


def test_a_group_whose_merger_is_drained_is_merged_by_the_next() -> None:
    world = World(fleet_of(250, state=RAMP))
    ours = [host for host in world.state.hosts if group_of(host, groups_of(250)) == 0]
    first, second = ranked(ours, "production merged")[:2]
    world.report()
    for gone, merger in (((), first), ((first,), second), (ours, first)):
        drained(world, *gone)
        world.sleep(MINUTE)
        world.report()
        for host in (first, second):
            world.look(host)
        fetched = world.store.get(merged_key("production", 0))
        assert fetched is not None
        assert msgspec.json.decode(fetched.data)["by"] == merger


def test_a_few_hosts_of_a_large_store_are_waited_for_as_long_as_those_take_to_report() -> None:
    """10 hosts of production in a store of 20,000, each of which reports every 300 seconds."""
    world = World(fleet_of(10, state=RAMP))
    early, late = world.order[:5], world.order[5:]
    watcher, fourth = early[0], late[0]
    world.state = fleet_of(19_990, "staging", world.state)
    world.report(*late)
    world.sleep(290)
    world.report(*early)  # which leaves those before the fourth 290 s old
    (action,) = world.look(watcher)[0].actions
    assert isinstance(action, Advance)
    world.look(fourth)
    assert world.hosts[fourth]._place is None, "those before it are not silent"


def test_who_stands_by_takes_the_place_of_the_dead(world: World) -> None:
    dead = world.order[:2]
    fourth, fifth, sixth = world.order[3:6]
    world.sleep(600)
    world.report(*dead)
    # 8 of 10 members are heard: that is too few to advance, and of forgetting it is too early
    for host in (world.order[2], fourth, fifth, sixth):
        assert world.look(host)[0].actions == ()
    world.sleep(3_600)
    world.report(*dead)
    forget = {records.Forget(host=host) for host in dead}
    # the fourth comes second now: behind the one that is alive; the sixth stands by
    assert all(world.look(host)[0].actions == () for host in (world.order[2], fourth, fifth))
    assert world.look(sixth)[1] <= 1 + 2 * WATCHERS
    world.sleep(21)
    assert world.look(fourth)[0].actions == ()
    world.sleep(freshness(10))
    world.report(*dead)
    assert set(world.look(fourth)[0].actions) == forget
    assert world.look(world.order[2])[0].actions == world.look(fifth)[0].actions == ()


def test_after_an_outage_of_the_store_hosts_have_the_time_to_report_before_they_are_forgotten() -> None:
    world = World(fleet_of(10, state=RAMP))
    world.store.written[record_key(1)] -= 7_200  # they joined two hours ago
    world.report(head=RAMP.head - 1)
    watcher, other = world.order[:2]
    world.look(watcher)
    world.sleep(4_000)
    *late, gone = world.order[2:]
    world.report(*late, gone, head=RAMP.head - 1)
    turn, _ = world.look(watcher)
    assert turn.actions == (), "the first to report makes all others look silent"
    world.sleep(turn.pause)
    while world.mono < 4_000 + freshness(10):
        world.report(gone, head=RAMP.head - 1)
        turn, _ = world.look(watcher)
        assert turn.actions == ()
        world.sleep(turn.pause)
    world.report(gone, head=RAMP.head - 1)
    assert world.look(watcher)[0].actions == (records.Forget(host=gone),)
    assert world.look(other)[0].actions == ()


def test_nobody_looks_more_often_than_promised() -> None:
    for count in (3, 40, 100):
        world = World(fleet_of(count, state=RAMP))
        world.report(head=RAMP.head - 1)  # it waits, so nothing changes
        first = world.order[0]
        requests = 0
        ended = world.mono + 600
        while world.mono < ended:
            turn, made = world.look(first)
            assert made <= count + 2
            requests += made
            world.sleep(max(turn.pause, 0.1))
        assert requests <= 600 * RATE + count
        idle = world.look(world.order[-1])[1]
        assert idle <= 1 + WATCHERS or count == 3


def test_a_quiet_fleet_makes_no_request_for_a_quarter_of_an_hour_and_then_a_handful() -> None:
    world = World(fleet_of(10, state=STABLE))
    world.report()
    for host in world.order:
        turn, requests = world.look(host)
        assert (turn.actions, requests) == ((), 0)
        assert turn.pause >= QUIET - 1
    world.sleep(30)
    assert sum(world.look(host)[1] for host in world.order) == 0
    world.sleep(QUIET)
    world.report()
    made = {host: world.look(host)[1] for host in world.order}
    assert [made[host] for host in world.order[:WATCHERS]] == [10] * WATCHERS
    assert all(made[host] == 1 + WATCHERS for host in world.order[WATCHERS:])


def test_a_large_fleet_is_merged_by_one_host_of_each_group_and_read_by_the_watchers() -> None:
    state = fleet_of(350, state=RAMP)
    world = World(state)
    world.report()
    world.sleep(1)
    groups = groups_of(350)
    mergers = 0
    for host in reversed(world.order):  # the watchers last, once there is what was merged
        made = world.look(host)[1]
        in_group = sum(group_of(h, groups) == group_of(host, groups) for h in state.hosts)
        mergers += made >= in_group
        assert made <= in_group + 1 + groups + 2
    assert mergers == groups
    world.sleep(30)
    (action,) = world.look(world.order[0])[0].actions
    assert isinstance(action, Advance)
    assert action.evidence is not None
    assert action.evidence.hosts == 350
    assert [m.tally.requests for m in action.evidence.measures] == [35_000]


def test_a_fleet_that_grows_by_a_group_forgets_nobody_and_asks_no_more_often_than_promised() -> None:
    """From 200 to 201 members nothing that was merged counts any more, until it is merged anew."""
    world = World(fleet_of(201, state=RAMP))
    world.report(head=RAMP.head - 1)  # the rollout waits
    world.store.written[record_key(1)] -= 7_200  # they joined two hours ago
    before = fleet_of(200, state=RAMP)
    for group in range(2):
        world.hosts[world.order[0]].fleet.merge(before, "production", group, "x")
    requests = dict.fromkeys(world.order[:WATCHERS], 0)
    for host in requests:
        world.hosts[host].fleet.merge = lambda *_: None  # type: ignore[method-assign]
    for _ in range(60):
        for host in requests:
            turn, made = world.look(host)
            assert turn.actions == ()
            requests[host] += made
        world.sleep(1)
        world.report(head=RAMP.head - 1)
    # it begins with some hundred at once
    assert all(GROUP < made <= 60 * RATE + 3 * GROUP for made in requests.values())


def test_a_merger_that_dies_is_replaced_within_its_group() -> None:
    state = fleet_of(350, state=RAMP)
    world = World(state)
    groups = groups_of(350)
    ours = [host for host in state.hosts if group_of(host, groups) == 0]
    first, second, third = ranked(ours, "production merged")[:3]
    world.report()
    assert world.look(first)[1] >= len(ours)
    world.sleep(MINUTE + 1)
    world.report()
    assert world.look(second)[1] <= 2 + 2 * (1 + WATCHERS)  # what the first merged is fresh
    world.sleep(600)
    world.report(first)
    assert world.look(second)[1] >= len(ours)
    assert world.look(third)[1] <= 2 + 2 * (1 + WATCHERS)


def test_a_host_that_is_no_member_does_nothing() -> None:
    world = World(fleet_of(3, state=RAMP))
    stranger = Steering("production", "stranger", Fleet(world.store, lambda _: Here()), 10.0, lambda: 0.0)
    asked = world.store.asked.total()
    assert stranger.look(world.state).actions == ()
    assert world.store.asked.total() == asked


def test_a_proposal_is_appended_only_where_what_it_rests_on_is_still_so() -> None:
    advance = Advance(rollout=ulid(20), step=0)
    halt = Halt(rollout=ulid(20), reason="errors")
    assert still(RAMP, advance, RAMP) == (advance,)
    advanced = after(advance, state=RAMP)
    assert still(advanced, advance, RAMP) == ()
    assert still(advanced, halt, RAMP) == (halt,)
    resumed = after(records.Pause(rollout=ulid(20)), records.Resume(rollout=ulid(20)), state=RAMP)
    assert refusal(resumed, [advance]) is None
    assert still(resumed, advance, RAMP) == ()
    assert still(resumed, halt, RAMP) == ()
    assert still(after(halt, state=RAMP), halt, RAMP) == ()


def test_a_rollout_paused_meanwhile_is_not_halted_for_being_late() -> None:
    found = Evidence(guards=(GuardVerdict(guard=GUARDS[0], verdict="holds"),))
    late = Halt(rollout=ulid(20), reason="not enough evidence", evidence=found)
    bad = Evidence(guards=(*found.guards, GuardVerdict(guard="crashes < 1", verdict="breached")))
    breach = Halt(rollout=ulid(20), reason="crashes < 1: 2", evidence=bad)
    paused = after(records.Pause(rollout=ulid(20)), state=RAMP)
    assert refusal(paused, [late]) is None
    assert still(paused, late, RAMP) == ()
    assert still(paused, breach, RAMP) == (breach,)
    assert still(paused, late, paused) == (late,)  # it was proposed for a paused one
    assert still(RAMP, late, RAMP) == (late,)


def test_what_was_extended_or_put_to_work_since_is_not_retired() -> None:
    retire = records.Retire(model="churn", version=1, force=True, reason="expired and unused")
    paused = after(records.Freeze(model="churn"), state=STABLE)
    assert still(paused, retire, STABLE) == (retire,)  # nothing of it has changed
    extended = after(records.Extend(model="churn", version=1, expires="2031-01-01"), state=STABLE)
    back = after(promote(2, 30), records.Rollback(model="churn"), state=STABLE)
    staged = after(
        records.Promote(model="churn", version=1, environment="staging", rollout=ulid(31)), state=STABLE
    )
    patient = after(records.Policy(settings={"idle": 30 * 86_400}), state=STABLE)
    joined = after(records.Join(host="h1"), state=STABLE)  # nobody has heard it
    for now in (extended, back, staged, patient, joined):
        assert refusal(now, [retire]) is None
        assert still(now, retire, STABLE) == ()
    replaced = after(promote(2, 32), state=STABLE)
    unused = records.Retire(model="churn", version=1, reason="expired and unused")
    assert still(replaced, unused, replaced) == (unused,)
    mirrored = after(records.Shadow(model="churn", version=1, shadow=ulid(33)), state=replaced)
    assert refusal(mirrored, [unused]) is None
    assert still(mirrored, unused, replaced) == ()


def test_a_host_that_has_joined_again_is_not_forgotten() -> None:
    forget = records.Forget(host="h1")
    seen = after(records.Join(host="h1"), state=STABLE)
    assert still(seen, forget, seen) == (forget,)
    again = after(forget, records.Join(host="h1"), state=seen)
    assert still(again, forget, seen) == ()


# --- use


def test_use_is_counted_over_restarts_by_a_clock_nobody_sets(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.prepare()
    now = 0.0
    gone: set[str] = set()

    def started() -> Uses:
        uses = Uses(disk, lambda ref: ref not in gone, lambda: now)
        uses.load()
        return uses

    uses = started()
    uses.note({("churn", 1): Total(requests=5), ("fraud", 2): Total()})
    now = 100.0
    uses.note({("churn", 1): Total(requests=5)}, ["fraud@3"])
    assert uses.watched == 100.0
    assert uses.since() == {"churn@1": 100.0, "fraud@3": 0.0}
    now = 150.0
    uses.note({("churn", 1): Total(requests=6)})
    uses.write()
    now = 99_000.0  # nobody ran meanwhile: that counts for nothing
    uses = started()
    now += 7
    uses.note({})
    assert uses.watched == 157.0
    assert uses.since() == {"churn@1": 7.0, "fraud@3": 57.0}
    gone.add("fraud@3")
    uses.write()
    assert "fraud@3" not in msgspec.json.decode((tmp_path / "uses.json").read_bytes())["uses"]


def test_a_report_of_another_host_under_a_members_key_is_not_heard(world: World) -> None:
    victim = world.order[-1]
    world.store.put(
        report_key("production", victim),
        msgspec.json.encode(HostReport(host=world.order[0], environment="production", head=10**6)),
    )
    turn, _ = world.look(world.order[0])
    assert turn.actions == ()  # 9 of 10
