"""What can be judged of a manifest without looking at a disk or a clock.

`check` gives every problem as (dotted key, message, hint); an empty list means that nothing here stands
against it. Left out: whether the files are there and hold what is said, and whether the expiry lies ahead
(`bundle/validate.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import pairwise

from mldeploy.core.guards import guards_problem
from mldeploy.core.manifest_fields import DATATYPES, RUNTIME_PROTOCOL, Entry, Manifest, Rollout, Tensor
from mldeploy.core.paths import clashes, path_problem
from mldeploy.core.routing import parse_key
from mldeploy.core.types import FULL_SHARE, check_name, parse_expiry
from mldeploy.errors import UsageError

Problem = tuple[str, str, str]

MAX_RANK = 16
#: Elements in one tensor, and in each of its dimensions.
MAX_ELEMENTS = 2**31 - 1
MAX_FILES = 100_000
MAX_SIZE = 2**44  # bytes in one file
MAX_STEPS = 100
#: Seconds: of one hold, and of a rollout's deadline.
MAX_HOLD, MAX_DEADLINE = 30 * 86_400, 366 * 86_400
NO_SHARE = "a step is not a share", "a share is more than 0 % and at most 100 %"
_TEXT = 1000  # characters of owner; ten times that of description

_PYTHON = re.compile(r"3\.(0|[1-9][0-9]?)")
_PLATFORM = re.compile(r"[a-z0-9]+-[a-z0-9_]+")
_TENSOR = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/\[\]-]{0,199}")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WHEEL = re.compile(r"[A-Za-z0-9_.!+]+(-[A-Za-z0-9_.!+]+){4,5}\.whl")
_ANY_DAY = datetime(2000, 1, 1, tzinfo=UTC)


def check(manifest: Manifest) -> list[Problem]:
    """Every problem as (dotted key, message, hint), in the order of the manifest's keys."""
    found: list[Problem] = []
    for part in (_identity, _signature, _entry, _numbers, _routing, _samples, _files, _wheels):
        found.extend(part(manifest))
    return found


def _identity(manifest: Manifest) -> Iterator[Problem]:
    try:
        check_name(manifest.name)
    except UsageError as error:
        yield "name", error.message, error.hint
    try:
        parse_expiry(manifest.expires, _ANY_DAY)
    except UsageError as error:
        yield "expires", error.message, error.hint
    if not manifest.owner.strip() or not _line(manifest.owner, _TEXT):
        yield "owner", "not one line of text", "write who gets the warnings, for example team@example.com"
    if len(manifest.description) > 10 * _TEXT:
        yield "description", "too long", f"write at most {10 * _TEXT:,} characters"
    if not _PYTHON.fullmatch(manifest.python):
        yield "python", f"{manifest.python!r} is not a minor version", 'write for example "3.11", in quotes'
    if not _PLATFORM.fullmatch(manifest.platform):
        yield "platform", f"{manifest.platform!r} is not a platform", "write for example linux-x86_64"
    if manifest.protocol != RUNTIME_PROTOCOL:
        hint = "pack it again with this mldeploy, or upgrade mldeploy"
        yield "protocol", f"runtime protocol {manifest.protocol} is not {RUNTIME_PROTOCOL}", hint
    if manifest.format < 1:
        yield "format", f"{manifest.format} is not a format", "leave the key out"
    for index, module in enumerate(manifest.imports):
        if not _MODULE.fullmatch(module):
            yield f"imports[{index}]", f"{module!r} is not a module", "write for example sklearn.pipeline"


def _signature(manifest: Manifest) -> Iterator[Problem]:
    for side, tensors in (("inputs", manifest.signature.inputs), ("outputs", manifest.signature.outputs)):
        where = f"signature.{side}"
        if not tensors:
            yield where, "empty", "name at least one tensor with its datatype and shape"
        for index in _repeated(tensor.name for tensor in tensors):
            yield f"{where}[{index}].name", f"{tensors[index].name!r} is named twice", "use unique names"
        for index, tensor in enumerate(tensors):
            yield from _tensor(f"{where}[{index}]", tensor)


