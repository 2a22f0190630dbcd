"""Who tells people and how often: hosts that die, targets that fail, notices that are closed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mldeploy.core import duty, records
from mldeploy.core.state import Notice, State
from mldeploy.errors import DiskError, NotificationError, StoreError
from mldeploy.reporting.deliver import Sent
from mldeploy.reporting.message import Message
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import Log
from mldeploy.store.objects import Fetched, ObjectStore, open_store
from mldeploy.store.reports import HostReport, read_reports, write_report
from mldeploy_daemon.config import Config
from mldeploy_daemon.disk import Disk
from mldeploy_daemon.notify import Notifier
from mldeploy_daemon.notifying import QUIET, Notifying
from mldeploy_daemon.told import TOLD, Tellings
from tests.reporting import scene

T0 = datetime(2026, 11, 24, 7, tzinfo=UTC)
TARGETS = {"hook": "json://hook", "ops": "mailto://mail.example.com"}


class Clocked:
    """A store whose clock is the test's; `down` is one that cannot be reached."""

    def __init__(self, store: ObjectStore) -> None:
        self.inner, self.clock, self.down, self.gets = store, T0.timestamp(), False, 0
        self.written: dict[str, float] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def get(self, key: str) -> Fetched | None:
        self.gets += 1
        if self.down:
            raise StoreError("the store is down", "wait")
        found = self.inner.get(key)
        return Fetched(found.data, self.written.get(key, self.clock)) if found else None

    def create(self, key: str, data: bytes) -> bool:
        self.written[key] = self.clock
        return self.inner.create(key, data)

    def put(self, key: str, data: bytes) -> None:
        self.written[key] = self.clock
        self.inner.put(key, data)


class World:
    """Hosts that may tell people, one log, one clock; what left, and what each target does."""

    def __init__(self, root: Path, hosts: int = 3) -> None:
        self.root = root
        self.store = Clocked(open_store(f"memory://{root.name}-{new_ulid()}", create=True))
        self.log = Log(self.store)  # type: ignore[arg-type]
        self.outbox: list[tuple[str, str, Message]] = []  # host, target
        self.attempts: list[tuple[str, str]] = []
        self.down: set[str] = set()
        self.put_off: set[str] = set()
        self.notes: dict[str, str] = {}  # of targets that are reached
        self.had: list[tuple[str, ...]] = []  # of each attempt: who needs no more
        self.able: set[str] | None = None  # the hosts that have the secrets of the targets; None: all
        self.names = [f"h{number}" for number in range(hosts)]
        self.say(*(records.Join(host=name) for name in self.names))
        self.say(records.Policy(settings={"notify": TARGETS}))
        for number in range(1, 9):
            self.say(scene.publish(number, auc=0.9))
        self.hosts = {name: self.host(name) for name in self.names}

    def host(self, name: str) -> Notifying:
        """A host with nothing in its memory: a new one, or one that was started again on its disk."""

        def deliver(made: Message, targets: Mapping[str, str], owner_at: str) -> Sent:
            assert owner_at == "ops"
            self.attempts += [(name, target) for target in targets]
            down = set(targets) if self.able is not None and name not in self.able else self.down
            failed = {target: NotificationError("it is down", "wait") for target in targets if target in down}
            put_off = self.put_off & set(targets)  # one of its two recipients is to be tried again
            failed |= {target: NotificationError("not yet for b") for target in put_off}
            reached = tuple(sorted(set(targets) - set(failed)))
            notes = {target: note for target, note in self.notes.items() if target in reached}
            self.had.append(made.had)
            self.outbox += [(name, target, made) for target in reached]
            return Sent(reached=reached, failed=failed, notes=notes, took=("@a",) if put_off else ())

        disk = Disk(self.root / name)
        disk.prepare()
        told = Tellings(disk)
        told.load()
        return Notifying("production", name, self.store, deliver, lambda: self.store.clock, told)  # type: ignore[arg-type]

    def say(self, *actions: records.Action, actor: str = "alice@laptop") -> State:
        now = datetime.fromtimestamp(self.store.clock, UTC)
        appended = self.log.append(lambda _: actions, actor=actor, now=now)
        assert appended is not None
        return appended.state

    def sleep(self, seconds: float) -> None:
        self.store.clock += seconds

    def report(self, *names: str) -> None:
        """These hosts say what they say, now."""
        for name in names or self.names:
            told = self.hosts[name].told.reached
            write_report(self.store, HostReport(host=name, environment="production", told=told))  # type: ignore[arg-type]

    def look(self, name: str, *, dies: str = "") -> float:
        """What `notify.py` does for one host; it may die before it sends, or before it says so."""
        host = self.hosts[name]
        plan = host.plan(self.log.state)
        for notice, turn in plan.due:
            if not host.pending(self.log.state, notice):
                continue
            if dies == "before it sends":
                return 0.0
            outcome = host.send(self.log.state, notice, turn)
            if dies == "after it sent":
                return 0.0
            if outcome.closing is not None:
                self.say(outcome.closing, actor=f"host:{name}")
        return plan.pause

    def run(self, seconds: float, *dead: str, every: float = 30.0) -> None:
        """Everybody who lives looks as time goes by."""
        until = self.store.clock + seconds
        while self.store.clock < until:
            alive = [name for name in self.names if name not in dead]
            self.report(*alive)
            for name in alive:
                self.look(name)
            self.sleep(every)

    def launch(self, winner: str = "h1", version: int = 8) -> Notice:
        state = self.say(
            records.Promote(model="churn", version=version, rollout=scene.ulid(version)),
            actor=f"host:{winner}",
        )
        (notice,) = (n for n in state.notices.values() if n.version == version)
        self.report()
        return notice

    @property
    def pending(self) -> list[str]:
        self.log.refresh()
        return list(self.log.state.notices)

    def sent(self, target: str) -> list[str]:
        return [made.identity for _, name, made in self.outbox if name == target]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_winner_tells_everybody_once(world: World) -> None:
    notice = world.launch("h1")
    world.run(3_600)
    assert {host for host, _, _ in world.outbox} == {"h1"}
    (identity,) = world.sent("ops")
    assert identity.startswith(f"{notice.id}@") and world.sent("hook") == [identity]
    assert world.pending == []
    made = world.outbox[0][2]
    assert made.title == "churn@8 is stable in production" and made.owner == scene.OWNER


