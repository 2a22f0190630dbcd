from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mldeploy.core.routing import Key, choose, parse_key
from mldeploy.errors import UsageError


@given(st.text(), st.text(max_size=30), st.integers(0, 10_000), st.integers(0, 10_000))
def test_whoever_is_in_at_less_is_in_at_more(key: str, salt: str, one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert choose(key, salt, high) or not choose(key, salt, low)
    assert not choose(key, salt, 0)
    assert choose(key, salt, 10_000)
    assert choose(key, salt, one) == choose(key, salt, one)


def test_the_share_is_what_was_asked_for() -> None:
    for share in (100, 1_000, 5_000):
        taken = sum(choose(f"user {number}", "rollout", share) for number in range(20_000))
        expected = 20_000 * share / 10_000
        assert abs(taken - expected) < 5 * expected**0.5


def test_rollouts_choose_independently() -> None:
    both = sum(choose(f"{n}", "a", 5_000) and choose(f"{n}", "b", 5_000) for n in range(20_000))
    assert 4_600 < both < 5_400


def test_a_key_that_is_not_unicode() -> None:
    assert choose("\udcff", "salt", 10_000)


def test_the_hash_is_fixed_for_ever() -> None:
    # changing it would move users between versions in the middle of a rollout
    taken = [n for n in range(12) if choose(f"user {n}", "01k9zq3v5w8x7c2m4n6b8d0f1g", 2_500)]
    assert taken == [3, 10]


@pytest.mark.parametrize(
    ("text", "key"),
    [("", Key()), ("header:X-User", Key("header", "x-user")), ("input:user id", Key("input", "user id"))],
)
def test_routing_keys(text: str, key: Key) -> None:
    assert parse_key(text) == key


@given(st.text(max_size=40))
def test_any_text_is_a_routing_key_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_key(text).source in ("", "header", "input")
