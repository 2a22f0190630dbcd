"""Baseline distributions: what is packed, what gate 1 refuses, and that the bins count what they say."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

import mldeploy
from mldeploy.bundle.monitoring import FEW, MAX_ROWS, baseline, thin, write_baseline
from mldeploy.bundle.validate import validate
from mldeploy.core.baseline import BASELINE, MAX_BINS, MAX_COLUMNS, parse_baseline, problems
from mldeploy.core.evidence import Column
from mldeploy.core.manifest import Signature, Tensor
from mldeploy.errors import ManifestError, UsageError


def tensor(name, datatype="FP64", *more):
    return Tensor(name=name, datatype=datatype, shape=(-1, *more))


def made(inputs, signature=None, outputs=None):
    signature = signature or Signature(inputs=tuple(tensor(name) for name in inputs), outputs=(tensor("y"),))
    found = baseline(signature, inputs, outputs or {"y": np.zeros(len(next(iter(inputs.values()))))})
    assert list(problems(found, signature)) == []
    assert parse_baseline(msgspec.json.encode(found)) == found
    return {column.name: column for column in found.columns}


def test_numbers_get_bins_of_equal_shares():
    values = np.random.default_rng(1).lognormal(size=1_000)
    column = made({"age": values})["age"]
    assert (column.kind, len(column.edges), column.values) == ("number", 9, ())
    assert sum(column.counts) == 1_000
    assert all(95 <= count <= 105 for count in column.counts)
    expected = np.histogram(values, [-np.inf, *column.edges, np.inf])[0]
    assert list(column.counts) == expected.tolist()


def test_a_constant_is_a_distribution_too():
    column = made({"age": np.full(200, 7.0)})["age"]
    assert (column.edges, column.counts) == ((7.0,), (0, 200))
    assert Column(baseline=column.counts, live=(50, 50)).psi() > 0.25


def test_text_truths_and_few_whole_numbers_are_counted_by_value():
    rows = 300
    city = np.array((["NL"] * 2 + ["BE"]) * 100, dtype=object)
    signature = Signature(
        inputs=(
            tensor("city", "BYTES"), tensor("vip", "BOOL"), tensor("rooms", "INT64"), tensor("id", "INT64"),
        ),
        outputs=(tensor("y"),),
    )  # fmt: skip
    found = made(
        {"city": city, "vip": np.arange(rows) % 2 == 0, "rooms": np.arange(rows) % 5, "id": np.arange(rows)},
        signature,
    )
    assert (found["city"].values, found["city"].counts) == (("NL", "BE"), (200, 100, 0))
    assert (found["vip"].values, found["vip"].counts) == ((False, True), (150, 150, 0))
    assert found["rooms"].values == (0, 1, 2, 3, 4)
    assert found["id"].kind == "number"
    assert len(set(range(rows))) > FEW


def test_of_many_values_the_most_frequent_are_kept():
    words = np.array([f"w{n % 100}" for n in range(1_000)] + ["often"] * 50, dtype=object)
    signature = Signature(inputs=(tensor("word", "BYTES"),), outputs=(tensor("y"),))
    column = made({"word": words}, signature)["word"]
    assert column.values[0] == "often"
    assert column.bins == MAX_BINS
    assert column.counts[-1] == 1_050 - sum(column.counts[:-1]) > 0


def test_columns_are_named_by_their_place_and_bounded():
    wide = np.random.default_rng(1).normal(size=(200, MAX_COLUMNS + 50))
    signature = Signature(inputs=(tensor("x", "FP64", MAX_COLUMNS + 50),), outputs=(tensor("x"),))
    found = made({"x": wide}, signature, {"x": np.zeros(200)})
    assert len(found) == MAX_COLUMNS
    assert list(found)[3] == "x[3]"
    one = Signature(inputs=(tensor("x"),), outputs=(tensor("x"), tensor("ragged", "FP64", -1)))
    found = made({"x": np.arange(200.0)}, one, {"x": np.zeros(200), "ragged": np.zeros((200, 3))})
    assert list(found) == ["x", "output x"]


def test_long_data_is_thinned_evenly():
    found = thin({"x": np.arange(25_000)})["x"]
    assert len(found) <= MAX_ROWS
    assert set(np.diff(found)) == {3}


def test_too_few_rows_say_nothing(tmp_path):
    signature = Signature(inputs=(tensor("x"),), outputs=(tensor("y"),))
    write_baseline(tmp_path, signature, None, asked_for=False)
    assert not (tmp_path / BASELINE).exists()
    with pytest.raises(UsageError, match="too few rows"):
        write_baseline(tmp_path, signature, None, asked_for=True)


class Doubling:
    """A model of the standard library alone, but for its arrays."""

    def predict(self, x):
        return x[:, 0] * 2


def pack(tmp_path, **more):
    packed = mldeploy.pack(
        Doubling(), name="double", owner="a@example.com", expires="90d", sample_input=np.ones((3, 2)),
        requirements=["numpy", "msgspec"], out=tmp_path / "out", validate=False, **more,
    )  # fmt: skip
    return packed.folder / BASELINE, packed


def gate_one(folder):
    return validate(folder, gates=("artifact",), now=datetime.now(UTC)).findings


def test_pack_says_how_training_data_was_distributed(tmp_path):
    data = np.random.default_rng(1).normal(size=(500, 2))
    path, packed = pack(tmp_path, training_data=data)
    found = {column.name: column for column in parse_baseline(path.read_bytes()).columns}
    assert list(found) == ["x[0]", "x[1]", "y"]
    assert found["y"].edges == tuple(2 * edge for edge in found["x[0]"].edges)
    assert any(file.path == BASELINE for file in packed.manifest.files)
    assert gate_one(packed.folder) == ()
    damaged = json.loads(path.read_bytes())
    damaged["columns"][0]["counts"][0] = -1
    path.write_text(json.dumps(damaged))
    sizes = {finding.key for finding in gate_one(packed.folder) if finding.file == BASELINE}
    assert sizes  # its digest is another, before anything else


def test_a_sample_is_no_baseline_and_other_columns_are_refused(tmp_path):
    path, _ = pack(tmp_path)
    assert not path.exists()
    with pytest.raises(UsageError, match="training_data is"):
        pack(tmp_path / "b", training_data=np.ones((200, 3)))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"counts": [1, 2]}, "columns[0].counts"),
        ({"counts": [-1, 2, 3]}, "columns[0].counts"),
        ({"edges": [2.0, 1.0]}, "columns[0].edges"),
        ({"tensor": "z"}, "columns[0].tensor"),
        ({"side": "middle"}, "columns[0].side"),
        ({"place": 1}, "columns[0].place"),
        ({"kind": "shape"}, "columns[0].kind"),
        ({"kind": "category"}, "columns[0].kind"),
    ],
)
def test_what_does_not_fit_the_signature_is_a_finding(change, key):
    column = {"name": "x", "side": "inputs", "tensor": "x", "edges": [1.0, 2.0], "counts": [1, 2, 3]}
    data = json.dumps({"rows": 100, "columns": [{**column, **change}]}).encode()
    signature = Signature(inputs=(tensor("x"),), outputs=(tensor("y"),))
    assert key in [found for found, _ in problems(parse_baseline(data), signature)]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"rows": 1, "colums": []}', b'{"format": 9, "rows": 1}'])
def test_what_is_no_baseline(data):
    with pytest.raises(ManifestError):
        parse_baseline(data)
