"""The policies of docs/s3.md: valid, and each role may do what the code does under it and no more."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from mldeploy.store.blobs import blob_key
from mldeploy.store.checkpoints import Named, hint_key
from mldeploy.store.log import record_key
from mldeploy.store.objects import MARKER
from mldeploy.store.reports import report_key

TEXT = (Path(__file__).parents[2] / "docs/s3.md").read_text()
POLICIES: dict[str, Any] = {
    name: json.loads(body) for name, body in re.findall(r"```json name=(\w+)\n(.*?)```", TEXT, re.DOTALL)
}

PUSH = "01k9zq3v5w8x7c2m4n6b8d0f1g"
KEYS = {
    "marker": MARKER,
    "record": record_key(42),
    "blob": blob_key("ab" * 32, PUSH),
    "checkpoint": Named(42, "0" * 16, "a" * 64).key,
    "hint": hint_key(),
    "clock": "hints/clock",
    "report": report_key("production", PUSH),
    "merged": "hosts/production/merged-1.json",
    "elsewhere": report_key("staging", PUSH),
    "pairs": f"pairs/production/s/{PUSH}-1.jsonl",
    "probe": f"probe/{PUSH}-0",
}
#: Of each role, what it may do with each kind of key; what is not here it may not.
MAY = {
    "publisher": {
        "get": {"marker", "record", "blob", "checkpoint", "hint", "clock", "report", "merged", "elsewhere"},
        "put": {"record", "blob", "checkpoint", "hint", "clock"},
        "delete": set(),
    },
    "operator": {
        "get": set(KEYS),
        "put": {"marker", "probe", "record", "checkpoint", "hint", "clock"},
        "delete": {"probe", "blob", "checkpoint", "report", "merged", "elsewhere", "pairs"},
    },
    "host": {
        "get": {"marker", "record", "blob", "checkpoint", "hint", "clock", "report", "merged", "elsewhere"},
        "put": {"record", "checkpoint", "hint", "clock", "report", "merged", "pairs"},
        "delete": set(),
    },
    "viewer": {
        "get": {"marker", "record", "blob", "checkpoint", "hint", "clock", "report", "merged", "elsewhere"},
        "put": {"clock"},
        "delete": set(),
    },
}
ACTIONS = {"get": "s3:GetObject", "put": "s3:PutObject", "delete": "s3:DeleteObject"}
CASES = [(role, verb, kind, kind in MAY[role][verb]) for role in MAY for verb in ACTIONS for kind in KEYS]


def listed(value: object) -> list[str]:
    return [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]


def matches(statement: dict[str, Any], action: str, resource: str, conditional: bool) -> bool:
    null = statement.get("Condition", {}).get("Null", {}).get("s3:if-none-match")
    if null is not None and (null == "true") is conditional:
        return False
    return any(fnmatchcase(action, one) for one in listed(statement["Action"])) and any(
        fnmatchcase(resource, one) for one in listed(statement["Resource"])
    )


def allowed(role: str, action: str, resource: str, *, conditional: bool = True) -> bool:
    """As IAM decides: someone must allow it and nobody may deny it."""
    statements = POLICIES[role]["Statement"] + POLICIES["bucket"]["Statement"]
    met = [one["Effect"] for one in statements if matches(one, action, resource, conditional)]
    return "Allow" in met and "Deny" not in met


def test_they_are_whole() -> None:
    assert set(POLICIES) == {*MAY, "bucket"}
    for name, policy in POLICIES.items():
        assert policy["Version"] == "2012-10-17"
        for statement in policy["Statement"]:
            assert ("Principal" in statement) is (name == "bucket")
            assert statement["Effect"] == ("Deny" if name == "bucket" else "Allow")
            for resource in listed(statement["Resource"]):
                assert re.fullmatch(r"arn:aws:s3:::my-bucket(/models/[a-z./]*\*?)?", resource)
            for action in listed(statement["Action"]):
                assert re.fullmatch(r"s3:[A-Z][A-Za-z]+", action)


@pytest.mark.parametrize("role", list(MAY))
def test_each_role_may_do_its_work_and_no_more(role: str) -> None:
    for case, verb, kind, expected in CASES:
        if case == role:
            resource = f"arn:aws:s3:::my-bucket/models/{KEYS[kind]}"
            assert allowed(role, ACTIONS[verb], resource) is expected, (role, verb, kind)
    assert allowed(role, "s3:ListBucket", "arn:aws:s3:::my-bucket")


@pytest.mark.parametrize("role", list(MAY))
def test_nobody_deletes_or_overwrites_a_record(role: str) -> None:
    record = f"arn:aws:s3:::my-bucket/models/{KEYS['record']}"
    assert not allowed(role, "s3:DeleteObject", record)
    assert not allowed(role, "s3:DeleteObjectVersion", record)
    assert not allowed(role, "s3:PutObject", record, conditional=False)


def test_the_table_says_the_same() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*?)\| (.*?)\| (.*?)\|$", TEXT, re.MULTILINE)
    told = {
        cells[0].split("`")[1]: [cell.strip() for cell in cells[1:]]
        for cells in rows
        if "/" in cells[0] or "json" in cells[0]
    }
    assert told["log/"] == ["get, put", "get, put", "get, put"]
    assert told["hosts/<environment>/"] == ["get", "get, delete", "get; put its own"]
    assert told["blobs/"] == ["get, put", "get, delete", "get"]


def test_the_costs_add_up() -> None:
    rows = re.findall(
        r"^\| (\d+) s.*?\| (\d+) s.*?\| ([\d,]+) \| ([\d,]+) \| \$([\d.]+) \| \$([\d,]+) \|$",
        TEXT,
        re.MULTILINE,
    )
    assert len(rows) == 5
    for poll, report, gets, puts, one, many in rows:
        get, put = 2_628_000 / int(poll), 2_628_000 / (int(report) + 0.5)
        assert (round(get), round(put)) == (int(gets.replace(",", "")), int(puts.replace(",", "")))
        dollars = get * 0.4e-6 + put * 5e-6
        assert f"{dollars:.2f}" == one
        assert round(dollars * 1000) == int(many.replace(",", ""))
