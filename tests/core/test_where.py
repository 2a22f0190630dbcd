from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mldeploy.core import where
from mldeploy.core.criterion import (
    KEYWORDS,
    OPERATORS,
    All,
    Comparison,
    Either,
    Not,
    by_headers,
    comparisons,
    evaluate,
    headers_of,
    needs_inputs,
    to_text,
)
from mldeploy.core.manifest import Tensor
from mldeploy.core.where import parse
from mldeploy.errors import UsageError

SIGNATURE = (
    Tensor(name="amount", datatype="FP64", shape=(-1,)),
    Tensor(name="features", datatype="FP32", shape=(-1, 4)),
    Tensor(name="city", datatype="BYTES", shape=(-1, 1)),
    Tensor(name="vip", datatype="BOOL", shape=(-1,)),
    Tensor(name="sequence", datatype="INT64", shape=(-1, -1)),
    Tensor(name="odd[0]", datatype="INT64", shape=(1,)),
)

_names = st.sampled_from(["country", "x-user", "amount", "a.b", "user_id", 'od"d name', "x[0]", "7"])
_values = st.one_of(
    st.text(max_size=8),
    st.sampled_from([*KEYWORDS, "NL", "a-b", "1", "2026-01-01"]),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)


@st.composite
def _comparisons(draw):
    source = draw(st.sampled_from(["header", "input"]))
    name = draw(_names if source == "input" else st.sampled_from(["country", "x-user", "a.b", "x!y"]))
    place = draw(st.integers(0, 9)) if source == "input" else 0
    operator = draw(st.sampled_from([*OPERATORS, "in", "not in"]))
    values = draw(st.lists(_values, min_size=1, max_size=4))
    if operator in ("in", "not in"):
        return Comparison(source, name, place, operator, tuple(values))
    value = values[0]
    if isinstance(value, bool) and operator not in ("==", "!="):
        value = "x"
    return Comparison(source, name, place, operator, (value,))


def _flat(kind, parts):
    return kind(tuple(q for p in parts for q in (p.parts if isinstance(p, kind) else (p,))))


criteria = st.recursive(
    _comparisons(),
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: _flat(All, parts)),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: _flat(Either, parts)),
    ),
    max_leaves=8,
)


def meets(text, headers=None, inputs=None):
    headers, inputs = headers or {}, inputs or {}
    criterion = parse(text)

    def element(name, place):
        row = inputs.get(name, ())
        return row[place] if place < len(row) else None

    full = evaluate(criterion, headers.get, element)
    first = by_headers(criterion, headers.get)
    assert first in (None, full)
    assert first is not None or needs_inputs(criterion)
    return full


@given(criteria)
def test_text_round_trips(criterion):
    text = to_text(criterion)
    if len(text) > where.MAX_LENGTH:
        with pytest.raises(UsageError, match="longer than"):
            parse(text)
        return
    read = parse(text)
    assert read == criterion
    assert to_text(read) == to_text(criterion)


def read_or_refused(text, inputs):
    try:
        return parse(text, inputs)
    except UsageError as error:
        refused = error
    message, shown, caret = refused.message.rsplit("\n", 2)
    assert message
    assert caret.strip() == "^"
    assert len(caret) <= len(shown) + 1
    assert refused.hint
    return None


_pieces = st.sampled_from(
    ["header.a", "input.x", "input.", "[", "]", "(", ")", ",", "==", "<", "not", "and", "or", "in", "1e999",
     "'", '"', "\\", " ", "\n", "\0", "\u202e", "\ud800", "NL", "1", "-", ".", "..", "true", "1_0", "\u0661"]
)  # fmt: skip


@given(st.one_of(st.text(max_size=200), st.lists(_pieces, max_size=60).map("".join)))
@example("(" * 1000)
@example("not " * 250)
@example("header.a in [" + "1," * 490)
@example("input.x[99999999999] == 1")
@example("input.'a\\' == 1")
def test_any_text_is_a_criterion_or_a_usage_error(text):
    for inputs in (None, SIGNATURE):
        criterion = read_or_refused(text, inputs)
        if criterion is None:
            continue
        assert sum(1 for _ in comparisons(criterion)) <= where.MAX_COMPARISONS
        evaluate(criterion, lambda _: "1", lambda _, __: 1.5)
        by_headers(criterion, lambda _: None)
        assert parse(to_text(criterion)) == criterion


@given(criteria, st.one_of(st.none(), st.text(max_size=40)), st.one_of(st.none(), _values))
def test_evaluation_never_fails_and_headers_never_contradict_it(criterion, header, value):
    full = evaluate(criterion, lambda _: header, lambda _, __: value)
    assert by_headers(criterion, lambda _: header) in (None, full)


def test_the_longest_criterion_is_evaluated_in_bounded_steps():
    text = "header.a in [" + ",".join(["1"] * where.MAX_VALUES) + "]"
    calls = []
    assert evaluate(parse(text), lambda name: calls.append(name) or "2", lambda *_: None) is False
    assert calls == ["a"]
    many = " or ".join(["header.a==1"] * where.MAX_COMPARISONS)
    calls.clear()
    assert evaluate(parse(many), lambda name: calls.append(name) or "9" * 10_000, lambda *_: None) is False
    assert len(calls) == where.MAX_COMPARISONS


