"""What is said of a front that goes back finds one that does."""

from __future__ import annotations

import pytest

from tests.e2e.sticky import Answer, check_front, flips

STEP = {"early": 100, "late": 1_000}.__getitem__
GOOD = [
    Answer(0, 1, "early", 1),
    Answer(2, 3, "early", 2),
    Answer(4, 5, "late", 1),
    Answer(6, 7, "late", 2),
    Answer(8, 9, "early", 2),
]


def test_nothing_is_found_in_a_front_that_goes_on() -> None:
    check_front(GOOD, STEP, 2)
    assert flips(GOOD, 2) == 0


@pytest.mark.parametrize("key", ["early", "late"])
def test_a_key_that_goes_back_is_found(key: str) -> None:
    back = [*GOOD, Answer(10, 11, key, 1)]
    with pytest.raises(AssertionError, match="though the front read it"):
        check_front(back, STEP, 2)
    assert flips(back, 2) == 1


def test_another_key_of_a_step_that_was_read_is_found_too() -> None:
    with pytest.raises(AssertionError, match="though the front read it at 1"):
        check_front([Answer(0, 1, "late", 2), Answer(2, 3, "early", 1)], STEP, 2)


def test_a_front_behind_another_is_counted() -> None:
    assert flips([*GOOD, Answer(3.5, 4, "early", 1)], 2) == 1
