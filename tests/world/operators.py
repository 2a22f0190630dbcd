"""People who roll out: ramps of every kind, and versions that expire, are retired and are brought back.

An operator sets the policy first (short times, somebody to notify), and does in the storm what fits the state
it reads. In the calm it lets go on what is paused, so that everything comes to an end by itself.
Left out: whims of all kinds, which fit or not (`whims.py`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from mldeploy.core import records
from mldeploy.core.records import Action
from mldeploy.core.state import Serving, State
from mldeploy.core.types import FULL_SHARE, PRODUCTION
from mldeploy.errors import MldeployError
from mldeploy.store.log import Intent, Log
from tests.world.actors import Actor, Process, chosen

#: Seconds: as the policy of these worlds has them.
HOST_TTL, IDLE, DEADLINE = 400, 300, 700
SETTINGS: dict[str, records.Setting] = {
    "host_ttl": HOST_TTL, "idle": IDLE, "deadline": DEADLINE, "min_requests": 200,
    "notify": {"owners": "mailto://mail.example.com", "ours": "json://hook.example.com"},
}  # fmt: skip
_STEPS = [
    (0, 100, 1000, 5000, FULL_SHARE), (100, 1000, 5000, FULL_SHARE), (1000, FULL_SHARE), (1000, FULL_SHARE),
    (0, 1000, FULL_SHARE), (500, 5000, FULL_SHARE), (500,),
]  # fmt: skip
_GUARDS = [
    (), ("error_rate < 1.5x", "p99 < 1.5x"), ("error_rate < 3%",), ("error_rate < 1.5x", "crashes < 1"),
]  # fmt: skip
_DEEDS = ["nothing"] * 20 + ["expire"] * 5 + ["restore"] * 3 + [
    "promote", "pause", "resume", "resume", "resume", "rollback", "shadow"
]  # fmt: skip


class Operator(Actor):
    """One of them."""

    kind = "operator"

    def main(self, process: Process) -> None:
        log = process.log()
        self._say(process, log, _policy)
        while not self.world.calm:
            process.sleep(self.rng.choice([10.0, 40.0, 120.0]) * self.rng.random())
            seed, today = self.rng.getrandbits(32), self.world.time()
            rollout = process.ids()
            self._say(process, log, partial(_deed, seed=seed, rollout=rollout, now=today, runs=self._runs))
        log.append(_go_on, actor=self.name, now=process.now())  # in the calm every append succeeds

    def _runs(self, digest: str) -> bool:
        return self.world.clients.quality(digest).kind in ("good", "erring", "slow", "other")

    def _say(self, process: Process, log: Log, intent: Intent) -> None:
        try:
            log.append(intent, actor=self.name, now=process.now(), deadline=30.0)
        except MldeployError as error:
            self.world.trace(process.life.name, f"append: {type(error).__name__}: {error}")


def _policy(state: State) -> Sequence[Action]:
    if state.policy.get(PRODUCTION, {}).get("notify"):
        return []
    return [records.Policy(environment=PRODUCTION, settings=SETTINGS)]


def _go_on(state: State) -> list[Action]:
    ramps = [serving.ramp for serving in state.environments.get(PRODUCTION, {}).values() if serving.ramp]
    resumed: list[Action] = [records.Resume(rollout=ramp.rollout) for ramp in ramps if ramp.paused]
    return [*resumed, *_policy(state)]


def _deed(state: State, *, seed: int, rollout: str, now: float, runs: Callable[[str], bool]) -> list[Action]:
    """At most one action, which fits. `runs` says whether a bundle comes up."""
    rng = random.Random(seed)  # asked again, it says the same
    if not state.models:
        return []
    name = rng.choice(sorted(state.models))
    versions = state.models[name].versions.values()
    live = [version.version for version in versions if not version.retired]
    gone = [version.version for version in versions if version.retired]
    serving = state.environments.get(PRODUCTION, {}).get(name, Serving())
    ramp = serving.ramp
    stands = ramp is not None and ramp.last and ramp.stays  # and ends by another alone
    idle = serving.stable is None or rng.random() < (0.6 if ramp is None else 0.2 if stands else 0.0)
    match "promote" if idle else rng.choice(_DEEDS):
        case "promote":
            others = [each for each in live if each != serving.stable and each != (ramp and ramp.version)]
            if serving.stable is None:  # whoever pushed the first has seen it run
                others = [each for each in others if runs(state.models[name].versions[each].digest)]
            version = chosen(rng, others)
            return [] if version is None else [_promote(name, version, rng, rollout)]
        case "expire" if live:
            day = datetime.fromtimestamp(now, UTC).date() + timedelta(days=rng.choice([-1, -1, 0, 1]))
            fits = [each.version for each in versions if not each.retired and each.expires != str(day)]
            version = chosen(rng, fits)
            return [records.Extend(model=name, version=version, expires=str(day))] if version else []
        case "restore" if gone:
            version = rng.choice(gone)
            return [records.Restore(model=name, version=version)]
        case "pause" if ramp and not ramp.paused:
            return [records.Pause(rollout=ramp.rollout)]
        case "resume" if ramp and ramp.paused:
            return [records.Resume(rollout=ramp.rollout)]
        case "rollback" if ramp or serving.previous:
            return [records.Rollback(model=name, reason="because")]
        case "shadow" if live and serving.stable and not serving.shadows:
            lasts = rng.choice([0, 120, 300])
            fits = [each for each in live if each != serving.stable and not (ramp and each == ramp.version)]
            version = chosen(rng, fits)
            if version:
                return [
                    records.Shadow(model=name, version=version, shadow=rollout, fraction=2000, lasts=lasts)
                ]
    return []


def _promote(name: str, version: int, rng: random.Random, rollout: str) -> Action:
    steps = rng.choice(_STEPS)
    guards: tuple[str, ...] = rng.choice(_GUARDS)
    if steps[0] == 0:
        guards = (*(guards or _GUARDS[1]), "agreement > 90%")
    return records.Promote(
        model=name, version=version, rollout=rollout, steps=steps, hold=rng.choice([0, 20, 60]),
        guards=guards, on=rng.choice([(), (), (), ("zone=a",)]), deadline=rng.choice([0, 0, 0, 0, 300]),
        fraction=2000,
    )  # fmt: skip
