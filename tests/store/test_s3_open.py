"""Opening and making stores in buckets: URLs, the probe, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from mldeploy.errors import NotFoundError, StoreError, UsageError
from mldeploy.store.fsspec_store import FsspecStore
from mldeploy.store.objects import MARKER, open_store
from mldeploy.store.s3 import S3Store
from tests.support.s3 import Server, careless, use


def test_a_bucket_becomes_a_store_once(s3_environ: Server, bucket: str) -> None:
    url = f"s3://{bucket}/team/models"
    with pytest.raises(NotFoundError) as caught:
        open_store(url)
    assert f"mldeploy push SOURCE --store {url}" in caught.value.hint
    store = open_store(url, create=True)
    assert isinstance(store, S3Store)
    assert store.url == url == open_store(f"{url}/").url
    assert [entry.key for entry in store.list("")] == [MARKER]  # of the probe nothing is left
    other = open_store(f"s3+fsspec://{bucket}/team/models")
    assert isinstance(other, FsspecStore)
    marker = store.get(MARKER)
    assert marker is not None
    assert open_store(url, create=True).get(MARKER) == marker
    assert [one["Key"] for one in s3_environ.client().list_objects_v2(Bucket=bucket)["Contents"]] == [
        f"team/models/{MARKER}"
    ]


def test_a_whole_bucket_may_be_a_store(s3_environ: Server, bucket: str) -> None:
    store = S3Store.open(f"s3://{bucket}")
    assert store.create("log/1.json", b"x")
    assert [entry.key for entry in store.list("")] == ["log/1.json"]
    assert store.url == f"s3://{bucket}"


@pytest.mark.parametrize("driver", ["s3", "s3+fsspec"])
def test_the_probe_refuses_a_server_that_ignores_exclusive_create(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "served"
    (folder / "bucket").mkdir(parents=True)
    with careless(folder) as server:
        use(server, monkeypatch)
        url = f"{driver}://bucket/store"
        with pytest.raises(StoreError) as caught:
            open_store(url, create=True)
        assert "not fit to be a store" in caught.value.message
        assert "two writers could both believe that they wrote the same record" in caught.value.message
        assert "conditional writes" in caught.value.hint
        with pytest.raises(NotFoundError):  # and made none of it
            open_store(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://", "does not name a bucket"),
        ("s3:///prefix", "does not name a bucket"),
        ("s3://bucket/a//b", "empty part"),
        ("s3://bucket/../b", "empty part"),
        ("s3://bucket/p?x=1", "does not name a bucket"),
        ("s3://KEY:hush@bucket/p", "holds no credentials"),
    ],
)
def test_a_url_that_is_none(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        open_store(url)
    assert "hush" not in caught.value.message + caught.value.hint
