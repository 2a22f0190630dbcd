"""How far a host is with what the log wants of a model: the judgement behind `wait` and `status`.

Pure. A host has arrived when it has read the record and routes the wanted versions, which are ready (or,
where nothing is wanted, routes nothing); at a shadow step the candidate is ready and not routed. A version
that failed on it is a failure, not a delay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mldeploy.core.state import Serving
from mldeploy.core.wish import meant

if TYPE_CHECKING:
    from mldeploy.store.reports import HostReport, ModelReport, VersionReport


@dataclass(frozen=True, slots=True)
class Progress:
    """`arrived`; else `why` not, and `failed` where waiting will hardly help."""

    arrived: bool
    why: str = ""
    failed: bool = False


def progress(report: HostReport, model: str, wanted: Serving, seq: int) -> Progress:
    """Where the host is with `wanted`, as of record `seq`."""
    if report.head < seq:
        behind = f"has read up to record {report.head} of {seq}"
        return Progress(False, f"{behind}: {report.errors[-1]}" if report.errors else behind)
    said = report.models.get(model)
    candidate = _candidate(wanted, report)
    shadowed = wanted.ramp is not None and not wanted.ramp.share
    if said is None:
        if wanted.stable is None and candidate is None:
            return Progress(True)
        return Progress(False, f"says nothing of {model} yet")
    for number, role, routed in (
        (wanted.stable, "stable", said.stable),
        (None if shadowed else candidate, "candidate", said.candidate),
    ):
        version = said.serving.get(number) if number is not None else None
        if version is not None and version.state == "failed":
            return Progress(False, _failure(model, number, version), failed=True)
        if routed != number:
            return Progress(False, _underway(model, number, role, routed, version, said.next))
        if version is not None and version.state not in ("ready", "sleeping"):
            return Progress(False, f"{model}@{number} is {version.state}{_because(version.reason)}")
    return _shadowed(model, candidate, said) if shadowed and candidate is not None else Progress(True)


def _shadowed(model: str, number: int, said: ModelReport) -> Progress:
    """How far the host is with a rollout at its shadow step: copies go to it, now or once they go on."""
    version = said.serving.get(number)
    if version is not None and version.state == "failed":
        return Progress(False, _failure(model, number, version), failed=True)
    if version is None or version.state != "ready":
        return Progress(False, _underway(model, number, "candidate", None, version, said.next))
    return Progress(True)


def _candidate(wanted: Serving, report: HostReport) -> int | None:
    ramp = wanted.ramp
    if ramp is None or ramp.version == wanted.stable:
        return None
    return ramp.version if meant(ramp, report.labels) else None


def _failure(model: str, number: int | None, version: VersionReport) -> str:
    stage = f" at {version.stage}" if version.stage else ""
    return f"{model}@{number} failed{stage}{_because(version.reason)}"


def _underway(
    model: str, number: int | None, role: str, routed: int | None, version: VersionReport | None, coming: str
) -> str:
    if number is None:
        return f"still routes {model}@{routed} as {role}"
    state = version.state if version is not None else "absent"
    text = f"{model}@{number} is {state}{_because(version.reason if version is not None else '')}"
    return f"{text}; next: {coming}" if coming else text


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
