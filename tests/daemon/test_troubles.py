"""The errors in a host's report."""

from __future__ import annotations

from mldeploy.errors import DiskError, StoreError
from mldeploy_daemon.troubles import KNOWN, LATELY, Troubles

FULL, GONE = DiskError("no room", "make some"), StoreError("no answer", "wait")


def test_an_error_is_told_while_it_is_met_and_for_an_hour() -> None:
    now = 0.0
    troubles = Troubles(lambda: now)
    troubles.note(FULL)
    for _ in range(5):
        now += LATELY / 2
        troubles.note(GONE)
    assert troubles.told() == ("no answer",)
    now += LATELY
    assert troubles.told() == ()


def test_errors_that_take_turns_are_no_news() -> None:
    now = 0.0
    troubles = Troubles(lambda: now)
    told = set()
    for turn in range(100):
        now += 0.5
        troubles.note((FULL, GONE)[turn % 2])
        told.add(troubles.told())
    assert told == {("no room",), ("no room", "no answer")}


def test_the_five_that_were_met_last_are_told_and_not_all_are_known() -> None:
    now = 0.0
    troubles = Troubles(lambda: now)
    for number in range(KNOWN + 10):
        now += 1
        troubles.note(FULL)
        troubles.note(StoreError(str(number), ""))
    last = KNOWN + 9
    # what is met now is told, though others have come up since it did
    assert troubles.told() == ("no room", *(str(number) for number in range(last - 3, last + 1)))
    assert len(troubles._met) == KNOWN
