from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mldeploy.core import types
from mldeploy.core.types import ModelRef
from mldeploy.errors import UsageError
from tests.core.strategies import refused

names = st.from_regex(types.NAME, fullmatch=True)


@given(names, st.integers(1, 999_999_999))
def test_a_model_ref_round_trips(name: str, version: int) -> None:
    ref = ModelRef(name, version)
    assert ModelRef.parse(str(ref)) == ref


@given(st.text(max_size=30))
def test_what_is_read_as_a_model_ref_is_written_the_same(text: str) -> None:
    assert refused(lambda: ModelRef.parse(text)) or str(ModelRef.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["churn", "churn@", "churn@0", "churn@07", "churn@-1", "churn@٣", "@1", "Churn@1"]
)
def test_not_a_version(text: str) -> None:
    with pytest.raises(UsageError):
        ModelRef.parse(text)


@given(st.integers(1, 36_500 * 86_400))
def test_a_duration_round_trips(seconds: int) -> None:
    duration = timedelta(seconds=seconds)
    assert types.parse_duration(types.format_duration(duration)) == duration


@pytest.mark.parametrize("text", ["", "90", "d", "0d", "-1d", "1.5d", "9" * 30 + "d", "1d1w", "1x", "٣d"])
def test_not_a_duration(text: str) -> None:
    with pytest.raises(UsageError):
        types.parse_duration(text)


@given(st.text(max_size=30))
def test_a_duration_is_refused_with_a_hint_or_read(text: str) -> None:
    assert refused(lambda: types.parse_duration(text)) or types.parse_duration(text) > timedelta(0)


@given(st.integers(0, types.FULL_SHARE))
def test_a_share_round_trips(share: int) -> None:
    assert types.parse_share(types.format_share(share)) == share


@pytest.mark.parametrize("text", ["101%", "-1%", "1.234%", "", "%", "ten", "1e1", "٣"])
def test_not_a_share(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        types.parse_share(text)
    assert "two decimals" in refusal.value.hint


def test_an_expiry_is_a_date_or_counts_from_now() -> None:
    now = datetime(2026, 11, 23, 22, 0, tzinfo=UTC)
    assert types.parse_expiry("2027-06-30", now) == date(2027, 6, 30)
    assert types.parse_expiry("90d", now) == date(2027, 2, 21)
    assert types.parse_expiry("3h", now) == date(2026, 11, 24)
    for text in ("2027-02-30", "never", "", "2027-6-3"):
        with pytest.raises(UsageError):
            types.parse_expiry(text, now)


def test_a_digest_is_64_lower_case_hexadecimal_digits() -> None:
    assert types.check_digest("0" * 64)
    for text in ("0" * 63, "A" * 64, "", "g" * 64):
        with pytest.raises(UsageError):
            types.check_digest(text)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (40.4, "40 s"),
        (392, "7 min"),
        (3_600, "60 min"),
        (7_200, "2 h"),
        (90_000, "25 h"),
        (1e6, "12 d"),
    ],
)
def test_ages_in_words(seconds: float, shown: str) -> None:
    assert types.format_age(seconds) == shown
