"""What was: history with its filters, status at a time, and the state kept on this machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mldeploy.client import Client, past
from mldeploy.client.describe import describe, names_of
from mldeploy.core.fold import fold_many
from mldeploy.core.records import (
    Action,
    Advance,
    Drain,
    Freeze,
    Halt,
    Join,
    Leave,
    Pause,
    Promote,
    Record,
    Retire,
    Shadow,
    encode,
)
from mldeploy.core.state import Ended, Serving, State
from mldeploy.errors import UsageError
from mldeploy.store import checkpoints
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import record_key
from mldeploy.store.memory import MemoryStore
from mldeploy.store.objects import ObjectStore
from tests.store.stores import CountingStore
from tests.support.big_log import fill, long_log

from .conftest import Ran, World

Cli = Callable[..., Ran]
START = datetime(2026, 11, 1, tzinfo=UTC)


def dated(world: World) -> None:
    """Record n was stored n hours after START, whatever its writer's clock said."""
    for seq in range(1, world.head() + 1):
        moment = (START + timedelta(hours=seq)).timestamp()
        os.utime(world.path / record_key(seq), (moment, moment))


def told(ran: Ran) -> list[int]:
    assert ran.code == 0, ran.err
    return [event["seq"] for event in ran.document["events"]]


def test_history_shows_the_time_that_it_is_asked_by(world: World, cli: Cli) -> None:
    """That of the store: a writer's clock may be anything."""
    world.publish()
    dated(world)
    assert cli("history").out.split("\t")[:2] == ["1", "2026-11-01 01:00:00"]
    assert cli("history", "--since", "2026-11-01T01:00Z").out
    (event,) = cli("history", "--json").document["events"]
    assert event["stored"] == "2026-11-01T01:00:00.000Z" != event["time"]


@pytest.fixture
def story(world: World, cli: Cli) -> World:
    """Two models; churn's second version takes 10 %, 50 %, and is halted; other's goes on."""
    for name, content in (("churn", "1"), ("other", "1"), ("churn", "2"), ("other", "2")):
        world.publish(name, content)  # 1 to 4
    world.append(Promote(model="churn", version=1, rollout=new_ulid()))  # 5
    world.append(Promote(model="other", version=1, rollout=new_ulid()))
    mine, theirs = new_ulid(), new_ulid()
    world.append(Promote(model="churn", version=2, rollout=mine, steps=(1_000, 5_000, 10_000)))  # 7
    world.append(Promote(model="other", version=2, rollout=theirs, steps=(1_000, 5_000, 10_000)))
    world.append(Advance(rollout=theirs, step=0))  # 9
    world.append(Advance(rollout=mine, step=0))
    world.append(Halt(rollout=mine, reason="p99"))  # 11
    world.append(Join(host="h1"))
    world.append(Freeze(reason="holidays", environment="staging"))  # 13
    world.log.append(
        lambda _: [Promote(model="churn", version=2, rollout=new_ulid())],
        actor="ci-7@b",
        now=datetime.now(UTC),
    )
    dated(world)
    return world


def test_the_story_of_a_model_has_the_steps_of_its_rollouts(story: World, cli: Cli) -> None:
    # the state knows how the last rollout of churn ended; that of other is under way
    assert told(cli("history", "churn", "--json")) == [14, 13, 11, 10, 7, 5, 3, 1]
    assert told(cli("history", "other", "--json")) == [13, 9, 8, 6, 4, 2]
    # and a rollout that the state has forgotten is known by its promote
    again = new_ulid()
    story.append(Promote(model="churn", version=1, rollout=again, steps=(100, 10_000)))
    story.append(Halt(rollout=again, reason="x"))
    assert told(cli("history", "churn", "--json")) == [16, 15, 14, 13, 11, 10, 7, 5, 3, 1]
    assert told(cli("history", "churn", "--limit", "3", "--json")) == [16, 15, 14]
    assert told(cli("history", "churn", "--limit", "5", "--json")) == [16, 15, 14, 13, 11]
    assert cli("history", "churn", "--limit", "5", "--json").document["more"]
    assert not cli("history", "churn", "--limit", "10", "--json").document["more"]


