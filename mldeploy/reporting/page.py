"""A LaunchReport as one self-contained HTML page: no script, no font, no request; light and dark.

Everything that is not markup of this file goes through `escape` (and is cleaned before, see `words.clean`);
the page's own policy forbids what an oversight would let in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from mldeploy.reporting import plots, rows
from mldeploy.reporting.style import STYLE
from mldeploy.reporting.values import Change, Difference, LaunchReport, StepReport
from mldeploy.reporting.words import clean

#: Columns whose bins are drawn, and changes that are listed.
_BINS, _CHANGES = 6, 200
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
#: How an outcome or verdict looks.
_LOOKS = {
    "launched": "good", "completed": "good", "holds": "good", "advanced": "good",
    "halted": "bad", "rolled back": "bad", "breached": "bad", "expires": "warn", "undecided": "warn",
}  # fmt: skip


def render(report: LaunchReport) -> str:
    """The page."""
    title = escape(clean(report.title))
    body = "".join(
        [
            f"<header><p class='kind'>{escape(report.kind)} {_badge(report.outcome)}</p>"
            f"<h1>{title}</h1></header>",
            _facts(report),
            _figure("Share of the traffic", plots.shares(report)),
            _metrics(report),
            _summary(report),
            *(_step(report, step) for step in report.steps),
            _difference(report),
        ]
    )
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'>"
        f"<title>{title}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


def _facts(report: LaunchReport) -> str:
    found = rows.facts(report)
    return "<dl>" + "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in found) + "</dl>"


def _metrics(report: LaunchReport) -> str:
    found = rows.metric_rows(report)
    if not found:
        return ""
    table = _table(("metric", report.ref, report.beside_ref), found)
    return f"<section><h2>The models' own metrics</h2>{table}</section>"


def _summary(report: LaunchReport) -> str:
    found = rows.summary_rows(report)
    if not found:
        return ""
    beside = f" / {escape(report.beside_ref)}" if report.beside_ref else ""
    table = _table(rows.SUMMARY, found)
    heading = f"<h2>At a glance <span class='dim'>{escape(report.ref)}{beside}</span></h2>"
    return f"<section>{heading}{table}</section>"


def _step(report: LaunchReport, step: StepReport) -> str:
    parts = [f"<h2>{escape(rows.step_title(report, step))}</h2>"]
    compared = rows.compared_rows(step)
    if compared:
        parts.append(_table(("", report.ref, report.beside_ref), compared))
    elif step.outcome not in ("paused", "held"):
        parts.append("<p class='dim'>No evidence in the log for this step.</p>")
    if step.guards:
        guards = "".join(
            f"<tr><td>{_badge(verdict)}</td><td><code>{escape(guard)}</code></td><td>{escape(told)}</td></tr>"
            for verdict, guard, told in rows.guard_rows(step)
        )
        parts.append(f"<h3>Guards</h3><div class='wide'><table class='words'>{guards}</table></div>")
    parts.append(_figure("Latency", plots.latencies(step.candidate, step.stable), _legend(report)))
    drawn = plots.agreement(step.agreement)
    if drawn:
        parts.append(_figure("Answers beside those that were given", drawn))
        parts.append(_table(("", "", ""), rows.agreement_rows(step.agreement)))
    parts.append(_drift(step))
    return f"<section>{''.join(parts)}</section>"


def _drift(step: StepReport) -> str:
    drawn = plots.drifts(step.drift)
    if not drawn:
        return ""
    more = len(step.drift) - plots.DRIFTS
    note = f"<p class='dim'>… and {more} columns that moved less.</p>" if more > 0 else ""
    small = "".join(
        f"<figure>{plots.bins(column)}<figcaption>{escape(clean(column.name, 40))}, "
        f"{column.values:,} values</figcaption></figure>"
        for column in step.drift[:_BINS]
    )
    legend = "<p class='legend'><i class='theirs'></i>baseline <i class='mine'></i>live</p>"
    return (
        _figure("Drift: live values against the bundle's baseline (PSI)", drawn)
        + note + f"{legend}<div class='small'>{small}</div>"
    )  # fmt: skip


def _difference(report: LaunchReport) -> str:
    found: Difference | None = report.difference
    if found is None:
        return ""
    parts = [f"<h2>What differs between {escape(report.beside_ref)} and {escape(report.ref)}</h2>"]
    for name, changes, same in (
        ("Files", found.files, found.same_files),
        ("Requirements", found.requirements, found.same_requirements),
        ("Settings", found.settings, 0),
    ):
        if changes or same:
            parts.append(f"<h3>{name}</h3>{_changes(report, changes)}")
            parts.append(f"<p class='dim'>{same:,} the same.</p>" if same else "")
    if len(parts) == 1:
        parts.append("<p class='dim'>Nothing.</p>")
    return f"<section>{''.join(parts)}</section>"


def _changes(report: LaunchReport, changes: Sequence[Change]) -> str:
    if not changes:
        return ""
    shown = [
        (clean(c.what, 200), clean(c.before, 200) or "new", clean(c.after, 200) or "gone") for c in changes
    ]
    more = len(shown) - _CHANGES
    note = f"<p class='dim'>… and {more} more.</p>" if more > 0 else ""
    return _table(("", report.beside_ref, report.ref), shown[:_CHANGES]) + note


def _table(heading: Iterable[str], found: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    body = "".join(
        f"<tr><th scope='row'>{escape(row[0])}</th>"
        + "".join(f"<td>{escape(c)}</td>" for c in row[1:])
        + "</tr>"
        for row in found
    )
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _figure(caption: str, drawn: str, legend: str = "") -> str:
    return f"<figure><figcaption>{escape(caption)}{legend}</figcaption>{drawn}</figure>" if drawn else ""


def _legend(report: LaunchReport) -> str:
    return (
        f"<span class='legend'><i class='mine'></i>{escape(report.ref)} "
        f"<i class='theirs'></i>{escape(report.beside_ref)}</span>"
    )


def _badge(word: str) -> str:
    return f"<span class='badge {_LOOKS.get(word, 'plain')}'>{escape(clean(word, 40))}</span>"
