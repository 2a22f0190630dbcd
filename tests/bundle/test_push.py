"""`push`: blobs first, then one record; cut off anywhere it is invisible, and the next run finishes it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mldeploy.bundle.files import sha256_file
from mldeploy.bundle.manifest_file import read_manifest, write_manifest
from mldeploy.bundle.published import fetch_manifest, fetch_sample
from mldeploy.bundle.push import Pushed, push
from mldeploy.core.manifest import Entry, File, Manifest, Sample, Signature, Tensor, canonical
from mldeploy.core.records import Action, Promote, Retire, Sweep
from mldeploy.core.types import ModelRef
from mldeploy.errors import (
    DiskError,
    IntegrityError,
    ManifestError,
    NotFoundError,
    UsageError,
    ValidationError,
)
from mldeploy.progress import Silent
from mldeploy.store.ids import new_ulid
from mldeploy.store.log import Log
from mldeploy.store.objects import ObjectStore, open_store
from tests import faults

from .conftest import PLATFORM, PYTHON, tree

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was just made: its probe takes a while, so it is made once."""
    folder = tmp_path_factory.mktemp("empty") / "store"
    open_store(f"file://{folder}", create=True)
    return folder


@pytest.fixture
def root(empty: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(empty, tmp_path / "store"))


@pytest.fixture
def store(root: Path) -> ObjectStore:
    return open_store(f"file://{root}")


def small(folder: Path, content: str = "1", name: str = "small", **changes: Any) -> Path:
    """A bundle of three files and no environment: what publishes is not what serves."""
    files = {"model/model.pkl": content, "requirements.lock": "", "samples/0.request.json": "{}"}
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    manifest = Manifest(
        name=name, owner="o", expires="90d", python=PYTHON, platform=PLATFORM,
        entry=Entry(kind="python-object", pickle="model/model.pkl"),
        signature=Signature(
            inputs=(Tensor(name="x", datatype="FP64", shape=(-1,)),),
            outputs=(Tensor(name="y", datatype="FP64", shape=(-1,)),),
        ),
        samples=(Sample(request="samples/0.request.json", response="samples/0.request.json"),),
        files=tuple(
            File(path=path, sha256=sha256_file(folder / path), size=len(text))
            for path, text in sorted(files.items())
        ),
    )  # fmt: skip
    write_manifest(folder, msgspec.structs.replace(manifest, **changes))
    return folder


def pushed(store: ObjectStore, folder: Path, log: Log | None = None, **options: Any) -> Pushed:
    """Push without the gates."""
    given: dict[str, Any] = {"actor": "me", "now": NOW, "validate": False}
    return push(store, folder, log=log or Log(store), **{**given, **options})


def state(store: ObjectStore) -> Any:
    log = Log(store)
    log.refresh()
    return log.state


class Counted(Silent):
    """Adds up what bars are told."""

    def __init__(self) -> None:
        self.done = 0
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)

    def bar(
        self, label: str, total: int | None, unit: str = "bytes"
    ) -> AbstractContextManager[Callable[[int], None]]:
        return nullcontext(self.add if label == "uploading" else lambda _: None)

    def add(self, amount: int) -> None:
        self.done += amount


def test_a_real_bundle_is_published_whole(packed: Path, store: ObjectStore) -> None:
    counted = Counted()
    done = push(store, packed, log=Log(store), actor="me", now=NOW, progress=counted)
    assert done.new
    assert str(done.ref) == "double@1"
    assert done.seq == 1
    assert counted.done == done.uploaded_bytes > 1_000_000
    assert done.uploaded_blobs == len(read_manifest(packed).files) + len(read_manifest(packed).wheels) + 1
    version = state(store).models["double"].versions[1]
    assert version.digest == done.digest
    assert version.expires == (NOW.date() + timedelta(days=90)).isoformat()
    assert version.measured["load_ms"] > 0
    assert version.owner == "team@example.com"
    assert fetch_manifest(store, state(store), "double", 1) == read_manifest(packed)
    assert fetch_sample(store, state(store), "double", 1) == (packed / "samples/0.request.json").read_bytes()