def test_by_actor(story: World, cli: Cli) -> None:
    assert told(cli("history", "--actor", "ci-7@b", "--json")) == [14]
    assert told(cli("history", "--actor", "ci-*", "--json")) == [14]
    assert told(cli("history", "--actor", "setup", "--json")) == list(range(13, 0, -1))
    assert told(cli("history", "churn", "--actor", "setup", "--limit", "2", "--json")) == [13, 11]
    assert told(cli("history", "--actor", "nobody", "--json")) == []
    assert told(cli("history", "--actor", "SETUP", "--json")) == []


def test_by_the_stores_time(story: World, cli: Cli) -> None:
    assert told(cli("history", "--since", "2026-11-01T10:00:00Z", "--json")) == [14, 13, 12, 11, 10]
    assert told(cli("history", "--until", "2026-11-01T02:30+00:00", "--json")) == [2, 1]
    both = ("--since", "2026-11-01T05:00", "--until", "2026-11-01T09:30:00+02:00")
    assert told(cli("history", *both, "--json")) == [7, 6, 5]
    assert told(cli("history", "churn", *both, "--json")) == [7, 5]
    assert told(cli("history", "--since", "2026-11-02", "--json")) == []
    assert told(cli("history", "--until", "2026-11-01", "--json")) == []
    assert len(told(cli("history", "--since", "36500d", "--json"))) == 14
    assert told(cli("history", "--until", "1s", "--limit", "1", "--json")) == [14]
    event = cli("history", "--limit", "1", "--json").document["events"][0]
    assert event["stored"] == "2026-11-01T14:00:00.000Z" != event["time"]


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "2026-11-01T25:00Z", "-2h", "0s"])
def test_a_time_that_is_none_is_a_usage_error(story: World, cli: Cli, text: str) -> None:
    for args in (("history", "--since"), ("history", "--until"), ("status", "--at")):
        ran = cli(*args, text)
        assert (ran.code, "is not a time" in ran.err, "hint: write for example" in ran.err) == (2, True, True)


def test_a_time_that_lies_ahead_and_an_end_before_the_beginning_are_refused(story: World, cli: Cli) -> None:
    for call in (("history", "--since"), ("status", "--at"), ("which", "churn", "--key", "a", "--at")):
        ran = cli(*call, "2099-01-01")
        assert (ran.code, "2099-01-01T00:00:00.000Z lies ahead" in ran.err) == (2, True)
    assert len(told(cli("history", "--until", "2099-01-01", "--json"))) == 14
    ran = cli("history", "--since", "1h", "--until", "2h")
    assert (ran.code, "before it begins" in ran.err, "--since 2h --until 1h" in ran.err) == (2, True, True)


def test_status_as_it_was(story: World, cli: Cli) -> None:
    def then(text: str, *more: str) -> dict[str, object]:
        ran = cli("status", *more, "--at", text, "--json")
        assert ran.code == 0, ran.err
        return ran.document

    document = then("2026-11-01T07:30:00Z")
    assert (document["at"], document["record"], document["head"]) == ("2026-11-01T07:30:00.000Z", 7, 7)
    assert document["hosts"] == []
    found = {model["model"]: model for model in document["models"]}  # type: ignore[attr-defined]
    assert found["churn"]["candidate"]["share"] == 1_000
    assert found["churn"]["state"] == ""
    assert found["other"]["candidate"] is None
    assert then("2026-11-01T04:10Z")["unpromoted"] == ["churn", "other"]
    assert then("2026-10-01")["models"] == []
    assert then("1s")["record"] == 14
    detail = then("2026-11-01T01:30Z", "churn")
    assert (detail["record"], len(detail["versions"])) == (1, 1)  # type: ignore[arg-type]
    assert cli("status", "churn", "--at", "2026-10-01").code == 1, "there was none then"
    now = cli("status", "--json").document
    assert (now["at"], now["record"], now["head"]) == (None, None, 14)


