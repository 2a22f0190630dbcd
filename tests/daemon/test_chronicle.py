"""What the agent's log says of what it serves: one line for each change."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from mldeploy.core.host import Mirroring, ModelRoute
from mldeploy.core.records import Drain
from mldeploy.core.standing import Standing
from mldeploy_daemon.chronicle import Chronicle, changes
from tests.core.hosts import wanted
from tests.daemon.conftest import Place
from tests.support.daemons import Daemon, until

Start = Callable[..., Daemon]


def route(stable: int | None, candidate: int | None = None, share: int = 0, *shadows: int) -> ModelRoute:
    served = [each for each in (stable, candidate) if each is not None]
    return ModelRoute(
        stable=stable, candidate=candidate, share=share, workers=dict.fromkeys(served, ("w",)),
        shadows=tuple(Mirroring(id="s", version=wanted(version), fraction=100) for version in shadows),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (None, route(1), ["m@1 takes traffic"]),
        (route(1), route(2), ["m@2 takes traffic, instead of m@1"]),
        (route(1), route(1), []),
        (route(1), None, ["nothing answers m"]),
        (route(1), ModelRoute(stable=1), ["nothing answers m"]),
        (ModelRoute(stable=1), route(1), ["m@1 takes traffic"]),
        (route(1), route(1, 2, 1_000), ["m@2 takes 10% of the traffic"]),
        (route(1, 2, 1_000), route(1, 2, 5_000), ["m@2 takes 50% of the traffic"]),
        (route(1, 2, 1_000), route(1), ["m@2 takes no traffic any more"]),
        (route(1, 2, 5_000), route(2), ["m@2 takes traffic, instead of m@1"]),
        (route(1), route(1, None, 0, 3), ["m@3 gets copies of requests"]),
        (route(1, None, 0, 3), route(1), ["m@3 gets no copies any more"]),
    ],
)
def test_each_change_is_a_line(before: ModelRoute | None, after: ModelRoute | None, lines: list[str]) -> None:
    assert list(changes({"m": before} if before else {}, {"m": after} if after else {})) == lines


def test_why_a_version_cannot_start_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    chronicle = Chronicle()

    def look(reason: str, *told: str, state: str = "failed") -> None:
        chronicle.stand({"m": [Standing(version=1, digest="d", state=state, reason=reason)]}, told)

    look("no room", "m@1")  # the book has told it
    assert caplog.messages == []
    chronicle = Chronicle()
    for _ in range(3):
        look("no room")
    look("no Python 3.9")
    look("", state="ready")
    look("no room")
    assert caplog.messages == [
        f"m@1 cannot start here: {reason}" for reason in ("no room", "no Python 3.9", "no room")
    ]


def test_a_swap_a_drain_and_a_version_that_does_not_fit(place: Place, start: Start) -> None:
    place.push(1.0)
    daemon = start(memory="300MiB")
    daemon.wait_answer(1.0)
    place.push(2.0)
    daemon.wait_answer(2.0)
    place.push(3.0, memory=400 << 20)
    report = until(daemon.report, "a report")
    place.append(Drain(host=report.host, reason="new disk"))
    for line in (
        "answer@1 is loaded: worker ", "answer@1 takes traffic\n", "answer@2 is loaded: worker ",
        "answer@2 takes traffic, instead of answer@1\n", "answer@1: worker ",
        "answer@3 cannot start here: needs 400 MiB of memory; the budget of this host is 300 MiB\n",
        "drained: new disk\n",
    ):  # fmt: skip
        until(lambda line=line: line in daemon.text(), line)  # type: ignore[misc]
