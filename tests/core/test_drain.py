"""A host that is drained: what the log makes of it, and what the fleet does without it."""

from __future__ import annotations

from mldeploy.core.controller import decisions, on_duty, propose
from mldeploy.core.fold import refusal
from mldeploy.core.records import Advance, Drain, Forget, Halt, Join, Leave, Undrain
from mldeploy.core.retirement import Heard
from mldeploy.core.state import State
from mldeploy.errors import NotAllowedError, NotFoundError
from tests.core.test_actions import after, refused
from tests.core.test_controller import DAY, FLEET, HOSTS, PAST, RAMP, counted, heard, reports

NOW = 2_000.0


def on(state: State) -> list[str]:
    return [host.id for host in on_duty(state, "production")]


def test_a_host_stays_drained_until_it_is_undrained() -> None:
    state = after(Join(host="h1"), Drain(host="h1", reason="new disk"))
    assert state.drained == {"h1": "new disk"}
    assert "already drained" in refused(state, Drain(host="h1", reason="new disk"))
    state = after(Drain(host="h1"), state=state)
    assert state.drained == {"h1": ""}
    # its daemon stops, is started again, is silent for long and comes back with another label
    state = after(Leave(host="h1"), Join(host="h1"), Forget(host="h1"), state=state)
    assert state.drained == {"h1": ""}
    state = after(Join(host="h1", labels={"disk": "new"}), state=state)
    assert state.drained == {"h1": ""}
    state = after(Undrain(host="h1"), state=state)
    assert state.drained == {}
    assert "not drained" in refused(state, Undrain(host="h1"))


def test_only_a_member_is_drained_and_whoever_is_gone_is_undrained() -> None:
    problem = refusal(State(), [Drain(host="h1")])
    assert isinstance(problem, NotFoundError)
    assert "host list" in problem.hint
    assert isinstance(refusal(State(), [Undrain(host="h1")]), NotAllowedError)
    state = after(Join(host="h1"), Drain(host="h1"), Leave(host="h1"), Undrain(host="h1"))
    assert state.drained == {}


def test_duties_are_of_those_that_are_not_drained_unless_all_are() -> None:
    state = after(Drain(host="h0"), Drain(host="h3"), state=RAMP)
    assert on(state) == ["h1", "h2", "h4"]
    everyone = after(*(Drain(host=host) for host in ("h1", "h2", "h4")), state=state)
    assert on(everyone) == list(HOSTS)
    elsewhere = after(Join(host="s1", environment="staging"), Drain(host="s1"), state=RAMP)
    assert on(elsewhere) == list(HOSTS)


def test_a_rollout_does_not_wait_for_a_host_that_is_drained_and_counts_what_it_says() -> None:
    four = heard(RAMP, NOW, HOSTS[:4])
    assert propose(RAMP, reports(RAMP, NOW, heard=four), NOW) == ()
    state = after(Drain(host="h4"), state=RAMP)
    (action,) = propose(state, reports(state, NOW, heard=four), NOW)
    assert isinstance(action, Advance)
    assert action.evidence is not None
    assert (action.evidence.hosts, action.evidence.members) == (4, 4)
    # where the candidate fails to come up there, that is its own affair; what it answered wrong is not
    broken = (*four, *heard(state, NOW, HOSTS[4:], failed=("churn@2",)))
    assert isinstance(propose(state, reports(state, NOW, heard=broken), NOW)[0], Advance)
    wrong = reports(state, NOW, heard=broken, measures=counted(RAMP, 300, 100))
    assert isinstance(propose(state, wrong, NOW)[0], Halt)
    # a word of a drained host makes up for nobody
    three = (*heard(state, NOW, HOSTS[:3]), *heard(state, NOW, HOSTS[4:]))
    assert decisions(state, reports(state, NOW, heard=three), NOW)["churn"].waits == (
        "3 of 4 hosts have reported that they are at this step",
    )


def test_a_drained_host_is_still_asked_before_anything_is_retired() -> None:
    state = after(Drain(host="h4"), state=FLEET)

    def retires(*said: Heard) -> bool:
        return propose(state, reports(state, PAST, heard=said, everyone=True), PAST) != ()

    four, used = heard(state, PAST, HOSTS[:4]), {"churn@1": DAY, "churn@2": DAY}
    assert retires(*heard(state, PAST))
    assert not retires(*four, *heard(state, PAST, HOSTS[4:], uses=used))
    assert not retires(*four)
