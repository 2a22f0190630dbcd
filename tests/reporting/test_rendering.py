"""The renderings: complete, self-contained, and deaf to what other people's words would have them do."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import pytest

from mldeploy.core.evidence import GuardVerdict
from mldeploy.reporting import compose, mail, page, plots, text, words
from mldeploy.reporting.values import Change, DriftColumn, LaunchReport
from tests.reporting import scene

HOSTILE = (
    "</title></style></script><script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "line one\r\nBcc: everyone@example.com\r\n\r\nbody",
    "\x1b[31mred\x1b[0m \u202ereversed\u2066 \x00 \ud7ff",
    "&lt;b&gt; &amp; <b onclick=x>",
    "javascript:alert(1) url(http://evil.example/x.css) ${7*7} {{7*7}}",
    "x" * 100_000,
)


def launch() -> LaunchReport:
    told = scene.launched()
    notice = next(n for n in told.state.notices.values() if n.version == 8)
    trail = compose.trail_of(told.state, notice)
    manifests = {number: scene.manifest(number) for number in (7, 8)}
    return compose.of_notice(told.state, notice, told.records(trail), manifests)


def hostile(report: LaunchReport, word: str) -> LaunchReport:
    """`report` with `word` wherever other people's words can come to stand."""
    step = report.steps[0]
    step = msgspec.structs.replace(
        step, reason=word, actor=word, outcome="held",
        guards=(GuardVerdict(guard=word, verdict=word, value=1.0, why=word),),
        drift=(DriftColumn(name=word, psi=0.3, values=9, bins=((0.5, 0.4), (0.5, 0.6))),),
    )  # fmt: skip
    assert report.candidate is not None and report.difference is not None
    change = (Change(what=word, before=word, after=word),)
    facts = msgspec.structs.replace(
        report.candidate, owner=word, actor=word, digest=word, metrics={word: 1.0}, python=word
    )
    return msgspec.structs.replace(
        report, reason=word, promoted_by=word, ended_by=word, where=word, waits=(word,),
        steps=(step, *report.steps[1:]), candidate=facts,
        difference=msgspec.structs.replace(
            report.difference, files=change, requirements=change, settings=change
        ),
    )  # fmt: skip


class Markup(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: set[tuple[str, str]] = set()
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}
        if tag not in ("meta", "path", "rect", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "rect"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("render", [page.render, mail.render])
@pytest.mark.parametrize("word", HOSTILE, ids=range(len(HOSTILE)))
def test_other_peoples_words_are_text_and_nothing_else(render, word: str) -> None:  # type: ignore[no-untyped-def]
    report = launch()
    tame, wild = Markup(render(hostile(report, "tame"))), Markup(render(hostile(report, word)))
    assert wild.tags == tame.tags and wild.attributes == tame.attributes
    assert not tame.open and not wild.open
    assert {"script", "img", "link", "iframe", "a", "form", "object", "base"}.isdisjoint(wild.tags)
    assert {"src", "href", "onload", "onclick", "onerror", "action"}.isdisjoint(n for _, n in wild.attributes)
    assert len(render(hostile(report, word))) < len(render(report)) + 40_000


@pytest.mark.parametrize("word", HOSTILE, ids=range(len(HOSTILE)))
def test_text_holds_no_character_that_steers_a_terminal_or_a_header(word: str) -> None:
    tame, wild = text.render(hostile(launch(), "tame")), text.render(hostile(launch(), word))
    assert wild.count("\n") == tame.count("\n")
    assert all(char.isprintable() or char == "\n" for char in wild)
    assert words.clean(word).isprintable()


def test_a_page_asks_for_nothing_and_knows_both_schemes() -> None:
    html = page.render(launch())
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    assert "default-src 'none'" in html
    assert "prefers-color-scheme:dark" in html and "color-scheme:light dark" in html


def test_a_page_shows_every_step_and_plot() -> None:
    report = launch()
    markup = Markup(page.render(report))
    shown = " ".join(markup.texts)
    for step in report.steps:
        assert f"Step {step.number}:" in shown
    # the shares, and of each step its latencies, drift and bins; answers of the one that compared any
    assert markup.tags.count("svg") == 1 + 5 * (1 + 1 + 5) + 1
    for said in ("99.25%", "error_rate < 1.5x", "scikit-learn", "alice@laptop", "402.0 MiB"):
        assert said in shown, said


def test_the_text_and_the_mail_say_the_same_numbers() -> None:
    report = launch()
    plain, rich = text.render(report), " ".join(Markup(mail.render(report)).texts)
    for said in ("99.25%", "0.04% (9)", "2,000", "error_rate < 1.5x", "0.921", "0.907", "alice@laptop"):
        assert said in plain and said in rich, said
    assert max(map(len, plain.splitlines())) <= 110


def test_a_report_with_nothing_in_it_renders() -> None:
    bare = LaunchReport(
        title="churn@1 is stable", kind="rollout", model="churn", version=1, beside=None, environment="",
        outcome="launched",
    )  # fmt: skip
    assert "churn@1 is stable" in text.render(bare)
    assert Markup(page.render(bare)).open == [] == Markup(mail.render(bare)).open
    assert plots.latencies(None, None) == plots.shares(bare) == plots.drifts(()) == ""


def test_figures_in_words() -> None:
    assert [words.rate(share) for share in (0.0, 0.0005, 0.5, 0.99995, 1.0, None)] == [
        "0%", "0.05%", "50.00%", "99.995%", "100%", "–",
    ]  # fmt: skip
    assert [words.latency(s) for s in (0.00085, 0.0012, 0.034, 0.5, 1.5)] == [
        "850 µs", "1.2 ms", "34.0 ms", "500 ms", "1.50 s",
    ]  # fmt: skip
    assert words.guard_value("memory < 2GiB", 3 * 2**29) == "1.5 GiB"
    assert words.guard_value("drift(age) < 0.2", 0.1234567) == "0.1235"
    assert words.duration(90) == "1m30s" and words.duration(0.25) == "0.2s"
