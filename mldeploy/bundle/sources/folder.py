"""A model folder: model.yaml, code, model files, sample requests, and perhaps a lock.

    model.yaml            what `model_yaml.py` describes
    requirements.lock     committed: taken as it is; else requirements of model.yaml are resolved
    model/                goes to the bundle's model/; `load` gets its path
    monitoring/baseline.json   committed: goes to the bundle's monitoring/ as it is
    samples/              N.request.json and, where committed, N.response.json
    anything else         goes to code/, but hidden files, caches, README files and what `exclude` matches

Rules: regular files inside the folder only: links, devices and paths that leave it are refused. The user's
code is never imported here: missing answers are recorded, and a missing signature is found, by the runtime
in the bundle's own environment. Left out: models that are objects in memory (`pack.py`).
"""

from __future__ import annotations

import stat
from fnmatch import fnmatch
from pathlib import Path

import msgspec

from mldeploy.bundle.assemble import Last, Packed, complete, identify, numbers
from mldeploy.bundle.files import JUNK, copy_file, disk_errors, is_bundle, kind_of, new_folder, walk
from mldeploy.bundle.locking import Wanted, provide, read_requirements
from mldeploy.bundle.sources import Options
from mldeploy.bundle.sources.model_yaml import MODEL_YAML, ModelYaml, SampleFiles, entry_of, read, rollout_of
from mldeploy.bundle.sources.recording import Recording, check_recordable, imports_of, record
from mldeploy.bundle.targets import Target, default_platform, this_python
from mldeploy.core.baseline import BASELINE
from mldeploy.core.manifest import Entry, Manifest, Sample
from mldeploy.core.paths import path_problem
from mldeploy.errors import ManifestError, UsageError

LOCK = "requirements.lock"
_NOT_CODE = (MODEL_YAML, LOCK, "requirements.txt", "requirements.in", "README*", "samples/*", "wheels/*")


def matches(folder: Path) -> bool:
    """Whether there is a model.yaml."""
    return (folder / MODEL_YAML).is_file()


def pack(source: Path, options: Options) -> Packed:
    """See `pack_folder`."""
    path = source / MODEL_YAML
    model = read(source)
    identity = identify(
        options.name or model.name, options.owner or model.owner, options.expires or model.expires
    )  # fmt: skip
    target = Target(
        options.python or model.python or this_python(),
        options.platform or model.platform or default_platform(),
    )
    entry, rollout = entry_of(model, path), rollout_of(model, path)
    with new_folder(options.out) as staging, disk_errors(options.out):
        entry = _copy(source, staging, model, entry)
        samples = _copy_samples(source, staging, model)
        draft = Recording(
            staging,
            identity.name,
            entry,
            model.signature,
            samples,
            target,
            model.resources.threads,
            options.confine,
        )
        check_recordable(draft)
        wheels = provide(staging, _wanted(source, model, target, entry, options), options.reporter)
        with record(draft, options.reporter) as recorded:
            manifest = Manifest(
                name=identity.name, owner=identity.owner, expires=identity.expires, entry=entry,
                description=model.description, signature=recorded.signature, samples=recorded.samples,
                python=target.python, platform=target.platform, batching=model.batching,
                resources=model.resources, rollout=rollout, routing=model.routing,
                imports=imports_of(staging, entry, wheels) if model.imports is None else model.imports,
            )  # fmt: skip
            last = Last(
                manifest,
                wheels,
                numbers(model.metrics),
                options.validate,
                options.confine,
                recorded.environment,
            )
            return complete(staging, options.out, last, options.reporter)


def _copy(source: Path, staging: Path, model: ModelYaml, entry: Entry) -> Entry:
    """Copy code and model files; returns the entry as it stands in the bundle."""
    pickle = _checked(source, entry.pickle, "pickle") if entry.pickle else None
    bundles = {path.name for path in source.iterdir() if path.is_dir() and is_bundle(path)}
    for path, status in walk(source):
        parts = path.split("/")
        hidden = any(part.startswith(".") or part in JUNK for part in parts) or path.endswith(
            (".pyc", ".pyo")
        )
        if hidden or parts[0] in bundles or (path != pickle and _excluded(path, model)):
            continue
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(
                f"{source / path} is a {kind_of(status.st_mode)}",
                "a bundle holds regular files only: put a copy there",
            )
        copy_file(source / path, staging / _place(path, pickle))
    if entry.module and not any(
        (staging / "code" / path).is_file()
        for path in (f"{entry.module.replace('.', '/')}{end}" for end in (".py", "/__init__.py"))
    ):
        raise ManifestError(
            f"{source / MODEL_YAML}: entry: there is no module {entry.module!r} in the folder",
            f"add {entry.module.replace('.', '/')}.py, or mend the name",
        )
    return msgspec.structs.replace(entry, pickle=_place(pickle, pickle)) if pickle else entry


