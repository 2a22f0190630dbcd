"""Expiry with real daemons: on every host what nobody uses goes, once, what is used stays and its owner is
told so, and what went comes back by hand.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from mldeploy.client import Client
from mldeploy.core.records import Notified, Policy, Record, Retire
from mldeploy.core.types import ModelRef
from mldeploy.store.history import records_at
from tests.daemon.conftest import Place
from tests.daemon.test_serving import state_of
from tests.reporting.receivers import Mailbox, mail_server
from tests.support.daemons import Daemon, Load, until

#: Bundles of tests expire 90 days after their push, so that these are 30 days past it.
AGE = timedelta(days=120)
#: Seconds: the least that a policy may say.
IDLE = 60


def push_long_ago(place: Place, answer: float, name: str = "answer") -> ModelRef:
    """Published and promoted from a machine whose clock is far behind the store's."""
    past = Client(str(place.folder), now=lambda: datetime.now(UTC) - AGE)
    ref = past.push(place.maker.bundle(name, answer), promote=True, now=True).ref
    assert ref is not None
    assert past.state.models[name].versions[ref.version].expires < today()
    return ref


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def two_hosts(place: Place) -> list[Daemon]:
    """Both members, and both serving."""
    daemons = [place.daemon(f"host-{number}", poll=0.2, report=0.5) for number in range(2)]
    for daemon in daemons:
        daemon.start()
    for daemon in daemons:
        daemon.wait_ready()
    until(lambda: len(state_of(place).hosts) == len(daemons), "both have joined")
    return daemons


def identities(box: Mailbox, kind: str) -> list[str]:
    """The notices of a kind that arrived, each once, as a receiver sees them that keeps to Message-ID."""
    found = {str(mail["Message-ID"]).strip("<>").partition("@")[0] for mail in box.mails}
    return sorted(each for each in found if each.startswith(f"{kind}."))


def said(place: Place) -> list[Record]:
    return [record for record, _ in records_at(place.store, range(1, state_of(place).head + 1))]


def retired(place: Place) -> list[tuple[str, Retire]]:
    """Who retired what, as the log has it."""
    return [(r.actor, a) for r in said(place) for a in r.actions if isinstance(a, Retire)]


def closed(place: Place, kind: str) -> list[str]:
    """The notices of a kind that a record says are told, as often as it is said."""
    done = [a.notice for r in said(place) for a in r.actions if isinstance(a, Notified) and not a.reason]
    return sorted(each for each in done if each.startswith(f"{kind}."))


@pytest.mark.full
@pytest.mark.timeout(900)
def test_what_expired_unused_goes_on_every_host_once_and_comes_back_and_what_is_used_stays(
    place: Place,
) -> None:
    begun = today()
    with mail_server(Mailbox()) as box:
        mail = f"mailto://127.0.0.1:{box.port}/ops@example.com?from=mldeploy@example.com"
        place.append(Policy(settings={"idle": IDLE, "notify": {"ops": mail}}))
        used, unused = push_long_ago(place, 1.0), push_long_ago(place, 7.0, "other")
        daemons = two_hosts(place)
        # one host alone is asked for the used one, all the time, and the other alone for the other one, once
        with Load(daemons[0]) as load:
            asked = time.monotonic()
            assert daemons[1].ask(model="other") == (200, (7.0, 1))
            goes_on_both(place, daemons, unused, asked)
            # what is used was older, took traffic for longer and was asked for on one host alone
            assert not state_of(place).models["answer"].versions[used.version].retired
            until(lambda: closed(place, "retired") and closed(place, f"expiry.{used.name}"), "both are told")
            load.more(20)
            comes_back_on_both(place, daemons, unused)
        assert load.failed == []
        for daemon in daemons:
            assert daemon.ask() == (200, (1.0, used.version))
        until(lambda: not state_of(place).notices, "every notice is closed")
    the_owner_was_told(place, box, used, unused, begun)


def goes_on_both(place: Place, daemons: list[Daemon], ref: ModelRef, asked: float) -> None:
    """Not before it was idle; by one record of a host, with both hosts' word; and neither answers with it."""
    until(lambda: retired(place), f"{ref} is retired", 400.0, every=1.0)
    assert time.monotonic() - asked >= IDLE
    ((actor, action),) = retired(place)
    assert (action.model, action.version) == (ref.name, ref.version)
    assert actor in {f"host:{host}" for host in state_of(place).hosts}
    assert action.evidence is not None
    assert (action.evidence.hosts, action.evidence.members) == (2, 2)
    for daemon in daemons:
        until(lambda host=daemon: host.ask(model=ref.name)[0] == 404, "its routes are gone")  # type: ignore[misc]


def comes_back_on_both(place: Place, daemons: list[Daemon], ref: ModelRef) -> None:
    """Restored, it is said that it will not stay like that; extended and promoted, both answer with it."""
    client = Client(str(place.folder))
    (warning,) = client.restore(str(ref)).warnings
    assert "`mldeploy extend` it" in warning
    client.extend(str(ref), "90d")
    client.promote(str(ref), now=True)
    for daemon in daemons:
        daemon.wait_answer(7.0, ref.name)
    assert len(retired(place)) == 1


def the_owner_was_told(place: Place, box: Mailbox, used: ModelRef, unused: ModelRef, begun: str) -> None:
    """One notice of the retirement; of the used one's expiry one a day, and the day may have changed since;
    of what nobody uses none but where it was stable still. All to the owner as well."""
    (gone,) = identities(box, "retired")
    assert gone.startswith(f"retired.{unused.name}.{unused.version}.")
    assert closed(place, "retired") == [gone]
    days = {begun, today()}
    warned = [each for each in identities(box, "expiry") if each.startswith(f"expiry.{used.name}.")]
    assert warned
    assert set(warned) <= {f"expiry.{used.name}.{used.version}.{day}" for day in days}
    told = closed(place, "expiry")
    assert len(told) == len(set(told))
    assert set(warned) & set(told)
    assert set(told) <= {f"expiry.{ref.name}.{ref.version}.{day}" for ref in (used, unused) for day in days}
    for mail, recipients in zip(box.mails, box.recipients, strict=True):
        assert "tests@example.com" in recipients, mail["Subject"]
