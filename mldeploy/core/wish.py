"""What the log asks of one host: (state, environment, labels) -> Desired.

Pure; a version that was retired is asked for only where it was routed last and what came after it is not
ready yet, and not even there if it was retired by force. Left out: what the host does about it (`plan.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from mldeploy.core.host import Desired, Mirroring, Wanted, Wish
from mldeploy.core.policy import settings
from mldeploy.core.state import Ramp, Serving, State
from mldeploy.core.state import Version as Published

#: Of a rollout, at the most.
MAX_LABELS = 20


def wish(state: State, environment: str, labels: Mapping[str, str], routed: Mapping[str, int]) -> Desired:
    """What the log asks of a host with these labels. `routed`: what served each model's stable share last."""
    models = {}
    fraction = settings(state, environment).shadow_fraction
    for name, serving in state.environments.get(environment, {}).items():
        if name not in state.models:
            continue
        versions = state.models[name].versions
        ramp = serving.ramp if serving.ramp is not None and meant(serving.ramp, labels) else None
        mirrored = ramp is not None and not ramp.share
        stable = _wanted(name, versions, serving.stable)
        previous = _wanted(name, versions, serving.previous)
        last = _wanted(name, versions, routed.get(name), spare=True)
        candidate = _wanted(name, versions, ramp.version) if ramp and not mirrored else None
        if stable is None and candidate is None:
            continue  # nothing is to be served: what was routed goes, what is on the disk goes later
        models[name] = Wish(
            stable=stable,
            candidate=None if candidate == stable else candidate,
            previous=previous,
            fallback=next((v for v in (last, previous) if v is not None and v != stable), None),
            share=ramp.share if ramp and candidate else 0,
            salt=ramp.salt or ramp.rollout if ramp and candidate else "",
            scope=ramp.seq if ramp else 0,
            shadows=tuple(_mirrorings(name, versions, serving, ramp if mirrored else None, fraction)),
        )
    return Desired(models=models)


def without_lease(desired: Desired) -> Desired:
    """The same, with the traffic of rollouts and shadows back at stable: while nobody can say that one ended.

    What was loaded for it stays, so that it goes on where it was once the log can be read again.
    """
    models = {
        name: asked
        if asked.stable is None
        else msgspec.structs.replace(
            asked,
            share=0,
            shadows=tuple(msgspec.structs.replace(shadow, fraction=0) for shadow in asked.shadows),
        )
        for name, asked in desired.models.items()
    }
    return Desired(models=models)


def _mirrorings(
    name: str, versions: Mapping[int, Published], serving: Serving, ramp: Ramp | None, fraction: int
) -> Iterator[Mirroring]:
    """The shadows of a model; a ramp that stands at its shadow step is the first."""
    candidate = _wanted(name, versions, ramp.version) if ramp else None
    if ramp is not None and candidate is not None:
        yield Mirroring(
            id=ramp.rollout,
            version=msgspec.structs.replace(candidate, idle=True),
            fraction=ramp.fraction or fraction,
            salt=ramp.salt or ramp.rollout,
            scope=ramp.seq,
        )
    for shadow in serving.shadows:
        version = _wanted(name, versions, shadow.version)
        if version is not None:
            yield Mirroring(
                id=shadow.shadow,
                version=msgspec.structs.replace(version, idle=True),
                fraction=shadow.fraction,
                where=shadow.where,
                salt=shadow.shadow,
                scope=shadow.seq,
                keep=shadow.keep,
            )


def meant(ramp: Ramp, labels: Mapping[str, str]) -> bool:
    """Whether the rollout is for a host with these labels."""
    return carries(labels, ramp.on)


def carries(labels: Mapping[str, str], on: Sequence[str]) -> bool:
    """Whether a host with these labels carries every `key=value` of `on`."""
    return all(labels.get(key) == value for key, _, value in (label.partition("=") for label in on))


def labels_problem(on: Sequence[str]) -> tuple[str, str] | None:
    """What is wrong with the `on` of a rollout, as (message, hint)."""
    if len(on) > MAX_LABELS:
        return f"{len(on)} labels", f"name at most {MAX_LABELS}"
    named: dict[str, str] = {}
    for label in on:
        key, equals, value = label.partition("=")
        if not (key and equals and value):
            return f"{label[:80]!r} is no label", "write KEY=VALUE, for example zone=a"
        if key in named:
            what = "stands twice" if named[key] == value else f"is {named[key]} and {value} at once"
            return (
                f"the label {key!r} {what}",
                "a host has one value of each; it must carry all that are named",
            )
        named[key] = value
    return None


def _wanted(
    name: str, versions: Mapping[int, Published], number: int | None, *, spare: bool = False
) -> Wanted | None:
    """None for one that is retired; as a `spare` it counts until it is cut off."""
    version = versions.get(number) if number is not None else None
    if version is None or (version.cut if spare else version.retired):
        return None
    return Wanted(
        model=name,
        version=version.version,
        digest=version.digest,
        python=version.python,
        platform=version.platform,
        memory=int(version.measured.get("memory_bytes", 0)),
    )
