"""Counting into the bins of a baseline."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mldeploy.core.baseline import Baseline, Bins
from mldeploy.core.manifest import Tensor
from mldeploy_daemon.mirror.drift import ROWS, WINDOW, Drifting

STABLE = (5, "stable")


def counting(*columns: Bins, shape: tuple[int, ...] = (-1, -1)) -> Drifting:
    x = Tensor(name="x", datatype="FP64", shape=shape)
    return Drifting(Baseline(rows=100, columns=columns), [x], [])


def number(place: int = 0, edges: tuple[float, ...] = (0.0, 1.0)) -> Bins:
    return Bins(name=f"x[{place}]", side="inputs", tensor="x", place=place, edges=edges, counts=(1, 1, 1))


def live(drifting: Drifting, scope=STABLE) -> dict[str, tuple[int, ...]]:
    return {name: column.live for name, column in drifting.scoped()[scope].columns.items()}


def test_every_row_and_place_has_its_column():
    drifting = counting(number(0), number(1))
    drifting.count({"inputs": {"x": np.array([[-1.0, 0.5], [2.0, 1.0]])}, "outputs": {}}, [STABLE], 0.0)
    assert live(drifting) == {"x[0]": (1, 0, 1), "x[1]": (0, 1, 1)}


def test_a_tensor_without_a_batch_is_one_row():
    drifting = counting(number(0), number(2), shape=(3,))
    drifting.count({"inputs": {"x": np.array([-9.0, 9.0, 0.5])}, "outputs": {}}, [STABLE], 0.0)
    assert live(drifting) == {"x[0]": (1, 0, 0), "x[2]": (0, 1, 0)}
    drifting = counting(number(0), number(4), shape=(2, 3))
    drifting.count({"inputs": {"x": np.arange(6.0).reshape(2, 3)}, "outputs": {}}, [STABLE], 0.0)
    assert live(drifting) == {"x[0]": (0, 1, 0), "x[4]": (0, 0, 1)}


def test_an_output_of_the_same_name_has_its_own_shape():
    column = Bins(name="output x", side="outputs", tensor="x", edges=(0.0, 1.0), counts=(1, 1, 1))
    one, many = (Tensor(name="x", datatype="FP64", shape=shape) for shape in ((3,), (-1,)))
    drifting = Drifting(Baseline(rows=100, columns=(number(0), column)), [one], [many])
    drifting.count({"inputs": {"x": np.zeros(3)}, "outputs": {"x": np.zeros(3)}}, [STABLE], 0.0)
    assert live(drifting) == {"x[0]": (0, 1, 0), "output x": (0, 3, 0)}


def test_values_by_name_and_all_others_together():
    column = Bins(name="c", side="outputs", tensor="c", kind="category", values=("a", "b"), counts=(1, 1, 1))
    drifting = counting(column)
    said = np.array(["a", "z", "b", "a"], dtype=object)
    drifting.count({"inputs": {}, "outputs": {"c": said}}, [STABLE], 0.0)
    assert live(drifting) == {"c": (2, 1, 1)}


def test_large_requests_count_a_bounded_part():
    drifting = counting(number())
    drifting.count({"inputs": {"x": np.zeros(10_000)}, "outputs": {}}, [STABLE], 0.0)
    assert live(drifting) == {"x[0]": (0, ROWS, 0)}


def test_scopes_are_counted_apart_and_forgotten_when_they_are_over():
    drifting, one = counting(number()), {"inputs": {"x": np.zeros(1)}, "outputs": {}}
    drifting.count(one, [STABLE, (6, "stable")], 0.0)
    drifting.count(one, [(6, "stable")], 100.0)
    assert live(drifting, (6, "stable")) == {"x[0]": (0, 2, 0)}
    drifting.keep([STABLE], 200.0)
    assert set(drifting.scoped()) == {STABLE}
    drifting.keep([], 0.0)
    assert set(drifting.scoped()) == {STABLE}


def test_what_is_shown_is_recent():
    drifting, one = counting(number()), {"inputs": {"x": np.zeros(1)}, "outputs": {}}
    for now in (1.0, WINDOW + 2, 2 * WINDOW + 3):
        drifting.count(one, [], now)
    assert drifting.recent(2 * WINDOW + 4).columns["x[0]"].total == 2
    assert drifting.scoped() == {}


def test_what_was_counted_before_a_quiet_time_is_not_recent():
    drifting, one = counting(number()), {"inputs": {"x": np.zeros(1)}, "outputs": {}}
    drifting.count(one, [], 10.0)
    drifting.count(one, [], 10.0 + 10 * WINDOW)
    assert drifting.recent(11.0 + 10 * WINDOW).columns["x[0]"].total == 1
    assert drifting.recent(11.0 + 20 * WINDOW).columns["x[0]"].total == 0


def test_tensors_that_are_empty_or_narrow_are_left_out_alone():
    column = Bins(name="y", side="outputs", tensor="y", edges=(0.0, 1.0), counts=(1, 1, 1))
    drifting = counting(number(3), column)
    outputs = {"y": np.array([0.5])}
    for array in (np.zeros((0, 4)), np.zeros((2, 0)), np.zeros(0), np.zeros((1, 3))):
        drifting.count({"inputs": {"x": array}, "outputs": outputs}, [STABLE], 0.0)
    assert live(drifting) == {"x[3]": (0, 0, 0), "y": (0, 4, 0)}


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=50))
def test_the_bins_are_those_of_a_histogram(values):
    drifting = counting(number(edges=(-1.5, 0.0, 3.0)))
    drifting.count({"inputs": {"x": np.array(values)}, "outputs": {}}, [STABLE], 0.0)
    expected = [
        sum(low <= value < high for value in values)
        for low, high in ((-np.inf, -1.5), (-1.5, 0.0), (0.0, 3.0))
    ]
    assert live(drifting)["x[0]"] == (*expected, len(values) - sum(expected))
