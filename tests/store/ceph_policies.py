"""The policies of docs/s3.md, enforced by a server: run by `nox -s ceph` alone, as only Ceph enforces them.

The roles' policies become one policy of the bucket, with Ceph's users as principals. Left out is the
statement about `s3:if-none-match`, which Ceph 16 does not know.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from mldeploy.errors import StoreError
from mldeploy.store.s3 import S3Store
from mldeploy.store.s3_config import place_of
from tests.store.test_s3_policy import CASES, KEYS, MAY, POLICIES
from tests.support.s3 import Server


@pytest.fixture
def stores(s3_environ: Server, bucket: str) -> dict[str, S3Store]:
    """The same store as each role sees it; with an object at every key."""
    client = s3_environ.client()
    statements: list[dict[str, Any]] = []
    for role in MAY:
        principal = {"Principal": {"AWS": [f"arn:aws:iam:::user/{role}"]}}
        statements += [
            one | principal | {"Sid": f"{role}{one['Sid']}"} for one in POLICIES[role]["Statement"]
        ]
    statements += [one for one in POLICIES["bucket"]["Statement"] if "Condition" not in one]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements}).replace("my-bucket", bucket)
    client.put_bucket_policy(Bucket=bucket, Policy=policy)
    for key in KEYS.values():
        client.put_object(Bucket=bucket, Key=f"models/{key}", Body=b"x")
    place = place_of(f"s3://{bucket}/models")
    return {
        role: S3Store(place, Server(s3_environ.endpoint, role, s3_environ.secret).environ) for role in MAY
    }


def test_each_role_may_do_its_work_and_no_more(
    stores: dict[str, S3Store], s3_environ: Server, bucket: str
) -> None:
    for role, verb, kind, expected in CASES:
        store, key = stores[role], KEYS[kind]
        calls: dict[str, Callable[[], object]] = {
            "get": partial(store.get, key),
            "put": partial(store.put, key, b"y"),
            "delete": partial(store.delete, key),
        }
        if expected:
            calls[verb]()
            # what was deleted is put back, or the next may not tell forbidden from missing
            s3_environ.client().put_object(Bucket=bucket, Key=f"models/{key}", Body=b"x")
        else:
            with pytest.raises(StoreError, match="does not allow"):
                calls[verb]()


def test_a_key_that_is_not_there_is_missing_and_not_forbidden(stores: dict[str, S3Store]) -> None:
    for store in stores.values():
        assert store.get("log/00000000000000000043.json") is None
        assert [entry.key for entry in store.list("log/")] == [KEYS["record"]]
