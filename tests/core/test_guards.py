"""Guards: what can be said, where a mistake is pointed to, and where they are checked."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mldeploy.core import records
from mldeploy.core.guards import Guard, guards_problem, names_problem, parse, parse_all
from mldeploy.core.policy import Settings
from mldeploy.errors import UsageError
from tests.core.strategies import refused
from tests.core.test_actions import RAMP, promote
from tests.core.test_actions import refused as void


@pytest.mark.parametrize(
    ("text", "measure", "of", "limit", "times"),
    [
        ("error_rate < 1%", "error_rate", "", 0.01, False),
        ("error_rate<1.5x", "error_rate", "", 1.5, True),
        (" refusal_rate < 0.5 % ", "refusal_rate", "", 0.005, False),
        ("p50 < 800us", "p50", "", 0.0008, False),
        ("p50 < 800µs", "p50", "", 0.0008, False),
        ("p99\xa0< 80\xa0ms", "p99", "", 0.08, False),
        ("mean < 1.2x", "mean", "", 1.2, True),
        ("agreement > 95%", "agreement", "", 0.95, False),
        ("drift(age) < 0.2", "drift", "age", 0.2, False),
        ("drift(x[3]) < 0.2", "drift", "x[3]", 0.2, False),
        ("crashes < 1", "crashes", "", 1.0, False),
        ("memory < 2GiB", "memory", "", 2.0**31, False),
        ("metric(auc) > 0.98x", "metric", "auc", 0.98, True),
        ("metric(loss) < 0.4", "metric", "loss", 0.4, False),
    ],
)
def test_what_can_be_said(text: str, measure: str, of: str, limit: float, times: bool) -> None:
    guard = parse(text)
    assert (guard.measure, guard.of, guard.limit, guard.times) == (measure, of, limit, times)
    assert guard.text == text.strip()


@pytest.mark.parametrize(
    ("text", "at", "says", "hint"),
    [
        ("error_rat < 1%", 1, "not something that is measured", "did you mean error_rate?"),
        ("", 1, "not something that is measured", "guards are on"),
        ("p99 > 80ms", 5, "p99 is held by <", "p99 < 80ms"),
        ("p99 <= 80ms", 5, "p99 is held by <", "p99 < 80ms"),
        ("error_rate < 0.01", 18, "no unit", "1% or 1.5x"),
        ("error_rate < 120%", 14, "out of range", "1%"),
        ("agreement > 95x", 15, "not measured in 'x'", "95%"),
        ("crashes < 2x", 12, "not measured in 'x'", "crashes < 1"),
        ("p99 < fast", 7, "not a number", "80ms"),
        ("p99 < 80ms please", 12, "nothing may follow", "80ms"),
        ("p99(age) < 1s", 4, "takes nothing in parentheses", "leave them out"),
        ("drift < 0.2", 7, "needs the name of a column", "drift(NAME)"),
        ("drift(age < 0.2", 12, "does not end", "drift(NAME)"),
        ("p99 < 0x", 7, "out of range", "1.2x"),
        ("p99 # 1x", 5, "'#' means nothing here", "p99 < 1.2x"),
    ],
)
def test_a_mistake_is_pointed_to(text: str, at: int, says: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    first, shown, caret = caught.value.message.split("\n")
    assert says in first
    assert first.endswith(f"at character {at}")
    assert (shown, caret) == (f"  {text}", f"  {' ' * (at - 1)}^")
    assert hint in caught.value.hint


@given(st.characters(min_codepoint=0xA1, exclude_categories=["Cs"]))
@example("\u0378")  # of no version of Unicode, so far
@example("\U0001fae8")  # of Python 3.12's, and not of 3.11's
@example("\u0663")  # a digit, but no number
def test_which_characters_there_are_is_not_asked_of_python(character: str) -> None:
    for name in (character, f"a{character}"):
        assert parse(f"metric({name}) > 0.9").of == name
        assert parse(f"drift({name}[3])<0.2").of == f"{name}[3]"
    assert refused(lambda: parse(f"metric(auc) > {character}")) is not None


@given(
    st.text(max_size=40) | st.from_regex(r"[a-z_0-9]{1,12}\(?[a-z]*\)? ?[<>=]{1,2} ?[0-9.]{1,9}[a-zA-Z%]*")
)
def test_any_text_is_a_guard_or_a_usage_error(text: str) -> None:
    found: list[Guard] = []
    problem = refused(lambda: found.append(parse(text)))
    assert isinstance(problem, UsageError) or parse(found[0].text) == found[0]


def test_none_stands_alone() -> None:
    assert parse_all(["none"]) == ()
    assert refused(lambda: parse_all(["none", "p99 < 2x"])) is not None
    assert refused(lambda: parse_all(["p99 < 2x"] * 51)) is not None
    assert len(parse_all(Settings().guards)) == 3


def test_answers_are_compared_at_a_shadow_step() -> None:
    assert guards_problem(["agreement > 95%"], (0, 100, 10_000)) is None
    problem = guards_problem(["agreement > 95%"], (100, 10_000))
    assert problem is not None and "--steps shadow" in problem[1]


def test_a_guard_on_what_the_bundle_has_not_is_never_decided() -> None:
    def problem(*texts: str, columns: tuple[str, ...] = ("age", "x[3]")) -> tuple[str, str]:
        found = names_problem(texts, {"accuracy": 0.9}, lambda: columns)
        assert found is not None
        return found

    known = ["metric(accuracy) > 1x", "drift(x[3]) < 0.2"]
    assert names_problem(known, {"accuracy": 0.9}, lambda: ["x[3]"]) is None
    assert names_problem(["p99 < 1.2x"], (), lambda: pytest.fail("no guard names a column")) is None
    assert names_problem(["none"], (), tuple) is None
    message, hint = problem("p99 < 1x", "metric(acuracy) > 1x")
    assert "'metric(acuracy) > 1x' cannot be decided: the bundle has no metric 'acuracy'" in message
    assert hint == "did you mean metric(accuracy)?"
    assert problem("drift(income) < 0.2")[1] == "it has age, x[3]"
    assert problem("drift(age) < 0.2", columns=()) == (
        "the guard 'drift(age) < 0.2' cannot be decided: the bundle has no column in its baseline",
        "leave drift out",
    )


def test_the_fold_holds_them_too() -> None:
    assert "measured" in void(RAMP, promote(1, 9, steps=(500,), guards=("speed < 1x",)))
    assert "compares answers" in void(RAMP, promote(1, 9, steps=(500,), guards=("agreement > 95%",)))
    assert "guards" in void(RAMP, records.Policy(settings={"guards": ("p99 < 1.2",)}))
