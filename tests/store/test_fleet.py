"""Reading a fleet: what is heard, by how many requests, and merging in groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from unittest import mock

import msgspec
import pytest

from mldeploy.core import records
from mldeploy.core.controller import propose
from mldeploy.core.evidence import Latency, Measure, Tally, merge
from mldeploy.core.fold import fold_many
from mldeploy.core.records import Forget
from mldeploy.core.state import Host, State
from mldeploy.errors import StoreError
from mldeploy.store.fleet import GROUP, Fleet, group_of, groups_of, merged_key
from mldeploy.store.memory import MemoryStore
from mldeploy.store.objects import Fetched
from mldeploy.store.reports import HostReport, read_reports, report_key, write_report
from mldeploy.store.tail import record_key
from tests.core.strategies import chain
from tests.core.test_actions import after, promote, publish, refused

RAMP = after(publish(1), publish(2), promote(1, 1), promote(2, 2, steps=(100, 10_000)))
SCOPE = RAMP.head
STEPS = {"steps": (100, 10_000), "guards": ("error_rate < 5%",)}


class Counting(MemoryStore):
    """A store in memory that counts its requests."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()

    def get(self, key: str) -> Fetched | None:
        self.asked["get"] += 1
        return super().get(key)

    def put(self, key: str, data: bytes) -> None:
        self.asked["put"] += 1
        super().put(key, data)

    def list(self, prefix: str):  # type: ignore[no-untyped-def]
        self.asked["list"] += 1
        return super().list(prefix)


def fleet_of(count: int, environment: str = "production", state: State = RAMP) -> State:
    """The same state with so many members more."""
    hosts = {
        name: Host(id=name, environment=environment, hostname=name, labels={}, seq=1, joined="")
        for name in (f"{environment}-{number}" for number in range(count))
    }
    return msgspec.structs.replace(state, hosts={**state.hosts, **hosts})


def measure(requests: int, scope: int = SCOPE) -> Measure:
    return Measure(model="churn", version=2, scope=scope, role="candidate", tally=Tally(requests=requests))


def report(store: MemoryStore, host: str, environment: str = "production", requests: int = 1) -> None:
    measures = (measure(requests), measure(9, scope=SCOPE - 1))
    write_report(
        store,
        HostReport(
            host=host, environment=environment, head=SCOPE, measures=measures,
            watched=7.0, uses={"churn@1": 3.0},
        ),
    )  # fmt: skip


@pytest.fixture
def store() -> Counting:
    return Counting()


def test_a_small_fleet_is_read_by_one_request_for_each_host_and_none_is_a_listing(store: Counting) -> None:
    state = fleet_of(20)
    for host in list(state.hosts)[:18]:
        report(store, host)
    store.put(report_key("production", "production-18"), b"{garbage")
    report(store, "stranger")
    store.asked.clear()
    reports, now = Fleet(store).read(state, "production")
    assert {each.host for each in reports.heard} == set(list(state.hosts)[:18])
    assert all(
        (each.head, each.watched, each.uses) == (SCOPE, 7.0, {"churn@1": 3.0}) for each in reports.heard
    )
    # of the step before nothing is kept
    assert reports.measures == (measure(18),)
    assert now == max(each.at for each in reports.heard)
    # and when the two that are silent joined
    assert store.asked == {"get": 20 + 1}


def test_the_time_of_a_record_is_asked_for_once(store: Counting) -> None:
    store.put(record_key(SCOPE), b"{}")
    fleet = Fleet(store)
    for _ in range(3):
        reports, now = fleet.read(fleet_of(0), "production", scopes=(SCOPE, SCOPE + 1))
    assert set(reports.began) == {SCOPE}
    assert now == reports.began[SCOPE]
    assert store.asked["get"] == 1 + 3  # what is not there is asked for again


def test_a_large_fleet_is_read_by_one_request_for_each_group(store: Counting) -> None:
    state = fleet_of(950)
    groups = groups_of(950)
    assert groups == 10
    for host in state.hosts:
        report(store, host)
    fleet = Fleet(store)
    store.asked.clear()
    for group in range(groups):
        fleet.merge(state, "production", group, "production-0")
    assert store.asked == {"get": 950, "put": groups}
    sizes = Counter(group_of(host, groups) for host in state.hosts)
    assert max(sizes.values()) < 2 * GROUP
    store.asked.clear()
    reports, _ = fleet.read(state, "production")
    assert store.asked == {"get": groups}
    assert len(reports.heard) == 950
    assert reports.measures == (measure(950),)


