"""Makes bundles: `pack` of a Python object in memory, `pack_folder` of a folder with a model.yaml.

Rules: the model is asked here, in the process that trained it, for its answers to a few sample rows; the
bundle is then built, loaded and asked again in its own environment (`validate.py`), and stands at `out` only
if it passed. Left out: how each kind of folder is read (`sources/`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

from mldeploy.bundle import files, monitoring, pickling, samples
from mldeploy.bundle.assemble import Last, Packed, complete, identify, numbers
from mldeploy.bundle.files import disk_errors, new_folder
from mldeploy.bundle.locking import Wanted, provide, provided_modules, read_requirements
from mldeploy.bundle.modules import Needs, find_needs, pickle_modules, source_modules
from mldeploy.bundle.sources import Options, find_kind
from mldeploy.bundle.targets import Target, default_platform, this_python
from mldeploy.core.manifest import Batching, Entry, Manifest, Resources, Rollout, Routing, Wheel
from mldeploy.errors import UsageError
from mldeploy.progress import Reporter, Silent

__all__ = ["Packed", "pack", "pack_folder"]

PathLike = str | os.PathLike[str]


def pack(
    model: object,
    *,
    name: str | None = None,
    expires: str | date | timedelta | None = None,
    owner: str | None = None,
    sample_input: object = None,
    training_data: object = None,
    requirements: Iterable[str] | PathLike | None = None,
    out: PathLike | None = None,
    code: Sequence[PathLike] | PathLike = (),
    method: str = "predict",
    input_name: str = "x",
    output_name: str | Sequence[str] | None = None,
    python: str | None = None,
    platform: str | None = None,
    metrics: Mapping[str, float] | None = None,
    description: str = "",
    rollout: Rollout | None = None,
    routing_key: str = "",
    max_batch: int = 64,
    threads: int = 1,
    replicas: int = 1,
    memory: int | None = None,
    lock: PathLike | bytes | None = None,
    index_url: str | None = None,
    progress: Reporter | None = None,
    validate: bool = True,
    confine: str = "best-effort",
) -> Packed:
    """Pack a trained model into the folder `out` (by default NAME.bundle here) and prove that it serves.

    `name`, `expires` (a date, or a duration from push such as "90d") and `sample_input` are mandatory: an
    array of rows, a list of rows, or a dict of arrays by name; the model's answers to its first 8 rows are
    replayed before every deployment. From `training_data`, in the same form (default: all of
    `sample_input`, from 100 rows on), distributions of inputs and outputs are packed, which live ones are
    held against. `owner` (who gets the warnings) defaults to git's user.email. `requirements` (a list, or
    the path of a requirements.txt) default to the installed versions of what the pickle refers to; `lock`
    is a hashed requirements.lock to use as it is. Local modules the pickle refers to are copied, and the
    files and folders in `code`. `method` is called for a prediction, "__call__" for plain functions.
    `max_batch` is rows in one call (1: never batched), `threads` for BLAS, `replicas` workers per host,
    `memory` bytes per worker. `metrics` are the model's own, such as {"auc": 0.91}. `routing_key` keeps a
    client with one version during a rollout: "header:x-user", "input:user_id" (one of the signature), or by
    default the request id.

    The digest is a function of the packed files. cloudpickle writes functions and classes of `__main__` by
    value, and those bytes depend on the folder and the hash seed: to get the same digest on another day, put
    them into a module and commit a lock.

    Raises UsageError (a bad argument, a sample the model cannot take, an object that cannot be pickled),
    BuildError (requirements), ValidationError (a gate has findings), DiskError. Whatever stood at `out`
    stands there still after an error.
    """
    identity = identify(name, owner, expires)
    target = Target(python or this_python(), platform or default_platform())
    if sample_input is None:
        raise UsageError(
            "sample_input is missing",
            "give a few rows as the model takes them, for example sample_input=X[:5]",
        )
    reporter = progress or Silent()
    reporter.step("asking the model for the sample's answers")
    names = [output_name] if isinstance(output_name, str) else output_name
    asked = samples.ask(model, sample_input, method=method, input_name=input_name, output_names=names)
    place = Path(out) if out is not None else Path.cwd() / f"{identity.name}.bundle"
    with new_folder(place) as staging, disk_errors(place):
        with reporter.bar("pickling the model", None) as advance:
            pickled = pickling.dump(model, staging, advance)
        _same_python(pickled, target)
        needs = _needs(staging, pickled, _paths(code))
        wanted = Wanted(target, _requirements(requirements, needs), _lock(lock), True, index_url)
        wheels = provide(staging, wanted, reporter)
        samples.write_samples(staging, asked)
        reporter.step("looking at how inputs and outputs are distributed")
        data = sample_input if training_data is None else training_data
        observed = samples.observe(
            model, asked, data, input_name=input_name, output_names=names, rows=max_batch
        )
        monitoring.write_baseline(staging, asked.signature, observed, asked_for=training_data is not None)
        manifest = Manifest(
            name=identity.name, owner=identity.owner, expires=identity.expires, description=description,
            entry=_entry(asked, pickled), signature=asked.signature, samples=(asked.sample,),
            python=target.python, platform=target.platform, imports=_provided(needs, staging, wheels),
            batching=Batching(max_size=max_batch), rollout=rollout or Rollout(),
            routing=Routing(key=routing_key),
            resources=Resources(memory=memory, threads=threads, replicas=replicas),
        )  # fmt: skip
        last = Last(manifest, wheels, numbers(metrics), validate, confine, known=pickled.files)
        return complete(staging, place, last, reporter)


def pack_folder(
    source: PathLike,
    *,
    out: PathLike,
    name: str | None = None,
    owner: str | None = None,
    expires: str | date | timedelta | None = None,
    python: str | None = None,
    platform: str | None = None,
    index_url: str | None = None,
    progress: Reporter | None = None,
    validate: bool = True,
    confine: str = "best-effort",
) -> Packed:
    """Pack a model folder (see `sources/`) into the folder `out`. What is given here overrides model.yaml.

    The user's code runs in the bundle's own environment only, confined. With a committed requirements.lock,
    signature and responses the digest is the same on any machine and any day. Raises UsageError,
    ManifestError, BuildError, ValidationError and DiskError; what stood at `out` then stands there still.
    """
    options = Options(
        out=Path(out), name=name, owner=owner, expires=expires, python=python, platform=platform,
        index_url=index_url, reporter=progress or Silent(), validate=validate, confine=confine,
    )  # fmt: skip
    return find_kind(Path(source)).pack(Path(source), options)


def _paths(code: Sequence[PathLike] | PathLike) -> list[Path]:
    given = [code] if isinstance(code, str | os.PathLike) else code
    return [Path(item) for item in given]


def _same_python(pickled: pickling.Pickled, target: Target) -> None:
    if pickled.by_value and target.python != this_python():
        raise UsageError(
            f"the pickle holds bytecode of Python {this_python()}, which Python {target.python} cannot run",
            "pack with that Python, or move the model's functions and classes into a module",
        )


def _needs(staging: Path, pickled: pickling.Pickled, extra: Sequence[Path]) -> Needs:
    """Find the modules the pickle needs, and copy those that are local, and `extra`, into code/."""
    found = pickle_modules(staging / pickling.PICKLE) | pickled.imports
    for path in extra:
        if not path.exists():
            raise UsageError(f"code: {path} is not there", "name files and folders that exist")
        for file in [path] if path.is_file() else path.rglob("*.py"):
            found |= source_modules(file)
    needs = find_needs(found)
    given = {path.resolve().name: path.resolve() for path in extra}
    # a module is found under its own name, whatever its file is called
    local = {top if root.is_dir() else f"{top}.py": root for top, root in needs.local.items()}
    for name, path in {**local, **given}.items():
        if path.is_dir():
            files.copy_tree(path, staging / "code" / name)
        else:
            files.copy_file(path, staging / "code" / name)
    return needs


def _requirements(given: Iterable[str] | PathLike | None, needs: Needs) -> list[str]:
    if given is None:
        return list(needs.requirements)
    return read_requirements(Path(given)) if isinstance(given, str | os.PathLike) else list(given)


def _lock(lock: PathLike | bytes | None) -> bytes | None:
    if lock is None or isinstance(lock, bytes):
        return lock
    try:
        return Path(lock).read_bytes()
    except OSError as error:
        raise UsageError(f"lock: {lock}: {error.strerror}", "name a hashed requirements.lock") from error


def _entry(asked: samples.Asked, pickled: pickling.Pickled) -> Entry:
    return Entry(
        kind="python-object",
        method=asked.method,
        input=asked.style,
        pickle=pickling.PICKLE,
        buffers=pickled.buffers,
    )


def _provided(needs: Needs, staging: Path, wheels: tuple[Wheel, ...]) -> tuple[str, ...]:
    provided = provided_modules(staging / files.WHEELS, wheels)
    return tuple(name for name in needs.imports if name.partition(".")[0] in provided)