def test_status_as_it_was_says_what_is_not_known(story: World, cli: Cli) -> None:
    ran = cli("status", "--at", "2026-11-01T07:30:00Z")
    assert (
        "as of 2026-11-01 07:30:00 UTC, record 7, by the log alone: what hosts said then is not kept"
        in ran.err
    )
    assert [line.split("\t")[:4] for line in ran.out.splitlines()] == [
        ["churn", "production", "1", "2 at 10%, step 1 of 3"], ["other", "production", "1", "-"],
    ]  # fmt: skip
    ran = cli("status", "churn", "--at", "2026-11-01T07:30:00Z")
    assert ran.out.count("churn@") == 2
    assert "halted" not in ran.out + ran.err
    ran = cli("status", "--at", "2026-10-01")
    assert (ran.code, ran.out, "record 0" in ran.err, "no models" in ran.err) == (0, "", True, False)


def test_history_names_what_the_state_has_forgotten(world: World, cli: Cli) -> None:
    world.publish()
    world.publish(content="2")
    old, shadow = new_ulid(), new_ulid()
    host = "01m86xrgzq7k7m5y9w3c2d1e0f"
    world.append(Join(host=host, hostname="vm"))
    world.append(Promote(model="churn", version=1, environment="staging", rollout=new_ulid()))
    world.append(Promote(model="churn", version=2, environment="staging", rollout=old, steps=(100, 10_000)))
    world.append(Pause(rollout=old, reason="looking at it"))
    world.append(
        Promote(model="churn", version=2, environment="staging", rollout=new_ulid(), steps=(500, 10_000))
    )
    world.append(Promote(model="churn", version=1, rollout=new_ulid()))
    world.append(Shadow(model="churn", version=2, shadow=shadow, fraction=10_000))
    world.append(Drain(host=host, reason="patching"))
    world.append(Leave(host=host))
    ended = cli("shadow", "churn@2", "--end", "--json").document
    assert ended["actions"] == ["end shadow churn@2 in production"]

    def lines(*words: str) -> list[str]:
        return [line.split("\t")[3] for line in cli("history", *words).out.splitlines()]

    assert lines()[:3] == [
        "end shadow churn@2 in production",
        "host vm (01m86xrg) leaves",
        "drain host vm (01m86xrg): patching",
    ]
    assert "pause churn@2 in staging: looking at it" in lines("churn")
    # what began before those that are told is looked for, and not told
    assert lines("--limit", "2") == lines()[:2]
    assert lines("--limit", "7")[-1] == "pause churn@2 in staging: looking at it"
    assert lines("--actor", "tester") == ["end shadow churn@2 in production"]


# --- what it costs


class Far:
    """A client of a store that answers from afar, and the requests it makes."""

    def __init__(self, store: ObjectStore, url: str = "far://store") -> None:
        self.counting = CountingStore(store, url)

    def client(self) -> Client:
        self.counting.requests.clear()
        client = Client(self.counting.url, actor="me")
        client._at.__dict__["store"] = self.counting
        return client

    def asked(self) -> list[str]:
        return [key for _, key in self.counting.requests]


@pytest.fixture
def far() -> Far:
    inner = MemoryStore()
    fill(inner, 900, 30)
    return Far(inner)


def test_history_reads_no_further_than_its_limit(far: Far) -> None:
    client = far.client()
    assert client.state.head == 900
    far.counting.requests.clear()
    assert [event.seq for event in client.history(limit=30).events] == list(range(900, 870, -1))
    with pytest.raises(UsageError, match="a limit of 0"):
        client.history(limit=0)
    assert len(far.asked()) <= 1 + 30 + 64
    far.counting.requests.clear()
    found = client.history(actor="ci-3@*", limit=10)
    assert [event.seq for event in found.events] == [seq for seq in range(900, 0, -1) if seq % 7 == 3][:10]
    assert len(far.asked()) <= 1 + 70 + 64
    far.counting.requests.clear()
    # a model's story ends with its first version, however much is before it
    assert not client.history("model-00029", limit=500).more
    assert min(int(key[4:24]) for key in far.asked()) > 50 - 64 + 29
    assert far.counting.count("list") == 0


def test_history_stops_where_it_would_take_too_long(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "MAX_SCAN", 50)
    found = far.client().history(actor="nobody")
    assert (found.events, found.more) == ((), True)


