from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mldeploy.errors import DiskError, IntegrityError, NotFoundError, UsageError
from mldeploy.store.blobs import blob_key, fetch_blob, upload_blob
from mldeploy.store.file import FileStore
from mldeploy.store.memory import MemoryStore
from mldeploy.store.objects import Fetched
from mldeploy.store.reports import (
    HostReport,
    ModelReport,
    VersionReport,
    WorkerReport,
    read_reports,
    report_key,
    write_report,
)

DATA = b"a blob" * 1000
SHA = hashlib.sha256(DATA).hexdigest()
PUSH = "01k9zq3v5w8x7c2m4n6b8d0f1g"


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    root = tmp_path / "store"
    root.mkdir()
    return FileStore(root)


@pytest.fixture
def uploaded(store: FileStore, tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    key = upload_blob(store, SHA, PUSH, source)
    assert key == f"blobs/sha256/{SHA[:2]}/{SHA}.{PUSH}"
    return tmp_path / "store" / key


def test_a_blob_comes_back(store: FileStore, uploaded: Path, tmp_path: Path) -> None:
    moved: list[int] = []
    fetch_blob(store, SHA, PUSH, tmp_path / "target", size=len(DATA), progress=moved.append)
    assert (tmp_path / "target").read_bytes() == DATA
    assert sum(moved) == len(DATA)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "bytes instead of"),
        (lambda data: b"", "bytes instead of"),
        (lambda data: data + b"x", "bytes instead of"),
        (lambda data: b"A" + data[1:], "other bytes than its digest says"),
    ],
)
def test_a_damaged_blob_is_refused_and_removed(
    store: FileStore, uploaded: Path, tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    uploaded.write_bytes(damage(DATA))
    with pytest.raises(IntegrityError, match=message) as caught:
        fetch_blob(store, SHA, PUSH, tmp_path / "target", size=len(DATA))
    assert blob_key(SHA, PUSH) in caught.value.message
    assert "backup" in caught.value.hint
    assert not (tmp_path / "target").exists()


def test_without_a_size_the_digest_decides(store: FileStore, uploaded: Path, tmp_path: Path) -> None:
    uploaded.write_bytes(DATA[:-1])
    with pytest.raises(IntegrityError):
        fetch_blob(store, SHA, PUSH, tmp_path / "target")


def test_a_missing_blob_leaves_no_target(store: FileStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        fetch_blob(store, SHA, PUSH, tmp_path / "target")
    assert "push the bundle again" in caught.value.hint
    assert not (tmp_path / "target").exists()


def test_a_target_of_somebody_else_stays(store: FileStore, uploaded: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"theirs")
    with pytest.raises(DiskError):
        fetch_blob(store, SHA, PUSH, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"theirs"


def test_a_key_is_made_of_a_digest() -> None:
    with pytest.raises(UsageError):
        blob_key("../../etc/passwd", PUSH)


# --- reports


def report(host: str, **changes: object) -> HostReport:
    serving = {
        7: VersionReport(state="ready", workers=(WorkerReport(pid=1, private_bytes=2, pss_bytes=3),)),
        8: VersionReport(state="failed", reason="bad sample", stage="samples", log_tail=("last", "words")),
    }
    return msgspec.structs.replace(
        HostReport(
            host=host,
            environment="production",
            labels={"zone": "a"},
            head=42,
            models={"churn": ModelReport(stable=7, candidate=8, serving=serving, next="retry churn@8")},
        ),
        **changes,
    )


def test_reports_come_back_with_the_stores_time() -> None:
    store = MemoryStore(clock=lambda: 1234.5)
    for host in ("h2", "h1"):
        write_report(store, report(host))
    write_report(store, report("h3", environment="staging"))
    assert read_reports(store, "production") == [(report("h1"), 1234.5), (report("h2"), 1234.5)]
    assert read_reports(store, "nowhere") == []
    write_report(store, report("h1", head=43))
    assert read_reports(store, "production")[0][0].head == 43


def test_reports_of_a_store_that_is_far_are_read_several_at_a_time() -> None:
    class Far(MemoryStore):
        together = threading.Barrier(3)

        @property
        def url(self) -> str:
            return "s3://far/away"

        def get(self, key: str) -> Fetched | None:
            self.together.wait(30)  # nobody gets one before three have asked
            return super().get(key)

    store = Far()
    for host in ("h1", "h2", "h3"):
        write_report(store, report(host))
    store.put("hosts/production/merged-0.json", b"of another kind, and not asked for")
    assert [found.host for found, _ in read_reports(store, "production")] == ["h1", "h2", "h3"]


def test_what_is_no_report_is_left_out() -> None:
    store = MemoryStore()
    write_report(store, report("h1"))
    good = store.get(report_key("production", "h1"))
    assert good is not None
    newer = good.data[:-1] + b',"a new field":{"x":[1]}}'
    bad = [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"host":"h","environment":1}', good.data]
    for number, data in enumerate(bad):
        store.put(f"hosts/production/bad-{number}.json", data)
    store.put("hosts/production/h1.json", newer)
    assert [found for found, _ in read_reports(store, "production")] == [report("h1")]


@given(st.binary(max_size=100))
def test_garbage_never_stops_a_reader(data: bytes) -> None:
    store = MemoryStore()
    store.put("hosts/production/h1.json", data)
    assert read_reports(store, "production") == []


def test_a_host_writes_nowhere_else() -> None:
    for host in ("../x", "", "A", "a/b"):
        with pytest.raises(UsageError):
            write_report(MemoryStore(), report(host))