def test_a_second_push_writes_no_blob_and_no_record(root: Path, store: ObjectStore, tmp_path: Path) -> None:
    folder = small(tmp_path / "b")
    first = pushed(store, folder)
    before = tree(root)
    second = pushed(store, folder, now=NOW + timedelta(days=1))
    assert tree(root) == before
    assert (second.ref, second.digest, second.new, second.seq) == (first.ref, first.digest, False, None)
    assert second.uploaded_blobs == second.reused_blobs == 0


def test_an_altered_bundle_is_not_taken_for_the_published_one(store: ObjectStore, tmp_path: Path) -> None:
    folder = small(tmp_path / "b", expires="2020-01-01")
    pushed(store, folder, now=datetime(2019, 1, 1, tzinfo=UTC))
    # out of date by now, and whole: it is published all the same
    assert not pushed(store, folder, validate=True).new
    (folder / "model/model.pkl").write_text("2")
    with pytest.raises(ValidationError, match=r"model/model\.pkl: sha256: holds other bytes"):
        pushed(store, folder, validate=True)
    (folder / "model/model.pkl").unlink()
    with pytest.raises(ValidationError, match=r"model/model\.pkl: files: is listed"):
        pushed(store, folder, validate=True)


def test_a_new_version_reuses_what_is_live(root: Path, store: ObjectStore, tmp_path: Path) -> None:
    pushed(store, small(tmp_path / "a", "1"))
    blobs = len(list((root / "blobs").rglob("*.*")))
    second = pushed(store, small(tmp_path / "b", "22"))
    assert str(second.ref) == "small@2"
    assert (second.uploaded_blobs, second.reused_blobs) == (2, 2)  # the pickle and the manifest
    assert len(list((root / "blobs").rglob("*.*"))) == blobs + 2
    assert second.reused_bytes == 2
    other = pushed(store, small(tmp_path / "c", "1", name="other"))
    assert str(other.ref) == "other@1"
    assert other.uploaded_blobs == 1


def test_a_retired_digest_gets_a_new_version(store: ObjectStore, tmp_path: Path) -> None:
    folder = small(tmp_path / "a")
    pushed(store, folder)
    Log(store).append(lambda _: [Retire(model="small", version=1)], actor="me", now=NOW)
    again = pushed(store, folder)
    assert str(again.ref) == "small@2"
    assert again.uploaded_blobs == 0


def test_more_actions_stand_in_the_same_record(store: ObjectStore, tmp_path: Path) -> None:
    def then(ref: ModelRef) -> Sequence[Action]:
        return (Promote(model=ref.name, version=ref.version, rollout=new_ulid()),)

    folder = small(tmp_path / "a")
    done = pushed(store, folder, then=then)
    now = state(store)
    assert now.head == done.seq == 1
    assert now.environments["production"]["small"].stable == 1
    assert pushed(store, folder, then=then).seq is None


def test_whoever_published_the_same_meanwhile_is_believed(store: ObjectStore, tmp_path: Path) -> None:
    folder = small(tmp_path / "a")
    log = Log(store)
    theirs: list[Pushed] = []

    class Slow(Silent):
        def step(self, text: str) -> None:
            if text == "writing the record" and not theirs:
                theirs.append(pushed(store, folder, actor="them"))

    ours = pushed(store, folder, log=log, progress=Slow())
    assert (ours.ref, ours.new, ours.seq) == (theirs[0].ref, False, None)
    assert state(store).head == 1


def test_a_version_number_follows_whoever_was_quicker(store: ObjectStore, tmp_path: Path) -> None:
    other = small(tmp_path / "b", "2")

    class Slow(Silent):
        def step(self, text: str) -> None:
            if text == "writing the record" and not state(store).head:
                pushed(store, other)

    ours = pushed(store, small(tmp_path / "a"), progress=Slow())
    assert str(ours.ref) == "small@2"
    assert state(store).models["small"].versions[2].digest == ours.digest