def test_void_records_are_marked_without_reading_the_log(story: World, cli: Cli) -> None:
    evil: tuple[Action, ...] = (Halt(rollout="x", reason=""),)
    for seq in (15, 16):
        torn = Record(
            seq=seq, id=new_ulid(), prev="0" * 64, time="2026-01-01T00:00:00Z", actor="e", actions=evil
        )
        assert story.store.create(record_key(seq), encode(torn))
    story.append(Join(host="h2"))
    client = Client(story.url)
    counting = CountingStore(story.store, "far://x")
    client._at.__dict__["store"] = counting
    events = client.history(limit=3).events
    assert [(event.seq, event.void) for event in events] == [(17, False), (16, True), (15, True)]
    ran = cli("history", "--limit", "3")
    assert ran.out.count("(void)") == 2
    # what names a rollout that never was is nobody's story, and does not keep one from ending
    assert told(cli("history", "churn", "--limit", "2", "--json")) == [14, 13]


# --- the state on this machine


def states(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "mldeploy" / "states").glob("*"))


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_a_command_goes_on_from_what_the_last_one_saw(cached: Path, far: Far) -> None:
    first = far.client()
    assert first.state == fold_many(State(), long_log(900, 30))
    assert len(states(cached)) == 1
    second = far.client()
    assert second.state == first.state
    assert far.asked() == [record_key(900), record_key(901), record_key(901)]
    # nothing is written for a few records
    before = states(cached)[0].stat().st_mtime_ns
    second._at.log.append(lambda _: [Join(host="h")], actor="me", now=START)
    assert far.client().state.head == 901
    assert states(cached)[0].stat().st_mtime_ns == before


def test_what_is_kept_is_not_believed_over_the_log(cached: Path, far: Far) -> None:
    far.client().state  # noqa: B018 - it reads
    other = MemoryStore()
    fill(other, 950, 20)  # another log at the same place
    again = Far(other)
    assert again.client().state == fold_many(State(), long_log(950, 20))
    shorter = MemoryStore()
    fill(shorter, 10, 3)
    assert Far(shorter).client().state.head == 10
    (path,) = states(cached)
    for data in (b"", b"garbage", path.read_bytes()[:-3]):
        path.write_bytes(data)
        assert far.client().state.head == 900


def test_a_folder_that_cannot_be_written_changes_nothing(
    cached: Path, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cached / "cache").write_text("a file")
    assert far.client().state.head == 900
    assert far.client().state.head == 900


def test_a_store_that_is_near_is_not_kept(cached: Path, story: World) -> None:
    assert Client(story.url).state.head == 14
    assert states(cached) == []


def test_two_stores_are_kept_apart(cached: Path, far: Far) -> None:
    other = Far(MemoryStore(), "far://another")
    fill(other.counting._inner, 300, 10)  # type: ignore[arg-type]
    for _ in range(2):
        assert far.client().state.head == 900
        assert other.client().state.head == 300
    assert len(states(cached)) == 2
    assert all(len(path.name) == len(hashlib.sha256().hexdigest()) // 2 + 11 for path in states(cached))


# --- checkpoints that no host leaves


def test_a_command_leaves_the_checkpoint_that_no_host_has_left(
    story: World, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL", 10)
    cli("freeze", "churn")
    assert list(story.store.list("checkpoints/")) == []
    for number in range(14):
        cli("freeze" if number % 2 else "unfreeze", "churn")
    assert story.head() == 29
    assert list(story.store.list("checkpoints/")) == []
    cli("unfreeze", "churn")
    (entry,) = story.store.list("checkpoints/")
    assert entry.key.startswith(f"checkpoints/{30:020d}.")
    cli("freeze", "churn")
    assert len(list(story.store.list("checkpoints/"))) == 1


def test_a_rollback_with_no_rollout_under_way_names_nothing() -> None:
    ended = Ended(rollout="", version=2, outcome="rolled back", reason="", seq=3)
    state = State(environments={"production": {"churn": Serving(stable=1, ended=ended)}})
    assert names_of(state) == {}
    assert describe(Retire(model="churn", version=2), names_of(state)) == "retire churn@2"