def test_what_was_merged_for_another_number_of_groups_is_not_counted_twice(store: Counting) -> None:
    state = fleet_of(150)
    for host in state.hosts:
        report(store, host)
    fleet = Fleet(store)
    for group in range(2):
        fleet.merge(state, "production", group, "x")
    grown = fleet_of(250)
    assert groups_of(250) == 3
    fleet.merge(grown, "production", 2, "x")
    reports, _ = fleet.read(grown, "production")
    heard = [each.host for each in reports.heard]
    assert len(heard) == len(set(heard))
    assert sum(m.tally.requests for m in reports.measures) == len(heard) < 150
    store.put(merged_key("production", 0), b"garbage")
    assert fleet.read(grown, "production")[0].heard == reports.heard


def test_merging_by_groups_gives_what_reading_each_gives(store: Counting) -> None:
    state = fleet_of(130)
    for number, host in enumerate(state.hosts):
        report(store, host, requests=number)
    fleet = Fleet(store)
    for group in range(groups_of(130)):
        fleet.merge(state, "production", group, "x")
    merged, _ = fleet.read(state, "production")
    each = merge(measure(number) for number in range(130))
    assert merged.measures == each


def test_where_versions_have_come_up_is_read_and_merged_and_of_older_daemons_is_not_known(
    store: Counting,
) -> None:
    for count in (20, 130):
        state = fleet_of(count)
        said: dict[str, tuple[str, ...]] = {}
        for number, host in enumerate(state.hosts):
            up = (None, (), ("churn@2", "fraud@9"))[number % 3]
            said |= {host: up} if up is not None else {}
            write_report(store, HostReport(host=host, environment="production", head=SCOPE, up=up))
        fleet = Fleet(store)
        for group in range(groups_of(count)):
            fleet.merge(state, "production", group, "x")
        reports, _ = fleet.read(state, "production", everyone=True)
        assert len(reports.heard) == count
        assert reports.up == said
    other = fleet_of(3, "staging", state)
    write_report(store, HostReport(host="staging-0", environment="staging", up=("churn@2",)))
    assert Fleet(store).read(other, "production", everyone=True)[0].up == said
    # a merger that is older leaves it out for all of its group
    merged = msgspec.json.decode(store.get(merged_key("production", 0)).data)  # type: ignore[union-attr]
    merged.pop("up")
    store.put(merged_key("production", 0), msgspec.json.encode(merged))
    reports, _ = Fleet(store).read(state, "production")
    assert len(reports.heard) == count
    assert 0 < len(reports.up) < len(said)


def test_everyone_is_of_every_environment(store: Counting) -> None:
    state = fleet_of(3, "staging", fleet_of(3))
    for host in state.hosts.values():
        report(store, host.id, host.environment)
    reports, _ = Fleet(store).read(state, "production", everyone=True)
    assert reports.everyone
    assert {each.host for each in reports.heard} == set(state.hosts)


