"""Rollouts on some hosts alone: two real daemons, of which one carries the label."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mldeploy.client import Client
from mldeploy.core.records import Advance, Complete
from tests.daemon.conftest import Place
from tests.daemon.test_rollouts import NEVER, evidence_of, said, serving, state
from tests.support.daemons import Daemon, Load, until

ON = ["zone=a"]
GUARDS = ["error_rate < 10%", "crashes < 1"]


@pytest.fixture
def zones(place: Place) -> list[Daemon]:
    """A daemon in zone a and one in zone b, both members."""
    daemons = [
        place.daemon(zone, poll=0.2, report=0.5, arguments=("--label", f"zone={zone}"), **NEVER).start()
        for zone in "ab"
    ]
    until(lambda: len(state(place).hosts) == 2, "both have joined")
    return daemons


def answers(daemons: Sequence[Daemon]) -> list[object]:
    return [daemon.ask() for daemon in daemons]


def test_a_ramp_on_one_zone_goes_to_its_end_there_and_nowhere_else(place: Place, zones: list[Daemon]) -> None:
    a, b = zones
    place.push(1.0)
    for daemon in zones:
        daemon.wait_answer(1.0)
    second = place.push(2.0, share=None)
    client = Client(str(place.folder))
    with Load(a) as there, Load(b) as elsewhere:
        change = client.promote(str(second), steps=[20, 100], hold=1, guards=GUARDS, min_requests=50, on=ON)
        # the wait ends at the last step, where it stays
        waited = client.wait("answer", seq=change.seq, timeout=120)
        assert len(waited.hosts) == 2
        there.more(50)
        elsewhere.more(50)
        a.wait_answer(2.0)
    assert there.failed == elsewhere.failed == []
    assert set(elsewhere.answers) == {(1.0, 1)}
    assert set(there.answers) == {(1.0, 1), (2.0, 2)}
    now = serving(place)
    assert now.ramp is not None
    assert (now.stable, now.ramp.step, now.ramp.share) == (1, 1, 10_000)
    actions = [action for record in said(place) for action in record.actions]
    (advance,) = [action for action in actions if isinstance(action, Advance)]
    # the host in zone b was not waited for, and what it answered is no evidence
    evidence = evidence_of(advance)
    assert (evidence.hosts, evidence.members) == (1, 1)
    counted = sum(measure.tally.requests for measure in evidence.measures)
    assert counted <= sum(there.answers.values())
    assert not any(isinstance(action, Complete) for action in actions)
    assert answers(zones) == [(200, (2.0, 2)), (200, (1.0, 1))]
    # everywhere, at a word; those who had it keep it
    client.promote(str(second), now=True)
    client.wait("answer", timeout=60)
    assert answers(zones) == [(200, (2.0, 2))] * 2
    assert serving(place).ramp is None


def test_a_first_version_on_one_zone_is_unknown_in_the_other(place: Place, zones: list[Daemon]) -> None:
    a, b = zones
    first = place.push(1.0, share=None)
    client = Client(str(place.folder))
    client.promote(str(first), on=ON)
    client.wait("answer", timeout=60)
    assert answers(zones)[0] == (200, (1.0, 1))
    assert b.ask()[0] == 404
    # with nothing stable it is the model, for whoever asks for it without a version
    assert a.get("/v2/models/answer")[0] == 200
    assert a.get("/v2/models/answer/ready")[0] == 200
    assert client.predict("answer", url="http://{}:{}".format(*a.address())).version == "1"
    # a daemon that starts anew is not ready before it is there
    assert a.stop() == 0
    a.start().wait_ready()
    assert a.ask() == (200, (1.0, 1))
