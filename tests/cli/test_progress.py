"""What a bar shows while a transfer runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mldeploy.cli import output, progress


def drawn(unit: str, total: int, done: int) -> str:
    bar = output.moving_bar(unit)
    clock = iter([0.0, 0.0, 2.0, 2.0, 4.0, 4.0] + [4.0] * 50)
    bar.get_time = lambda: next(clock)
    task = bar.add_task("uploading", total=total)
    bar.advance(task, done // 2)
    bar.advance(task, done // 2)
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    console.print(bar.get_renderable())
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_bytes_show_how_fast_and_how_long_still() -> None:
    text = drawn("bytes", 100 << 20, 50 << 20)
    assert "uploading" in text and "50.0/100.0 MiB" in text
    assert "MB/s" in text
    assert "0:00:0" in text  # seconds left


def test_a_bar_waits_for_a_second_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(output, "moving_bar", lambda unit: made.append(unit))
    with progress.Terminal().bar("uploading", 10) as advance:
        advance(10)
    assert not made