def test_another_environment_that_may_not_be_read_keeps_no_halt_back(
    store: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    class Denied(MemoryStore):
        def get(self, key: str) -> Fetched | None:
            if key.startswith("hosts/staging/"):
                raise StoreError("may not read it", "allow it")
            return store.get(key)

    state = fleet_of(3, "staging", fleet_of(3))
    for host in state.hosts.values():
        report(store, host.id, host.environment)
    fleet = Fleet(Denied())
    for _ in range(2):
        reports, now = fleet.read(state, "production", everyone=True)
        assert {each.host for each in reports.heard} == {f"production-{number}" for number in range(3)}
        assert [m.tally.requests for m in reports.measures] == [3]
        assert now > 0
        assert not reports.everyone, "or versions that are used there would be retired"
    assert caplog.text.count("reports of staging: may not read it") == 1
    with pytest.raises(StoreError):
        fleet.read(state, "staging", everyone=True)


def test_what_another_environment_has_counted_is_no_evidence_here(store: Counting) -> None:
    """One record promotes a version in both (`mldeploy apply`), so their steps have the same scope."""
    state = after(
        records.Join(host="p"), records.Join(host="s", environment="staging"),
        publish(1), publish(2), promote(1, 1), promote(1, 2, environment="staging"),
    )  # fmt: skip
    both = [promote(2, 3 + n, environment=e, **STEPS) for n, e in enumerate(("production", "staging"))]
    found = chain([both], state.head + 1, state.head_sha256)
    state = fold_many(state, enumerate(found, state.head + 1))
    assert not state.voids
    store.put(record_key(state.head), b"{}")
    for host, environment, requests, failures in (("p", "production", 3, 3), ("s", "staging", 2_000, 0)):
        tally = Tally(requests=requests, failures=failures)
        mine = msgspec.structs.replace(measure(0, state.head), tally=tally)
        write_report(store, HostReport(host=host, environment=environment, head=state.head, measures=(mine,)))
    for everyone in (False, True):
        reports, now = Fleet(store).read(state, "production", everyone=everyone, scopes=(state.head,))
        assert [m.tally.requests for m in reports.measures] == [3]
        assert propose(state, reports, now) == ()
    assert {each.host for each in reports.heard} == {"p", "s"}


def test_a_listing_of_reports_leaves_merged_ones_out(store: Counting) -> None:
    state = fleet_of(110)
    for host in state.hosts:
        report(store, host)
    Fleet(store).merge(state, "production", 0, "x")
    store.asked.clear()
    assert len(read_reports(store, "production")) == 110
    assert store.asked["get"] == 110


def test_no_host_takes_the_name_of_a_merged_report() -> None:
    assert "cannot be a host" in refused(RAMP, records.Join(host="merged-0"))


@pytest.mark.parametrize(
    "tally",
    [
        Tally(requests=-1), Tally(latency=Latency({10**12: 1})), Tally(latency=Latency({-1: 1})),
        Tally(requests=10, failures=50), Tally(requests=10, failures=6, refusals=5),
    ],
    ids=["negative", "no such bucket", "before the first", "more failures", "more of both"],
)  # fmt: skip
def test_what_nobody_could_have_counted_is_not_heard(store: Counting, tally: Tally) -> None:
    state = fleet_of(2)
    report(store, "production-0")
    bad = msgspec.structs.replace(measure(1), tally=tally)
    write_report(store, HostReport(host="production-1", environment="production", measures=(bad,)))
    reports, _ = Fleet(store).read(state, "production")
    assert [each.host for each in reports.heard] == ["production-0"]
    assert reports.measures == (measure(1),)
    assert [found.host for found, _ in read_reports(store, "production")] == ["production-0"]


def test_a_host_that_came_back_is_asked_for_its_join(store: Counting) -> None:
    """Its last report is older than the policy's `host_ttl`, and its next one is not there yet."""
    state = after(records.Join(host="back"), records.Join(host="other"), state=RAMP)
    for host in ("back", "other"):
        report(store, host)
    joined = record_key(state.hosts["back"].seq)
    store.put(joined, b"{}")
    old = store.get(report_key("production", "back"))
    assert old is not None
    with mock.patch.object(store, "get", side_effect=_aged(store, report_key("production", "back"))):
        reports, _ = Fleet(store).read(state, "production")
    assert set(reports.began) == {state.hosts["back"].seq}
    assert [
        action for action in propose(state, reports, old.modified + 60) if isinstance(action, Forget)
    ] == []


def test_who_lives_is_not_forgotten_because_nobody_tells_of_it(store: Counting) -> None:
    """What was merged is for 2 groups, and there are 3 now; one host in a hundred is really gone."""
    state = fleet_of(201)
    gone = {"production-7", "production-77"}
    for host in set(state.hosts) - gone:
        report(store, host)
    store.put(record_key(1), b"{}")
    fleet = Fleet(store)
    for group in range(2):
        fleet.merge(fleet_of(200), "production", group, "x")
    later = store.get(report_key("production", "production-0"))
    assert later is not None
    aged = _aged(store, record_key(1))  # they joined two hours ago
    for merged in (True, False):
        store.asked.clear()
        with mock.patch.object(store, "get", side_effect=aged):
            reports, now = fleet.read(state, "production")
        assert reports.heard == () and now >= later.modified
        assert len(reports.silent) == GROUP
        assert store.asked["get"] <= 3 + GROUP + 1, merged
        forgotten = {action.host for action in propose(state, reports, now) if isinstance(action, Forget)}
        assert forgotten == gone & set(reports.silent)
        for group in range(3):
            store.delete(merged_key("production", group))


def test_of_many_who_are_silent_the_longest_silent_are_asked_first(store: Counting) -> None:
    """A `host_ttl` shorter than the pause of who merges: everybody looks silent, and few are."""
    state = after(records.Policy(settings={"host_ttl": 60}), state=RAMP)
    state = fleet_of(350, state=state)
    dead = {f"production-{number}" for number in range(300, 310)}
    for host in state.hosts:
        report(store, host)
    fleet = Fleet(store)
    keys = {report_key("production", host) for host in dead}
    with mock.patch.object(store, "get", side_effect=_aged(store, *keys)):
        for group in range(groups_of(350)):
            fleet.merge(state, "production", group, "x")
        reports, now = fleet.read(state, "production")
        forgotten = [action.host for action in propose(state, reports, now) if isinstance(action, Forget)]
    assert set(forgotten) == dead


def _aged(store: Counting, *keys: str) -> Callable[[str], Fetched | None]:
    """What `store` gives, with the objects of these keys two hours older."""
    real = store.get

    def get(asked: str) -> Fetched | None:
        found = real(asked)
        return Fetched(found.data, found.modified - 7_200) if found and asked in keys else found

    return get
