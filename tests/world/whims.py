"""What a writer may want: actions drawn from a random stream, most of which fit the state they are for."""

from __future__ import annotations

import random
from collections.abc import Sequence

from mldeploy.core import records
from mldeploy.core.records import Action
from mldeploy.core.state import State
from mldeploy.core.types import FULL_SHARE, PRODUCTION
from tests.world.actors import chosen
from tests.world.bundles import MODELS

_KINDS = [
    "promote", "promote", "promote", "ramp", "ramp", "ramp", "rollback", "retire", "retire", "retire",
    "retire", "restore", "extend", "freeze", "unfreeze", "force", "forget", "shadow", "unshadow", "policy",
    "notified",
]  # fmt: skip


def whim(state: State, rng: random.Random) -> Sequence[Action]:
    """One or two actions, most of which fit this state. The same for the same state and random stream."""
    return [one for _ in range(rng.choice([1, 1, 1, 2])) if (one := _whim(state, rng)) is not None]


def _whim(state: State, rng: random.Random) -> Action | None:
    name = rng.choice(MODELS)
    known = state.models[name].versions.values() if name in state.models else ()
    live = [version.version for version in known if not version.retired]
    dead = [version.version for version in known if version.retired]
    serving = state.environments.get(PRODUCTION, {}).get(name)
    ramp = serving.ramp if serving is not None else None
    version, gone = chosen(rng, live), chosen(rng, dead)
    ulid = f"0{''.join(rng.choice('0123456789abcdefghjkmnpqrstvwxyz') for _ in range(25))}"
    shadow = serving.shadows[0].shadow if serving is not None and serving.shadows else None
    kind = rng.choice(_KINDS)
    if ramp is not None and rng.random() < 0.5:
        kind = rng.choice(
            ["pause", "halt", "advance", "advance", "advance"] if not ramp.paused else ["pause"]
        )
    match kind:
        case "promote" if version:
            return records.Promote(model=name, version=version, rollout=ulid)
        case "ramp" if version:
            on = rng.choice([(), (), (), ("zone=a",)])
            steps = rng.choice([(100, 5000, FULL_SHARE), (0, 500, FULL_SHARE), (1000,)])
            return records.Promote(model=name, version=version, rollout=ulid, steps=steps, on=on)
        case "shadow" if version:
            return records.Shadow(model=name, version=version, shadow=ulid, fraction=rng.choice([100, 2000]))
        case "unshadow" if shadow:
            return records.Unshadow(shadow=shadow, reason="because")
        case "policy":
            return records.Policy(environment=PRODUCTION, settings={"hold": rng.choice([1, 600, None])})
        case "notified" if state.notices:
            return records.Notified(notice=rng.choice(sorted(state.notices)))
        case "rollback":
            return records.Rollback(model=name, to=rng.choice([None, None, version]))
        case "retire" if live:
            return records.Retire(model=name, version=min(live))
        case "force" if version and rng.random() < 0.2:
            return records.Retire(model=name, version=version, force=True)
        case "restore" if gone:
            return records.Restore(model=name, version=gone)
        case "extend" if version:
            return records.Extend(model=name, version=version, expires=f"2027-0{rng.randint(1, 9)}-01")
        case "freeze" if rng.random() < 0.2:
            return records.Freeze(model=rng.choice([name, ""]), reason="because")
        case "unfreeze":
            return records.Unfreeze(model=name if serving is not None and serving.frozen is not None else "")
        case "pause" if ramp:
            return (records.Resume if ramp.paused else records.Pause)(rollout=ramp.rollout)
        case "halt" if ramp:
            return records.Halt(rollout=ramp.rollout, reason="because")
        case "advance" if ramp:
            last = ramp.step + 1 == len(ramp.steps)
            return (records.Complete if last else records.Advance)(rollout=ramp.rollout, step=ramp.step)
        case "forget" if state.hosts:
            return records.Forget(host=rng.choice(sorted(state.hosts)))
    return None
