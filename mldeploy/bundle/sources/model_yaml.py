"""model.yaml: what a model folder says of itself.

    name: churn
    owner: team@example.com
    expires: 90d
    entry: churn.model:Churn            # a class with load(path of model/) and predict(…)
    # or: pickle: model.pkl             # a pickled object
    method: predict
    input: positional                   # or named: arrays as keywords
    requirements: [scikit-learn>=1.5]   # or a file; a requirements.lock beside it is taken as it is
    samples:                            # by default samples/*.request.json
      - request: samples/0.request.json
        response: samples/0.response.json

Rules: unknown keys are errors that name the nearest valid one. `entry` may also be a table with class,
pickle, method and input. Optional: signature (else found by running), batching, resources, rollout (steps in
percent, hold as 10m), routing (key), imports, exclude (patterns of files that are not code), metrics, python,
platform, description. Left out: what the folder holds besides (`folder.py`).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mldeploy.bundle.manifest_file import load_yaml
from mldeploy.core.manifest import Batching, Entry, Resources, Rollout, Routing, Tensor
from mldeploy.core.strict import convert
from mldeploy.core.types import parse_duration, parse_share
from mldeploy.errors import ManifestError, MldeployError

MODEL_YAML = "model.yaml"


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class EntryTable(_Strict, frozen=True, kw_only=True):
    """The long form of `entry`."""

    class_: str = msgspec.field(default="", name="class")
    pickle: str = ""
    method: str = ""
    input: str = ""


class SampleFiles(_Strict, frozen=True, kw_only=True):
    """A request, and the answers to it where they are committed."""

    request: str
    response: str = ""
    rtol: float | None = None
    atol: float | None = None


class Stated(_Strict, frozen=True, kw_only=True):
    """The part of the signature that is stated; the rest is found by running the model."""

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


class Ramp(_Strict, frozen=True, kw_only=True):
    """The bundle's own rollout. What it does not say is as the policy says."""

    steps: tuple[int | float | str, ...] = ()  # percent; the first may be "shadow"
    hold: int | str | None = None  # at each step: seconds, or 10m
    guards: tuple[str, ...] = ()  # docs/rollouts.md
    min_requests: int | None = None  # of the candidate, at each step
    deadline: int | str | None = None  # seconds, or 2d
    shadow_fraction: int | float | str | None = None  # percent of the traffic, at a shadow step


class ModelYaml(_Strict, frozen=True, kw_only=True):
    """The keys of a model.yaml."""

    name: str = ""
    owner: str = ""
    expires: str = ""
    description: str = ""
    entry: str | EntryTable | None = None
    pickle: str = ""
    method: str = ""
    input: str = ""
    requirements: tuple[str, ...] | str | None = None
    python: str = ""
    platform: str = ""
    signature: Stated = Stated()
    samples: tuple[SampleFiles, ...] | None = None
    batching: Batching = Batching()
    resources: Resources = Resources()
    rollout: Ramp = Ramp()
    routing: Routing = Routing()
    imports: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    metrics: dict[str, float] = {}


def read(folder: Path) -> ModelYaml:
    """The model.yaml of `folder`. Raises ManifestError naming the file and the key."""
    path = folder / MODEL_YAML
    data = load_yaml(path)
    try:
        return convert(ModelYaml, {} if data is None else data)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error.message}", error.hint) from error


def entry_of(model: ModelYaml, path: Path) -> Entry:
    """The entry, whichever way it is written; `pickle` is still the path inside the source folder."""
    table = model.entry if isinstance(model.entry, EntryTable) else EntryTable()
    target = model.entry if isinstance(model.entry, str) else table.class_
    pickle = model.pickle or table.pickle
    if bool(target) == bool(pickle):
        what = "names both a class and a pickle" if target else "names neither a class nor a pickle"
        raise ManifestError(
            f"{path}: entry: {what}", 'write for example entry: "churn.model:Churn", or pickle: model.pkl'
        )
    method, style = model.method or table.method or "predict", model.input or table.input or "positional"
    if pickle:
        return Entry(kind="python-object", pickle=pickle, method=method, input=style)
    module, colon, name = target.partition(":")
    if not colon or not module or not name:
        raise ManifestError(
            f"{path}: entry: {target!r} is not MODULE:CLASS", "write for example churn.model:Churn"
        )
    return Entry(kind="python-class", module=module, name=name, method=method, input=style)


def rollout_of(model: ModelYaml, path: Path) -> Rollout:
    """The bundle's own rollout in the units of a manifest."""
    said, fraction = model.rollout, model.rollout.shadow_fraction
    try:
        return Rollout(
            steps=tuple(0 if step == "shadow" else parse_share(str(step)) for step in said.steps),
            hold=_seconds(said.hold),
            guards=said.guards,
            min_requests=said.min_requests,
            deadline=_seconds(said.deadline),
            shadow_fraction=None if fraction is None else parse_share(str(fraction)),
        )
    except MldeployError as error:
        raise ManifestError(f"{path}: rollout: {error.message}", error.hint) from error


def _seconds(said: int | str | None) -> int | None:
    return int(parse_duration(said).total_seconds()) if isinstance(said, str) else said