@pytest.mark.parametrize(("dies", "times"), [("before it sends", 1), ("after it sent", 2)])
def test_a_winner_that_dies_right_after_winning_is_replaced(world: World, dies: str, times: int) -> None:
    notice = world.launch("h1")
    world.look("h1", dies=dies)
    order = duty.senders(notice, world.names)
    world.sleep(duty.PATIENCE - 1)
    world.report("h0", "h2")
    assert [world.look(name) for name in ("h0", "h2")] and len(world.sent("ops")) == times - 1
    world.run(60, "h1")
    # one identity, so that who gets it twice sees one
    assert len(world.sent("ops")) == times and len(set(world.sent("ops"))) == 1
    assert world.outbox[-1][0] == order[1] and world.pending == []
    world.hosts["h1"] = world.host("h1")  # it comes back and knows nothing
    world.run(4 * 3_600)
    assert len(world.sent("ops")) == times


def test_a_winner_that_is_drained_leaves_it_to_the_others_and_what_it_reached_is_not_repeated(
    world: World,
) -> None:
    world.down = {"hook"}
    world.launch("h1")
    world.look("h1")
    world.report("h1")
    world.say(records.Drain(host="h1"))
    world.down = set()
    world.look("h1")
    assert len(world.outbox) == 1
    world.run(600)
    assert len(world.sent("ops")) == 1 and len(world.sent("hook")) == 1
    assert world.outbox[-1][0] != "h1" and world.pending == []


def test_a_drained_host_goes_on_saying_whom_it_warned_today(world: World) -> None:
    world.launch("h1")
    world.run(60)
    world.outbox.clear()
    world.store.clock = datetime(2027, 6, 1, 0, 1, tzinfo=UTC).timestamp()  # a day past the expiry
    world.down = {"hook"}
    world.report()
    first = next(name for name in world.names if world.look(name) and world.outbox)
    assert world.outbox[0][2].identity.startswith("expiry.churn.8.2027-06-01@")
    world.say(records.Drain(host=first))
    world.look(first)
    world.report(first)
    world.down = set()
    world.run(600)
    assert len(world.sent("ops")) == 1 and len(world.sent("hook")) == 1
    assert world.outbox[-1][0] != first


def test_one_that_said_what_it_had_reached_before_it_died_is_not_repeated(world: World) -> None:
    world.down = {"hook"}
    world.launch("h1")
    world.look("h1")
    world.report("h1")  # hosts/production/h1.json now names `ops`
    world.down = set()
    world.run(600, "h1")
    assert len(world.sent("ops")) == 1 and len(world.sent("hook")) == 1
    assert world.outbox[-1][0] != "h1" and world.pending == []
    reports = {report.host: report.told for report, _ in read_reports(world.store, "production")}  # type: ignore[arg-type]
    assert list(reports["h1"].values()) == [("ops",)]


