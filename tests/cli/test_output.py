"""What others wrote, shown: it stays in its place and steers no terminal."""

from __future__ import annotations

import io
import re
import sys

import pytest

from mldeploy.cli.options import Options
from mldeploy.cli.output import Cell, Output

WORD = "be\x1b]0;owned\x07careful\x1b[31m\nnext\tcell\u202e"
ROWS = [["1", WORD], [("2", "red"), (WORD, "bold")]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, colour: bool = False) -> str:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    (monkeypatch.delenv if colour else monkeypatch.setenv)("NO_COLOR", *([False] if colour else ["1"]))
    Output(Options()).table(("N", "WHAT"), ROWS)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["pipe", "plain terminal", "terminal with colour"])
def test_a_table_shows_words_as_words(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO() if kind == "pipe" else Terminal()
    text = shown(stream, monkeypatch, colour="colour" in kind)
    lines = text.splitlines()
    assert len(lines) == (2 if kind == "pipe" else 3)
    assert all("careful" in line and "next cell" in line for line in lines[-2:])
    assert not {"\x07", "\u202e"} & set(text) and "\x1b]" not in text
    if "colour" not in kind:
        assert "\x1b" not in text
    if kind == "pipe":
        assert all(line.count("\t") == 1 for line in lines)


def test_a_warning_and_a_note_are_words(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(Options())
    out.warn(WORD)
    out.note(WORD)
    assert not {"\x1b", "\x07", "\u202e"} & set(capsys.readouterr().err)


def test_what_fails_after_the_document_is_two_lines_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    options = Options(json=True)
    Output(options).document("mldeploy.serve/1", {"url": "http://x"})
    Output(options).error("the daemon ended", "start it again", 1)
    Output(options).reporter().problem("does not pack", "mend it")
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    assert said.err.splitlines() == [
        "error: the daemon ended",
        "hint: start it again",
        "error: does not pack",
        "hint: mend it",
    ]


HEAD = ("MODEL", "ENVIRONMENT", "STABLE", "SHADOWS", "STATE")
MODELS = [
    ["recommendation-ranker", "production", "12", "", "converging, frozen until the audit is over"],
    ["churn", "staging", "3", "", ("serving", "green")],
]


def drawn(
    width: int, monkeypatch: pytest.MonkeyPatch, *, colour: bool, rows: list[list[Cell]] | None = None
) -> list[str]:
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    (monkeypatch.delenv if colour else monkeypatch.setenv)("NO_COLOR", *([False] if colour else ["1"]))
    Output(Options()).table(HEAD, MODELS if rows is None else rows)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [200, 80, 60, 40])
def test_a_table_fits_the_terminal_and_breaks_no_word(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn(width, monkeypatch, colour=False)
    assert all(len(line) <= width for line in lines)
    for word in ("recommendation-ranker", "ENVIRONMENT", "production", "converging,", "audit", "serving"):
        assert any(word in line.split() for line in lines), lines
    assert not any("SHADOWS" in line for line in lines), "no model has one"
    coloured = drawn(width, monkeypatch, colour=True)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == lines
    assert any("\x1b[32mserving" in line for line in coloured)


def test_how_a_table_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(60, monkeypatch, colour=False) == [
        "MODEL                  ENVIRONMENT  STABLE  STATE",
        "recommendation-ranker  production   12      converging,",
        "                                            frozen until the",
        "                                            audit is over",
        "churn                  staging      3       serving",
    ]
    assert drawn(40, monkeypatch, colour=False) == [
        "MODEL        recommendation-ranker",
        "ENVIRONMENT  production",
        "STABLE       12",
        "STATE        converging, frozen until",
        "             the audit is over",
        "",
        "MODEL        churn",
        "ENVIRONMENT  staging",
        "STABLE       3",
        "STATE        serving",
    ]
    assert drawn(80, monkeypatch, colour=False, rows=[]) == ["MODEL  ENVIRONMENT  STABLE  SHADOWS  STATE"]
