"""The terms of a rollout: what the caller says, then the bundle, then the policy; and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mldeploy.bundle.about import About, write_about
from mldeploy.bundle.manifest_file import read_manifest, write_manifest
from mldeploy.bundle.push import push
from mldeploy.client.terms import Terms, Wish, terms
from mldeploy.core.baseline import BASELINE, Baseline, Bins
from mldeploy.core.manifest import File, Rollout
from mldeploy.core.policy import Settings
from mldeploy.errors import UsageError
from mldeploy.store.log import Log
from mldeploy.store.objects import open_store

from .conftest import Ran, World

Cli = Callable[..., Ran]

PACKED = Rollout(steps=(500, 10_000), hold=60, guards=("p99 < 80ms",), min_requests=7, shadow_fraction=300)
POLICY = Settings(steps=(100, 10_000), hold=30, guards=("crashes < 1",), min_requests=50)


def unasked() -> Rollout:
    raise AssertionError("all at once needs no more terms")


def test_what_is_said_nearer_counts() -> None:
    wish = Wish(steps=("shadow", 1, "10%", 100), hold="5m", guards=["agreement > 95%"], min_requests=9)
    assert terms(wish, lambda: PACKED, POLICY) == Terms(
        steps=(0, 100, 1_000, 10_000), hold=300, guards=("agreement > 95%",), min_requests=9, fraction=300
    )
    assert terms(Wish(), lambda: PACKED, POLICY) == Terms(
        steps=(500, 10_000), hold=60, guards=("p99 < 80ms",), min_requests=7, fraction=300
    )
    assert terms(Wish(), Rollout, POLICY) == Terms(
        steps=(100, 10_000), hold=30, guards=("crashes < 1",), min_requests=50
    )
    assert terms(Wish(to=25, hold=0), Rollout, POLICY).hold == 0


def test_all_at_once_needs_no_terms() -> None:
    assert terms(Wish(now=True), unasked, POLICY) == Terms()
    assert terms(Wish(), Rollout, Settings()) == Terms()


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        (Wish(to=5, now=True), "exclude each other"),
        (Wish(now=True, hold=5), "--now takes all"),
        (Wish(steps=(0, 10)), "not a share"),
        (Wish(steps=(1, "shadow")), "a shadow step can only be the first"),
        (Wish(steps=("shadow",)), "a shadow step alone gives no traffic"),
        (Wish(to=0), "not a share"),
        (Wish(steps=(1, 100), guards=["none", "p99 < 1s"]), "--guard: 'none' stands for no guard at all"),
        (Wish(steps=(1, 100), hold="31d"), "--hold: 31d is out of range"),
        (Wish(steps=(1, 100), hold=-1), "--hold"),
        (Wish(steps=(1, 100), hold="soon"), "'soon' is not a duration"),
        (Wish(steps=(1, 100), min_requests=-1), "--min-requests"),
        (Wish(steps=(1, 100), deadline=0), "--deadline"),
        (Wish(steps=(1, 100), guards=["speed < 1x"]), "--guard: not something that is measured"),
        (Wish(steps=(1, 100), guards=["agreement > 95%"]), "no step of the rollout does"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_read(wish: Wish, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        wish.rollout()
    assert says in caught.value.message
    assert caught.value.hint


def test_what_does_not_go_together_is_refused() -> None:
    shadowed = Rollout(guards=("agreement > 95%",))
    with pytest.raises(UsageError, match="no step of the rollout does"):
        terms(Wish(steps=(1, 100)), lambda: shadowed, POLICY)
    for wish in (
        Wish(guards=["p99 < 1.2x"]),
        Wish(hold="5m"),
        Wish(min_requests=9),
        Wish(to=100, deadline="1h"),
    ):
        with pytest.raises(UsageError, match="no step to hold or to guard"):  # and not without the guard
            terms(wish, Rollout, Settings())
    with pytest.raises(UsageError, match="the deadline comes first"):
        terms(Wish(steps=(1, 100), hold="1h", deadline="2h"), Rollout, POLICY)


def _promoted(world: World) -> dict[str, Any]:
    log = Log(open_store(world.url))
    log.refresh()
    ramp = log.state.environments["production"]["churn"].ramp
    assert ramp is not None
    return {"steps": ramp.steps, "hold": ramp.hold, "guards": ramp.guards, "min": ramp.min_requests,
            "deadline": ramp.deadline}  # fmt: skip


def test_promote_writes_the_terms_and_again_changes_nothing(world: World, cli: Cli) -> None:
    world.publish()
    world.publish(content="2")
    cli("promote", "churn@1")
    words = (
        "promote", "churn@2", "--steps", "shadow,1,10,50,100", "--hold", "10m", "--guard", "error_rate < 1%",
        "--guard", "agreement > 95%", "--min-requests", "500", "--deadline", "2d",
    )  # fmt: skip
    assert cli(*words).code == 0
    assert _promoted(world) == {
        "steps": (0, 100, 1_000, 5_000, 10_000), "hold": 600, "min": 500, "deadline": 172_800,
        "guards": ("error_rate < 1%", "agreement > 95%"),
    }  # fmt: skip
    head = world.head()
    assert cli(*words).code == 0
    assert world.head() == head
    # other terms are another rollout
    assert cli(*words[:-2], "--deadline", "3d").code == 0
    assert world.head() == head + 1


def test_a_bad_guard_is_pointed_to(world: World, cli: Cli) -> None:
    world.publish()
    ran = cli("promote", "churn@1", "--steps", "1,100", "--guard", "p99 <= 80ms")
    assert ran.code == 2
    assert ran.err.splitlines() == [
        "error: --guard: p99 is held by <, at character 5",
        "  p99 <= 80ms",
        "      ^",
        "hint: write for example: p99 < 80ms or 1.2x",
    ]


@pytest.fixture
def measured(world: World) -> Path:
    """The folder of churn@1: published with the metric accuracy and a baseline of the column x[0]."""
    folder = world.bundle()
    bins = Bins(name="x[0]", side="inputs", tensor="x", edges=(0.5,), counts=(1, 1))
    data = msgspec.json.encode(Baseline(rows=2, columns=(bins,)))
    (folder / "monitoring").mkdir()
    (folder / BASELINE).write_bytes(data)
    manifest = read_manifest(folder)
    file = File(path=BASELINE, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    files = tuple(sorted((*manifest.files, file), key=lambda each: each.path))
    write_manifest(folder, msgspec.structs.replace(manifest, files=files))
    write_about(folder, About(metrics={"accuracy": 0.9}))
    push(world.store, folder, log=world.log, actor="setup", now=datetime.now(UTC), validate=False)
    return folder


@pytest.mark.parametrize(
    ("guard", "hint"),
    [
        ("metric(acuracy) > 1x", "did you mean metric(accuracy)?"),
        ("drift(x[1]) < 0.2", "did you mean drift(x[0])?"),
        ("drift(income) < 0.2", "it has x[0]"),
    ],
)
def test_a_guard_that_can_never_be_decided_is_refused(
    measured: Path, world: World, cli: Cli, tmp_path: Path, guard: str, hint: str
) -> None:
    head = world.head()
    file = tmp_path / "fleet.yaml"
    file.write_text(
        f"production: {{churn: {{version: 1, rollout: {{steps: [1, 100], guards: ['{guard}']}}}}}}"
    )
    words = ("--steps", "1,100", "--guard", guard)
    for ran in (
        cli("promote", "churn@1", *words),
        cli("push", measured, "--promote", *words),
        cli("push", measured, "--promote", "--dry-run", *words),
        cli("plan", file),
    ):
        assert (ran.code, "cannot be decided" in ran.err, hint in ran.err) == (2, True, True), ran.err
    assert world.head() == head
    good = ("--guard", "metric(accuracy) > 1x", "--guard", "drift(x[0]) < 0.2")
    assert cli("promote", "churn@1", "--steps", "1,100", *good).code == 0


def test_what_forbids_a_promote_forbids_no_push(world: World, cli: Cli) -> None:
    """Neither the policy for promotes nor the bundle's own rollout is looked at where none is asked for."""
    assert cli("policy", "set", "steps=1,10,100", "hold=2h").code == 0
    soon = world.bundle(content="soon", rollout=Rollout(deadline=1_800))
    compared = world.bundle(content="compared", rollout=Rollout(guards=("agreement > 95%",)))
    for number, folder in ((1, soon), (2, compared)):
        push(world.store, folder, log=world.log, actor="setup", now=datetime.now(UTC), validate=False)
        pushed = cli("push", folder)
        assert (pushed.code, pushed.out) == (0, f"churn@{number}\n"), pushed.err
        assert cli("push", folder, "--promote").code == 2, "it counts where it is asked for"