@pytest.mark.parametrize(
    ("text", "headers", "inputs", "expected"),
    [
        ("header.country in [NL, BE]", {"country": "NL"}, {}, True),
        ("header.Country in [NL, BE]", {"country": "DE"}, {}, False),
        ("header.country in [NL, BE]", {}, {}, False),
        ("header.country not in [NL, BE]", {}, {}, False),
        ("not header.country in [NL, BE]", {}, {}, True),
        ("header.country not in [NL, BE]", {"country": "DE"}, {}, True),
        ("header.x-tenant == 7", {"x-tenant": "007"}, {}, True),
        ("header.x-tenant == '7'", {"x-tenant": "007"}, {}, False),
        ("header.x-tenant < 7", {"x-tenant": "six"}, {}, False),
        ("header.beta == true", {"beta": "True"}, {}, True),
        ("header.since >= '2026-01-01'", {"since": "2026-05-01"}, {}, True),
        ("input.amount > 1000", {}, {"amount": [1000.5]}, True),
        ("input.amount > 1000", {}, {"amount": [1000]}, False),
        ("input.amount > 1000", {}, {"amount": ["2000"]}, False),
        ("input.amount != 1000", {}, {"amount": ["x"]}, False),
        ("input.vip == true", {}, {"vip": [True]}, True),
        ("input.vip == 1", {}, {"vip": [True]}, False),
        ("input.x[2] <= -1.5e1", {}, {"x": [0, 0, -15]}, True),
        ("input.x[3] <= 0", {}, {"x": [0, 0, -15]}, False),
        ("input.x = 1 or input.y = 2 and header.a = b", {"a": "c"}, {"x": [1]}, True),
        ("(input.x = 1 or input.y = 2) and header.a = b", {"a": "c"}, {"x": [1]}, False),
        ("not (input.x = 1) and not header.a = b", {}, {"x": [2]}, True),
        ("input.\"a b\" == 'it\\'s'", {}, {"a b": ["it's"]}, True),
    ],
)
def test_meaning(text, headers, inputs, expected):
    assert meets(text, headers, inputs) is expected


@pytest.mark.parametrize(
    ("text", "says", "under"),
    [
        ("", "expected header.NAME", 0),
        ("header.country in [NL, BE", "expected `]`", 25),
        ("header.country = ", "expected a value", 17),
        ("header.country ~ NL", "'~' means nothing", 15),
        ("country == NL", "expected header.NAME", 0),
        ("header.country == NL input.amount > 1", "expected `and`", 21),
        ("header.a == 'x", "does not end", 12),
        ("header.a == 1.2.3", "neither a number", 12),
        ("header.a == 1e999", "neither a number", 12),
        ("header.a < true", "no order", 11),
        ("__import__('os')", "expected header.NAME", 0),
        ("input.amuont > 1", "no input 'amuont'", 6),
        ("input.features > 1", "more than one value", 15),
        ("input.sequence > 1", "more than one value", 15),
        ("input.features[4] > 1", "no such element", 15),
        ("input.amount[1] > 1", "no such element", 13),
        ("input.amount > big", "a number is expected", 15),
        ("input.city == 3", "text is expected", 14),
        ("input.vip == 3", "true or false is expected", 13),
    ],
)
def test_a_bad_one_is_refused_with_a_pointer_to_the_place(text, says, under):
    with pytest.raises(UsageError) as caught:
        parse(text, SIGNATURE)
    message, shown, caret = caught.value.message.split("\n")
    assert says in message
    assert shown == f"  {text}"
    assert caret == f"  {' ' * under}^"


def test_a_name_that_is_nearly_right_is_told():
    with pytest.raises(UsageError) as caught:
        parse("input.amuont > 1", SIGNATURE)
    assert "input.amount" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["input.amount > 1", "input.features[3] == -0.5", "input.city in ['Den Haag', NL]", "input.vip == false",
     "input.sequence[7] >= 2", 'input."odd[0]" != 4'],
)  # fmt: skip
def test_what_fits_the_signature_is_taken(text):
    assert needs_inputs(parse(text, SIGNATURE))


def test_what_headers_decide():
    criterion = parse("header.a == b and input.x > 1")
    assert needs_inputs(criterion)
    assert headers_of(criterion) == {"a"}
    assert by_headers(criterion, {}.get) is False
    assert by_headers(criterion, {"a": "b"}.get) is None
    either = parse("header.a == b or input.x > 1")
    assert by_headers(either, {"a": "b"}.get) is True
    assert by_headers(either, {}.get) is None
    assert not needs_inputs(parse("header.a == b"))


def test_a_long_line_shows_the_part_that_matters():
    text = " or ".join(["header.a == b"] * 30) + " or header.a ~ b"
    with pytest.raises(UsageError) as caught:
        parse(text)
    shown, caret = caught.value.message.split("\n")[1:]
    assert shown[len(caret) - 1] == "~"
    assert len(shown) < 130


def test_the_worst_texts_are_read_to_their_end():
    # an exponential reader would need years
    for text in ("(" * 999, "'" + "\\'" * 499, "header.a==" + "+" * 900, "input." + "a." * 400, "[" * 999):
        with pytest.raises(UsageError):
            parse(text)


def test_the_caret_survives_json():
    with pytest.raises(UsageError) as caught:
        parse("header.a == \u202e\ud800")
    json.dumps(caught.value.message)
    caught.value.message.encode()