def test_an_agent_that_is_started_again_goes_on_where_it_was(world: World) -> None:
    world.down = {"hook"}
    notice = world.launch("h1")
    world.look("h1")
    for _ in range(3):
        world.hosts["h1"] = world.host("h1")
        world.report("h1")  # its first report says what it had reached
        world.look("h1")
    assert world.attempts == [("h1", "hook"), ("h1", "ops")]  # in its turn, once
    world.run(600)
    assert len(world.sent("ops")) == 1 and world.pending == [notice.id]


def test_one_that_lost_what_it_knew_asks_its_own_report(world: World) -> None:
    world.down = {"hook"}
    world.launch("h1")
    world.look("h1")
    world.report("h1")
    (world.root / "h1" / TOLD).write_bytes(b"garbage")
    world.hosts["h1"] = world.host("h1")
    world.look("h1")
    assert len(world.sent("ops")) == 1


def test_what_one_had_reached_that_has_left_is_not_repeated(world: World) -> None:
    world.down = {"hook"}
    notice = world.launch("h1")
    world.look("h1")
    world.report("h1")
    world.say(records.Leave(host="h1"))
    world.down = set()
    world.run(600, "h1")
    assert len(world.sent("ops")) == len(world.sent("hook")) == 1 and world.pending == []
    assert world.outbox[-1][0] != "h1" and notice.actor == "host:h1"


def test_a_full_disk_keeps_nothing_from_being_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise DiskError("told.json: No space left on device", "make room")

    monkeypatch.setattr(Disk, "write", full)
    world.launch("h1")
    world.run(600)
    assert len(world.sent("ops")) == len(world.sent("hook")) == 1 and world.pending == []


def test_a_target_that_is_down_is_tried_by_one_after_the_other_and_ever_more_rarely(world: World) -> None:
    world.down = {"hook"}
    notice = world.launch("h1")
    errors = world.hosts["h1"].send(world.log.state, notice, 0).errors
    assert [str(error) for error in errors] == [f"notice {notice.id} did not reach hook: it is down"]
    world.run(6 * 3_600)
    assert len(world.sent("ops")) == 1 and world.pending == [notice.id]
    tries = [name for name, target in world.attempts if target == "hook"]
    assert len(tries) == duty.turn_at(6 * 3_600, 3) + 1  # one in each turn, however often they look
    assert tries[:6] == 2 * duty.senders(notice, world.names)
    world.down = set()
    world.run(3 * 3_600)
    assert len(world.sent("hook")) == 1 and len(world.sent("ops")) == 1 and world.pending == []


def test_what_no_target_takes_for_a_week_is_given_up_with_the_reason(world: World) -> None:
    world.down = {"hook"}
    notice = world.launch("h1")
    world.run(60)
    world.sleep(duty.GIVE_UP)
    world.run(8 * 3_600, every=300)
    assert world.pending == []
    closed = [a for a in _said(world) if isinstance(a, records.Notified)]
    assert closed == [records.Notified(notice=notice.id, reason="not reached: hook: it is down")]


def test_who_was_refused_for_good_is_told_and_stands_in_the_record(world: World) -> None:
    world.notes = {"ops": "mail:25 refused b@example.com"}
    notice = world.launch("h1")
    outcome = world.hosts["h1"].send(world.log.state, notice, 0)
    assert [str(error) for error in outcome.errors] == [
        f"notice {notice.id} did not reach ops: mail:25 refused b@example.com"
    ]
    reason = "not reached: ops: mail:25 refused b@example.com"
    assert outcome.closing == records.Notified(notice=notice.id, reason=reason)


def test_whom_one_host_has_reached_at_a_target_the_next_leaves_alone(world: World) -> None:
    world.put_off = {"ops"}
    world.launch("h1")
    world.look("h1")
    world.report("h1")
    assert world.pending and world.had == [()]
    world.put_off = set()
    world.run(600, "h1")
    assert len(world.sent("ops")) == 1 and world.pending == []
    assert world.had[1:] == [("@a", "hook")]


def _said(world: World) -> list[records.Action]:
    from mldeploy.store.history import records_at

    found = records_at(world.store, range(1, world.log.state.head + 1))  # type: ignore[arg-type]
    return [action for record, _ in found for action in record.actions]


