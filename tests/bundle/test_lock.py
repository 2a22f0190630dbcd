"""Reading and writing locks, and which wheels a target takes."""

from __future__ import annotations

import pytest

from mldeploy.bundle.lock import Pin, parse, read_pins, render
from mldeploy.bundle.targets import Target, default_platform, this_platform
from mldeploy.bundle.wheels import fits
from mldeploy.errors import BuildError, UsageError

TARGET = Target("3.11", "linux-x86_64")
A, B = "a" * 64, "b" * 64


def test_comments_continuations_markers_and_extras_are_read() -> None:
    text = f"""\
# made by hand
Some.Thing[extra]==1.0 \\
    --hash=sha256:{B} \\
    --hash=sha256:{A}
    # via another
windows-only==2.0 ; sys_platform == 'win32' --hash=sha256:{A}
here==3.0 ; python_version >= "3.11" and platform_machine == "x86_64" --hash=sha256:{A}
"""
    pins, problems = parse(text.encode(), TARGET)
    assert not problems
    assert pins == (Pin("here", "3.0", (A,)), Pin("some-thing", "1.0", (A, B)))
    assert parse(render(pins), TARGET)[0] == pins
    assert render(reversed(pins)) == render(pins)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"thing>=1.0 --hash=sha256:{A}", "not pinned"),
        (f"thing==1.* --hash=sha256:{A}", "not pinned"),
        ("thing==1.0", "no sha256 hash"),
        ("thing==1.0 --hash=md5:abc", "no sha256 hash"),
        ("thing==1.0 --hash=sha256:abc", "no sha256"),
        ("--index-url https://example.com", "no place in a lock"),
        ("-e ./here", "no place in a lock"),
        (f"thing @ https://example.com/t.whl --hash=sha256:{A}", "locked to a URL"),
        (f"thing==1.0 --hash=sha256:{A}\nThing==1.0 --hash=sha256:{A}", "locked twice"),
        ("?!", "not a requirement"),
    ],
)
def test_what_has_no_place_in_a_lock_is_named(line: str, said: str) -> None:
    problems = parse(line.encode(), TARGET)[1]
    assert len(problems) == 1
    assert said in problems[0].message
    assert problems[0].hint


def test_the_runtime_s_needs_are_checked() -> None:
    lines = f"numpy==1.20 --hash=sha256:{A}\nmsgspec==0.20.0 --hash=sha256:{A}\n"
    with pytest.raises(BuildError, match=r"numpy: 1\.20 is outside") as error:
        read_pins(lines.encode(), TARGET)
    assert "lock them again" in error.value.hint
    with pytest.raises(BuildError, match="msgspec: is not locked"):
        read_pins(f"numpy==2.1 --hash=sha256:{A}".encode(), TARGET)
    assert parse(b"\xff", TARGET)[1][0].message == "is not UTF-8 text"


def test_the_best_wheel_for_a_target_is_a_function_of_the_target() -> None:
    names = [
        "t-1-cp311-cp311-manylinux_2_28_x86_64.whl",
        "t-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "t-1-cp39-abi3-manylinux2014_x86_64.whl",
        "t-1-py3-none-any.whl",
    ]
    ranks = [fits(name, TARGET) for name in names]
    assert None not in ranks
    assert ranks == sorted(ranks, key=lambda rank: rank or 0)
    for name in (
        "t-1-cp312-cp312-manylinux2014_x86_64.whl",
        "t-1-cp311-cp311-manylinux_2_39_x86_64.whl",
        "t-1-cp311-cp311-win_amd64.whl",
        "t-1-cp311-cp311-musllinux_1_2_x86_64.whl",
        "nonsense.whl",
    ):
        assert fits(name, TARGET) is None, name
    assert fits("t-1-cp311-cp311-manylinux_2_17_aarch64.whl", Target("3.11", "linux-aarch64")) is not None


@pytest.mark.parametrize(
    ("python", "platform"), [("3.10", "linux-x86_64"), ("4", "linux-x86_64"), ("3.11", "beos-ppc")]
)
def test_targets_that_cannot_serve_are_refused(python: str, platform: str) -> None:
    with pytest.raises(UsageError) as error:
        Target(python, platform)
    assert error.value.hint


def test_a_platform_to_pack_for_is_always_found() -> None:
    assert default_platform().startswith("linux-")
    assert this_platform() == default_platform()
