"""What a host does where its models do not fit: they take turns, and no request fails for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mldeploy.store.reports import VersionReport
from mldeploy_daemon import options
from tests.daemon.conftest import Place
from tests.support.daemons import Daemon, Load, until

Start = Callable[..., Daemon]
MIB = 1 << 20
MODELS = ("one", "two", "three")


def version(daemon: Daemon, number: int, model: str) -> VersionReport | None:
    report = daemon.report()
    return report.models[model].serving.get(number) if report and model in report.models else None


class Watch:
    """The most workers that were alive at a time."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon, self.most = daemon, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            alive = [each for each in self.daemon.workers() if each["state"] in ("loading", "ready")]
            self.most = max(self.most, len(alive))


def test_three_models_share_the_room_of_two(place: Place, start: Start) -> None:
    for number, name in enumerate(MODELS, 1):
        place.push(float(number), name=name, memory=200 * MIB)
    daemon = start(memory="500MiB", awake=0.1, report=0.5)
    with Watch(daemon) as watch:
        daemon.wait_ready()
        for turn in range(6):
            number = turn % 3 + 1
            assert daemon.ask(model=MODELS[number - 1]) == (200, (float(number), 1))
        states = until(lambda: _states(daemon), "the report says who sleeps")
    assert watch.most == 2
    assert states == ["ready", "ready", "sleeping"]
    status, text = daemon.get("/v2/models/one/ready")
    assert (status, text["ready"]) == (200, True), "asleep or not, it can be asked"


def _states(daemon: Daemon) -> list[str] | None:
    found = [version(daemon, 1, name) for name in MODELS]
    states = sorted(each.state for each in found if each)
    return states if states == ["ready", "ready", "sleeping"] else None


def test_no_request_fails_while_they_push_each_other_out(place: Place, start: Start) -> None:
    for number, name in enumerate(MODELS, 1):
        place.push(float(number), name=name, memory=200 * MIB)
    daemon = start(memory="500MiB", awake=0.1, fronts=2)
    daemon.wait_ready()
    with Watch(daemon) as watch, ThreadPoolExecutor(6) as pool:
        for _ in range(4):  # all at once: two models answer, the third waits for one of them to be idle
            said = list(pool.map(lambda name: daemon.ask(model=name), MODELS * 2))
            assert said == [(200, (float(number), 1)) for number in (1, 2, 3)] * 2
    assert watch.most == 2


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 << 30), ("512 MiB", 512 << 20), ("1.5g", 3 << 29), ("123456", 123456), ("0", 0)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert options.read(["--store", "s", "--state", "d", "--memory", text])["memory"] == size


def test_the_default_is_most_of_the_machine(tmp_path: Path) -> None:
    total = options.read(["--store", "s", "--state", "d"])["memory"]
    assert 0 < total < 2**60
    file = tmp_path / "m.toml"
    file.write_text("memory = 4096\n")
    assert options.read(["--store", "s", "--state", "d", "--config", str(file)])["memory"] == 4096
    with pytest.raises(options.Refused, match="is not a size"):
        options.read(["--store", "s", "--state", "d", "--memory", "much"])


def test_the_previous_version_wakes_when_named_and_sleeps_again(place: Place, start: Start) -> None:
    place.push(1.0)
    place.push(2.0)
    daemon = start(idle=0.5)
    daemon.wait_answer(2.0)
    until(lambda: "asleep" in _index(daemon).get("1", ""), "the previous version is on the disk")
    assert daemon.workers()[0]["version"] == 2
    with Load(daemon, 1) as load:
        assert daemon.ask(version=1) == (200, (1.0, 1))
        until(lambda: len(daemon.workers()) == 1, "it sleeps again")
        assert daemon.get("/v2/models/answer/versions/previous/infer", _body())[0] == 200
        load.more(5)
    assert load.failed == []
    assert set(load.answers) == {(2.0, 2)}, "who names no version is not answered by it"


def _index(daemon: Daemon) -> dict[str, str]:
    _, entries = daemon.get("/v2/repository/index", {})
    return {each["version"]: each["reason"] for each in entries}


def _body() -> object:
    return {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [1.0]}]}


def test_what_does_not_fit_is_reported_and_the_old_version_goes_on(place: Place, start: Start) -> None:
    place.push(1.0, memory=200 * MIB)
    daemon = start(memory="300MiB", awake=0.0)
    daemon.wait_answer(1.0)
    place.push(2.0, memory=200 * MIB)
    until(
        lambda: (found := version(daemon, 2, "answer")) and "beside answer@1" in found.reason, "why it waits"
    )
    found = version(daemon, 2, "answer")
    assert found is not None
    assert found.state == "loading"
    place.push(3.0, memory=400 * MIB)
    until(lambda: (found := version(daemon, 3, "answer")) and found.state == "failed", "it can never fit")
    found = version(daemon, 3, "answer")
    assert found is not None
    assert found.reason == "needs 400 MiB of memory; the budget of this host is 300 MiB"
    assert daemon.ask() == (200, (1.0, 1))
    assert daemon.ready()