def test_nobody_sends_what_was_closed_or_what_the_store_cannot_vouch_for(world: World) -> None:
    notice = world.launch("h1")
    stale = world.log.state
    world.say(records.Notified(notice=notice.id), actor="host:h2")
    assert not world.hosts["h1"].pending(world.log.state, notice)
    world.store.down = True
    with pytest.raises(StoreError):
        world.hosts["h1"].plan(stale)
    world.store.down = False
    world.run(600)
    assert world.outbox == []


def test_a_policy_that_names_nobody_any_more_closes_what_is_pending(world: World) -> None:
    world.launch("h1")
    world.say(records.Policy(settings={"notify": None}))
    world.run(60)
    assert world.outbox == [] and world.pending == []


def test_what_happens_where_there_are_no_hosts_is_told_by_the_others(world: World) -> None:
    world.say(records.Promote(model="churn", version=4, environment="staging", rollout=scene.ulid(4)))
    world.report()
    world.run(600)
    assert [made.title for _, target, made in world.outbox if target == "ops"] == [
        "churn@4 is stable in staging"
    ]
    assert world.pending == []


def test_a_retirement_is_about_all_environments(world: World) -> None:
    world.say(records.Retire(model="churn", version=3, reason="too old"), actor="carol@laptop")
    world.report()
    world.run(600)
    assert [made.title for _, target, made in world.outbox if target == "ops"] == ["churn@3 was retired"]
    assert world.pending == []


def test_warnings_of_an_expiry_come_each_under_an_id_of_its_own_and_once(world: World) -> None:
    world.launch("h1")
    world.run(60)
    world.outbox.clear()
    expires = datetime(2027, 5, 31, tzinfo=UTC)
    for before, said in (
        (30, "in 30 days"),
        (7, "in 7 days"),
        (1, "in 1 day"),
        (-1, "1 day ago"),
        (-2, "2 days ago"),
    ):
        world.store.clock = (expires - timedelta(days=before)).timestamp() + 60
        world.run(3 * 3_600, every=900)
        title = f"churn@8 {'expires' if before > 0 else 'expired'} {said}, on 2027-05-31"
        assert world.outbox[-1][2].title.startswith(title)
    mails = world.sent("ops")
    assert len(mails) == len(set(mails)) == 5 and mails[0].startswith("expiry.churn.8.2027-05-01@")
    assert world.outbox[0][2].kind == "warning"


def test_a_fleet_with_nothing_to_tell_asks_for_nothing(world: World) -> None:
    before = world.store.gets
    assert world.hosts["h0"].plan(world.log.state).pause == QUIET
    assert world.store.gets == before


def test_a_host_that_has_not_reported_yet_looks_again_soon(world: World) -> None:
    world.launch("h1")
    world.store.inner.delete("hosts/production/h1.json")
    plan = world.hosts["h1"].plan(world.log.state)
    assert plan.due == () and plan.pause < 10
    world.report("h1")
    assert len(world.hosts["h1"].plan(world.log.state).due) == 1


def test_of_many_hosts_only_the_first_ask_for_anything(tmp_path: Path) -> None:
    many = World(tmp_path, hosts=60)
    notice = many.launch("h1")
    before = many.store.gets
    pauses = [many.hosts[name].plan(many.log.state).pause for name in many.names if name != "h1"]
    asked = many.store.gets - before
    assert asked <= 2 * duty.SENDERS  # the time of the record, and that of the own report
    assert sum(pause < QUIET for pause in pauses) <= duty.SENDERS
    assert notice.id in many.pending


def test_of_many_hosts_those_that_have_the_secrets_are_found(tmp_path: Path) -> None:
    """Two of 40, neither among the first 16: they are asked when their turns come, and not all the time."""
    many = World(tmp_path, hosts=40)
    notice = many.launch("h1")
    order = duty.senders(notice, many.names)
    many.able = {order[20], order[33]}
    before = many.store.gets
    many.run(duty.begins(20, 40) - 700, every=600)
    assert many.outbox == [] and many.pending == [notice.id]
    late = many.store.gets - before
    many.run(1_800, every=600)
    assert {host for host, _, _ in many.outbox} == {order[20]}
    assert len(many.sent("ops")) == len(many.sent("hook")) == 1 and many.pending == []
    # looked at 95 times: the first 16 ask for their report's time, and for what was reached in their turns
    assert late < 16 * 95 + 24 * 4 + 20 * 20


