"""The codec against plain json, and everything that is no request."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mldeploy.runtime.codec import RequestDecoder, ResponseEncoder, decode_outputs, error_body
from mldeploy.runtime.errors import BadRequestError, OutputError
from mldeploy.runtime.spec import Signature, Tensor
from mldeploy.runtime.tensors import DTYPES, as_output, datatype_of

JSON_TYPES = [name for name in DTYPES if name not in ("FP16", "BYTES")]
ANY = Tensor("y", "FP64", (-1,))


def request(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def one(data: Any, shape: Any = (2, 2), datatype: Any = "FP64", **more: Any) -> dict[str, Any]:
    return {"name": "x", "shape": list(shape), "datatype": datatype, "data": data, **more}


def decoder(datatype: str = "FP64", *shape: int, outputs: tuple[Tensor, ...] = (ANY,)) -> RequestDecoder:
    return RequestDecoder(Signature((Tensor("x", datatype, shape or (-1, 2)),), outputs))


def refused(body: bytes, reader: RequestDecoder) -> str:
    with pytest.raises(BadRequestError) as caught:
        reader.decode(body)
    message = str(caught.value)
    assert len(message) < 400
    json.loads(error_body(message))
    return message


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, np.ndarray[Any, Any]]:
    datatype = draw(st.sampled_from([*JSON_TYPES, "BYTES"]))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
    if datatype == "BYTES":
        count = int(np.prod(shape))
        array = np.empty(count, dtype=object)
        array[:] = draw(st.lists(st.text(max_size=5), min_size=count, max_size=count))
        return datatype, array.reshape(shape)
    elements = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else {}
    return datatype, draw(hnp.arrays(DTYPES[datatype], shape, elements=elements))


@settings(deadline=None)  # the machine is shared
@given(tensors(), st.booleans(), st.text(max_size=10))
def test_what_json_writes_is_read_and_the_other_way_round(
    drawn: tuple[str, np.ndarray[Any, Any]], nested: bool, ident: str
) -> None:
    datatype, array = drawn
    shape = (-1,) * array.ndim
    data = array.tolist() if nested else array.ravel().tolist()
    got = decoder(datatype, *shape).decode(request(one(data, array.shape, datatype), id=ident))
    assert got.arrays[0].dtype == DTYPES[datatype]
    np.testing.assert_array_equal(got.arrays[0], array)
    assert got.id == ident
    output = Tensor("y", datatype, shape)
    body = ResponseEncoder("m", "3", [output]).encode(got.id, [array], check=True)
    answer = json.loads(body, parse_constant=pytest.fail)
    assert answer["outputs"] == [
        {"name": "y", "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}
    ]
    assert answer["id"]
    assert (answer["model_name"], answer["model_version"]) == ("m", "3")
    np.testing.assert_array_equal(decode_outputs(body, [output])["y"], array)


@settings(deadline=None)  # the machine is shared
@given(st.binary(max_size=200))
def test_noise_is_refused_with_words(body: bytes) -> None:
    refused(body, decoder())


@settings(deadline=None)  # the machine is shared
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["name", "shape", "datatype", "data", "inputs", "id", "outputs"]), inner, max_size=4),
))  # fmt: skip
def test_json_of_any_form_is_refused_or_fits(value: Any) -> None:
    for body in (value, {"inputs": value}, {"inputs": [value]}, {"inputs": [one(value)]}):
        try:
            got = decoder().decode(json.dumps(body).encode())
        except BadRequestError:
            continue
        assert got.arrays[0].shape == (2, 2)


NUMBERS = [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (one([1, 2, 3]), "3 elements"),
        (one([1, 2, 3, 4, 5]), "5 elements"),
        (one([]), "0 elements"),
        (one([[1, 2], [3]]), "ragged"),
        (one([[1, 2], [3, 4, 5]]), "ragged"),
        (one([[1, 2, 3], [4, 5, 6]]), "data of shape [2, 3], and shape [2, 2]"),
        (one([[[1], [2]], [[3], [4]]]), "nested 3 deep"),
        (one([1, [2], 3, 4]), "got `array` at data[1]"),
        (one([[1, 2], 3]), "got `int` at data[1]"),
        (one(None), "got `null`"),
        (one(3), "got `int`"),
        (one("abcd"), "got `str`"),
        (one({"0": 1}), "got `object`"),
        (one([1, None, 3, 4]), "got `null` at data[1]"),
        (one([1, "2", 3, 4]), "got `str` at data[1]"),
        (one([1, True, 3, 4]), "got `bool` at data[1]"),
        (one(NUMBERS, (4,)), "shape [4] of 1 dimensions, not 2"),
        (one(NUMBERS, (2, 2, 1)), "3 dimensions, not 2"),
        (one(NUMBERS, ()), "0 dimensions, not 2"),
        (one(NUMBERS, (4, 1)), "shape [4, 1], not [-1, 2]"),
        (one(NUMBERS, (-1, 2)), "shape [-1, 2], with a size below zero"),
        (one(NUMBERS, (2, -2)), "below zero"),
        (one([], (0, 2)), "no rows"),
        (one([], (10**18, 2)), "more than"),
        (one([], (10**30, 2)), "more than"),
        (one(NUMBERS, [1] * 100_000), "100000 dimensions"),
        (one(NUMBERS, (2.5, 2)), "expected `int`, got `float`"),
        (one(NUMBERS, ("2", 2)), "expected `int`, got `str`"),
        (one(NUMBERS, datatype="FP32"), "datatype 'FP32', not 'FP64'"),
        (one(NUMBERS, datatype="fp64"), "datatype 'fp64', not 'FP64'"),
        (one(NUMBERS, datatype="X" * 1000), "datatype"),
        (one(NUMBERS, datatype=None), "expected `str`, got `null`"),
        ({"name": "x", "shape": [2, 2], "datatype": "FP64"}, "no data"),
        ({"name": "x", "datatype": "FP64", "data": NUMBERS}, "missing required field `shape`"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_bad_input_is_named(given: dict[str, Any], part: str) -> None:
    message = refused(request(given), decoder())
    assert message.startswith("input 'x'"), message
    assert part in message


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 400])
def test_numbers_that_are_none_are_named(word: str) -> None:
    other = json.dumps(one(NUMBERS) | {"name": "a"})
    bad = json.dumps(one([1, "WORD", 3, 4])).replace('"WORD"', word)
    body = f'{{"inputs":[{other},{bad}]}}'
    reader = RequestDecoder(Signature((Tensor("a", "FP64", (-1, 2)), Tensor("x", "FP64", (-1, 2))), (ANY,)))
    assert refused(body.encode(), reader).startswith("input 'x'")


@pytest.mark.parametrize("datatype", [name for name in JSON_TYPES if "INT" in name])
def test_integers_out_of_range(datatype: str) -> None:
    info = np.iinfo(DTYPES[datatype])
    reader = decoder(datatype, -1)
    edges = [int(info.min), int(info.max)]
    np.testing.assert_array_equal(reader.decode(request(one(edges, (2,), datatype))).arrays[0], edges)
    for value in (info.max + 1, info.min - 1, 1.5, 10**30, True):
        value = value if isinstance(value, float | bool) else int(value)
        assert refused(request(one([0, value], (2,), datatype)), reader).startswith("input 'x'")


def test_fp32_range_and_fp16() -> None:
    reader = decoder("FP32", -1)
    assert reader.decode(request(one([3.4028235e38], (1,), "FP32"))).arrays[0][0] == np.finfo(np.float32).max
    assert refused(request(one([3.4028236e38], (1,), "FP32")), reader).startswith("input 'x'")
    assert "FP16" in refused(request(one([1], (1,), "FP16")), decoder("FP16", -1))


def test_empty_dimensions_do_not_hide_large_ones() -> None:
    reader = decoder("FP64", -1, -1, -1)
    assert "more than" in refused(request(one([], (0, 10**18, 1))), reader)
    assert "more than" in refused(request(one([], (1, 0, 10**18))), reader)
    assert reader.decode(request(one([], (2, 0, 3)))).arrays[0].shape == (2, 0, 3)
    assert reader.decode(request(one([[], []], (2, 0, 3)))).arrays[0].shape == (2, 0, 3)
    assert refused(request(one([[1], [2]], (2, 0, 3))), reader).startswith("input 'x'")


def test_strings() -> None:
    reader = decoder("BYTES", -1, -1)
    texts = [["é", ""], ["\u0000", "😀"]]
    assert reader.decode(request(one(texts, datatype="BYTES"))).arrays[0].tolist() == texts
    assert refused(request(one([["a"], ["b", "c"]], datatype="BYTES")), reader).startswith("input 'x'")
    for data in (b'"\xff"', b'"\xed\xa0\x80"', b"1", b"null"):
        body = b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"BYTES","data":[%b]}]}' % data
        assert refused(body, reader).startswith("input 'x'")
    lone = b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"BYTES","data":["\\ud800"]}]}'
    assert refused(lone, reader)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("where", [b"%b", b'{"inputs":%b', b'{"inputs":[{"name":"x","data":%b', b'{"p":%b'])
def test_deep_nesting(opening: bytes, where: bytes) -> None:
    body = where % (opening * 200_000)
    assert refused(body, decoder())
    # wrong before it is deep: the name of the input is looked for in all of it
    body = b'{"inputs":[{"name":"x","shape":1}],"z":%b}' % (opening * 200_000)
    assert "expected `array`, got `int`" in refused(body, decoder())
    deep = b"[" * 500 + b"]" * 500
    body = b'{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP64","data":%b}]}' % deep
    assert refused(body, decoder()).startswith("input 'x'")


TWO = Signature(
    (Tensor("a", "INT32", (-1,)), Tensor("b", "INT32", (-1,))), (ANY, Tensor("z", "INT64", (-1,)))
)


def test_inputs_by_name() -> None:
    reader = RequestDecoder(TWO)

    def named(name: str, *data: int) -> dict[str, Any]:
        return {"name": name, "shape": [len(data)], "datatype": "INT32", "data": data}

    got = reader.decode(request(named("b", 3, 4), named("a", 1, 2), parameters={"x": [1, {}]}, extra=[]))
    assert [array.tolist() for array in got.arrays] == [[1, 2], [3, 4]]
    assert got.rows == 2
    assert got.wanted is None
    assert "'b' is missing" in refused(request(named("a", 1)), reader)
    assert "'a', 'b' is missing" in refused(request(), reader)
    assert "'c' is unknown" in refused(request(named("a", 1), named("c", 1), named("b", 1)), reader)
    assert "'a' is given twice" in refused(request(named("a", 1), named("a", 1)), reader)
    assert "'b' has 2 rows" in refused(request(named("a", 1), named("b", 1, 2)), reader)
    both = (named("a", 1), named("b", 1))
    assert reader.decode(request(*both, outputs=[{"name": "z"}, {"name": "y"}])).wanted == (1, 0)
    assert reader.decode(request(*both, outputs=[])).wanted is None
    assert reader.decode(request(*both, id=None, outputs=None, parameters=None)).id == ""
    assert "'q' is unknown" in refused(request(*both, outputs=[{"name": "q"}]), reader)
    assert "'y' is asked for twice" in refused(request(*both, outputs=[{"name": "y"}] * 2), reader)
    for body in (b"", b"{}", b"null", b'{"inputs":{}}', b'{"inputs":[1]}', b'{"inputs":[{}]}', b"{} {}"):
        assert refused(body, reader)
    assert refused(request(*both, id=5), reader).endswith("at id")
    assert "UTF-8" in refused(b'{"inputs":[{"name":"\xff"}]}', reader)


def test_answers_json_cannot_say() -> None:
    encoder = ResponseEncoder("m", "1", TWO.outputs)
    labels = np.array([1, 2])
    for value in (np.nan, np.inf, -np.inf):
        arrays = [np.array([1.0, value]), labels]
        with pytest.raises(OutputError, match="output 'y' has NaN or Infinity"):
            encoder.encode("", arrays, check=True)
        # what nobody asked for is nobody's error
        assert json.loads(encoder.encode("i", arrays, (1,), check=True))["outputs"][0]["data"] == [1, 2]
    with pytest.raises(OutputError, match="FP16"):
        ResponseEncoder("m", "1", [Tensor("h", "FP16", (-1,))]).encode(
            "", [np.ones(1, np.float16)], check=True
        )
    with pytest.raises(OutputError, match="not Unicode"):
        ResponseEncoder("m", "1", [Tensor("s", "BYTES", (-1,))]).encode(
            "", [np.array(["\ud800"], dtype=object)], check=True
        )


@pytest.mark.parametrize(
    ("datatype", "value", "expected"),
    [
        ("INT64", np.array([1, 2], np.int32), [1, 2]),
        ("INT8", np.array([-128, 127]), [-128, 127]),
        ("UINT8", [0, 255], [0, 255]),
        ("INT64", np.array([5], np.uint64), [5]),
        ("FP64", np.array([0.5], np.float16), [0.5]),
        ("FP32", [0.5], [0.5]),
        ("FP64", np.array([0.5], ">f8"), [0.5]),
        ("BOOL", [True, False], [True, False]),
        ("BYTES", np.array(["a", "bc"]), ["a", "bc"]),
        ("BYTES", np.array([b"a", b"bc"]), ["a", "bc"]),
        ("BYTES", ["a", "é"], ["a", "é"]),
    ],
)
def test_casts_within_a_kind(datatype: str, value: Any, expected: list[Any]) -> None:
    got = as_output(Tensor("y", datatype, (-1,)), value, len(expected))
    assert got.dtype == DTYPES[datatype]
    assert got.tolist() == expected
    assert datatype_of(got) == datatype


@pytest.mark.parametrize(
    ("datatype", "value", "part"),
    [
        ("INT8", [128], "out of range"),
        ("UINT8", [-1], "out of range"),
        ("INT64", np.array([2**64 - 1], np.uint64), "out of range"),
        ("FP32", [1e39], "out of range"),
        ("INT64", [0.5], "is float64"),
        ("FP64", [1], "is int64"),
        ("BOOL", [1], "is int64"),
        ("INT64", [True], "is bool"),
        ("FP64", ["1"], "is <U1"),
        ("FP64", [1j], "complex"),
        ("FP64", [None], "is object"),
        ("FP64", [[1.0], [1.0, 2.0]], "not an array"),
        ("BYTES", [1], "int"),
        ("BYTES", np.array([b"\xff"]), "UTF-8"),
        ("BYTES", np.array(["a", 3], dtype=object), "int"),
        ("FP64", [[1.0]], "shape [1, 1], not [-1]"),
        ("FP64", 1.0, "shape [], not [-1]"),
        ("FP64", [1.0, 2.0], "2 rows for 1 rows"),
    ],
)
def test_answers_that_are_not_what_was_promised(datatype: str, value: Any, part: str) -> None:
    with pytest.raises(OutputError) as caught:
        as_output(Tensor("y", datatype, (-1,)), value, 1)
    assert "output 'y'" in str(caught.value)
    assert part in str(caught.value)
