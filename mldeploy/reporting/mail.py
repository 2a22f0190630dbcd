"""A LaunchReport as the HTML of a mail: tables and inline styles alone, since mail programs drop the rest.

The page with the plots (`page.py`) goes with it as an attachment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from mldeploy.reporting import rows
from mldeploy.reporting.values import LaunchReport, StepReport
from mldeploy.reporting.words import clean

_FONT = "font-family:system-ui,-apple-system,Segoe UI,sans-serif;font-size:14px;line-height:1.5"
_CELL = "padding:2px 16px 2px 0;text-align:left;vertical-align:top"
_COLOURS = {"holds": "#1a7f4b", "breached": "#c62f3b", "undecided": "#9a6700"}
_CHANGES = 20


def render(report: LaunchReport) -> str:
    """The HTML body."""
    metrics = rows.metric_rows(report)
    parts = [f"<h2 style='font-size:19px;margin:0 0 12px'>{escape(clean(report.title))}</h2>"]
    parts.append(_table(None, rows.facts(report)))
    if metrics:
        parts.append(_heading("The models' own metrics"))
        parts.append(_table(("metric", report.ref, report.beside_ref), metrics))
    summary = rows.summary_rows(report)
    if summary:
        parts.append(_heading(f"At a glance ({report.ref} / {report.beside_ref})"))
        parts.append(_table(rows.SUMMARY, summary))
    parts += [_step(report, step) for step in report.steps]
    parts.append(_difference(report))
    return f"<!doctype html><html><body style='{_FONT}'>{''.join(parts)}</body></html>"


def _step(report: LaunchReport, step: StepReport) -> str:
    out = _heading(rows.step_title(report, step))
    compared = rows.compared_rows(step)
    if compared:
        out += _table(("", report.ref, report.beside_ref), compared)
    answers = rows.agreement_rows(step.agreement)
    if answers:
        out += _small("Answers beside those that were given") + _table(None, answers)
    if step.guards:
        cells = "".join(
            f"<tr><td style='{_CELL};color:{_COLOURS.get(verdict, '#5f6b7a')}'><b>{escape(verdict)}</b></td>"
            f"<td style='{_CELL}'><code>{escape(guard)}</code></td>"
            f"<td style='{_CELL}'>{escape(told)}</td></tr>"
            for verdict, guard, told in rows.guard_rows(step)
        )
        out += f"{_small('Guards')}<table style='border-collapse:collapse'>{cells}</table>"
    drifted = [(clean(c.name, 60), f"PSI {c.psi:.3f}", f"{c.values:,} values") for c in step.drift[:5]]
    return out + (_small("Drift, the columns that moved most") + _table(None, drifted) if drifted else "")


def _difference(report: LaunchReport) -> str:
    found = report.difference
    if found is None:
        return ""
    changes = [
        (clean(change.what, 80), clean(change.before, 60) or "new", clean(change.after, 60) or "gone")
        for change in (*found.files, *found.requirements, *found.settings)
    ]
    more = len(changes) - _CHANGES
    out = _heading(f"What differs between {report.beside_ref} and {report.ref}")
    out += _table(("", report.beside_ref, report.ref), changes[:_CHANGES]) if changes else "<p>Nothing.</p>"
    return out + (f"<p>… and {more} more.</p>" if more > 0 else "")


def _heading(text: str) -> str:
    return f"<h3 style='font-size:15px;margin:22px 0 6px'>{escape(text)}</h3>"


def _small(text: str) -> str:
    return f"<p style='margin:8px 0 2px;font-weight:600'>{text}</p>"


def _table(heading: Iterable[str] | None, found: Iterable[Sequence[str]]) -> str:
    head = "".join(
        f"<th style='{_CELL};color:#5f6b7a;font-weight:500'>{escape(c)}</th>" for c in heading or ()
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td style='{_CELL}{';color:#5f6b7a' if not i else ''}'>{escape(c)}</td>"
            for i, c in enumerate(row)
        )
        + "</tr>"
        for row in found
    )
    return f"<table style='border-collapse:collapse'>{f'<tr>{head}</tr>' if head else ''}{body}</table>"
