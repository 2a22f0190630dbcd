"""kill -9, and a full disk, at every step of fetch, install and swap that writes: the host converges.

A step is one change below the state folder (tests/faults.py counts them). By default some of them are struck,
spread over all; with `-m full` every one (of a folder being removed: three).
"""

from __future__ import annotations

import json
import os
import shutil
from itertools import groupby
from pathlib import Path

import msgspec
import pytest

from mldeploy.bundle.files import sha256_file
from mldeploy.core.manifest import Manifest
from mldeploy.core.manifest import digest as digest_of
from mldeploy.store.log import Log
from mldeploy.store.objects import open_store
from mldeploy_daemon.desired import Kept
from mldeploy_daemon.disk import Disk
from tests.daemon.conftest import Place
from tests.faults import armed, fired, steps
from tests.support.daemons import Daemon, until

AGENT = "mldeploy_daemon.agent"
#: Steps struck in the quick tier.
SOME = 5
#: Parts in which every step is struck.
PARTS = 4


class Scene:
    """A host that served version 1 and finds version 2 promoted: the same start for every strike."""

    def __init__(self, place: Place, *, fresh: bool) -> None:
        self.place, self.fresh = place, fresh
        self.number = 0
        if not fresh:
            place.push(1.0)
            with place.daemon("served") as daemon:
                daemon.wait_answer(1.0)
                until(lambda: (report := daemon.report()) and report.head == 2, "it has joined")
                daemon.process.kill()  # type: ignore[union-attr]
        place.push(2.0)

    def run(self, at: int, action: str = "kill") -> tuple[Daemon, Path]:
        """Start the host with a strike at that step, wait until it serves version 2, stop it."""
        self.number += 1
        scratch = self.place.root / f"scratch-{self.number}"
        state = self.place.root / f"state-{self.number}"
        if not self.fresh:
            _clone(self.place.root / "served", state)
        env = armed(scratch, under=[state], at=at, action=action, argv=AGENT)
        with self.place.daemon(state.name, seeded=False, env=env, poll=0.5) as daemon:
            daemon.wait_answer(2.0, seconds=45)
            until(lambda: len(daemon.workers()) == 1, "one worker is left", 45)
            assert daemon.stop() == 0
        check(state)
        shutil.rmtree(state)  # hundreds of strikes would fill the disk
        return daemon, scratch


def _clone(source: Path, target: Path) -> None:
    """A copy in which what never changes is shared."""

    def copy(one: str, other: str) -> None:
        if any(f"/{part}/" in one for part in ("environments", "blobs", "bundles")):
            os.link(one, other)
        else:
            shutil.copy2(one, other)

    shutil.copytree(
        source, target, symlinks=True, copy_function=copy, ignore=shutil.ignore_patterns("run", "staging")
    )


def check(state: Path) -> None:
    """Everything in its place is whole, and nothing half-done is left where it could be seen."""
    for bundle in (state / "bundles").iterdir():
        manifest = msgspec.json.decode((bundle / "manifest.yaml").read_bytes(), type=Manifest)
        assert digest_of(manifest) == bundle.name
        found = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
        assert found == {file.path for file in manifest.files} | {"manifest.yaml"}
        for file in manifest.files:
            assert sha256_file(bundle / file.path) == file.sha256
    for blob in (state / "blobs/sha256").glob("??/*"):
        assert sha256_file(blob) == blob.name
    for environment in (state / "environments").iterdir():
        assert json.loads((environment / "environment.json").read_bytes())["id"] == environment.name
    kept = Kept(Disk(state)).load()
    assert kept is not None
    log = Log(open_store(str(state.parent / "store")))
    log.refresh(limit=kept.head)
    assert log.state == kept


def _spread(count: int, wanted: int) -> list[int]:
    return sorted({1 + round(n * (count - 1) / (wanted - 1)) for n in range(wanted)})


def _strike(scene: Scene, numbers: list[int], action: str = "kill") -> int:
    hits = 0
    for number in numbers:
        _, scratch = scene.run(number, action)
        hits += fired(scratch)
    return hits


def _count(scene: Scene) -> int:
    _, scratch = scene.run(0)
    return len(steps(scratch))


def test_killed_while_it_fetches_and_swaps(place: Place) -> None:
    scene = Scene(place, fresh=False)
    count = _count(scene)
    assert count > 40
    numbers = _spread(count - 5, SOME)
    assert _strike(scene, numbers) >= len(numbers) - 1


def test_killed_while_it_installs(place: Place) -> None:
    scene = Scene(place, fresh=True)
    count = _count(scene)
    assert _strike(scene, _spread(count - 5, 4)[1:3]) >= 1


def test_a_disk_that_is_full_for_a_moment(place: Place) -> None:
    scene = Scene(place, fresh=False)
    count = _count(scene)
    assert _strike(scene, _spread(count - 5, 3)[1:], "ENOSPC") >= 1


def _worth_striking(lines: list[str]) -> list[int]:
    """Every step, but of a folder being removed file by file only the first, the middle and the last.

    That folder is scratch of our own, a thousand files long, and nobody looks at it half removed.
    """
    removing = [line.split(" ", 2)[1] in ("os.remove", "os.rmdir") for line in lines]
    numbers: list[int] = []
    for is_removal, group in groupby(range(1, len(lines) + 1), key=lambda number: removing[number - 1]):
        run = list(group)
        numbers += [run[0], run[len(run) // 2], run[-1]] if is_removal and len(run) > 3 else run
    return numbers


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("action", ["kill", "ENOSPC"])
def test_every_step(place: Place, fresh: bool, action: str, part: int) -> None:
    scene = Scene(place, fresh=fresh)
    _, scratch = scene.run(0)
    numbers = _worth_striking(steps(scratch))[part::PARTS]
    # two threads write at once, so the last steps of a run may come earlier in the next
    assert _strike(scene, numbers, action) >= len(numbers) * 9 // 10
