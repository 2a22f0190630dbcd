"""A push that was cut at any point and is run again sends what is missing, counted at the server."""

from __future__ import annotations

import _thread
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mldeploy.bundle import journal as journals
from mldeploy.bundle import upload as uploads
from mldeploy.bundle.files import sha256_file
from mldeploy.bundle.journal import Journal
from mldeploy.bundle.manifest_file import read_manifest, write_manifest
from mldeploy.bundle.push import Pushed, push
from mldeploy.core.collection import smallest_ulid
from mldeploy.core.manifest import Entry, File, Manifest, Signature, Tensor, Wheel
from mldeploy.core.records import Sweep
from mldeploy.core.state import State
from mldeploy.errors import MldeployError, StoreError
from mldeploy.progress import Silent
from mldeploy.store import s3_download, s3_upload
from mldeploy.store.file import FileStore
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import Log
from mldeploy.store.objects import MARKER, ObjectStore, Progress
from mldeploy.store.retry import Patience
from mldeploy.store.s3 import S3Store
from mldeploy.store.s3_config import place_of
from tests.support.proxy import Action, Proxy, Request
from tests.support.s3 import Server, use

from .conftest import PLATFORM, PYTHON

NOW = datetime.now(UTC)
PART = 256 << 10
PUSHES = ("01k9zq3v5w8x7c2m4n6b8d0f1g", "01k9zq3v5w8x7c2m4n6b8d0f1h")


