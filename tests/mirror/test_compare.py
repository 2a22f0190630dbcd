"""What counts as alike: single answers, and any arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mldeploy.core.manifest import Tensor
from mldeploy_daemon.mirror.answers import Reader, element
from mldeploy_daemon.mirror.compare import Comparing


def words(*values):
    return np.array(values, dtype=object)


def compared(one, other):
    counts = Comparing(1e-5, 1e-8)
    within = counts.pair(one, other)
    value = counts.value()
    assert value.pairs == 1
    assert within == bool(value.within)
    return value.agreed, value.within, value.classed, value.same_class


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (np.array([1.0, 2.0]), np.array([1.0, 2.0]), (1, 1, 0, 0)),
        (np.array([1.0]), np.array([1.0 + 9e-6]), (0, 1, 0, 0)),
        (np.array([1.0]), np.array([1.0 + 2e-5]), (0, 0, 0, 0)),
        (np.array([0.0]), np.array([9e-9]), (0, 1, 0, 0)),
        (np.array([1.0, 2.0]), np.array([1.0]), (0, 0, 0, 0)),
        (np.array([3]), np.array([3]), (1, 1, 1, 1)),
        (np.array([3]), np.array([4]), (0, 0, 1, 0)),
        (words("yes", "no"), words("yes", "no"), (1, 1, 1, 1)),
        (words("yes", "no"), words("yes", "yes"), (0, 0, 1, 0)),
        (np.array([[0.2, 0.8]]), np.array([[0.3, 0.7]]), (0, 0, 1, 1)),
        (np.array([[0.2, 0.8]]), np.array([[0.6, 0.4]]), (0, 0, 1, 0)),
        (np.array([[0.2, 0.8], [0.9, 0.1]]), np.array([[0.2, 0.8], [0.1, 0.9]]), (0, 0, 1, 0)),
        (np.array([1.0]), words("one"), (0, 0, 0, 0)),
        (np.array([1.0], dtype=np.float32), np.array([1.0]), (1, 1, 0, 0)),
    ],
)
def test_one_output(one, other, expected):
    assert compared({"y": one}, {"y": other}) == expected


def test_all_outputs_count():
    one = {"label": words("a"), "score": np.array([[0.4, 0.6]])}
    assert compared(one, {"label": words("a"), "score": np.array([[0.4, 0.6]])}) == (1, 1, 1, 1)
    assert compared(one, {"label": words("b"), "score": np.array([[0.4, 0.6]])}) == (0, 0, 1, 0)
    assert compared(one, {"label": words("a"), "score": np.array([[0.6, 0.4]])}) == (0, 0, 1, 0)
    assert compared(one, {"label": words("a")}) == (0, 0, 1, 1)


def test_outputs_that_both_have_are_compared_by_class_and_rank():
    one = {"label": words("a", "b"), "score": np.array([1.0, 2.0])}
    more = one | {"why": words("x", "y")}
    for before, after in ((one, more), (more, one)):
        counts = Comparing(1e-5, 1e-8)
        assert not counts.pair(before, after)
        value = counts.value()
        assert (value.pairs, value.within, value.concordant) == (1, 0, 1)
        assert value.agreement == (1, 1)
    assert compared(one, more | {"label": words("a", "a")}) == (0, 0, 1, 0)


def test_an_answer_that_cannot_be_read_is_another():
    assert compared({"y": np.array([1.0])}, None) == (0, 0, 0, 0)
    counts = Comparing(1e-5, 1e-8)
    for other in ({"y": words("a")}, None):
        counts.pair({"y": words("a")}, other)
    assert counts.value().agreement == (1, 2)


def test_ranks_are_those_of_one_score_and_the_next():
    counts = Comparing(1e-5, 1e-8)
    rows = [(1.0, 10.0), (2.0, 20.0), (3.0, 15.0), (3.0, 15.0), (2.0, 30.0)]
    for one, other in rows:
        counts.pair({"y": np.array([one])}, {"y": np.array([other])})
    assert (counts.concordant, counts.discordant) == (1, 2)


def test_of_two_scores_the_last_is_ranked():
    counts = Comparing(1e-5, 1e-8)
    one, other = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.6, 0.4], [0.3, 0.7]])
    counts.pair({"p": one}, {"p": other})
    assert (counts.concordant, counts.discordant) == (1, 0)


_arrays = st.one_of(
    hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=3, min_side=0)),
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=3)),
    hnp.arrays(np.int64, hnp.array_shapes(max_dims=2, max_side=3)),
    hnp.arrays(np.bool_, hnp.array_shapes(max_dims=2, max_side=3)),
    st.lists(st.text(max_size=3), max_size=3).map(lambda found: words(*found)),
)
_arrays_by_name = st.dictionaries(st.sampled_from("ab"), _arrays, max_size=2)
_answers = st.one_of(st.none(), _arrays_by_name)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(_arrays_by_name, _answers), max_size=5))
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_any_two_answers_can_be_compared(pairs):
    counts = Comparing(1e-5, 1e-8)
    for one, other in pairs:
        counts.pair(one, other)
    value = counts.value()
    assert value.agreed <= value.within <= value.pairs == len(pairs)
    assert value.same_class <= value.classed <= value.pairs


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(_arrays_by_name)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_everything_agrees_with_itself(answer):
    agreed, within, classed, same = compared(answer, answer)
    assert (agreed, within) == (1, 1)
    assert classed == same


SIGNATURE = (
    Tensor(name="x", datatype="FP64", shape=(-1, 2)),
    Tensor(name="city", datatype="BYTES", shape=(-1,)),
)


def body(**tensors):
    given = [{"name": name, **tensor} for name, tensor in tensors.items()]
    return json.dumps({"inputs": given}).encode()


def test_elements_of_a_request():
    read = Reader(SIGNATURE).request(
        body(
            x={"datatype": "FP64", "shape": [2, 2], "data": [1, 2.5, 3, 4]},
            city={"datatype": "BYTES", "shape": [1], "data": ["NL"]},
        )
    )
    assert read is not None
    assert [element(read, "x", place) for place in range(5)] == [1.0, 2.5, 3.0, 4.0, None]
    assert element(read, "city", 0) == "NL"
    assert element(read, "nothing", 0) is None


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
@pytest.mark.parametrize("written", [0.1, 16777216.0, 1e-7, 3.4e38, -0.3])
def test_an_element_is_the_number_that_the_client_wrote(datatype, written):
    reader = Reader([Tensor(name="x", datatype=datatype, shape=(-1,))])
    read = reader.request(body(x={"datatype": datatype, "shape": [1], "data": [written]}))
    assert read is not None
    assert element(read, "x", 0) == written


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", b"\xff", b'{"inputs": [{"name": "x"}]}',
        body(z={"datatype": "FP64", "shape": [1], "data": [1]}),
        body(x={"datatype": "FP64", "shape": [1, 2], "data": ["a", "b"]}),
        body(x={"datatype": "FP64", "shape": [10**9, 10**9], "data": [1, 2]}),
        body(x={"datatype": "FP64", "shape": [1, 2], "parameters": {"binary_data_size": 16}}),
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_request_is_none(data):
    assert Reader(SIGNATURE).request(data) is None