def _tensor(where: str, tensor: Tensor) -> Iterator[Problem]:
    if not _TENSOR.fullmatch(tensor.name):
        hint = "use at most 200 letters, digits and _ . : / - [ ], first a letter, a digit or _"
        yield f"{where}.name", f"{tensor.name!r} is not a tensor's name", hint
    if tensor.datatype not in DATATYPES:
        yield f"{where}.datatype", f"{tensor.datatype!r} is no datatype", f"one of {', '.join(DATATYPES)}"
    if len(tensor.shape) > MAX_RANK:
        yield f"{where}.shape", f"{len(tensor.shape)} dimensions", f"at most {MAX_RANK}"
    elif any(not (size == -1 or 1 <= size <= MAX_ELEMENTS) for size in tensor.shape):
        yield f"{where}.shape", "a dimension out of range", f"-1 (any size), or 1 to {MAX_ELEMENTS:,}"
    elif math.prod(size for size in tensor.shape if size > 0) > MAX_ELEMENTS:
        yield f"{where}.shape", "too many elements", f"at most {MAX_ELEMENTS:,} in one tensor"


def _entry(manifest: Manifest) -> Iterator[Problem]:
    entry = manifest.entry
    paths = {file.path for file in manifest.files}
    if entry.kind == "python-object":
        yield from _object_entry(entry, paths)
    elif entry.kind == "python-class":
        yield from _class_entry(entry, paths)
    else:
        hint = 'write "python-object" or "python-class"'
        yield "entry.kind", f"{entry.kind!r} is no kind this mldeploy can serve", hint
    if not entry.method.isidentifier():
        yield "entry.method", f"{entry.method!r} is not a method's name", "write for example predict"
    if entry.input not in ("positional", "named"):
        yield "entry.input", f"{entry.input!r} is unknown", 'write "positional" or "named"'


def _object_entry(entry: Entry, paths: set[str]) -> Iterator[Problem]:
    for key, value in (("module", entry.module), ("name", entry.name)):
        if value is not None:
            yield f"entry.{key}", "does not belong to a python-object", "leave the key out"
    if entry.pickle is None:
        yield "entry.pickle", "missing", "name the pickle, for example model/model.pkl"
    elif entry.pickle not in paths:
        yield "entry.pickle", f"{entry.pickle!r} is not among the files", "list it in files"
    for index, buffer in enumerate(entry.buffers):
        if buffer not in paths:
            yield f"entry.buffers[{index}]", f"{buffer!r} is not among the files", "list it in files"


def _class_entry(entry: Entry, paths: set[str]) -> Iterator[Problem]:
    if entry.pickle is not None or entry.buffers:
        yield "entry.pickle", "does not belong to a python-class", "leave pickle and buffers out"
    if entry.module is None or not _MODULE.fullmatch(entry.module):
        yield "entry.module", "missing or not a module", "name a module under code/, for example churn.model"
    elif not _module_files(entry.module) & paths:
        files = " or ".join(sorted(_module_files(entry.module)))
        yield "entry.module", f"{entry.module!r} is not in the bundle", f"the files must hold {files}"
    if entry.name is None or not all(part.isidentifier() for part in entry.name.split(".")):
        yield "entry.name", "missing or not a class", "name the class, for example Churn"


def _module_files(module: str) -> set[str]:
    base = "code/" + module.replace(".", "/")
    return {f"{base}.py", f"{base}/__init__.py"}


def _numbers(manifest: Manifest) -> Iterator[Problem]:
    resources = manifest.resources
    ranges = [
        ("batching.max_size", manifest.batching.max_size, 1, 65_536, "rows in one call"),
        ("resources.threads", resources.threads, 1, 1024, "threads"),
        ("resources.replicas", resources.replicas, 1, 256, "workers per host"),
    ]
    if resources.memory is not None:
        ranges.append(("resources.memory", resources.memory, 1, 2**50, "bytes"))
    for key, value, low, high, unit in ranges:
        if not low <= value <= high:
            yield key, f"{value} is out of range", f"write {low:,} to {high:,} {unit}"
    yield from rollout_problems(manifest.rollout)


def rollout_problems(rollout: Rollout) -> Iterator[Problem]:
    """What is wrong with a rollout, as (dotted key, message, hint)."""
    ranges = [
        ("hold", rollout.hold, 0, MAX_HOLD, "seconds"),
        ("min_requests", rollout.min_requests, 0, 10**9, "requests"),
        ("deadline", rollout.deadline, 1, MAX_DEADLINE, "seconds"),
        ("shadow_fraction", rollout.shadow_fraction, 1, FULL_SHARE, "hundredths of a percent"),
    ]
    for key, value, low, high, unit in ranges:
        if value is not None and not low <= value <= high:
            yield f"rollout.{key}", f"{value} is out of range", f"write {low:,} to {high:,} {unit}"
    problem = steps_problem(rollout.steps) if rollout.steps else None
    if problem:
        yield "rollout.steps", *problem
    # steps that are not said here may have a shadow step where they are said
    problem = guards_problem(rollout.guards, rollout.steps or None)
    if problem:
        yield "rollout.guards", *problem


