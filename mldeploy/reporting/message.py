"""A Message: a report as it is sent, under one identity whichever host sends it. Pure."""

from __future__ import annotations

import re
from hashlib import sha256
from html import escape
from typing import Any

import msgspec

from mldeploy.core.state import Notice
from mldeploy.reporting import mail, page, text
from mldeploy.reporting.values import LaunchReport
from mldeploy.reporting.words import clean

SCHEMA = "mldeploy.notice/1"
#: Outcome -> what kind of news it is; all else is "info".
_KINDS = {
    "launched": "success", "halted": "failure", "rolled back": "failure", "expires": "warning",
}  # fmt: skip
# an address and nothing else: one that holds more than that is somebody's idea of a header
_ADDRESS = re.compile(
    r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){1,8}", re.ASCII
)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent. `identity` is Message-ID and idempotency key: however often it comes, it is one."""

    identity: str  # `launched.churn.8.42@<store id>`
    title: str  # one line
    kind: str  # "success", "info", "warning" or "failure"
    brief: str  # for chats: what happened, in a few lines
    text: str
    html: str
    page: str  # with the plots: a file
    document: dict[str, Any]  # the report, or the notice, as it encodes to JSON
    owner: str = ""  # an address, or empty
    had: tuple[str, ...] = ()  # recipients of mails that have it already, as `mark` names them


def mark(address: str) -> str:
    """Names a recipient without telling the address, which may come from a secret."""
    return f"@{sha256(address.lower().encode()).hexdigest()[:16]}"


def bare(notice: Notice, store: str) -> Message:
    """The message of a notice whose report cannot be composed: what the log says, in a few lines of text."""
    ref = f"{notice.model}@{notice.version}"
    where = f" in {notice.environment}" if notice.environment else ""
    facts = {
        "when": notice.time, "by": notice.actor, "why": notice.reason, "rollout": notice.rollout,
        "record": str(notice.seq or ""),
    }  # fmt: skip
    title = clean(f"{ref}: {notice.kind}{where}", 200)
    told = "\n".join([title, *(f"{name}: {clean(fact)}" for name, fact in facts.items() if fact)])
    told += f"\n\nThe report of it could not be made: see the daemon's log, and `mldeploy report {ref}`.\n"
    return Message(
        identity=f"{notice.id}@{store}",
        title=title,
        kind=_KINDS.get(notice.kind, "info"),
        brief=told,
        text=told,
        html=f"<pre>{escape(told)}</pre>",
        page=f"<!doctype html><meta charset=utf-8><pre>{escape(told)}</pre>",
        document=msgspec.to_builtins(notice),
    )


def message(report: LaunchReport, store: str) -> Message:
    """The message of a report. `store`: the id of the store, which makes the identity the only one."""
    owner = report.candidate.owner if report.candidate is not None else ""
    return Message(
        identity=f"{report.notice}@{store}",
        title=clean(report.title, 200),
        kind=_KINDS.get(report.outcome, "info"),
        brief=text.brief(report),
        text=text.render(report),
        html=mail.render(report),
        page=page.render(report),
        document=msgspec.to_builtins(report),
        owner=owner if _ADDRESS.fullmatch(owner) else "",
    )
