"""A value out of a body that nobody has checked."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mldeploy_daemon.front.inputs import first_element


def body(data: object, name: str = "user") -> bytes:
    tensor = {"name": name, "shape": [1], "datatype": "BYTES", "data": data}
    return json.dumps({"inputs": [{"name": "other", "data": [9]}, tensor]}).encode()


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (["ann"], "ann"),
        ([["ann", "bob"], ["eve"]], "ann"),
        (['a"\\,]b'], 'a"\\,]b'),
        (["\u00e9"], "\u00e9"),
        ([7], "7"),
        ([[7.0]], "7"),
        ([-1.5e-7], "-1.5e-07"),
        ([True], "true"),
        ([], None),
        ([[]], None),
        ([None], None),
        ([{"a": 1}], None),
        ("ann", None),
        (7, None),
        (None, None),
    ],
)
def test_the_first_element(data, key):
    assert first_element(body(data), "user", 1_000) == key


def test_what_has_none():
    assert first_element(body(["ann"]), "nobody", 1_000) is None
    assert first_element(body(["ann"]), "user", 20) is None
    assert first_element(b'{"inputs":[{"name":"user"}]}', "user", 1_000) is None
    assert first_element(b'{"inputs":[{"name":"user","data":[1e999]}]}', "user", 1_000) in (None, "inf")
    assert first_element(b"[" * 900, "user", 1_000) is None


_keys = st.sampled_from(["inputs", "name", "data"])
_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner),
    max_leaves=12,
)


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(st.one_of(st.binary(max_size=80), _json.map(lambda value: json.dumps(value).encode())))
def test_any_body_has_a_key_or_none(data):
    assert first_element(data, "user", 1_000) is None or isinstance(first_element(data, "user", 1_000), str)
