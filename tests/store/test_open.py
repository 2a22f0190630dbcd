from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mldeploy.errors import MldeployError, NotFoundError, StoreError, StoreFormatError, UsageError
from mldeploy.store.file import FileStore
from mldeploy.store.fsspec_store import FsspecStore
from mldeploy.store.ids import new_ulid
from mldeploy.store.memory import MemoryStore
from mldeploy.store.objects import MARKER, check_key, open_store
from mldeploy.store.probe import probe
from mldeploy.store.s3_config import Settings
from tests.store.stores import FaultyStore


def test_a_store_is_made_once_and_opened_ever_after(tmp_path: Path) -> None:
    url = str(tmp_path / "new" / "store")
    with pytest.raises(NotFoundError) as caught:
        open_store(url)
    assert "mldeploy push SOURCE" in caught.value.hint
    assert not (tmp_path / "new").exists()
    store = open_store(url, create=True)
    marker = (tmp_path / "new" / "store" / MARKER).read_bytes()
    assert json.loads(marker).keys() == {"format", "id", "created"}
    assert json.loads(marker)["format"] == 1
    assert open_store(f"file://{url}", create=True).url == store.url == open_store(url).url
    assert (tmp_path / "new" / "store" / MARKER).read_bytes() == marker
    assert [entry.key for entry in store.list("")] == [MARKER]  # of the probe nothing is left


def test_many_make_the_same_store_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        stores = list(pool.map(lambda _: open_store(str(tmp_path / "s"), create=True), range(2)))
    assert len({store.get(MARKER).data for store in stores}) == 1  # type: ignore[union-attr]


def test_a_newer_or_unreadable_store_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text('{"format": 2, "more": []}')
    for create in (False, True):
        with pytest.raises(StoreFormatError):
            open_store(str(tmp_path), create=create)
    (tmp_path / MARKER).write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        open_store(str(tmp_path))


def test_memory_stores_are_found_by_name() -> None:
    name = f"memory://{new_ulid()}"
    store = open_store(name, create=True)
    assert open_store(name) is store
    with pytest.raises(NotFoundError):
        open_store(f"memory://{new_ulid()}")


def test_other_schemes_go_to_fsspec() -> None:
    url = f"memory+fsspec://{new_ulid()}/prefix"
    # its create looks first and then writes: the probe refuses it, now and then
    marker = {"format": 1, "id": new_ulid(), "created": "2026-01-01T00:00:00Z"}
    FsspecStore.open(url).put(MARKER, json.dumps(marker).encode())
    store = open_store(url)
    assert isinstance(store, FsspecStore)
    assert store.url == url


def test_credentials_are_not_told() -> None:
    assert FsspecStore.open("memory+fsspec://user:secret@host/a@b").url == "memory+fsspec://host/a@b"
    assert "sec/ret" not in FsspecStore.open("memory+fsspec://key:sec/ret@bucket/p").url
    for url in ("memory+fsspec://bucket/models@prod/x", "memory+fsspec://container@account.example/x"):
        assert FsspecStore.open(url).url == url
    assert Settings(endpoint="http://user:secret@host:9000/a@b").shown() == "http://host:9000/a@b"


def test_an_unknown_scheme_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as caught:
        open_store("nonsense://bucket")
    assert "s3://bucket/prefix" in caught.value.hint


def test_a_driver_that_is_not_installed_says_which_package() -> None:
    with pytest.raises(StoreError, match="needs a package"):
        open_store("gs://bucket/prefix")


def test_opening_a_folder_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from mldeploy.store.objects import open_store; from mldeploy.store.log import Log;"
        f"store = open_store({str(tmp_path / 's')!r}, create=True); Log(store).refresh();"
        "print({'numpy', 'fsspec', 's3fs', 'cloudpickle', 'rich', 'watchdog', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_keys() -> None:
    for key in ("mldeploy.json", "log/00000000000000000001.json", "blobs/sha256/ab/abc.push"):
        assert check_key(key) == key


# --- the probe


class _Lying(MemoryStore):
    """Every create wins."""

    def create(self, key: str, data: bytes) -> bool:
        self.put(key, data)
        return True


class _Denying(MemoryStore):
    """The winner is told that it lost."""

    def create(self, key: str, data: bytes) -> bool:
        super().create(key, data)
        return False


class _Empty(MemoryStore):
    """What won is not there."""

    def create(self, key: str, data: bytes) -> bool:
        return super().create(key, data) and not self.delete(key)


class _Failing(MemoryStore):
    def create(self, key: str, data: bytes) -> bool:
        raise StoreError("out of reach", "wait")


@pytest.mark.parametrize("driver", [_Lying, _Denying, _Empty])
def test_a_store_without_an_exclusive_create_is_refused(driver: type[MemoryStore]) -> None:
    store = driver()
    with pytest.raises(StoreError, match="not fit to be a store"):
        probe(store, rounds=3, racers=4)
    assert list(store.list("")) == []


def test_a_store_out_of_reach_fails_the_probe_at_once() -> None:
    with pytest.raises(StoreError, match="out of reach"):
        probe(_Failing())
    assert threading.active_count() < 20


def test_lost_answers_do_not_fail_the_probe() -> None:
    probe(FaultyStore(MemoryStore(), ["drop", "fail"] * 20), rounds=10, racers=4)


def test_a_failed_probe_makes_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"memory://{new_ulid()}"
    monkeypatch.setitem(MemoryStore._named, name, _Lying(name))
    with pytest.raises(StoreError):
        open_store(name, create=True)
    with pytest.raises(NotFoundError):
        open_store(name)


def test_the_probe_of_a_folder_is_quick(tmp_path: Path) -> None:
    start = time.process_time()
    probe(FileStore(tmp_path, durable=False))
    assert time.process_time() - start < 5  # about 1 s on slow cores, most of it threads that meet


def test_ids_grow_and_are_lower_case() -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: [new_ulid() for _ in range(2_000)], range(4)))
    assert all(run == sorted(run) for run in runs)
    flat = [one for run in runs for one in run]
    assert len(set(flat)) == 8_000
    assert all(one == one.lower() and len(one) == 26 for one in flat)


def test_ids_grow_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_ulid()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    second, third = new_ulid(), new_ulid()
    assert first < second < third


def test_errors_have_hints() -> None:
    for url in ("nonsense://x", "", "file://host/x"):
        with pytest.raises(MldeployError) as caught:
            open_store(url)
        assert caught.value.hint