def _place(path: str, pickle: str | None) -> str:
    if path.startswith("model/") or path == BASELINE:
        return path
    return f"model/{path.rpartition('/')[2]}" if path == pickle else f"code/{path}"


def _excluded(path: str, model: ModelYaml) -> bool:
    return any(fnmatch(path, pattern) or path.startswith(pattern.rstrip("/") + "/") for pattern in
               (*_NOT_CODE, *model.exclude, *_named(model)))  # fmt: skip


def _named(model: ModelYaml) -> list[str]:
    """Files that model.yaml names for something else than code."""
    named = [model.requirements] if isinstance(model.requirements, str) else []
    for sample in model.samples or ():
        named += [sample.request, *([sample.response] if sample.response else [])]
    return named


def _checked(source: Path, path: str, key: str) -> str:
    """A path of model.yaml: inside the folder, there, a regular file. Raises ManifestError."""
    problem = path_problem(path)
    if problem:
        raise ManifestError(f"{source / MODEL_YAML}: {key}: {problem[0]}", problem[1])
    place = source / path
    try:
        mode = place.lstat().st_mode
    except OSError as error:
        raise ManifestError(
            f"{source / MODEL_YAML}: {key}: {path}: {error.strerror}", "name a file of this folder"
        ) from error
    if not stat.S_ISREG(mode) or not place.resolve().is_relative_to(source.resolve()):
        raise ManifestError(
            f"{source / MODEL_YAML}: {key}: {path} is no regular file of this folder",
            "put a copy of the file there",
        )
    return path


def _copy_samples(source: Path, staging: Path, model: ModelYaml) -> tuple[Sample, ...]:
    """Copy requests and committed responses as samples/N.…; `response` is empty where it must be recorded."""
    given = _found(source) if model.samples is None else model.samples
    if not given:
        raise UsageError(
            f"{source} has no sample request",
            "add samples/0.request.json (Open Inference Protocol v2), as from predict",
        )
    made = []
    for index, one in enumerate(given):
        request, response = f"samples/{index}.request.json", f"samples/{index}.response.json"
        copy_file(source / _checked(source, one.request, f"samples[{index}].request"), staging / request)
        if one.response:
            copy_file(
                source / _checked(source, one.response, f"samples[{index}].response"), staging / response
            )
        made.append(_sample(one, request, response if one.response else ""))
    return tuple(made)


def _sample(one: SampleFiles, request: str, response: str) -> Sample:
    # -1: the tolerance of the answers' datatype, known when they are
    rtol, atol = -1.0 if one.rtol is None else one.rtol, -1.0 if one.atol is None else one.atol
    return Sample(request=request, response=response, rtol=rtol, atol=atol)


def _found(source: Path) -> tuple[SampleFiles, ...]:
    found = []
    for path in sorted((source / "samples").glob("*.request.json")):
        response = path.with_name(path.name.replace(".request.json", ".response.json"))
        found.append(
            SampleFiles(
                request=path.relative_to(source).as_posix(),
                response=response.relative_to(source).as_posix() if response.is_file() else "",
            )
        )
    return tuple(found)


def _wanted(source: Path, model: ModelYaml, target: Target, entry: Entry, options: Options) -> Wanted:
    pickled = entry.kind == "python-object"
    if (source / LOCK).exists():
        lock = (source / _checked(source, LOCK, "requirements")).read_bytes()
        return Wanted(target, (), lock, pickled, options.index_url)
    given = model.requirements
    if isinstance(given, str):
        given = tuple(read_requirements(source / _checked(source, given, "requirements")))
    return Wanted(target, given or (), None, pickled, options.index_url)
