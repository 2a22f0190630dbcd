"""A LaunchReport as plain text, for terminals and mails. At most 100 columns where names allow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mldeploy.reporting.rows import (
    SUMMARY,
    agreement_rows,
    compared_rows,
    facts,
    guard_rows,
    metric_rows,
    step_title,
    summary_rows,
)
from mldeploy.reporting.values import Difference, LaunchReport, StepReport
from mldeploy.reporting.words import clean

#: Drifted columns that are listed, and changes of files and requirements.
_DRIFTS, _CHANGES = 10, 20


def render(report: LaunchReport) -> str:
    """The whole report; ends with a line break."""
    parts: list[list[str]] = [[clean(report.title)], [f"{name}: {value}" for name, value in facts(report)]]
    metrics = metric_rows(report)
    if metrics:
        heading = ("metric", report.ref, report.beside_ref)
        parts.append(["The models' own metrics", *_table([heading, *metrics])])
    summary = summary_rows(report)
    if summary:
        parts.append([f"At a glance ({report.ref} / {report.beside_ref})", *_table([SUMMARY, *summary])])
    parts += [_step(report, step) for step in report.steps]
    if report.difference is not None:
        parts.append(_difference(report, report.difference))
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def brief(report: LaunchReport) -> str:
    """What happened in a few lines, for chats: the facts, and each step in one line."""
    lines = [f"{name}: {value}" for name, value in facts(report)]
    lines += [step_title(report, step) for step in report.steps]
    if report.kind in ("rollout", "shadow"):
        lines.append(f"mldeploy report {report.ref} shows the numbers")
    return "\n".join(lines)


def _step(report: LaunchReport, step: StepReport) -> list[str]:
    lines = [step_title(report, step)]
    rows = compared_rows(step)
    if rows:
        lines += _table([("", report.ref, report.beside_ref), *rows])
    elif step.outcome not in ("paused", "held"):
        lines.append("  no evidence in the log for this step")
    compared = agreement_rows(step.agreement)
    if compared:
        lines += ["  answers beside those that were given", *_table(compared, "    ")]
    if step.guards:
        lines += ["  guards", *_table(guard_rows(step), "    ")]
    if step.drift:
        lines.append("  drift against the bundle's baseline (PSI: under 0.1 little, from 0.25 much)")
        lines += _table(
            [(clean(c.name, 60), f"{c.psi:.3f}", f"{c.values:,} values") for c in step.drift[:_DRIFTS]],
            "    ",
        )
        lines += _more(len(step.drift) - _DRIFTS, "columns", "    ")
    return lines


def _difference(report: LaunchReport, found: Difference) -> list[str]:
    lines = [f"What differs between {report.beside_ref} and {report.ref}"]
    for name, changes, same in (
        ("files", found.files, found.same_files),
        ("requirements", found.requirements, found.same_requirements),
        ("settings", found.settings, 0),
    ):
        unchanged = f", {same} the same" if same else ""
        if changes or same:
            lines.append(f"  {name}: {len(changes)} changed{unchanged}")
        shown = [
            (
                clean(change.what, 60),
                clean(change.before, 60) or "new",
                "->",
                clean(change.after, 60) or "gone",
            )
            for change in changes[:_CHANGES]
        ]
        lines += _table(shown, "    ")
        lines += _more(len(changes) - _CHANGES, "more", "    ")
    return lines


def _more(count: int, what: str, indent: str) -> list[str]:
    return [f"{indent}… and {count} {what}"] if count > 0 else []


def _table(rows: Iterable[Sequence[str]], indent: str = "  ") -> list[str]:
    lines = [list(row) for row in rows]
    if not lines:
        return []
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    return [
        (indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))).rstrip()
        for line in lines
    ]
