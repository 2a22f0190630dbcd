"""A rollout as the log tells it: churn@8 beside churn@7, through a shadow step to 100 %, with evidence."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from mldeploy.core import records
from mldeploy.core.evidence import (
    Column,
    Comparison,
    Drift,
    Evidence,
    GuardVerdict,
    Latency,
    Measure,
    Tally,
)
from mldeploy.core.fold import fold
from mldeploy.core.manifest import Entry, File, Manifest, Signature, Tensor, Wheel
from mldeploy.core.records import Action, Record
from mldeploy.core.state import State
from mldeploy.reporting.steps import Told
from tests.core.strategies import sha, ulid

OWNER = "team@example.com"
#: Store time of record 1; each record comes five minutes after the one before.
START, APART = 1_795_500_000.0, 300.0
STEPS = (0, 100, 1_000, 5_000, 10_000)
ROLLOUT = ulid(900)


class Scene:
    """A log in memory."""

    def __init__(self) -> None:
        self.state = State()
        self.told: list[Told] = []

    def say(self, *actions: Action, actor: str = "host:h1") -> int:
        """Append one record, which must not be void; its number."""
        seq = self.state.head + 1
        record = Record(
            seq=seq, id=ulid(seq), prev=self.state.head_sha256, time="2026-11-24T07:00:00Z",
            actor=actor, actions=actions,
        )  # fmt: skip
        voids = self.state.voids
        self.state = fold(self.state, seq, records.encode(record))
        assert self.state.voids == voids, f"record {seq} is void"
        self.told.append(Told(record, START + APART * seq))
        return seq

    def records(self, numbers: Sequence[int]) -> list[Told]:
        return [self.told[number - 1] for number in numbers]


def publish(number: int, owner: str = OWNER, **metrics: float) -> records.Publish:
    return records.Publish(
        model="churn", digest=sha(f"bundle {number}"), push=ulid(number),
        brought={sha(f"bundle {number}"): 5_000_000}, owner=owner, expires="2027-05-31",
        python="3.11", platform="linux-x86_64", metrics=metrics,
    )  # fmt: skip


def pushed() -> Scene:
    """A store with churn@1 to churn@8, churn@7 stable, and somebody to notify."""
    scene = Scene()
    scene.say(records.Policy(settings={"notify": {"ops": "json://ops.example.com"}}), actor="op@laptop")
    for number in range(1, 8):
        scene.say(publish(number, auc=0.9 + number / 1000), actor="ci@build")
    scene.say(records.Promote(model="churn", version=7, rollout=ulid(7)), actor="ci@build")
    scene.say(publish(8, auc=0.921, log_loss=0.31), actor="ci@build")
    return scene


def begun(scene: Scene, steps: tuple[int, ...] = STEPS) -> int:
    """churn@8 is promoted by steps."""
    return scene.say(
        records.Promote(
            model="churn", version=8, rollout=ROLLOUT, steps=steps, hold=300, fraction=2_000,
            guards=("error_rate < 1.5x", "p99 < 1.2x", *(("agreement > 95%",) if not steps[0] else ())),
        ),
        actor="alice@laptop",
    )  # fmt: skip


def launched() -> Scene:
    """The rollout that went well, to its end."""
    scene = pushed()
    scope = begun(scene)
    for step in range(len(STEPS) - 1):
        scope = scene.say(records.Advance(rollout=ROLLOUT, step=step, evidence=evidence(scope, STEPS[step])))
    scene.say(records.Complete(rollout=ROLLOUT, step=4, evidence=evidence(scope, STEPS[4])))
    return scene


def evidence(scope: int, share: int, *, failing: bool = False) -> Evidence:
    """What three hosts saw of one step."""
    mine = 2_000 if not share else max(share * 2, 400)
    role = "candidate" if share else "shadow"
    rng = random.Random(scope)
    compared = None
    if not share:
        compared = Comparison(
            offered=2_050, dropped=50, pairs=2_000, failed=2, agreed=1_700, within=1_930, classed=1_998,
            same_class=1_985, concordant=9_700, discordant=300, latency=latency(rng, 2_000, 0.011),
            pauses=1, paused_ms=12_500,
        )  # fmt: skip
    failures = mine // 50 if failing else mine // 2_000
    return Evidence(
        hosts=3, members=3, start=START + APART * scope, end=START + APART * (scope + 1),
        measures=(
            Measure(
                model="churn", version=7, scope=scope, role="stable",
                tally=Tally(
                    requests=20_000, failures=9, refusals=40, latency=latency(rng, 19_991, 0.010),
                    memory=310 << 20,
                ),
            ),
            Measure(
                model="churn", version=8, scope=scope, role=role,
                tally=Tally(
                    requests=0 if not share else mine, failures=failures if share else 0,
                    latency=latency(rng, mine, 0.011) if share else Latency(), memory=402 << 20,
                ),
                comparison=compared,
                drift=drift(rng),
            ),
        ),
        guards=(
            GuardVerdict(
                guard="error_rate < 1.5x", verdict="breached" if failing else "holds",
                value=failures / mine, low=0.0001, high=0.0009, stable=0.00045, limit=0.000675,
            ),
            GuardVerdict(
                guard="p99 < 1.2x", verdict="holds", value=0.0312, low=0.029, high=0.034,
                stable=0.0295, limit=0.0354,
            ),
            GuardVerdict(
                guard="agreement > 95%", verdict="rests", why="answers are compared at the shadow step"
            )
            if share
            else GuardVerdict(
                guard="agreement > 95%", verdict="holds", value=0.9925, low=0.987, limit=0.95
            ),
        ),
    )  # fmt: skip


def latency(rng: random.Random, count: int, typical: float) -> Latency:
    found = Latency()
    for _ in range(400):
        found.observe(rng.lognormvariate(math.log(typical), 0.45), count // 400)
    return found


def drift(rng: random.Random) -> Drift:
    names = ("age", "income", "tenure", "calls[0]", "score")
    moved = {"income": 0.6, "tenure": 0.3}
    columns = {}
    for name in names:
        base = [round(1_000 * math.exp(-((bin_ - 4.5) ** 2) / 8)) for bin_ in range(10)]
        shift = moved.get(name, 0.05)
        live = [round(b * (1 + shift * (bin_ - 4.5) / 3)) if b else 0 for bin_, b in enumerate(base)]
        columns[name] = Column(baseline=tuple(base), live=tuple(max(v, 0) + rng.randrange(3) for v in live))
    return Drift(columns=columns)


def manifest(number: int) -> Manifest:
    return Manifest(
        name="churn", owner=OWNER, expires="90d", python="3.11", platform="linux-x86_64",
        entry=Entry(kind="python-object", pickle="model/model.pkl"),
        signature=Signature(
            inputs=(Tensor(name="x", datatype="FP64", shape=(-1, 4)),),
            outputs=(Tensor(name="y", datatype="FP64", shape=(-1,)),),
        ),
        files=(
            File(path="model/model.pkl", sha256=sha(f"model {number}"), size=1_000_000 * number),
            File(path="code/features.py", sha256=sha("code"), size=3_000),
            *((File(path="code/extra.py", sha256=sha("extra"), size=10),) if number == 8 else ()),
        ),
        wheels=(
            Wheel(name="numpy-2.1.0-cp311-cp311-manylinux_2_17_x86_64.whl", sha256=sha("numpy"), size=9),
            Wheel(name=f"scikit_learn-1.{number}.0-cp311-cp311-manylinux_2_17_x86_64.whl",
                  sha256=sha(f"sk{number}"), size=9),
        ),
    )  # fmt: skip
