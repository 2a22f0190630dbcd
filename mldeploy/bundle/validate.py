"""The three gates a bundle passes before it is published: artifact, compilation, serving.

1. artifact: everything is there, whole, and in date (`artifact.py`).
2. compilation: the environment builds offline, in a scratch folder, from the bundle's own wheels.
3. serving: the runtime loads the bundle in it, confined as in production, and answers the samples.

Rules: nothing of the bundle is changed, and none of its code runs in this process. A gate that cannot run
here is skipped and says why; gates after one with findings are skipped. Left out: pushing.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from mldeploy.bundle.artifact import GATE as ARTIFACT
from mldeploy.bundle.artifact import altered, examine
from mldeploy.bundle.environment import build
from mldeploy.bundle.files import MANIFEST, WHEELS, disk_errors
from mldeploy.bundle.interpreters import find_interpreter
from mldeploy.bundle.launch import SERVING, run_check
from mldeploy.bundle.manifest_file import read_manifest
from mldeploy.bundle.scratch import scratch_folder
from mldeploy.bundle.targets import this_platform
from mldeploy.bundle.wheels import cache_folder
from mldeploy.core.manifest import Manifest, canonical, digest
from mldeploy.errors import BuildError, Finding, ManifestError, UsageError, ValidationError
from mldeploy.progress import Reporter, Silent

COMPILATION = "compilation"
GATES = (ARTIFACT, COMPILATION, SERVING)


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """What the gates found, measured (load_ms, latency_ms, memory_bytes…), ran and skipped (and why)."""

    findings: tuple[Finding, ...] = ()
    measured: dict[str, float] = field(default_factory=dict)
    gates_run: tuple[str, ...] = ()
    gates_skipped: dict[str, str] = field(default_factory=dict)
    digest: str = ""  # empty where the manifest cannot be read

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def raise_findings(self) -> None:
        """Raise ValidationError where there are findings."""
        if self.findings:
            raise ValidationError(self.findings)


def validate(
    folder: Path,
    *,
    now: datetime,
    gates: Collection[str] = GATES,
    scratch: Path | None = None,
    confine: str = "best-effort",
    progress: Reporter | None = None,
    environment: Path | None = None,
) -> ValidationReport:
    """Run the gates over the bundle in `folder`. Findings are returned, not raised.

    `scratch` is where the environment is built (a temporary folder by default, removed afterwards);
    `environment` is one that was just built from this lock, and spares building it again. `confine` is
    "require", "best-effort" or "off". Raises UsageError for an unknown gate or no folder, DiskError.
    """
    unknown = set(gates) - set(GATES)
    if unknown:
        raise UsageError(f"{sorted(unknown)[0]!r} is not a gate", f"the gates are {', '.join(GATES)}")
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", "name the folder of a bundle")
    place: AbstractContextManager[Path] = nullcontext(scratch) if scratch else scratch_folder()
    with place as made, disk_errors(made):
        return _Run(folder, now, made, confine, progress or Silent(), environment).gates(gates)


def refuse_altered(folder: Path, manifest: Manifest, progress: Reporter) -> None:
    """Raise ValidationError where the files of a published bundle are not those of its manifest any more."""
    with progress.bar("checking files", _size(manifest)) as advance, disk_errors(folder):
        findings = altered(folder, manifest, advance)
    if findings:
        raise ValidationError(findings)


class _Run:
    def __init__(
        self,
        folder: Path,
        now: datetime,
        scratch: Path,
        confine: str,
        progress: Reporter,
        environment: Path | None,
    ) -> None:
        self.folder, self.now, self.scratch = folder, now, scratch
        self.confine, self.progress, self.environment = confine, progress, environment
        self.measured: dict[str, float] = {}
        self.digest = ""

    def gates(self, wanted: Collection[str]) -> ValidationReport:
        ran: list[str] = []
        skipped: dict[str, str] = {}
        try:
            manifest = read_manifest(self.folder)
        except ManifestError as error:
            finding = _of_manifest(self.folder, error)
            rest = {gate: "the manifest cannot be read" for gate in GATES[1:] if gate in wanted}
            return ValidationReport((finding,), {}, (ARTIFACT,), rest)
        self.digest = digest(manifest)
        findings: tuple[Finding, ...] = ()
        for gate, run in (
            (ARTIFACT, self.artifact),
            (COMPILATION, self.compilation),
            (SERVING, self.serving),
        ):
            why = self.reason_to_skip(gate, wanted, manifest, findings, skipped)
            if why is not None:
                skipped.update({gate: why} if gate in wanted else {})
                continue
            ran.append(gate)
            findings += run(manifest)
        return ValidationReport(findings, self.measured, tuple(ran), skipped, self.digest)

    def reason_to_skip(
        self, gate: str, wanted: Collection[str], manifest: Manifest, findings: tuple[Finding, ...],
        skipped: dict[str, str],
    ) -> str | None:  # fmt: skip
        # gate 3 needs the environment of gate 2, so gate 2 runs for it even if it was not asked for
        if gate not in wanted and not (gate == COMPILATION and SERVING in wanted):
            return "not asked for"
        if findings:
            return f"the gate before it ({findings[0].gate}) has findings"
        if gate == SERVING and COMPILATION in skipped:
            return skipped[COMPILATION]
        if gate != ARTIFACT and manifest.platform != this_platform():
            return f"it is for {manifest.platform}, and this machine is {this_platform()}"
        if gate != ARTIFACT and find_interpreter(manifest.python) is None:
            return f"this machine has no Python {manifest.python}"
        return None

    def artifact(self, manifest: Manifest) -> tuple[Finding, ...]:
        with self.progress.bar("checking files", _size(manifest)) as advance:
            return examine(self.folder, manifest, self.now, advance)

    def compilation(self, manifest: Manifest) -> tuple[Finding, ...]:
        if self.environment is not None:
            return ()
        self.progress.step("building the environment")
        target = self.scratch / "environment"
        try:
            # compiling bytecode costs more than the one start here would save
            build(
                target, lock=self.folder / manifest.lock, wheels=self.folder / WHEELS, python=manifest.python,
                platform=manifest.platform, cache=cache_folder() / "uv", compile_bytecode=False,
            )  # fmt: skip
        except BuildError as error:
            return (Finding(COMPILATION, manifest.lock, "", error.message, error.hint),)
        self.environment = target
        return ()

    def serving(self, manifest: Manifest) -> tuple[Finding, ...]:
        self.progress.step("loading the model and replaying its samples")
        interpreter = find_interpreter(manifest.python)
        assert interpreter is not None
        assert self.environment is not None
        work = self.scratch / "work"
        work.mkdir()
        plain = self.scratch / "manifest.json"
        plain.write_bytes(canonical(manifest))
        checked = run_check(
            interpreter, bundle=self.folder, manifest=plain, environment=self.environment, scratch=work,
            confine=self.confine, threads=manifest.resources.threads,
        )  # fmt: skip
        self.measured = checked.measured
        return checked.findings


def _size(manifest: Manifest) -> int:
    return sum(file.size for file in manifest.files) + sum(wheel.size for wheel in manifest.wheels)


def _of_manifest(folder: Path, error: ManifestError) -> Finding:
    text = error.message.removeprefix(f"{folder / MANIFEST}: ")
    key, colon, rest = text.partition(": ")
    named = bool(colon) and " " not in key
    return Finding(ARTIFACT, MANIFEST, key if named else "", rest if named else text, error.hint)