def test_a_host_that_is_not_among_the_first_asks_once_an_hour_has_passed_and_then_at_its_turn(
    tmp_path: Path,
) -> None:
    many = World(tmp_path, hosts=40)
    notice = many.launch("h1")
    order = duty.senders(notice, many.names)
    host = many.hosts[order[20]]
    asked = []
    for _ in range(6 * 16):
        many.report(order[20])
        before = many.store.gets
        pause = host.plan(many.log.state).pause
        asked.append(many.store.gets - before)
        assert pause <= QUIET
        many.sleep(600)
    # its hour over, the record and its own report; then nothing until its turn
    assert asked[6:8] == [2, 0] and sum(asked) == 2
    many.sleep(duty.begins(20, 40) - 6 * 16 * 600 + 30)
    many.report(order[20])
    assert host.plan(many.log.state).due == ((notice, 20),)


def test_a_report_is_told_whatever_became_of_the_bundles(world: World) -> None:
    """The blobs of this store were never uploaded: the launch is told without what differs."""
    notice = world.launch("h1")
    report = world.hosts["h1"].report(world.log.state, notice, world.store.clock)
    assert report.difference is None and report.promoted_by == "host:h1"
    assert msgspec.json.encode(report)


class Following:
    """What a Notifier needs of a Follower, over the world's log."""

    def __init__(self, world: World) -> None:
        self.world, self.errors = world, list[str]()
        self.disk = Disk(world.root / "h1")

    @property
    def state(self) -> State:
        return self.world.log.state

    def note(self, error: Exception) -> None:
        self.errors.append(str(error))

    def changed(self) -> None:
        """Nobody waits."""

    async def append(self, intent: Any) -> Any:
        return self.world.log.append(intent, actor="host:h1", now=datetime.fromtimestamp(0, UTC))


def test_a_notice_that_cannot_be_composed_is_told_in_short(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = world.launch("h1", 7), world.launch("h1", 8)
    notifying = world.hosts["h1"]
    report = notifying.report

    def choke(state: State, notice: Notice, now: float) -> object:
        return 1 / 0 if notice.id == bad.id else report(state, notice, now)

    monkeypatch.setattr(notifying, "report", choke)
    following = Following(world)
    notifier = Notifier(Config(store="", state=""), "h1", following)  # type: ignore[arg-type]
    assert notifier.told == {}  # also before the store is open
    notifier._notifying = notifying
    for _ in range(3):
        asyncio.run(notifier.once(world.log.state, world.store))  # type: ignore[arg-type]
    notifier.pool.shutdown()
    told = {made.identity.partition("@")[0]: made for _, target, made in world.outbox if target == "ops"}
    assert len(world.sent("ops")) == 2 and set(told) == {bad.id, good.id} and world.pending == []
    assert told[bad.id].title == "churn@7: launched in production"
    assert "by: host:h1" in told[bad.id].text and "report churn@7" in told[bad.id].text
    assert following.errors == [] and caplog.text.count("ZeroDivisionError: ") == 1


def test_a_notice_that_cannot_be_told_keeps_no_other_back(world: World) -> None:
    bad, good = world.launch("h1", 7), world.launch("h1", 8)
    notifying = world.hosts["h1"]
    deliver = notifying.deliver

    def choke(made: Message, targets: Mapping[str, str], owner_at: str) -> Sent:
        return 1 / 0 if made.identity.startswith(bad.id) else deliver(made, targets, owner_at)  # type: ignore[return-value]

    notifying.deliver = choke
    following = Following(world)
    notifier = Notifier(Config(store="", state=""), "h1", following)  # type: ignore[arg-type]
    notifier._notifying = notifying
    for _ in range(3):
        asyncio.run(notifier.once(world.log.state, world.store))  # type: ignore[arg-type]
    notifier.pool.shutdown()
    assert world.outbox[0][2].identity.startswith(good.id) and world.pending == [bad.id]
    assert following.errors == [f"notice {bad.id} cannot be told: see the daemon's log"]  # once in a turn


def test_a_notice_for_which_the_store_does_not_answer_keeps_no_other_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = world.launch("h1", 7), world.launch("h1", 8)
    notifying = world.hosts["h1"]
    reached = notifying._reached_before

    def denied(state: State, order: Sequence[str], turn: int, notice: Notice) -> set[str]:
        if notice.id == bad.id:
            raise StoreError("the report of another host may not be read", "allow it")
        return reached(state, order, turn, notice)

    monkeypatch.setattr(notifying, "_reached_before", denied)
    notifier = Notifier(Config(store="", state=""), "h1", Following(world))  # type: ignore[arg-type]
    notifier._notifying = notifying
    with pytest.raises(StoreError, match="may not be read"):  # after all of them
        asyncio.run(notifier.once(world.log.state, world.store))  # type: ignore[arg-type]
    notifier.pool.shutdown()
    assert world.outbox[0][2].identity.startswith(good.id) and world.pending == [bad.id]
