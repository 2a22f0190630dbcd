"""What a host does with what the log asks for: real daemons, real bundles, real requests."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

from mldeploy.client import Client
from mldeploy.core.records import Join, Leave, Retire, Rollback
from mldeploy.core.state import State
from mldeploy.store.log import Log
from mldeploy.store.reports import VersionReport
from tests.daemon.conftest import Place
from tests.support.bundles import CRASH, HANG, Maker
from tests.support.daemons import Daemon, Load, until

Start = Callable[..., Daemon]


def version(daemon: Daemon, number: int, model: str = "answer") -> VersionReport | None:
    report = daemon.report()
    return report.models[model].serving.get(number) if report and model in report.models else None


def state_of(place: Place) -> State:
    log = Log(place.store)
    log.refresh()
    return log.state


def test_a_new_host_fetches_builds_serves_swaps_rolls_back_and_leaves(place: Place) -> None:
    first = place.push(1.0)
    daemon = place.daemon(seeded=False).start()
    daemon.wait_ready()
    assert daemon.ask() == (200, (1.0, 1))
    second = place.push(2.0)
    daemon.wait_answer(2.0)
    assert daemon.ask(version=2) == (200, (2.0, 2))
    until(lambda: len(daemon.workers()) == 1, "the old worker is stopped")
    seq = place.append(Rollback(model="answer"))
    daemon.wait_answer(1.0)

    def told() -> bool:
        report = daemon.report()
        return bool(report and report.head >= seq and report.models["answer"].stable == first.version)

    until(told, "the report says so")
    report = daemon.report()
    assert report is not None
    assert report.ready
    assert report.listen == ":".join(map(str, daemon.address()))
    assert report.models["answer"].serving[1].state == "ready"
    assert report.models["answer"].serving[1].workers[0].pss_bytes > 0
    assert report.models["answer"].serving[1].requests > 0
    assert report.models["answer"].previous == second.version
    assert report.models["answer"].serving[2].state == "sleeping"
    hosts = state_of(place).hosts
    assert list(hosts) == [report.host]
    assert daemon.stop() == 0
    assert daemon.processes() == []
    assert state_of(place).hosts == {}, "it has left"
    assert sorted(path.name for path in (daemon.state / "run").rglob("*sock*")) == []


def test_no_request_fails_while_versions_are_swapped_and_agents_killed(place: Place, start: Start) -> None:
    refs = [place.push(1.0), place.push(2.0)]
    daemon = start(fronts=2)
    daemon.wait_answer(2.0)
    dice = random.Random(7)
    killed = [daemon.agent()]
    with Load(daemon) as load:
        for turn in range(6):
            place.promote(refs[turn % 2])
            if turn % 2:
                load.more(dice.randrange(1, 40))
                killed.append(daemon.agent())
                os.kill(killed[-1], signal.SIGKILL)
            daemon.wait_answer(float(turn % 2 + 1))
        load.more(20)
    assert load.failed == []
    assert set(load.answers) == {(1.0, 1), (2.0, 2)}
    assert len(set(killed)) == 3
    until(lambda: len(daemon.workers()) == 1, "one worker is left")


def test_a_version_whose_samples_fail_never_answers(place: Place, start: Start) -> None:
    place.push(1.0)
    daemon = start()
    daemon.wait_answer(1.0)
    with Load(daemon, 1) as load:
        place.push(2.0, wrong_sample=True)
        failed = until(lambda: _failed(daemon, 2), "the report says why")
        load.more(20)
    assert failed.stage == "samples"
    assert "answers differently" in failed.reason
    assert failed.retry_at > time.time() - 5
    assert any("loading the model" in line for line in failed.log_tail)
    assert load.failed == []
    assert set(load.answers) == {(1.0, 1)}
    assert daemon.ask(version=2)[0] == 503
    # a restart with the bad version still stable: the old one is woken, for it served last
    assert daemon.stop() == 0
    again = start()
    again.wait_ready()
    assert again.ask() == (200, (1.0, 1))


def _failed(daemon: Daemon, number: int, *name: str) -> VersionReport | None:
    found = version(daemon, number, *name)
    return found if found is not None and found.state == "failed" else None


def test_a_worker_that_dies_while_loading_or_cannot_load_is_reported(place: Place, start: Start) -> None:
    place.push(1.0, die=True)
    place.push(1.0, name="other", fail="no such luck")
    daemon = start()
    daemon.wait_ready()
    assert "SIGKILL" in until(lambda: _failed(daemon, 1), "it is reported").reason
    other = until(lambda: _failed(daemon, 1, "other"), "it is reported")
    assert "no such luck" in other.reason
    status, body = daemon.ask()
    assert status == 503
    assert "SIGKILL" in body["error"]


def test_a_crashed_worker_and_a_hung_one_are_replaced(place: Place, start: Start) -> None:
    place.push(1.0)
    daemon = start(hang=1.0)
    daemon.wait_answer(1.0)
    before = {each["pid"] for each in daemon.workers()}
    assert daemon.ask(CRASH)[0] == 503
    daemon.wait_answer(1.0)
    until(lambda: (found := version(daemon, 1)) and "SIGKILL" in found.reason, "the report says why")
    assert before.isdisjoint(each["pid"] for each in daemon.workers())
    assert daemon.ask(HANG)[0] in (503, 504)
    daemon.wait_answer(1.0)
    until(lambda: "unanswered" in daemon.text(), "the log says why")


def test_models_with_one_lock_share_an_environment_and_a_zygote(
    place: Place, start: Start, maker: Maker
) -> None:
    place.push(1.0)
    place.push(2.0, name="other", replicas=2)
    daemon = start()
    daemon.wait_answer(1.0)
    daemon.wait_answer(2.0, "other")
    until(lambda: len(daemon.workers()) == 3, "three workers")
    assert [path.name for path in (daemon.state / "environments").iterdir()] == [maker.environment()[0]]
    zygotes = list((daemon.state / "run/workers").glob("zygote-*.sock"))
    assert len(zygotes) == 1
    parents = {_parent(each["pid"]) for each in daemon.workers()}
    assert len(parents) == 1
    # each has a place for temporary files, which goes with it
    places = {path.parent.name for path in (daemon.state / "run/workers").glob("*/tmp")}
    assert places == {zygotes[0].stem, *(each["id"] for each in daemon.workers())}
    # a zygote takes none of its workers with it, and is replaced
    os.kill(parents.pop(), signal.SIGKILL)
    assert daemon.ask() == (200, (1.0, 1))
    place.push(3.0)
    daemon.wait_answer(3.0)
    assert daemon.ask(model="other") == (200, (2.0, 1))


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def test_without_its_store_a_host_restarts_and_serves_what_it_knew(place: Place, start: Start) -> None:
    place.push(1.0)
    daemon = start()
    daemon.wait_answer(1.0)
    until(lambda: (report := daemon.report()) and report.ready and report.head == 2, "it has joined")
    assert daemon.stop() == 0
    away = place.folder.with_name("away")
    place.folder.rename(away)
    again = start()
    again.wait_ready()
    assert again.ask() == (200, (1.0, 1))
    away.rename(place.folder)
    place.push(2.0)
    again.wait_answer(2.0)


def test_the_share_of_a_candidate_and_its_end(place: Place, start: Start) -> None:
    place.push(1.0)
    second = place.push(2.0, share=5_000)
    daemon = start()
    daemon.wait_ready()
    until(lambda: len(daemon.workers()) == 2, "both serve")
    seen = until(lambda: _both(daemon), "both answer", every=0.05)
    assert seen == {1.0, 2.0}
    place.append(Rollback(model="answer", reason="enough"))
    until(lambda: len(daemon.workers()) == 1, "the candidate is stopped")
    assert {daemon.ask()[1][0] for _ in range(20)} == {1.0}
    assert second.version == 2


def _both(daemon: Daemon) -> set[float] | None:
    seen = {daemon.ask()[1][0] for _ in range(40)}
    return seen if len(seen) == 2 else None


def test_a_retired_model_goes_routes_first_then_files(place: Place, start: Start) -> None:
    ref = place.push(1.0)
    daemon = start(grace=0.0)
    daemon.wait_answer(1.0)
    place.append(Retire(model="answer", version=ref.version, force=True))
    until(lambda: daemon.ask()[0] in (404, 503), "it is not served")
    until(lambda: daemon.workers() == [], "no worker is left")
    until(lambda: not list((daemon.state / "bundles").iterdir()), "no bundle is left")
    until(lambda: not list((daemon.state / "blobs").rglob("??/*")), "no blob is left")
    until(lambda: not list((daemon.state / "environments").iterdir()), "no environment is left")
    assert daemon.ready()


def test_a_retired_version_goes_on_until_its_successor_is_ready(place: Place, start: Start) -> None:
    place.push(1.0)
    daemon = start()
    daemon.wait_answer(1.0)
    bad = place.push(2.0, wrong_sample=True)

    def failed() -> bool:
        report = version(daemon, bad.version)
        return report is not None and report.state == "failed"

    until(failed, "the new version has failed its samples")
    with Load(daemon) as load:
        seq = place.append(Retire(model="answer", version=1))
        until(lambda: (report := daemon.report()) and report.head >= seq, "the host has read it")
        # its files leave the store, and it must not matter
        assert Client(str(place.folder)).collect(grace="0s").blobs > 0
        load.more(50)
    assert (load.failed, set(load.answers)) == ([], {(1.0, 1)})
    assert state_of(place).models["answer"].versions[1].retired
    # nor may a restart, during which nothing serves at all, or the end of its worker, while the new one fails
    assert daemon.stop() == 0
    daemon.start()
    daemon.wait_answer(1.0)
    assert daemon.ask(CRASH)[0] in (500, 502, 503)
    daemon.wait_answer(1.0)
    good = place.push(3.0)
    daemon.wait_answer(3.0)
    until(lambda: len(daemon.workers()) == 1, "the retired one is stopped")
    assert daemon.ask(version=1)[0] == 404
    assert daemon.ask() == (200, (3.0, good.version))


def test_force_cuts_a_retired_version_off_everywhere(place: Place, start: Start) -> None:
    place.push(1.0)
    daemon = start()
    daemon.wait_answer(1.0)
    place.push(2.0, wrong_sample=True)
    place.append(Retire(model="answer", version=1))
    until(lambda: (found := version(daemon, 2)) and found.state == "failed", "the new version has failed")
    assert daemon.ask() == (200, (1.0, 1))
    place.append(Retire(model="answer", version=1, force=True))
    until(lambda: daemon.ask()[0] == 503, "nothing answers")
    until(lambda: not daemon.workers(), "its process is ended")


def test_a_drained_host_is_not_ready_and_answers_what_still_comes(place: Place, start: Start) -> None:
    place.push(1.0)
    daemon = start(report=0.5)
    daemon.wait_ready()
    client = Client(str(place.folder))
    (host,) = until(lambda: state_of(place).hosts, "it has joined")

    with Load(daemon) as load:
        client.drain_host(host, reason="new disk")
        until(lambda: not daemon.ready(), "it is not ready any more")
        assert daemon.get("/v2/health/ready")[1]["error"] == "the host is draining"
        assert daemon.get("/v2/health/live")[0] == 200
        assert daemon.get("/v2/models/answer/ready")[0] == 503
        load.more(100)
        # and it goes on with what is promoted meanwhile: undrained, it is up to date at once
        place.push(2.0)
        daemon.wait_answer(2.0)
        client.wait_host(host, drained=True, timeout=60)
    assert load.failed == []
    assert len(client.wait("answer", timeout=60).hosts) == 1, "with all of them drained it is waited for"
    # over a restart of everything: the keeper starts, and says that it has
    assert daemon.stop() == 0
    assert state_of(place).drained == {host: "new disk"}
    daemon.start()
    daemon.wait_answer(2.0)
    client.wait_host(host, drained=True, timeout=60)  # it has come to the head
    assert not daemon.ready()
    until(lambda: daemon.text().count("ready: serving") == 2, "the keeper says that it has started")
    client.undrain_host(host)
    daemon.wait_ready()
    client.wait_host(host, drained=False, timeout=60)


def test_a_bundle_altered_on_the_disk_is_noticed_and_fetched_again(place: Place, start: Start) -> None:
    place.push(1.0)
    daemon = start()
    daemon.wait_answer(1.0)
    assert daemon.stop() == 0
    (target,) = (daemon.state / "bundles").glob("*/model/answer.json")
    target.chmod(0o644)
    target.write_text('{"answer": 666.0, "fail": "", "die": false}')
    again = start()
    again.wait_answer(1.0, seconds=20)
    assert "was altered" in again.text()


def test_a_truncated_blob_in_the_store_is_refused_and_the_old_version_goes_on(
    place: Place, start: Start
) -> None:
    place.push(1.0)
    daemon = start()
    daemon.wait_answer(1.0)
    second = place.push(2.0, share=None)
    digest = state_of(place).models["answer"].versions[second.version].digest
    (blob,) = (place.folder / "blobs/sha256" / digest[:2]).glob(f"{digest}.*")
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-7])
    place.promote(second)
    failed = until(lambda: _failed(daemon, 2), "the report says why")
    assert failed.stage == "fetch"
    assert digest in failed.reason
    assert daemon.ask() == (200, (1.0, 1))


def test_a_host_without_the_interpreter_reports_it(place: Place, start: Start) -> None:
    place.push(1.0, python="3.99")
    place.push(2.0, name="other")
    daemon = start()
    daemon.wait_ready()
    assert "Python 3.99" in until(lambda: _failed(daemon, 1), "it is reported").reason
    assert daemon.ask(model="other") == (200, (2.0, 1))


def test_membership_follows_the_labels_and_comes_back(place: Place, start: Start) -> None:
    daemon = start(arguments=("--label", "zone=a"))
    until(lambda: [host.labels for host in state_of(place).hosts.values()] == [{"zone": "a"}], "joined")
    (host,) = state_of(place).hosts
    place.append(Leave(host=host))
    until(lambda: host in state_of(place).hosts, "it joins again")
    assert daemon.stop() == 0
    place.append(Join(host=host, labels={"zone": "old"}))
    start(arguments=("--label", "zone=b"))
    until(lambda: state_of(place).hosts[host].labels == {"zone": "b"}, "its labels are told")
