"""The plots of the page, as SVG of our own: no script, no font, no colour but the page's variables. Pure.

Each plot is a string, empty where there is nothing to draw. Texts in it are escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from html import escape

from mldeploy.core.evidence import GROWTH
from mldeploy.reporting import words
from mldeploy.reporting.values import Agreement, DriftColumn, Figures, LaunchReport
from mldeploy.reporting.words import clean

#: From a value to a coordinate.
Scale = Callable[[float], float]
WIDTH = 720
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 26
#: Columns drawn, the ones that moved most.
DRIFTS = 16
#: Marks of the population stability index: what is little, and what is much.
LITTLE, MUCH = 0.1, 0.25


def shares(report: LaunchReport) -> str:
    """The candidate's share of the traffic over time, as a line of steps."""
    spans = [(_unix(s.start), _unix(s.end) if s.end else None, s) for s in report.steps]
    if not spans or report.kind == "shadow":
        return ""
    start = spans[0][0]
    ends = [end if end is not None else begun + (s.seconds or 0.0) for begun, end, s in spans]
    whole = max(ends[-1] - start, 1.0)
    height = 190
    x = _scale(0.0, whole, _LEFT, WIDTH - _RIGHT)
    y = _scale(0.0, 100.0, height - _BOTTOM, _TOP)
    out = [_grid((0, 25, 50, 75, 100), y, lambda v: f"{v:g}%")]
    path, area, labels = "", "", []
    for (begun, _, step), end in zip(spans, ends, strict=True):
        left, right, level = x(begun - start), x(max(end - start, begun - start)), y(step.share / 100)
        path += f"{'L' if path else 'M'}{left:.1f} {level:.1f}L{right:.1f} {level:.1f}"
        labels.append((left, right, level, step))
    area = f"{path}L{labels[-1][1]:.1f} {y(0):.1f}L{labels[0][0]:.1f} {y(0):.1f}Z"
    final = 100.0 if report.outcome == "launched" else 0.0
    if report.ended_at:
        path += f"L{labels[-1][1]:.1f} {y(final):.1f}"
    out.append(f'<path class="area" d="{area}"/><path class="mine" d="{path}"/>')
    last = -math.inf
    for left, right, level, step in labels:
        # a label needs room: short steps at the beginning go without
        if (left + right) / 2 - last < 46 and right - left < 46:
            continue
        last = (left + right) / 2
        out.append(_text(last, level - 6, words.share(step.share), "middle"))
    out += [
        _text(x(tick), height - 8, words.duration(tick) if tick else "0", "middle", "dim")
        for tick in _times(whole)
    ]
    return _svg(height, "Share of the traffic over time", out)


def latencies(candidate: Figures | None, stable: Figures | None) -> str:
    """Latency histograms on a logarithmic axis: stable's as an area, the candidate's as a line over it."""
    pairs = [
        (each, kind) for each, kind in ((stable, "theirs"), (candidate, "mine")) if each and each.latency
    ]
    if not pairs:
        return ""
    edges = [edge for each, _ in pairs for edge, _ in each.latency]
    low, high = min(edges) / 1.3, max(edges) * 1.2
    height = 170
    x = _scale(math.log(low), math.log(high), _LEFT, WIDTH - _RIGHT)
    tops = [max(n for _, n in each.latency) / sum(n for _, n in each.latency) for each, _ in pairs]
    y = _scale(0.0, max(tops) * 1.08, height - _BOTTOM, _TOP)
    out = [_grid(_nice(max(tops)), y, lambda v: f"{v * 100:g}%")]
    for each, kind in pairs:
        total = sum(n for _, n in each.latency)
        line = f"M{x(math.log(each.latency[0][0] / GROWTH)):.1f} {y(0):.1f}"
        last = each.latency[0][0] / GROWTH
        for edge, found in each.latency:
            left, right = edge / GROWTH, edge
            if left > last * 1.001:  # buckets between the two are empty
                line += f"L{x(math.log(last)):.1f} {y(0):.1f}L{x(math.log(left)):.1f} {y(0):.1f}"
            level = y(found / total)
            line += f"L{x(math.log(left)):.1f} {level:.1f}L{x(math.log(right)):.1f} {level:.1f}"
            last = right
        line += f"L{x(math.log(last)):.1f} {y(0):.1f}"
        out.append(f'<path class="{kind}{" filled" if kind == "theirs" else ""}" d="{line}"/>')
    out += [
        _text(x(math.log(tick)), height - 8, words.latency(tick), "middle", "dim")
        for tick in _decades(low, high)
    ]
    for each, kind in pairs:
        if each.p99:
            at = x(math.log(min(each.p99, high)))
            out.append(f'<path class="{kind} mark" d="M{at:.1f} {_TOP}V{height - _BOTTOM}"/>')
            out.append(
                _text(at + 4, _TOP + (10 if kind == "mine" else 22), "p99", "start", f"small {kind}-text")
            )
    return _svg(height, "Latencies", out)


