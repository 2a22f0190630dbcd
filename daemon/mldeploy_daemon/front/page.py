"""`GET /`: a small read-only page for people, and `{"status": "alive"}` for clients that ask for no HTML."""

from __future__ import annotations

from html import escape

from mldeploy.core.types import format_share
from mldeploy_daemon.front import answers
from mldeploy_daemon.front.routes import Model, Routes
from mldeploy_daemon.front.v2 import Answer

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#222}table{border-collapse:collapse}"
    "td,th{text-align:left;padding:.25rem 1.5rem .25rem 0;border-bottom:1px solid #ddd}"
    "code{background:#f4f4f4;padding:0 .25rem}"
)


def page(routes: Routes, accept: bytes, ready: bool) -> Answer:
    """The page, where `accept` takes HTML."""
    if b"text/html" not in accept.lower():
        return Answer(200, b'{"status":"alive"}')
    return Answer(200, _html(routes, ready).encode(), answers.HTML, b"cache-control: no-store\r\n")


def _html(routes: Routes, ready: bool) -> str:
    table = routes.table
    rows = "".join(_rows(routes.models[name]) for name in sorted(routes.models))
    body = (
        "<table><tr><th>model</th><th>version</th><th>part</th><th>share</th><th>state</th>"
        f"<th>workers</th></tr>{rows}</table>"
        if rows
        else "<p>No model is deployed here yet: <code>mldeploy push SOURCE --promote</code></p>"
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>mldeploy</title>"
        f"<style>{_STYLE}</style><h1>mldeploy</h1>"
        f"<p>Host <code>{escape(table.host)}</code>, environment <b>{escape(table.environment)}</b>: "
        f"{'ready' if ready else 'not ready'}.</p>{body}"
        "<p><a href=/v2>/v2</a> · <a href=/metrics>/metrics</a></p></html>"
    )


def _rows(model: Model) -> str:
    routes, rows = model.routes, []
    if not model.versions:
        cells = (model.name, "", "", "", routes.reason or "no version serves", "")
        return _row(cells)
    share = routes.share if model.candidate else 0
    for number in sorted(model.versions, key=int):
        version = model.versions[number]
        parts = [part for part, which in model.parts.items() if which is version]
        taken = {"stable": 10_000 - share, "candidate": share}
        shown = sum(taken.get(part, 0) for part in parts)
        state = version.routes.state + (f": {version.routes.reason}" if version.routes.reason else "")
        cells = (model.name, number, ", ".join(parts), format_share(shown), state, str(len(version.workers)))
        rows.append(_row(cells))
    return "".join(rows)


def _row(cells: tuple[str, ...]) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
