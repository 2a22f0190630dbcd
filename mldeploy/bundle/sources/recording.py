"""What only running the model can tell: answers to sample requests, and a signature nobody stated.

Rules: the model runs in the bundle's own environment, in a confined process of the runtime, never here;
nothing is run where everything was committed. Recorded answers are written so that equal answers give equal
bytes. Which modules a zygote may import ahead is read from code and pickle, not from a run. Left out:
comparing answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mldeploy.bundle.environment import build, cache_folder, no_interpreter
from mldeploy.bundle.files import WHEELS, disk_errors
from mldeploy.bundle.interpreters import find_interpreter
from mldeploy.bundle.launch import run_check
from mldeploy.bundle.lock import LOCK
from mldeploy.bundle.locking import provided_modules
from mldeploy.bundle.modules import pickle_modules, source_modules
from mldeploy.bundle.samples import tolerance
from mldeploy.bundle.scratch import scratch_folder
from mldeploy.bundle.sources.model_yaml import Stated
from mldeploy.bundle.targets import Target, this_platform
from mldeploy.bundle.tensors import document
from mldeploy.core.manifest import RUNTIME_PROTOCOL, Entry, Sample, Signature, Wheel
from mldeploy.errors import UsageError, ValidationError
from mldeploy.progress import Reporter


@dataclass(frozen=True, slots=True)
class Recording:
    """A bundle in the making: what is known of it."""

    folder: Path
    name: str
    entry: Entry
    stated: Stated
    samples: tuple[Sample, ...]  # with an empty response where it must be recorded
    target: Target
    threads: int
    confine: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """Complete signature and samples; the environment, if one was built for it."""

    signature: Signature
    samples: tuple[Sample, ...]
    environment: Path | None


@contextmanager
def record(draft: Recording, reporter: Reporter) -> Iterator[Recorded]:
    """Complete signature and samples, running the model where that is needed.

    The environment lives until the block ends. Raises ValidationError with what the model did wrong,
    BuildError, UsageError where it cannot be run on this machine, DiskError.
    """
    stated = draft.stated
    if _complete(draft):
        signature = Signature(inputs=stated.inputs, outputs=stated.outputs)
        yield Recorded(signature, _tolerant(draft.samples, signature), None)
        return
    with scratch_folder() as scratch, disk_errors(scratch):
        environment = _environment(draft, scratch, reporter)
        reporter.step("asking the model for its answers")
        answer = _run(draft, scratch, environment)
        signature = msgspec.convert(answer["signature"], Signature)
        samples = _write(draft, answer["responses"])
        yield Recorded(signature, _tolerant(samples, signature), environment)


def check_recordable(draft: Recording) -> None:
    """Raises UsageError where the model must be run and this machine cannot: before anything is fetched."""
    target = draft.target
    if _complete(draft) or (target.platform == this_platform() and find_interpreter(target.python)):
        return
    why = no_interpreter(target.python).message
    if target.platform != this_platform():
        why = f"this machine is {this_platform()}, not {target.platform}"
    raise UsageError(
        f"the model's answers cannot be recorded: {why}",
        "pack on such a machine, or commit signature and samples/N.response.json",
    )


def _complete(draft: Recording) -> bool:
    stated = draft.stated
    return bool(stated.inputs and stated.outputs and all(sample.response for sample in draft.samples))


def _environment(draft: Recording, scratch: Path, reporter: Reporter) -> Path:
    target = draft.target
    reporter.step("building the environment")
    environment = scratch / "environment"
    build(
        environment, lock=draft.folder / LOCK, wheels=draft.folder / WHEELS, python=target.python,
        platform=target.platform, cache=cache_folder() / "uv", compile_bytecode=False,
    )  # fmt: skip
    return environment


def _run(draft: Recording, scratch: Path, environment: Path) -> dict[str, object]:
    work = scratch / "recording"
    work.mkdir()
    manifest = scratch / "draft.json"
    manifest.write_bytes(msgspec.json.encode({
        "name": draft.name, "protocol": RUNTIME_PROTOCOL, "entry": draft.entry, "signature": draft.stated,
        "samples": [{"request": sample.request} for sample in draft.samples],
    }))  # fmt: skip
    interpreter = find_interpreter(draft.target.python)
    assert interpreter is not None
    checked = run_check(
        interpreter, bundle=draft.folder, manifest=manifest, environment=environment, scratch=work,
        confine=draft.confine, threads=draft.threads, record=True,
    )  # fmt: skip
    if checked.findings:
        raise ValidationError(checked.findings)
    return checked.document


def _write(draft: Recording, responses: object) -> tuple[Sample, ...]:
    """Write the answers that were not committed."""
    samples = []
    for sample, response in zip(
        draft.samples, msgspec.convert(responses, list[dict[str, object]]), strict=True
    ):
        if not sample.response:
            sample = msgspec.structs.replace(
                sample, response=sample.request.replace(".request.", ".response.")
            )
            # without the id and names of this run
            (draft.folder / sample.response).write_bytes(document({"outputs": response["outputs"]}))
        samples.append(sample)
    return tuple(samples)


def _tolerant(samples: tuple[Sample, ...], signature: Signature) -> tuple[Sample, ...]:
    rtol, atol = tolerance({tensor.datatype for tensor in signature.outputs})
    return tuple(
        msgspec.structs.replace(
            sample,
            rtol=rtol if sample.rtol < 0 else sample.rtol,
            atol=atol if sample.atol < 0 else sample.atol,
        )
        for sample in samples
    )


def imports_of(folder: Path, entry: Entry, wheels: tuple[Wheel, ...]) -> tuple[str, ...]:
    """The modules that code and pickle name and the wheels provide, for the zygote to import ahead."""
    found: set[str] = set()
    if entry.pickle:
        try:
            found |= pickle_modules(folder / entry.pickle)
        except Exception as error:  # whatever a broken pickle makes pickletools raise
            raise UsageError(
                f"{entry.pickle} is not a pickle: {error}", "write it with pickle or cloudpickle"
            ) from error
    code = folder / "code"
    for path in sorted(code.rglob("*.py")) if code.is_dir() else ():
        found |= source_modules(path)
    provided = provided_modules(folder / WHEELS, wheels)
    return tuple(sorted(name for name in found if name.partition(".")[0] in provided and name.isascii()))