def test_blobs_swept_meanwhile_are_uploaded_again(store: ObjectStore, root: Path, tmp_path: Path) -> None:
    pushed(store, small(tmp_path / "a", "1"))
    Log(store).append(lambda _: [Retire(model="small", version=1)], actor="me", now=NOW)

    class Sweeping(Silent):
        swept = False

        def step(self, text: str) -> None:
            if text == "writing the record" and not self.swept:
                self.swept = True
                blobs = tuple(sorted(state(store).blobs))
                horizon = new_ulid()
                Log(store).append(lambda _: [Sweep(horizon=horizon, blobs=blobs)], actor="gc", now=NOW)
                for path in (root / "blobs").rglob("*.*"):
                    if path.name.rpartition(".")[2] < horizon:
                        path.unlink()

    done = pushed(store, small(tmp_path / "b", "2"), progress=Sweeping())
    assert str(done.ref) == "small@2"
    assert (done.uploaded_blobs, done.reused_blobs) == (4, 0)
    now = state(store)
    assert now.voids == 0
    for sha256 in now.models["small"].versions[2].blobs:
        assert store.get(f"blobs/sha256/{sha256[:2]}/{sha256}.{now.blobs[sha256].push}") is not None


def _struck(root: Path, folder: Path, scratch: Path, at: int) -> bool:
    """Push in a child that is killed at its `at`-th write; whether it was."""
    scratch.mkdir()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.environ.update(faults.armed(scratch, under=[root], at=at))
            faults.arm()
            pushed(open_store(f"file://{root}"), folder)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def test_killed_at_every_write_it_is_invisible_and_finished_by_the_next(
    empty: Path, tmp_path: Path, temporary: Path
) -> None:
    folder = small(tmp_path / "bundle")
    steps = 0
    while True:
        steps += 1
        root = tmp_path / f"store-{steps}"
        shutil.copytree(empty, root)
        if not _struck(root, folder, tmp_path / f"scratch-{steps}", steps):
            break
        store = open_store(f"file://{root}")
        seen = state(store)
        # all or nothing: no reader ever sees a version some of whose blobs are missing
        assert seen.head == len(seen.models) <= 1
        done = pushed(store, folder)
        assert str(done.ref) == "small@1"
        assert done.new == (seen.head == 0)
        now = state(store)
        assert (now.head, now.voids) == (1, 0)
        for sha256 in now.models["small"].versions[1].blobs:
            found = store.get(f"blobs/sha256/{sha256[:2]}/{sha256}.{now.blobs[sha256].push}")
            assert found is not None
        assert fetch_manifest(store, now, "small", 1) == read_manifest(folder)
        shutil.rmtree(root)
    assert steps > 20, steps
    assert list(temporary.iterdir()) == []  # what each of the killed left went with the next


def test_a_full_disk_at_any_write_is_a_clear_error_and_loses_nothing(empty: Path, tmp_path: Path) -> None:
    folder = small(tmp_path / "bundle")
    for at in (1, 5, 9):
        root = tmp_path / f"store-{at}"
        shutil.copytree(empty, root)
        before = tree(root)
        for number in (at, 0):
            scratch = tmp_path / f"full-{at}-{number}"
            scratch.mkdir()
            child = os.fork()
            if not child:
                code = 1
                try:
                    os.environ.update(faults.armed(scratch, under=[root], at=number, action="ENOSPC"))
                    faults.arm()
                    pushed(open_store(f"file://{root}"), folder)
                    code = 0
                except DiskError as error:
                    code = 7 if error.hint else 8
                finally:
                    os._exit(code)
            assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == (7 if number else 0), at
            assert before.items() <= tree(root).items()
        assert state(open_store(f"file://{root}")).head == 1


