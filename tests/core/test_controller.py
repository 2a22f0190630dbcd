"""What hosts propose: rollouts, shadows, members, expiries; and a small fleet that steers itself by it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mldeploy.core import records
from mldeploy.core.controller import (
    Reports,
    decisions,
    delay,
    freshness,
    propose,
    ranked,
    report_pause,
    scopes,
)
from mldeploy.core.duty import pending_for
from mldeploy.core.evidence import Measure, Tally, merge
from mldeploy.core.fold import fold
from mldeploy.core.records import Action, Advance, Complete, Forget, Halt, Promote, Retire, Unshadow
from mldeploy.core.retirement import Heard
from mldeploy.core.state import State
from tests.core.strategies import chain, ulid
from tests.core.test_actions import after, promote, publish, serving

HOSTS = tuple(f"h{number}" for number in range(5))
JOINED = [records.Join(host=host, labels={"zone": "a" if host == "h0" else "b"}) for host in HOSTS]
GUARD = ("error_rate < 5%",)
FLEET = after(*JOINED, publish(1), publish(2), promote(1, 1))
RAMP = after(promote(2, 2, steps=(100, 1_000, 10_000), hold=60, guards=GUARD), state=FLEET)
DAY = 86_400.0
#: Unix seconds of 2029-12-20, before the expiry of what `publish` makes, and 2030-03-01, after it.
BEFORE, PAST = 1_892_419_200.0, 1_898_553_600.0


def heard(state: State, now: float, hosts: Sequence[str] = HOSTS, **fields: object) -> tuple[Heard, ...]:
    given = {"at": now, "head": state.head, "watched": 30 * DAY} | fields
    return tuple(Heard(host=host, **given) for host in hosts)  # type: ignore[arg-type]


def counted(state: State, requests: int = 1_000, failures: int = 0) -> tuple[Measure, ...]:
    ramp = serving(state).ramp
    assert ramp is not None
    tally = Tally(requests=requests, failures=failures)
    return (Measure(model="churn", version=2, scope=ramp.seq, role="candidate", tally=tally),)


def reports(state: State, now: float, **fields: object) -> Reports:
    ramp = serving(state).ramp
    given: dict[str, object] = {
        "environment": "production",
        "heard": heard(state, now),
        "measures": counted(state) if ramp else (),
        "began": {ramp.seq: 1_000.0, ramp.begun: 1_000.0} if ramp else {serving(state).seq: 1_000.0},
    }
    given |= fields
    at = {each.host: each.at for each in given["heard"]}  # type: ignore[attr-defined]
    asked = {
        "silent": {host: at.get(host, 0.0) for host in state.hosts}
    }  # as in a fleet that is read by host
    return Reports(**asked | given)  # type: ignore[arg-type]


def test_a_ramp_advances_on_the_word_of_95_percent_at_the_step() -> None:
    now = 2_000.0
    (action,) = propose(RAMP, reports(RAMP, now), now)
    assert isinstance(action, Advance)
    behind = (*heard(RAMP, now, HOSTS[:4]), *heard(RAMP, now, HOSTS[4:], head=RAMP.head - 1))
    stale = (*heard(RAMP, now, HOSTS[:4]), *heard(RAMP, now - freshness(5) - 1, HOSTS[4:]))
    for found in (behind, stale, heard(RAMP, now, HOSTS[:4])):
        assert propose(RAMP, reports(RAMP, now, heard=found), now) == ()
        waits = decisions(RAMP, reports(RAMP, now, heard=found), now)["churn"].waits
        assert waits == ("4 of 5 hosts have reported that they are at this step",)


def test_a_report_is_fresh_for_as_long_as_hosts_of_so_large_a_store_take() -> None:
    """Hosts report as rarely as the whole store asks, however few of them are in the environment."""
    many = after(
        *(records.Join(host=f"s{number}", environment="staging") for number in range(300)), state=RAMP
    )
    assert freshness(305) - freshness(5) == 5 * (report_pause(305) - report_pause(5)) == 15
    now = 2_000.0
    for age, fresh in ((freshness(305), True), (freshness(305) + 1, False)):
        found = reports(many, now, heard=heard(many, now - age))
        assert bool(propose(many, found, now)) == fresh


def test_a_halt_waits_for_nobody() -> None:
    now = 1_001.0
    bad = counted(RAMP, 300, 100)
    for found in (heard(RAMP, now, ("h3",)), heard(RAMP, now - 3_000, ("h3",)), ()):
        (action,) = propose(RAMP, reports(RAMP, now, measures=bad, heard=found), now)
        assert isinstance(action, Halt)


def test_a_rollout_on_labels_asks_the_hosts_it_is_for() -> None:
    state = after(promote(2, 3, steps=(100, 10_000), on=("zone=a",), guards=GUARD), state=FLEET)
    now = 2_000.0
    (action,) = propose(state, reports(state, now, heard=heard(state, now, ("h0",))), now)
    assert isinstance(action, Advance)
    assert propose(state, reports(state, now, heard=heard(state, now, HOSTS[1:])), now) == ()


def test_a_rollout_on_labels_stays_at_its_last_step_whatever_the_deadline() -> None:
    ramp = promote(2, 3, steps=(100, 10_000), on=("zone=a",), guards=GUARD, deadline=60)
    state = after(ramp, Advance(rollout=ulid(3), step=0), state=FLEET)
    now = 2_000.0  # far past its deadline, with all the evidence there could be
    assert propose(state, reports(state, now), now) == ()
    assert decisions(state, reports(state, now), now)["churn"].waits == ()
    bad = reports(state, now, measures=counted(state, 300, 100))
    assert isinstance(propose(state, bad, now)[0], Halt), "it is guarded there"


def test_a_rollout_for_nobody_waits_and_says_so() -> None:
    state = after(promote(2, 3, steps=(100, 10_000), on=("zone=c",), guards=GUARD), state=FLEET)
    assert propose(state, reports(state, 2_000.0), 2_000.0) == ()
    waits = decisions(state, reports(state, 2_000.0), 2_000.0)["churn"].waits
    assert waits == ("no host it is for has joined, or all of them are drained",)


def test_hosts_where_it_does_not_come_up_do_not_count_for_it() -> None:
    now = 2_000.0
    some = (*heard(RAMP, now, HOSTS[:4]), *heard(RAMP, now, HOSTS[4:], failed=("churn@2", "fraud@1")))
    assert propose(RAMP, reports(RAMP, now, heard=some), now) == ()
    others = (*heard(RAMP, now, HOSTS[:4]), *heard(RAMP, now, HOSTS[4:], failed=("churn@1",)))
    assert isinstance(propose(RAMP, reports(RAMP, now, heard=others), now)[0], Advance)
    most = (*heard(RAMP, now, HOSTS[:2]), *heard(RAMP, now, HOSTS[2:], failed=("churn@2",)))
    assert isinstance(propose(RAMP, reports(RAMP, now, heard=most), now)[0], Halt)


def test_a_host_counts_once_the_candidate_has_come_up_there() -> None:
    """It loads, waits for memory or a file, is backing off: nothing has failed, and nothing is there."""
    now = 2_000.0
    up = dict.fromkeys(HOSTS, ("churn@2",))
    assert isinstance(propose(RAMP, reports(RAMP, now, up=up), now)[0], Advance)
    for other in ((), ("churn@1", "fraud@2")):
        some = reports(RAMP, now, up=up | {"h4": other, "x1": ("churn@2",)})
        assert propose(RAMP, some, now) == ()
        assert decisions(RAMP, some, now)["churn"].waits == ("it has come up on 4 of 5 hosts",)
    nowhere = reports(RAMP, now, up=dict.fromkeys(HOSTS, ()))
    assert decisions(RAMP, nowhere, now)["churn"].waits == ("it has come up on 0 of 5 hosts",)


def test_where_it_has_come_up_on_hosts_that_are_not_asked_is_no_matter() -> None:
    now = 2_000.0
    state = after(promote(2, 3, steps=(100, 10_000), on=("zone=a",), guards=GUARD), state=FLEET)
    for up, goes in (({"h0": ("churn@2",)} | dict.fromkeys(HOSTS[1:], ()), True), ({"h0": ()}, False)):
        assert bool(propose(state, reports(state, now, up=up), now)) == goes
    # one that is drained comes up as it likes
    drained = after(records.Drain(host="h0"), state=RAMP)
    some = reports(drained, now, up=dict.fromkeys(HOSTS, ("churn@2",)) | {"h0": ()})
    assert isinstance(propose(drained, some, now)[0], Advance)


def test_of_an_older_daemon_that_does_not_say_it_what_has_not_failed_has_come_up() -> None:
    now = 2_000.0
    newer = {"h0": ("churn@2",), "h1": ("churn@2",)}
    assert isinstance(propose(RAMP, reports(RAMP, now, up=newer), now)[0], Advance)
    some = (*heard(RAMP, now, HOSTS[:4]), *heard(RAMP, now, HOSTS[4:], failed=("churn@2",)))
    found = decisions(RAMP, reports(RAMP, now, up=newer, heard=some), now)["churn"]
    assert found.waits == ("it has come up on 4 of 5 hosts, and fails on 1",)


def test_strangers_do_not_count() -> None:
    now = 2_000.0
    strangers = heard(RAMP, now, ("x1", "x2", "x3", "x4", "h1"))
    assert propose(RAMP, reports(RAMP, now, heard=strangers), now) == ()


def test_scopes_are_what_is_to_be_known_of_times() -> None:
    shadow = records.Shadow(model="churn", version=1, shadow=ulid(9), lasts=60)
    ramp = serving(RAMP).ramp
    assert ramp is not None
    assert scopes(RAMP, "production") == {ramp.seq}
    state = after(records.Shadow(model="churn", version=2, shadow=ulid(9), lasts=60), state=FLEET)
    assert scopes(state, "production") == {state.head}
    assert scopes(state, "staging") == set()
    assert shadow.lasts == 60


def test_a_shadow_ends_when_its_time_is_over() -> None:
    state = after(records.Shadow(model="churn", version=2, shadow=ulid(9), lasts=60), state=FLEET)
    found = reports(state, 100.0, began={state.head: 50.0})
    assert propose(state, found, 109.0) == ()
    (action,) = propose(state, found, 110.0)
    assert isinstance(action, Unshadow)
    assert action.shadow == ulid(9)
    elsewhere = reports(
        state, 110.0, began={state.head: 50.0}, heard=heard(state, 110.0, (*HOSTS, "x1")), everyone=True
    )
    (action,) = propose(state, elsewhere, 110.0)
    assert isinstance(action, Unshadow) and action.evidence is not None
    assert action.evidence.hosts == 5, "a host of another environment has heard none of it"
    both = tuple(
        Measure(model=model, version=2, scope=state.head, role="shadow") for model in ("churn", "fraud")
    )
    (action,) = propose(state, reports(state, 110.0, began={state.head: 50.0}, measures=both), 110.0)
    assert isinstance(action, Unshadow) and action.evidence is not None
    assert action.evidence.measures == both[:1], "one record began a shadow of each model"
    unknown = reports(state, 100.0, began={})
    assert propose(state, unknown, 10**9) == tuple(Forget(host=host) for host in HOSTS)


def test_who_is_silent_for_the_policys_time_is_forgotten() -> None:
    now = 10_000.0
    quiet = (*heard(FLEET, now, HOSTS[1:]), *heard(FLEET, now - 3_601, ("h0",)))
    assert propose(FLEET, reports(FLEET, now, heard=quiet), now) == (Forget(host="h0"),)
    never = reports(FLEET, now, heard=heard(FLEET, now, HOSTS[1:]), began={1: now - 3_000})
    assert propose(FLEET, never, now) == ()
    assert propose(FLEET, never, now + 601) == (Forget(host="h0"),)
    # nor before its report stops being fresh, whatever the policy says: hosts of a large store report rarely
    hasty = after(
        records.Policy(settings={"host_ttl": 60}),
        *(records.Join(host=f"s{number}", environment="staging") for number in range(600)),
        state=FLEET,
    )
    for age, gone in ((freshness(605), ()), (freshness(605) + 1, (Forget(host="h0"),))):
        old = (*heard(hasty, now, HOSTS[1:]), *heard(hasty, now - age, ("h0",)))
        silent = {each.host: each.at for each in old}
        assert propose(hasty, reports(hasty, now, heard=old, silent=silent), now) == gone
    # nor is one that was not asked: what others tell of it may be old
    unasked = reports(FLEET, now, heard=quiet, silent={"h1": now - 3_601, "x1": now - 3_601})
    assert propose(FLEET, unasked, now) == (Forget(host="h1"),)
    # of one that joined, and of which nothing else is known, nothing is said
    assert propose(FLEET, reports(FLEET, now, heard=heard(FLEET, now, HOSTS[1:])), now) == ()


# --- expiry


def everyone(state: State, now: float, **fields: object) -> Reports:
    return reports(state, now, everyone=True, **fields)


def test_expired_and_unused_by_every_members_word_is_retired() -> None:
    actions = propose(FLEET, everyone(FLEET, PAST), PAST)
    assert [(a.version, a.force) for a in actions if isinstance(a, Retire)] == [(1, True), (2, False)]
    evidence = actions[0].evidence if isinstance(actions[0], Retire) else None
    assert evidence is not None
    assert (evidence.hosts, evidence.members, evidence.unused) == (5, 5, 30 * DAY)
    state = after(*actions, state=FLEET)
    assert serving(state).stable is None
    assert propose(state, everyone(state, PAST), PAST) == ()


def test_what_was_put_to_work_less_than_the_idle_period_ago_is_not_retired() -> None:
    """A rollback to an old version: nobody can have asked for it yet."""
    back = after(promote(2, 2), records.Rollback(model="churn"), state=FLEET)
    assert serving(back).stable == 1
    seq = serving(back).seq
    assert scopes(back, "production", "2030-03-01") == {seq}
    assert scopes(back, "production", "2029-12-20") == set()
    for began in ({}, {seq: PAST - 60}, {seq: PAST - 7 * DAY + 1}):
        actions = propose(back, everyone(back, PAST, began=began), PAST)
        assert [action.version for action in actions if isinstance(action, Retire)] == [2]
    actions = propose(back, everyone(back, PAST, began={seq: PAST - 7 * DAY}), PAST)
    assert [action.version for action in actions if isinstance(action, Retire)] == [1, 2]


def test_what_was_restored_has_the_idle_period_to_be_extended() -> None:
    """Its use was forgotten when it was retired, and hosts look at it again at once."""
    back = after(
        records.Retire(model="churn", version=2), records.Restore(model="churn", version=2), state=FLEET
    )
    assert scopes(back, "production", "2030-03-01") == {serving(back).seq, back.head}
    long_ago = dict.fromkeys(range(1, back.head), PAST - 30 * DAY)
    for since, gone in (
        ({}, [1]),
        ({back.head: PAST - 7 * DAY + 1}, [1]),
        ({back.head: PAST - 7 * DAY}, [1, 2]),
    ):
        actions = propose(back, everyone(back, PAST, began=long_ago | since), PAST)
        assert [action.version for action in actions if isinstance(action, Retire)] == gone


@pytest.mark.parametrize("steps", [(5_000, 10_000), (10_000,)])
def test_stable_is_not_retired_while_a_rollout_may_go_back_to_it(steps: tuple[int, ...]) -> None:
    """At 100 % nobody asks for stable, and it is where a halt sends everything."""
    ramp = after(promote(2, 2, steps=(100, *steps)), records.Advance(rollout=ulid(2), step=0), state=FLEET)
    long_ago = dict.fromkeys(range(1, ramp.head + 1), PAST - 30 * DAY)
    quiet = heard(ramp, PAST, uses={"churn@2": 60.0})
    at = everyone(ramp, PAST, heard=quiet, began=long_ago, measures=())
    assert [action for action in propose(ramp, at, PAST) if isinstance(action, Retire)] == []
    # the rollout over, it is the previous version, and nobody's
    over = after(promote(2, 3), state=ramp)
    found = propose(over, everyone(over, PAST, heard=quiet, began=long_ago), PAST)
    assert [action.version for action in found if isinstance(action, Retire)] == [1]


def test_no_rollout_goes_on_unjudged_where_stable_was_retired() -> None:
    guards = ("error_rate < 1.5x", "p99 < 1.5x")
    ramp = after(
        promote(2, 2, steps=(100, 1_000, 10_000), guards=guards),
        records.Retire(model="churn", version=1, force=True),
        state=FLEET,
    )
    assert propose(ramp, reports(ramp, 2_000.0, measures=counted(ramp, 750, failures=600)), 2_000.0) == ()
    (decision,) = decisions(ramp, reports(ramp, 2_000.0), 2_000.0).values()
    why = "the stable version was retired: there is none to compare with"
    assert decision.waits == tuple(f"{guard}: {why}" for guard in guards)


def test_before_its_expiry_nothing_is_retired() -> None:
    assert propose(FLEET, everyone(FLEET, BEFORE), BEFORE) == ()
    assert propose(FLEET, reports(FLEET, PAST), PAST) == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"uses": {"churn@1": 6 * DAY, "churn@2": 6 * DAY}},
        {"watched": 6 * DAY},
        {"at": PAST - 3_000},
    ],
)
def test_one_host_that_used_it_or_cannot_say_keeps_it(fields: dict[str, object]) -> None:
    found = (*heard(FLEET, PAST, HOSTS[1:]), *heard(FLEET, PAST, ("h0",), **fields))
    assert propose(FLEET, everyone(FLEET, PAST, heard=found), PAST) == ()
    missing = heard(FLEET, PAST, HOSTS[1:])
    assert propose(FLEET, everyone(FLEET, PAST, heard=missing, began={}), PAST) == ()
    assert propose(State(), everyone(FLEET, PAST), PAST) == ()


def test_owners_are_warned_at_30_7_and_1_days_and_then_daily() -> None:
    state = after(records.Policy(settings={"notify": {"ops": "json://ops.example.com"}}), state=FLEET)
    told = []
    for day in range(-40, 4):
        now = 1_893_456_000.0 + day * DAY  # 2030-01-01, the day of the expiry
        for notice in pending_for(state, "production", now):
            told.append((day, notice.kind, notice.id))
            state = after(records.Notified(notice=notice.id), state=state)
    assert [(day, kind) for day, kind, _ in told] == [
        (-30, "expiring"), (-7, "expiring"), (-1, "expiring"), (1, "overdue"), (2, "overdue"), (3, "overdue"),
    ]  # fmt: skip
    assert len({name for _, _, name in told}) == len(told)
    # what serves nowhere has nobody who would miss it
    assert all(".churn.1." in name for _, _, name in told)


def test_an_extension_and_nobody_to_notify_end_the_warnings() -> None:
    assert pending_for(FLEET, "production", PAST) == ()
    state = after(records.Policy(settings={"notify": {"ops": "json://ops.example.com"}}), state=FLEET)
    assert len(pending_for(state, "production", PAST)) == 1
    extended = after(records.Extend(model="churn", version=1, expires="2031-01-01"), state=state)
    assert pending_for(extended, "production", PAST) == ()


# --- who acts


@given(st.sets(st.text("abcdef0123456789", min_size=4, max_size=8), min_size=1, max_size=30), st.randoms())
def test_the_order_is_the_same_on_every_host_and_differs_by_matter(
    hosts: set[str], chance: random.Random
) -> None:
    shuffled = sorted(hosts)
    chance.shuffle(shuffled)
    order = ranked(shuffled, "production")
    assert order == ranked(hosts, "production")
    assert set(order) == hosts
    gone = order[0]
    assert ranked(hosts - {gone}, "production") == order[1:]


def test_the_first_acts_at_once_and_matters_are_shared_out() -> None:
    assert delay(0) == 0 < delay(1) < delay(2)
    hosts = [f"host-{number}" for number in range(50)]
    firsts = {ranked(hosts, f"matter-{number}")[0] for number in range(200)}
    assert len(firsts) > 40


# --- a small fleet that steers itself


class Fleet:
    """Hosts that fold and report late, come and go, and propose by what they know; one clock."""

    def __init__(self, seed: int, errors: float) -> None:
        self.chance = random.Random(seed)
        self.errors = errors
        self.history = [FLEET]
        self.began: dict[int, float] = {}
        self.now = 0.0
        self.head = dict.fromkeys(HOSTS, FLEET.head)
        self.counts: dict[str, dict[tuple[int, str], list[int]]] = {host: {} for host in HOSTS}
        self.told: dict[str, tuple[Heard, tuple[Measure, ...]]] = {}
        self.advances: list[tuple[str, int]] = []
        self.halts = 0

    @property
    def state(self) -> State:
        return self.history[-1]

    def at(self, head: int) -> State:
        return self.history[head - FLEET.head]

    def append(self, *actions: Action) -> None:
        """One record; void where it does not fit any more."""
        (data,) = chain([actions], self.state.head + 1, self.state.head_sha256)
        after_it = fold(self.state, self.state.head + 1, data)
        fits = after_it.voids == self.state.voids
        self.history.append(after_it)
        self.began[after_it.head] = self.now
        for action in actions if fits else ():
            if isinstance(action, Advance | Complete):
                self.advances.append((action.rollout, action.step))
                self.check(action)
            self.halts += isinstance(action, Halt)

    def check(self, action: Advance | Complete) -> None:
        """No step is over without its hold, its hosts and its requests."""
        evidence = action.evidence
        assert evidence is not None
        assert evidence.hosts >= 0.95 * evidence.members
        assert evidence.end - evidence.start >= 60
        candidate = [m for m in evidence.measures if m.role == "candidate"]
        assert sum(m.tally.requests for m in candidate) >= 200

    def tick(self, host: str) -> None:
        """One host: traffic, then the log, a report, and what it proposes; any of these may be left out."""
        self.traffic(host)
        if self.chance.random() < 0.8:
            self.head[host] = self.state.head
        if self.chance.random() < 0.6:
            self.told[host] = self.report(host)
        if self.chance.random() < 0.5:
            seen = self.at(self.head[host])
            if host not in seen.hosts:
                self.append(records.Join(host=host))
                return
            found = Reports(
                environment="production",
                heard=tuple(each for each, _ in self.told.values()),
                measures=merge(m for _, measures in self.told.values() for m in measures),
                silent={host: self.told[host][0].at if host in self.told else 0.0 for host in seen.hosts},
                began=self.began,
            )
            for action in propose(seen, found, self.now):
                self.append(action)

    def traffic(self, host: str) -> None:
        known = serving(self.at(self.head[host]))
        if known.ramp is None:
            return
        requests = self.chance.randint(500, 1_500)
        ours = sum(self.chance.random() < known.ramp.share / 10_000 for _ in range(requests))
        failed = sum(self.chance.random() < self.errors for _ in range(ours))
        for role, total, bad in (("candidate", ours, failed), ("stable", requests - ours, 0)):
            count = self.counts[host].setdefault((known.ramp.seq, role), [0, 0])
            count[0] += total
            count[1] += bad

    def report(self, host: str) -> tuple[Heard, tuple[Measure, ...]]:
        measures = tuple(
            Measure(
                model="churn", version=2 if role == "candidate" else 1, scope=scope, role=role,
                tally=Tally(requests=total, failures=bad),
            )
            for (scope, role), (total, bad) in self.counts[host].items()
        )  # fmt: skip
        return Heard(host=host, at=self.now, head=self.head[host], watched=self.now), measures

    def run(self) -> str:
        steps = (100, 1_000, 5_000, 10_000)
        guards = ("error_rate < 1.5x",)
        ramp = Promote(model="churn", version=2, steps=steps, hold=60, guards=guards, rollout=ulid(70))
        self.append(ramp)
        dead = self.chance.choice(HOSTS)
        for _ in range(600):
            self.now += 10
            for host in self.chance.sample(HOSTS, len(HOSTS)):
                # one host is gone for a while: the others forget it and go on
                if host != dead or self.now > 4_500:
                    self.tick(host)
            ended = serving(self.state).ended
            if ended is not None and ended.rollout == ulid(70):
                return ended.outcome
        raise AssertionError("the ramp never ends")


@pytest.mark.parametrize("seed", range(2))
def test_a_good_candidate_is_taken_to_stable_by_hosts_that_only_read_and_propose(seed: int) -> None:
    fleet = Fleet(seed, errors=0.0)
    assert fleet.run() == "completed"
    assert fleet.advances == [(ulid(70), step) for step in range(4)]
    assert serving(fleet.state).stable == 2


@pytest.mark.parametrize("seed", range(4))
def test_a_bad_candidate_is_halted_once_at_its_first_step(seed: int) -> None:
    fleet = Fleet(seed, errors=0.05)
    assert fleet.run() == "halted"
    assert (fleet.halts, fleet.advances) == (1, [])
    assert serving(fleet.state).stable == 1