def _routing(manifest: Manifest) -> Iterator[Problem]:
    try:
        key = parse_key(manifest.routing.key)
    except UsageError as error:
        yield "routing.key", error.message, error.hint
        return
    inputs = [tensor.name for tensor in manifest.signature.inputs]
    if key.source == "input" and key.name not in inputs:
        yield "routing.key", f"there is no input {key.name!r}", f"name one of {', '.join(inputs)}"


def steps_problem(steps: tuple[int, ...]) -> tuple[str, str] | None:
    """What is wrong with the steps of a rollout (hundredths of a percent), as (message, hint)."""
    if not steps or len(steps) > MAX_STEPS:
        return f"{len(steps)} steps", f"write 1 to {MAX_STEPS} steps"
    if steps == (0,):
        return "a shadow step alone gives no traffic", "add a step after it, for example shadow,100"
    shares = steps[1:] if steps[0] == 0 else steps  # a first 0 is a shadow step
    if 0 in shares:
        return "a shadow step can only be the first", "write for example shadow,1,10,50,100"
    if any(not 1 <= share <= FULL_SHARE for share in shares):
        return NO_SHARE
    if any(later <= before for before, later in pairwise(steps)):
        return "the steps do not grow", "write each step larger than the one before"
    return None


def _samples(manifest: Manifest) -> Iterator[Problem]:
    paths = {file.path for file in manifest.files}
    if manifest.lock not in paths:
        yield "lock", f"{manifest.lock!r} is not among the files", "list it in files"
    for index, sample in enumerate(manifest.samples):
        for key, path in (("request", sample.request), ("response", sample.response)):
            if path not in paths:
                yield f"samples[{index}].{key}", f"{path!r} is not among the files", "list it in files"
        for key, value in (("rtol", sample.rtol), ("atol", sample.atol)):
            if not 0 <= value < math.inf:
                yield f"samples[{index}].{key}", f"{value} is no tolerance", "write a number from 0 up"


def _files(manifest: Manifest) -> Iterator[Problem]:
    files = manifest.files
    if len(files) > MAX_FILES:
        yield "files", f"{len(files):,} files", f"at most {MAX_FILES:,}; pack the model as fewer files"
        return
    for index, file in enumerate(files):
        problem = path_problem(file.path)
        if problem:
            yield f"files[{index}].path", *problem
        elif file.path.casefold().split("/")[0] in ("manifest.yaml", "wheels"):
            hint = "manifest.yaml and wheels/ are the bundle's own; rename it"
            yield f"files[{index}].path", f"{file.path!r} is taken", hint
        if file.mode not in (0o644, 0o755):
            yield (
                f"files[{index}].mode",
                f"{file.mode:o} is no mode of a bundle",
                "write 420 (644) or 493 (755)",
            )
        yield from _content(f"files[{index}]", file.sha256, file.size)
    for index, message, hint in clashes(file.path for file in files):
        yield f"files[{index}].path", message, hint
    if [file.path for file in files] != sorted(file.path for file in files):
        yield "files", "not sorted by path", "sort them"


def _wheels(manifest: Manifest) -> Iterator[Problem]:
    names = [wheel.name for wheel in manifest.wheels]
    for index, wheel in enumerate(manifest.wheels):
        if not _WHEEL.fullmatch(wheel.name):
            yield f"wheels[{index}].name", f"{wheel.name!r} is no wheel's file name", "use the index's name"
        yield from _content(f"wheels[{index}]", wheel.sha256, wheel.size)
    for index in _repeated(name.casefold() for name in names):
        yield f"wheels[{index}].name", f"{names[index]!r} is listed twice", "list every wheel once"
    if names != sorted(names):
        yield "wheels", "not sorted by name", "sort them"


def _content(where: str, sha256: str, size: int) -> Iterator[Problem]:
    if not _SHA256.fullmatch(sha256):
        yield f"{where}.sha256", f"{sha256[:80]!r} is not a sha256", "write 64 lower-case hexadecimal digits"
    if not 0 <= size <= MAX_SIZE:
        yield f"{where}.size", f"{size} is out of range", f"write 0 to {MAX_SIZE:,} bytes"


def _repeated(names: Iterable[str]) -> list[int]:
    seen: set[str] = set()
    found = []
    for index, name in enumerate(names):
        if name in seen:
            found.append(index)
        seen.add(name)
    return found


def _line(text: str, longest: int) -> bool:
    return len(text) <= longest and text.isprintable()
