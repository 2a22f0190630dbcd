"""Hypothesis strategies for the core: manifests, actions that often fit, chains of records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from hypothesis import strategies as st

from mldeploy.core import records
from mldeploy.core.manifest import (
    DATATYPES,
    Batching,
    Entry,
    File,
    Manifest,
    Resources,
    Rollout,
    Routing,
    Sample,
    Signature,
    Tensor,
    Wheel,
)
from mldeploy.core.records import GENESIS, Action, Record
from mldeploy.errors import MldeployError

TIME = "2026-11-23T22:59:01.123Z"


def sha(text: str) -> str:
    """A digest."""
    return hashlib.sha256(text.encode()).hexdigest()


def ulid(number: int) -> str:
    """A valid ULID that sorts by `number`."""
    return f"0{number:025d}"


def refused(call: Callable[[], object]) -> MldeployError | None:
    """The expected error that `call` ends in, which must say what and how to mend it; None if it returns."""
    try:
        call()
    except MldeployError as error:
        problem = error
    else:
        return None
    assert problem.message
    assert problem.hint
    return problem


# --- manifests

_part = st.text("abcXYZ019._- é", min_size=1, max_size=12).filter(lambda text: text.strip(". ") != "")
_sha = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
_size = st.integers(0, 2**40)
_text = st.text(st.characters(codec="utf-8"), max_size=30)
_shape = st.lists(st.one_of(st.just(-1), st.integers(1, 50)), max_size=4).map(tuple)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Manifests with nothing against them."""
    names = draw(st.lists(_part, min_size=0, max_size=4, unique_by=str.casefold))
    paths = ["requirements.lock", "model/model.pkl", *(f"model/b/{name}" for name in names)]
    samples = draw(st.integers(0, 2))
    for index in range(samples):
        paths += [f"samples/{index}.request.json", f"samples/{index}.response.json"]
    wheels = sorted(f"{name}-1.0-py3-none-any.whl" for name in draw(st.sets(st.sampled_from("abcdef"))))
    return Manifest(
        name=draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)),
        owner=draw(st.text("abc@. é", min_size=1, max_size=20).map(lambda text: f"o{text}")),
        expires=draw(st.sampled_from(["90d", "2030-01-31", "1w", "12h"])),
        description=draw(_text),
        entry=Entry(
            kind="python-object",
            pickle="model/model.pkl",
            buffers=tuple(path for path in paths if path.startswith("model/b/")),
            input=draw(st.sampled_from(["positional", "named"])),
        ),
        signature=Signature(inputs=draw(_tensors()), outputs=draw(_tensors())),
        python=draw(st.sampled_from(["3.11", "3.9", "3.13"])),
        platform=draw(st.sampled_from(["linux-x86_64", "linux-aarch64"])),
        batching=Batching(max_size=draw(st.integers(1, 65_536))),
        resources=Resources(
            memory=draw(st.none() | st.integers(1, 2**40)),
            threads=draw(st.integers(1, 64)),
            replicas=draw(st.integers(1, 8)),
        ),
        rollout=Rollout(
            steps=tuple(sorted(draw(st.sets(st.integers(1, 10_000), min_size=1, max_size=5)))),
            hold=draw(st.integers(0, 3600)),
        ),
        routing=Routing(key=draw(st.sampled_from(["", "header:x-user"]))),
        imports=tuple(draw(st.lists(st.sampled_from(["numpy", "sklearn.pipeline"]), max_size=2))),
        samples=tuple(
            Sample(
                request=f"samples/{index}.request.json",
                response=f"samples/{index}.response.json",
                rtol=draw(st.floats(0, 1)),
            )
            for index in range(samples)
        ),
        files=tuple(
            File(path=path, sha256=draw(_sha), size=draw(_size), mode=draw(st.sampled_from([0o644, 0o755])))
            for path in sorted(paths)
        ),
        wheels=tuple(Wheel(name=name, sha256=draw(_sha), size=draw(_size)) for name in wheels),
    )


@st.composite
def _tensors(draw: st.DrawFn) -> tuple[Tensor, ...]:
    names = draw(
        st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True), min_size=1, max_size=3, unique=True)
    )
    return tuple(
        Tensor(name=name, datatype=draw(st.sampled_from(DATATYPES)), shape=draw(_shape)) for name in names
    )


# --- records

