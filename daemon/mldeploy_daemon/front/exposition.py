"""Prometheus' text format, version 0.0.4, from what all fronts of a host have counted.

Every sample carries the front it comes from. Added up, a front that restarts would make the sum drop, and a
counter that drops is read as one that started again from zero: everything the others ever counted would
appear to have happened at once. So the adding up is left to the query: `sum without (front) (...)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mldeploy.core.evidence import Measure
from mldeploy.core.types import FULL_SHARE
from mldeploy_daemon.front.metrics import BUCKETS
from mldeploy_daemon.front.routes import scope_keys
from mldeploy_daemon.table import SHADOW, Table

_SLEEP = (
    ("sleeps", "was put to sleep", "mldeploy_model_version_sleeps_total"),
    ("woken", "was woken", "mldeploy_model_version_wakes_total"),
)
_SHARES = (0.5, 0.9, 0.99)
_COMPARED = (
    ("offered", "Requests that were chosen for a shadow"),
    ("dropped", "Of these, not copied, or not answered for want of a processor"),
    ("pairs", "Copies a shadow has answered, rightly or with an error"),
    ("failed", "Of these, answered with an error where the primary's answer was none"),
    ("agreed", "Of these, with the same answer to the last digit"),
    ("within", "Of these, with the same answer within tolerance"),
    ("classed", "Of these, with answers that name a class"),
    ("same_class", "Of these, with the same class"),
    ("concordant", "Pairs of scores that both versions order alike"),
    ("discordant", "Pairs of scores that they order differently"),
    ("pauses", "How often it was paused"),
)
_BOUNDS = (*(f"{bound:g}" for bound in BUCKETS), "+Inf")


class _Text:
    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, text: str) -> None:
        self._lines += (f"# HELP {name} {text}", f"# TYPE {name} {kind}")

    def sample(self, name: str, value: float, **labels: str) -> None:
        inner = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        self._lines.append(f"{name}{{{inner}}} {value!r}" if inner else f"{name} {value!r}")

    def bytes(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()


def render(
    table: Table,
    ready: bool,
    fronts: dict[str, dict[str, Any] | None],
    measures: tuple[Measure, ...] = (),
    mirror: dict[str, Any] | None = None,
) -> bytes:
    """The text for `fronts`: answers to `stats` by front number, None for one that did not answer.

    `measures` is the evidence as the agent has it, and `mirror` the mirror's answer to `stats`.
    """
    text = _Text()
    answered = {front: stats for front, stats in sorted(fronts.items()) if stats is not None}
    _host(text, table, ready)
    _models(text, table)
    _predictions(text, answered)
    _histograms(text, answered)
    _evidence(text, table, measures)
    _drift(text, mirror)
    _processes(text, fronts, answered)
    return text.bytes()


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _host(text: _Text, table: Table, ready: bool) -> None:
    text.family("mldeploy_ready", "gauge", "1 where this host is ready for traffic.")
    text.sample("mldeploy_ready", int(ready), environment=table.environment, host=table.host)


def _models(text: _Text, table: Table) -> None:
    text.family("mldeploy_model_version_info", "gauge", "1 for every version here: its part and its state.")
    for name, model in sorted(table.models.items()):
        numbers = {str(model.previous): "previous", str(model.candidate): "candidate"}
        numbers[str(model.stable)] = "stable"
        for number, version in model.versions.items():
            labels = {
                "model": name,
                "version": number,
                "part": numbers.get(number, ""),
                "state": version.state,
            }
            text.sample("mldeploy_model_version_info", 1, **labels)
    text.family("mldeploy_model_version_workers", "gauge", "Ready workers of a version.")
    for name, model in sorted(table.models.items()):
        for number, version in model.versions.items():
            text.sample("mldeploy_model_version_workers", len(version.workers), model=name, version=number)
    for field, what, metric in _SLEEP:
        text.family(metric, "counter", f"How often a version {what} since the agent started.")
        for name, model in sorted(table.models.items()):
            for number, version in model.versions.items():
                text.sample(metric, getattr(version, field), model=name, version=number)
    text.family("mldeploy_candidate_share_ratio", "gauge", "Part of a model's traffic its candidate gets.")
    for name, model in sorted(table.models.items()):
        share = model.share / FULL_SHARE if model.candidate is not None else 0.0
        text.sample("mldeploy_candidate_share_ratio", share, model=name)


def _each(fronts: dict[str, dict[str, Any]]) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    for front, stats in fronts.items():
        for series in stats["counters"]:
            number = str(series["version"]) if series["version"] else ""
            if number or any(series["buckets"]):
                yield {"model": series["model"], "version": number, "front": front}, series


def _predictions(text: _Text, fronts: dict[str, dict[str, Any]]) -> None:
    text.family("mldeploy_requests_total", "counter", "Predictions answered, by class of HTTP status.")
    for labels, series in _each(fronts):
        for status, count in series["requests"].items():
            text.sample("mldeploy_requests_total", count, **labels, status=status)
    for key, name, what in (
        ("retries", "mldeploy_request_retries_total", "Predictions sent again after their worker was lost."),
        ("held", "mldeploy_requests_held_total", "Predictions that waited for a sleeping version."),
        ("bytes_in", "mldeploy_request_bytes_total", "Bytes of prediction requests' bodies."),
        ("bytes_out", "mldeploy_response_bytes_total", "Bytes of prediction answers' bodies."),
    ):
        text.family(name, "counter", what)
        for labels, series in _each(fronts):
            text.sample(name, series[key], **labels)
    text.family(
        "mldeploy_inflight_requests", "gauge", "Predictions at a version's workers, not yet answered."
    )
    for labels, series in _each(fronts):
        if labels["version"]:
            text.sample("mldeploy_inflight_requests", series["inflight"], **labels)


def _histograms(text: _Text, fronts: dict[str, dict[str, Any]]) -> None:
    name = "mldeploy_request_duration_seconds"
    begins = "a prediction request's last byte, or its turn where it was pipelined"
    text.family(name, "histogram", f"From {begins}, to its answer.")
    for labels, series in _each(fronts):
        total = 0
        for bound, count in zip(_BOUNDS, series["buckets"], strict=True):
            total += count
            text.sample(f"{name}_bucket", total, **labels, le=bound)
        text.sample(f"{name}_sum", series["seconds"], **labels)
        text.sample(f"{name}_count", total, **labels)


def _shown(table: Table, measures: tuple[Measure, ...]) -> set[tuple[str, int]]:
    """(model, scope) of what is under way, and of what ended last: or nobody would ever scrape its end."""
    here = {(name, scope) for name, scope in scope_keys(table) if scope}
    ended: dict[str, int] = {}
    for measure in measures:
        if (measure.model, measure.scope) not in here:
            ended[measure.model] = max(ended.get(measure.model, 0), measure.scope)
    return here | set(ended.items())


def _evidence(text: _Text, table: Table, measures: tuple[Measure, ...]) -> None:
    """The numbers that verdicts rest on, summed over all fronts of this host."""
    scopes = _shown(table, measures)
    shown = [measure for measure in measures if (measure.model, measure.scope) in scopes]
    routed = [measure for measure in shown if measure.role != SHADOW]
    for key, what in (
        ("requests", "Requests routed to it"),
        ("failures", "Of these, answered with a status from 500 on, or lost"),
        ("refusals", "Of these, answered with 4xx"),
    ):
        name = f"mldeploy_rollout_{key}_total"
        text.family(name, "counter", f"{what} since the ramp's step, or the shadow, began.")
        for measure in routed:
            text.sample(name, getattr(measure.tally, key), **_scope(measure), role=measure.role)
    name = "mldeploy_rollout_latency_seconds"
    text.family(name, "summary", "Of its answers since the ramp's step, or the shadow, began; to 5 %.")
    for measure in routed:
        for share in _SHARES:
            labels = {**_scope(measure), "role": measure.role, "quantile": f"{share:g}"}
            text.sample(name, measure.tally.latency.quantile(share), **labels)
    shadows = [(measure, measure.comparison) for measure in shown if measure.comparison is not None]
    for key, what in _COMPARED:
        name = f"mldeploy_shadow_{key}_total"
        text.family(name, "counter", f"{what}.")
        for measure, comparison in shadows:
            text.sample(name, getattr(comparison, key), **_scope(measure))
    name = "mldeploy_shadow_paused_seconds_total"
    text.family(name, "counter", "For how long it has been paused.")
    for measure, comparison in shadows:
        text.sample(name, comparison.paused_ms / 1_000, **_scope(measure))
    name = "mldeploy_shadow_latency_seconds"
    text.family(name, "summary", "Of the shadow's answers, at idle priority; to 5 %.")
    for measure, comparison in shadows:
        for share in _SHARES:
            value = comparison.latency.quantile(share)
            text.sample(name, value, **_scope(measure), quantile=f"{share:g}")


def _scope(measure: Measure) -> dict[str, str]:
    return {"model": measure.model, "version": str(measure.version), "scope": str(measure.scope)}


def _drift(text: _Text, mirror: dict[str, Any] | None) -> None:
    text.family("mldeploy_mirror_up", "gauge", "1 where the mirror answered this scrape.")
    text.sample("mldeploy_mirror_up", int(mirror is not None))
    if mirror is None:
        return
    text.family("mldeploy_mirror_paused", "gauge", "1 while shadows are paused.")
    text.sample("mldeploy_mirror_paused", int(mirror["paused"]))
    text.family("mldeploy_mirror_queued", "gauge", "Copies that wait for a shadow.")
    text.sample("mldeploy_mirror_queued", mirror["queued"])
    for key, name, what in (
        ("psi", "mldeploy_drift", "Population stability index of a column against its bundle's baseline"),
        ("values", "mldeploy_drift_values", "Values of it that were counted"),
    ):
        text.family(name, "gauge", f"{what}, over the last half to whole hour.")
        for each in mirror["drift"]:
            labels = {"model": each["model"], "version": str(each["version"]), "tensor": each["tensor"]}
            text.sample(name, each[key], **labels)


def _processes(
    text: _Text, fronts: dict[str, dict[str, Any] | None], answered: dict[str, dict[str, Any]]
) -> None:
    text.family("mldeploy_http_requests_total", "counter", "HTTP requests, by what they asked for.")
    for front, stats in answered.items():
        for kind, counts in stats["http"].items():
            for status, count in counts.items():
                if count:
                    labels = {"kind": kind, "status": status, "front": front}
                    text.sample("mldeploy_http_requests_total", count, **labels)
    text.family("mldeploy_front_up", "gauge", "1 for a front process that answered this scrape.")
    for front in sorted(fronts):
        text.sample("mldeploy_front_up", int(front in answered), front=front)
    for key, name, kind, what in (
        ("connections", "mldeploy_front_connections", "gauge", "Open client connections."),
        ("accepted", "mldeploy_front_connections_accepted_total", "counter", "Client connections accepted."),
        ("refused", "mldeploy_front_connections_refused_total", "counter", "Connections beyond the cap."),
        ("generation", "mldeploy_front_table_generation", "gauge", "Generation of the routing table."),
        ("started", "mldeploy_front_start_time_seconds", "gauge", "Unix time of the process's start."),
    ):
        text.family(name, kind, what)
        for front, stats in answered.items():
            text.sample(name, stats[key], front=front)