def test_an_altered_file_is_not_published(
    store: ObjectStore, packed: Path, bundle: Path, tmp_path: Path
) -> None:
    (bundle / "model/factor.json").write_text("9")
    with pytest.raises(ValidationError, match=r"model/factor\.json: sha256") as found:
        push(store, bundle, log=Log(store), actor="me", now=NOW)
    assert found.value.hint
    folder = small(tmp_path / "a")
    (folder / "model/model.pkl").write_text("2")
    with pytest.raises(IntegrityError, match=r"model\.pkl is not what its digest says"):
        pushed(store, folder)
    assert state(store).head == 0


def test_what_is_published_is_found_again_after_its_expiry(store: ObjectStore, tmp_path: Path) -> None:
    folder = small(tmp_path / "a", expires=(NOW + timedelta(days=9)).date().isoformat())
    first = pushed(store, folder)
    again = pushed(store, folder, now=NOW + timedelta(days=30))
    assert (again.new, again.ref) == (False, first.ref)


def test_a_file_that_changes_while_it_goes_up_is_not_published(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small(tmp_path / "a")

    def hashed(path: Path) -> str:
        found = sha256_file(path)
        if path.name == "model.pkl":
            path.write_text("2")
        return found

    monkeypatch.setattr("mldeploy.store.blobs._sha256", hashed)
    with pytest.raises(
        IntegrityError, match=r"model\.pkl is not what its digest says: it was changed"
    ) as error:
        pushed(store, folder)
    assert error.value.hint
    assert state(store).head == 0


def test_an_interrupt_does_not_wait_for_whole_files(store: ObjectStore, tmp_path: Path) -> None:
    moved = []

    class Slow(Silent):
        def bar(
            self, label: str, total: int | None, unit: str = "bytes"
        ) -> AbstractContextManager[Callable[[int], None]]:
            return nullcontext(self.stop)

        def stop(self, amount: int) -> None:
            raise KeyboardInterrupt

    class Endless:
        url = store.url
        get = staticmethod(store.get)

        def upload(self, key: str, source: Path, progress: Callable[[int], None]) -> None:
            while True:
                progress(1)
                moved.append(1)

    with pytest.raises(KeyboardInterrupt):
        push(
            Endless(), small(tmp_path / "a"), log=Log(store), actor="me", now=NOW, progress=Slow(),  # type: ignore[arg-type]
            validate=False,
        )  # fmt: skip
    assert moved
    assert state(store).head == 0


def test_gates_that_did_not_run_when_packed_run_now(store: ObjectStore, bundle: Path) -> None:
    (bundle / "packed.json").unlink()
    done = push(store, bundle, log=Log(store), actor="me", now=NOW)
    assert done.gates_skipped == {}
    assert state(store).models["double"].versions[1].measured["load_ms"] > 0


def test_an_expired_or_broken_bundle_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not ahead") as error:
        pushed(store, small(tmp_path / "a", expires=date(2001, 1, 1).isoformat()))
    assert error.value.hint
    with pytest.raises(ValidationError, match="name: ") as found:
        pushed(store, small(tmp_path / "b", name="Not A Name", python="2"))
    assert [finding.key for finding in found.value.findings] == ["name", "python"]  # all of them at once
    with pytest.raises(ManifestError, match="No such file"):
        pushed(store, tmp_path / "absent")
    assert state(store).head == 0


def test_what_is_not_published_is_not_found(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no model 'small'"):
        fetch_sample(store, state(store), "small", 1)
    pushed(store, small(tmp_path / "a", samples=()))
    with pytest.raises(NotFoundError, match=r"no small@9") as error:
        fetch_sample(store, state(store), "small", 9)
    assert "small@1" in error.value.hint
    with pytest.raises(NotFoundError, match="no samples"):
        fetch_sample(store, state(store), "small", 1)


def test_the_manifest_blob_is_the_canonical_form(store: ObjectStore, tmp_path: Path) -> None:
    folder = small(tmp_path / "a")
    done = pushed(store, folder)
    blob = state(store).blobs[done.digest]
    found = store.get(f"blobs/sha256/{done.digest[:2]}/{done.digest}.{blob.push}")
    assert found is not None
    assert found.data == canonical(read_manifest(folder))