_model = st.sampled_from(["churn", "fraud", "no-such-model"])
_environment = st.sampled_from(["production", "staging"])
_version = st.integers(1, 5)
_blob = st.integers(0, 12).map(lambda number: sha(f"blob {number}"))
_rollout = st.integers(0, 6).map(ulid)
_steps = st.sampled_from(
    [(10_000,), (2_500,), (100, 1_000, 10_000), (100, 500), (0, 100, 10_000), (), (500, 100)]
)
_reason = st.sampled_from(["", "because"])


@st.composite
def _publish(draw: st.DrawFn) -> records.Publish:
    digest = sha(f"bundle {draw(st.integers(0, 5))}")
    blobs = [digest, *draw(st.lists(_blob, max_size=3, unique=True))]
    reused = draw(st.integers(0, len(blobs))) if draw(st.booleans()) else 0
    return records.Publish(
        model=draw(_model.filter(lambda name: name != "no-such-model") | st.just("Bad Name")),
        digest=digest,
        push=ulid(draw(st.integers(0, 30))),
        brought=dict.fromkeys(blobs[reused:], 10),
        reused=tuple(blobs[:reused]),
        owner="o",
        expires=draw(st.sampled_from(["2030-01-01", "2030-01-01", "soon"])),
        python="3.11",
        platform="linux-x86_64",
        metrics=draw(st.dictionaries(st.sampled_from(["auc"]), st.floats(0, 1), max_size=1)),
    )


def actions() -> st.SearchStrategy[Action]:
    """Actions over a small world, so that many of them fit and many do not."""
    return st.one_of(
        _publish(),
        _publish(),
        st.builds(
            records.Promote,
            model=_model,
            version=_version,
            environment=_environment,
            steps=_steps,
            on=st.sampled_from([(), (), ("zone=a",)]),
            rollout=_rollout,
        ),
        st.builds(
            records.Shadow,
            model=_model,
            version=_version,
            environment=_environment,
            shadow=_rollout,
            fraction=st.sampled_from([10_000, 2_000, 0]),
            where=st.sampled_from(["", "", "header.country in [NL, BE]", "header.country in ["]),
        ),
        st.builds(records.Unshadow, shadow=_rollout),
        st.builds(
            records.Policy,
            environment=st.just("") | _environment,
            settings=st.sampled_from(
                [{"hold": 60}, {"hold": None}, {"notify": {"ops": "json://ops.example.com"}}, {"hold": -1}]
            ),
        ),
        st.builds(
            records.Notified,
            notice=st.sampled_from(
                ["launched.churn.1.2", "expiry.churn.1.2029-12-01", "expiry.churn.1.2029-12-02"]
            ),
        ),
        st.builds(records.Advance, rollout=_rollout, step=st.integers(0, 2)),
        st.builds(records.Complete, rollout=_rollout, step=st.integers(0, 2)),
        st.builds(records.Halt, rollout=_rollout, reason=_reason),
        st.builds(records.Pause, rollout=_rollout),
        st.builds(records.Resume, rollout=_rollout),
        st.builds(
            records.Rollback, model=_model, environment=_environment, to=st.none() | _version, reason=_reason
        ),
        st.builds(records.Retire, model=_model, version=_version, force=st.booleans()),
        st.builds(records.Restore, model=_model, version=_version),
        st.builds(records.Extend, model=_model, version=_version, expires=st.just("2031-01-01")),
        st.builds(records.Freeze, model=st.just("") | _model, environment=st.just("staging"), reason=_reason),
        st.builds(records.Unfreeze, model=st.just("") | _model, environment=st.just("staging")),
        st.builds(records.Join, host=st.sampled_from(["h1", "h2"]), hostname=_reason),
        st.builds(records.Leave, host=st.sampled_from(["h1", "h2"])),
        st.builds(records.Forget, host=st.sampled_from(["h1", "h2"])),
        st.builds(records.Drain, host=st.sampled_from(["h1", "h2"]), reason=_reason),
        st.builds(records.Undrain, host=st.sampled_from(["h1", "h2"])),
        st.builds(
            records.Sweep,
            horizon=st.integers(0, 40).map(ulid),
            blobs=st.lists(_blob, max_size=2).map(tuple),
        ),
    )


def chain(batches: Iterable[Iterable[Action] | bytes], start: int = 1, prev: str = GENESIS) -> list[bytes]:
    """The bytes of records that hold these actions, chained; bytes stand for a record that is garbage."""
    found = []
    for seq, batch in enumerate(batches, start):
        if isinstance(batch, bytes):
            data = batch
        else:
            record = Record(seq=seq, id=ulid(seq), prev=prev, time=TIME, actor="test", actions=tuple(batch))
            data = records.encode(record)
        found.append(data)
        prev = hashlib.sha256(data).hexdigest()
    return found