def bundle(folder: Path, weights: bytes, others: int = 4, wheel: bytes = b"") -> Path:
    """A bundle of one long file and some short ones, and a wheel: nothing that could serve."""
    files = {"model/model.pkl": weights, "requirements.lock": b""}
    files |= {f"model/{number}.bin": bytes([number]) * 2000 for number in range(others)}
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    wheels = ()
    if wheel:
        (folder / "wheels").mkdir()
        name = "thing-1.0-py3-none-any.whl"
        (folder / "wheels" / name).write_bytes(wheel)
        wheels = (Wheel(name=name, sha256=sha256_file(folder / "wheels" / name), size=len(wheel)),)
    manifest = Manifest(
        name="small", owner="o", expires="90d", python=PYTHON, platform=PLATFORM,
        entry=Entry(kind="python-object", pickle="model/model.pkl"),
        signature=Signature(
            inputs=(Tensor(name="x", datatype="FP64", shape=(-1,)),),
            outputs=(Tensor(name="y", datatype="FP64", shape=(-1,)),),
        ),
        files=tuple(
            File(path=path, sha256=sha256_file(folder / path), size=len(data))
            for path, data in sorted(files.items())
        ),
        wheels=wheels,
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder


def pushed(store: ObjectStore, folder: Path, kept: Path | None, **options: Any) -> Pushed:
    given: dict[str, Any] = {"actor": "me", "now": NOW, "validate": False, "journals": kept}
    return push(store, folder, log=Log(store), **{**given, **options})


def state(store: ObjectStore) -> State:
    log = Log(store)
    log.refresh()
    return log.state


def whole(store: ObjectStore, tmp_path: Path) -> None:
    """Every blob that is live is there, with the bytes of its digest."""
    for sha256, blob in state(store).blobs.items():
        target = tmp_path / new_ulid()
        assert store.download(f"blobs/sha256/{sha256[:2]}/{sha256}.{blob.push}", target) == sha256
        target.unlink()


# --- S3, counted at a proxy


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PART", "SINGLE"):
        monkeypatch.setattr(s3_upload, name, PART)
    monkeypatch.setattr(s3_download, "RANGE", PART)


@pytest.fixture
def proxy(s3_environ: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy(s3_environ.endpoint.removeprefix("http://")) as proxy:
        use(s3_environ.through(f"http://{proxy.address}"), monkeypatch)
        yield proxy


def remote(bucket: str, prefix: str, server: Server) -> S3Store:
    """A store that gives up at once."""
    clock = itertools.count()
    patience = Patience(bound=4, connects=1, monotonic=lambda: float(next(clock)), sleep=lambda _: None)
    return S3Store(place_of(f"s3://{bucket}/{prefix}"), patience=patience)


def blob_bytes(requests: list[Request]) -> int:
    """Bytes of blobs that were sent."""
    return sum(one.sent for one in requests if one.method == "PUT" and "/blobs/" in one.target)


def acknowledged(requests: list[Request]) -> int:
    """Those of them that the store has acknowledged."""
    return blob_bytes([one for one in requests if one.action is Action.PASS and one.status == 200])


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("first", "stride"), [(4, 5), pytest.param(1, 1, marks=pytest.mark.full)], ids=["some", "every one"]
)
def test_cut_at_any_request_it_sends_again_what_was_not_acknowledged(
    s3_environ: Server, bucket: str, proxy: Proxy, tmp_path: Path, first: int, stride: int
) -> None:
    folder = bundle(tmp_path / "bundle", os.urandom(4 * PART + 99), others=2)
    ways = itertools.cycle((Action.BEFORE, Action.HALF, Action.MEANWHILE, Action.AFTER))
    resumed = 0
    for number in itertools.count(first, stride):
        prefix = f"store-{number}"
        s3_environ.make_store(bucket, prefix)
        proxy.requests.clear()
        count, way = itertools.count(1), next(ways)

        def cut(request: Request, number: int = number, count: Any = count, way: Action = way) -> Action:
            mine = next(count)  # the proxy is one thread
            return way if mine == number else Action.BEFORE if mine > number else Action.PASS

        proxy.rule = cut
        try:
            pushed(remote(bucket, prefix, s3_environ), folder, tmp_path / "journals")
            break
        except MldeployError:
            pass
        before = list(proxy.requests)
        proxy.requests.clear()
        proxy.rule = lambda _: Action.PASS
        done = pushed(remote(bucket, prefix, s3_environ), folder, tmp_path / "journals")
        total = sum(file.size for file in read_manifest(folder).files) + _manifest_bytes(folder)
        if done.new:
            assert blob_bytes(proxy.requests) <= total - acknowledged(before), number
            resumed += acknowledged(before) > 0
        else:  # the record was written, and its answer lost
            assert blob_bytes(proxy.requests) == 0
        store = remote(bucket, prefix, s3_environ)
        assert state(store).head == 1 and state(store).voids == 0
        whole(store, tmp_path)
        assert not list((tmp_path / "journals").iterdir()) or not done.new
        for left in (tmp_path / "journals").iterdir():
            left.unlink()
    assert number > 13 and resumed >= 1


def _manifest_bytes(folder: Path) -> int:
    from mldeploy.core.manifest import canonical

    return len(canonical(read_manifest(folder)))


PUSH = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from mldeploy.bundle.push import push
from mldeploy.store.log import Log
from mldeploy.store.s3 import S3Store
store = S3Store.open(sys.argv[1])
done = push(store, Path(sys.argv[2]), log=Log(store), actor="me", now=datetime.now(UTC), validate=False,
            journals=Path(sys.argv[3]))
print(done.ref)
"""


@pytest.mark.parametrize(
    "when",
    [("partNumber=3", 1), ("/blobs/", 4), ("uploadId=", 6)],
    ids=["in a part", "among small ones", "at the end of the parts"],
)
def test_killed_it_sends_again_what_was_not_acknowledged(
    s3_environ: Server, bucket: str, proxy: Proxy, tmp_path: Path, temporary: Path, when: tuple[str, int]
) -> None:
    """kill -9, with parts of the size that they have in earnest."""
    folder = bundle(tmp_path / "bundle", os.urandom((4 * 8 << 20) + 99))
    s3_environ.make_store(bucket, "store")
    part, nth = when
    count, killed = itertools.count(1), threading.Event()

    def run() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", PUSH, f"s3://{bucket}/store", str(folder), str(tmp_path / "journals")],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def kill(request: Request) -> Action:
        if killed.is_set():
            return Action.BEFORE
        if part in request.target and next(count) == nth:
            killed.set()
            os.kill(process.pid, signal.SIGKILL)
            return Action.MEANWHILE
        return Action.PASS

    proxy.rule = kill
    process = run()
    assert process.communicate(timeout=120) == ("", None)
    assert process.returncode == -signal.SIGKILL
    first = list(proxy.requests)
    proxy.requests.clear()
    proxy.rule = lambda _: Action.PASS
    process = run()
    assert process.communicate(timeout=120) == ("small@1\n", None)
    assert list(temporary.iterdir()) == []
    total = sum(file.size for file in read_manifest(folder).files) + _manifest_bytes(folder)
    # a blob in one request is noted when its answer has come, which the kill may have prevented
    small = sum(one.sent for one in first if one.method == "PUT" and "partNumber" not in one.target)
    assert blob_bytes(proxy.requests) <= total - acknowledged(first) + small
    assert acknowledged(first) > 0
    whole(S3Store.open(f"s3://{bucket}/store"), tmp_path)


@pytest.mark.usefixtures("small_parts")
def test_after_retraining_the_changed_files_alone_are_sent(
    s3_environ: Server, bucket: str, proxy: Proxy, tmp_path: Path
) -> None:
    wheel = os.urandom(3 * PART)
    s3_environ.make_store(bucket, "store")
    store = S3Store.open(f"s3://{bucket}/store")
    pushed(store, bundle(tmp_path / "a", os.urandom(2 * PART), wheel=wheel), None)
    proxy.requests.clear()
    weights = os.urandom(2 * PART + 5)
    second = bundle(tmp_path / "b", weights, wheel=wheel)
    done = pushed(store, second, tmp_path / "journals")
    assert (str(done.ref), done.uploaded_blobs) == ("small@2", 2)
    assert blob_bytes(proxy.requests) == len(weights) + _manifest_bytes(second) == done.uploaded_bytes
    # nothing is asked about what is there: the folded state knows
    assert (
        not proxy.count("HEAD") and not proxy.count("GET", "list-type") and not proxy.count("GET", "/blobs/")
    )


# --- the journal, on a folder


class Counting(FileStore):
    """A store in a folder that counts what it is sent, and fails at the n-th."""

    def __init__(self, root: Path, fail_at: int = 0) -> None:
        super().__init__(root)
        self.sent: list[str] = []
        self.fail_at = fail_at
        self._counting = threading.Lock()

    def upload(self, key: str, source: Path, progress: Progress | None = None) -> None:
        with self._counting:
            if self.fail_at and len(self.sent) + 1 >= self.fail_at:
                raise StoreError("the network is gone", "wait for it")
            self.sent.append(key)
        super().upload(key, source, progress)


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(text)


def counting(root: Path, fail_at: int = 0, **marker: Any) -> Counting:
    store = Counting(root, fail_at)
    if not (root / MARKER).exists():
        root.mkdir(exist_ok=True)
        made = {"format": 1, "id": new_ulid(), "created": "2026-01-01T00:00:00Z"} | marker
        store.create(MARKER, msgspec.json.encode(made))
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return bundle(tmp_path / "bundle", b"weights" * 1000)


@pytest.fixture
def cut(tmp_path: Path, folder: Path) -> Path:
    """The journals' folder after a push that sent some, to the store in `store`."""
    with pytest.raises(StoreError, match="the network is gone"):
        pushed(counting(tmp_path / "store", fail_at=4), folder, tmp_path / "journals", pool=_one)
    return tmp_path / "journals"


def test_what_was_sent_to_a_folder_is_not_sent_again(tmp_path: Path, folder: Path, cut: Path) -> None:
    (path,) = cut.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    store, said = counting(tmp_path / "store"), Said()
    done = pushed(store, folder, cut, progress=said)
    assert len(store.sent) == done.uploaded_blobs - 3
    assert any("3 of 7 files are there" in line for line in said.lines)
    assert not list(cut.iterdir())  # it is gone once the record is written
    whole(store, tmp_path)


def test_a_torn_line_and_garbage_are_no_claim(tmp_path: Path, folder: Path, cut: Path) -> None:
    (path,) = cut.iterdir()
    lines = path.read_bytes().splitlines()
    path.write_bytes(lines[0] + b"\n" + b"\0\0\xff\n" + lines[1] + b"\n" + lines[2][:-4])
    store = counting(tmp_path / "store", fail_at=4)
    with pytest.raises(StoreError):
        pushed(store, folder, cut, pool=_one)
    assert len(store.sent) == 3
    store = counting(tmp_path / "store")
    done = pushed(store, folder, cut)
    assert len(store.sent) == done.uploaded_blobs - 4  # what came after the torn line counts
    whole(store, tmp_path)


@pytest.mark.parametrize("head", [b"", b"nonsense", b'{"format":2}'])
def test_a_journal_that_cannot_be_read_is_begun_anew(
    tmp_path: Path, folder: Path, cut: Path, head: bytes
) -> None:
    (path,) = cut.iterdir()
    path.write_bytes(head + b"\n" + b"\n".join(path.read_bytes().splitlines()[1:]))
    store = counting(tmp_path / "store")
    assert len(store.sent) == 0
    assert pushed(store, folder, cut).uploaded_blobs == len(store.sent)


def test_a_push_below_the_horizon_begins_anew(tmp_path: Path, folder: Path, cut: Path) -> None:
    store = counting(tmp_path / "store")
    later = smallest_ulid(int((NOW + timedelta(days=1)).timestamp() * 1000))
    Log(store).append(lambda _: [Sweep(horizon=later)], actor="gc", now=NOW)
    done = pushed(store, folder, cut)
    assert len(store.sent) == done.uploaded_blobs
    assert state(store).models["small"].versions[1].push >= later


def test_a_push_id_that_a_record_holds_is_not_taken_up(tmp_path: Path, folder: Path, cut: Path) -> None:
    (path,) = cut.iterdir()
    kept = path.read_bytes()
    store = counting(tmp_path / "store")
    first = pushed(store, folder, cut)
    path.write_bytes(kept)  # as if it had been killed before it could remove it
    assert not pushed(store, folder, cut).new
    from mldeploy.core.records import Retire

    Log(store).append(lambda _: [Retire(model="small", version=1)], actor="me", now=NOW)
    again = pushed(store, folder, cut)
    assert (again.new, again.ref.version) == (True, first.ref.version + 1)
    one, two = state(store).models["small"].versions.values()
    assert one.push != two.push


def test_another_store_at_the_same_place_knows_nothing_of_it(tmp_path: Path, folder: Path, cut: Path) -> None:
    (tmp_path / "store").rename(tmp_path / "old")
    store = counting(tmp_path / "store")
    assert pushed(store, folder, cut).uploaded_blobs == len(store.sent)
    assert len(list(cut.iterdir())) == 1  # the old store's


def test_a_log_that_went_back_takes_nothing_up(tmp_path: Path, folder: Path) -> None:
    """A store that was put back from a backup may lack what was sent after it."""
    kept, root = tmp_path / "journals", tmp_path / "store"
    first = bundle(tmp_path / "first", b"1")
    pushed(counting(root), first, None)
    with pytest.raises(StoreError):
        pushed(counting(root, fail_at=2), folder, kept, pool=_one)
    (root / "log/00000000000000000001.json").unlink()
    store = counting(root)
    assert pushed(store, folder, kept).uploaded_blobs == len(store.sent)
    with pytest.raises(StoreError):
        pushed(counting(root, fail_at=2), bundle(tmp_path / "third", b"3"), kept, pool=_one)
    (root / "log/00000000000000000001.json").write_bytes(b"another")
    pushed(counting(root), bundle(tmp_path / "fourth", b"4"), None)
    store = counting(root)
    assert pushed(store, tmp_path / "third", kept).uploaded_blobs == len(store.sent)


def test_two_pushes_of_one_bundle_share_no_journal(tmp_path: Path, folder: Path) -> None:
    kept = tmp_path / "journals"
    store = counting(tmp_path / "store")
    inside: list[Pushed] = []

    class Meanwhile(Counting):
        def upload(self, key: str, source: Path, progress: Progress | None = None) -> None:
            if not inside:
                inside.append(pushed(store, folder, kept))
            super().upload(key, source, progress)

    outer = pushed(Meanwhile(tmp_path / "store"), folder, kept, pool=_one)
    assert inside[0].new and not outer.new
    keys = {key.rpartition(".")[2] for key in store.sent}
    assert len(keys) == 1 and state(store).models["small"].versions[1].push in keys
    assert not list(kept.iterdir())


def _one(threads: int) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1)