def agreement(found: Agreement | None) -> str:
    """A shadow's answers beside those that were given: bars from 0 to 100 % of the pairs."""
    if found is None or not found.pairs:
        return ""
    bars = [
        (f"agree by {found.by}", found.share or 0.0),
        ("the same answer", found.exact / found.pairs),
        ("within tolerance", found.within / found.pairs),
    ]
    x = _scale(0.0, 1.0, 210, WIDTH - 70)
    out = []
    for index, (name, value) in enumerate(bars):
        top = _TOP + index * 22
        for kind, width in (("track", x(1) - x(0)), ("bar", x(value) - x(0))):
            out.append(
                f'<rect class="{kind}" x="{x(0):.1f}" y="{top}" width="{width:.1f}" height="15" rx="3"/>'
            )
        out.append(_text(202, top + 12, name, "end"))
        out.append(_text(x(1) + 8, top + 12, words.rate(value), "start"))
    return _svg(_TOP + len(bars) * 22 + 4, "Agreement of answers", out)


def drifts(columns: Sequence[DriftColumn]) -> str:
    """The population stability index of each column, with the marks of little and much."""
    shown = columns[:DRIFTS]
    if not shown:
        return ""
    most = max(MUCH * 1.25, *(column.psi * 1.08 for column in shown))
    height = _TOP + len(shown) * 22 + 20
    x = _scale(0.0, most, 210, WIDTH - 70)
    out = []
    for mark in (LITTLE, MUCH):
        out.append(f'<path class="grid" d="M{x(mark):.1f} {_TOP - 6}V{height - 18}"/>')
        out.append(_text(x(mark), height - 5, f"{mark:g}", "middle", "dim"))
    for index, column in enumerate(shown):
        top = _TOP + index * 22
        kind = "bad" if column.psi >= MUCH else "warn" if column.psi >= LITTLE else "good"
        width = max(x(column.psi) - x(0), 1.5)
        out.append(_text(202, top + 12, clean(column.name, 30), "end"))
        out.append(f'<rect class="{kind}" x="{x(0):.1f}" y="{top}" width="{width:.1f}" height="15" rx="3"/>')
        out.append(_text(x(column.psi) + 8, top + 12, f"{column.psi:.3f}", "start"))
    return _svg(height, "Drift against the baseline", out)


def bins(column: DriftColumn) -> str:
    """One column's bins: the baseline's share as an area, the live one as a line."""
    if not column.bins:
        return ""
    width, height = 220, 84
    most = max(max(pair) for pair in column.bins)
    step = width / len(column.bins)
    paths = []
    for side in (0, 1):
        line = f"M0 {height}"
        for index, pair in enumerate(column.bins):
            level = height - pair[side] / most * (height - 6)
            line += f"L{index * step:.1f} {level:.1f}L{(index + 1) * step:.1f} {level:.1f}"
        paths.append(f"{line}L{width} {height}")
    body = f'<path class="theirs filled" d="{paths[0]}"/><path class="mine" d="{paths[1]}"/>'
    label = escape(f"Bins of {clean(column.name, 60)}")
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{body}</svg>'


def _scale(low: float, high: float, first: float, last: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: first + (min(max(value, low), high) - low) / span * (last - first)


def _svg(height: float, label: str, parts: Iterable[str]) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">{body}</svg>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'


def _grid(values: Iterable[float], y: Scale, name: Callable[[float], str]) -> str:
    return "".join(
        f'<path class="grid" d="M{_LEFT} {y(v):.1f}H{WIDTH - _RIGHT}"/>'
        + _text(_LEFT - 8, y(v) + 4, name(v), "end", "dim")
        for v in values
    )


def _nice(most: float) -> list[float]:
    """0 and a few round numbers up to `most`."""
    step = 10 ** math.floor(math.log10(most or 1.0))
    step = next(s for s in (step / 5, step / 2, step, step * 2, step * 5) if most / s <= 4)
    return [step * index for index in range(int(most / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between the two; fewer where there would be many."""
    found = [
        factor * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factor in ((1, 2, 5) if high / low < 300 else (1,))
    ]
    return [tick for tick in found if low <= tick <= high]


def _times(whole: float) -> list[float]:
    units = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 28_800, 43_200, 86_400)
    step = next((unit for unit in units if whole / unit <= 6), math.ceil(whole / 6 / 86_400) * 86_400)
    return [float(step * index) for index in range(int(whole / step) + 1)]


def _unix(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0