def test_without_a_place_for_it_a_push_goes_on_and_says_so(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").write_text("")
    store, said = counting(tmp_path / "store"), Said()
    assert pushed(store, folder, tmp_path / "file", progress=said).new
    assert any("no journal in" in line for line in said.lines)


class Abandoning(Counting):
    """One that moves blobs in parts."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.abandoned: list[tuple[str, str]] = []

    def send(self, key: str, source: Path, **options: Any) -> None:
        options["resumption"].note("a token")
        raise StoreError("cut", "wait")

    def fetch(self, key: str, target: Path, **options: Any) -> str:
        raise NotImplementedError

    def abandon(self, key: str, token: str) -> None:
        self.abandoned.append((key, token))


def test_what_nobody_goes_on_with_is_removed(tmp_path: Path, folder: Path) -> None:
    kept = tmp_path / "journals"
    counting(tmp_path / "store")
    store = Abandoning(tmp_path / "store")
    with pytest.raises(StoreError, match="cut"):
        pushed(store, folder, kept)
    (path,) = kept.iterdir()
    with pytest.raises(StoreError, match="cut"):  # taken up
        pushed(store, folder, kept)
    assert not store.abandoned
    old = (NOW - journals.STALE - timedelta(hours=1)).timestamp()
    os.utime(path, (old, old))
    other = bundle(tmp_path / "other", b"other")
    with pytest.raises(StoreError, match="cut"):
        pushed(store, other, kept)
    assert store.abandoned and not path.exists()
    assert all(key.startswith("blobs/sha256/") and token == "a token" for key, token in store.abandoned)
    # of another store it stays for a month
    (path,) = kept.iterdir()
    os.utime(path, (old, old))
    elsewhere = counting(tmp_path / "elsewhere")
    pushed(elsewhere, folder, kept)
    assert path.exists()
    old = (NOW - journals.FOREIGN - timedelta(hours=1)).timestamp()
    os.utime(path, (old, old))
    pushed(elsewhere, other, kept)
    assert not path.exists()


def test_killed_at_every_write_of_the_journal_it_claims_nothing_too_much(
    tmp_path: Path, folder: Path
) -> None:
    store = counting(tmp_path / "store")
    kept = tmp_path / "journals"
    with journals.journal(kept, "S", "D", print) as one:
        assert one is not None
        one.begin("01k9zq3v5w8x7c2m4n6b8d0f1g", State(), store)
        one.resumption("a" * 64).note("token:1")
        one.done("b" * 64)
        one.done("a" * 64)
    (path,) = kept.iterdir()
    data = path.read_bytes()
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        with journals.journal(kept, "S", "D", print) as read:
            assert isinstance(read, Journal)
            lines = data[:length].count(b"\n")
            whole_lines = lines + (length < len(data) and data[length : length + 1] == b"\n")
            assert len(read.sent) <= max(whole_lines - 2, 0)
            assert read.sent <= {"a" * 64, "b" * 64}
            assert bool(read.tokens) == (2 <= whole_lines <= 3)


def test_a_journal_that_cannot_be_cut_claims_nothing_for_the_push_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int, length: int) -> None:
        raise OSError(5, "Input/output error")

    store = FileStore(tmp_path)
    with journals.journal(tmp_path / "journals", "S", "D", print) as first:
        assert first is not None
        first.begin(PUSHES[0], State(), store)
    with journals.journal(tmp_path / "journals", "S", "D", print) as second:
        assert second is not None
        monkeypatch.setattr(os, "ftruncate", broken)
        second.begin(PUSHES[1], State(), store)
        second.done("a" * 64)
        second.resumption("b" * 64).note("8:upload")
    with journals.journal(tmp_path / "journals", "S", "D", print) as third:
        assert third is not None and third.begun is not None
        assert third.begun.push == PUSHES[0]
        assert third.sent == set() and third.tokens == {}


def test_a_ctrl_c_waits_for_what_is_on_its_way_and_says_so(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "GRACE", 0.01)
    answered = threading.Event()
    ended: list[str] = []

    class Slow(Counting):
        def upload(self, key: str, source: Path, progress: Progress | None = None) -> None:
            _thread.interrupt_main()
            assert answered.wait(60)
            super().upload(key, source)
            ended.append(key)

    class Telling(Said):
        def info(self, text: str) -> None:
            super().info(text)
            answered.set()

    said, store = Telling(), counting(tmp_path / "store")
    with pytest.raises(KeyboardInterrupt):
        pushed(Slow(tmp_path / "store"), folder, tmp_path / "journals", progress=said, pool=_one)
    assert said.lines[-1] == "ending what is on its way; Ctrl-C again leaves at once"
    assert len(ended) == 1  # it was waited for, and no other was begun
    pushed(store, folder, tmp_path / "journals")
    assert ended[0] not in store.sent  # its answer is in the journal
