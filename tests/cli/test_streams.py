"""Standard streams that are closed, or that cannot show a character: what was done stays done."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest

from .conftest import Ran, World


def shell(call: str, redirected: str, **env: str) -> Ran:
    """A command line with a shell's redirections."""
    line = f"{shlex.quote(sys.executable)} -m mldeploy.cli.main {call} {redirected}"
    done = subprocess.run(
        ["/bin/sh", "-c", line], capture_output=True, timeout=60, check=False, env={**os.environ, **env}
    )
    return Ran(done.returncode, done.stdout.decode("latin-1"), done.stderr.decode())


@pytest.mark.parametrize("json", ["", "--json"])
@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_with_standard_output_closed_a_write_is_done(world: World, json: str, closed: str) -> None:
    world.publish()
    head = world.head()
    ran = shell(f"freeze churn --reason cron {json}", closed)
    assert (ran.code, ran.out) == (0, ""), ran.err
    assert "unexpected" not in ran.err
    assert "Traceback" not in ran.err
    assert world.head() == head + 1
    assert shell(f"status {json}", closed).code == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_wrong_call_is_2_whatever_is_closed(world: World, closed: str) -> None:
    ran = shell("promote x", closed)
    assert (ran.code, ran.out) == (2, "")


def test_the_streams_that_are_closed_are_not_the_stores_files(world: World) -> None:
    """The number of a closed stream goes to the next file that is opened."""
    world.publish()
    assert shell("promote churn@1 --to 5", "<&- >&- 2>&-").code == 0
    assert "churn@1" in shell("history", "").out
    for path in world.path.rglob("*"):
        assert not path.is_file() or b"takes" not in path.read_bytes(), path


def test_what_an_encoding_lacks_is_shown_by_its_number(world: World) -> None:
    for content in "12":
        world.publish(content=content)
    shell("promote churn@1", "")
    assert shell("freeze churn --reason", "'été → 🙂'").code == 0
    assert shell("unfreeze churn", "").code == 0
    assert shell("promote churn@2 --steps 5,100", "").code == 0
    for encoding in ("latin-1", "ascii"):
        told = shell("history", "", PYTHONIOENCODING=encoding)
        assert told.code == 0, told.err
        assert "to 5% \\u2192 100%" in told.out
        document = shell("history --json", "", PYTHONIOENCODING=encoding)
        said = [text for event in json.loads(document.out)["events"] for text in event["actions"]]
        assert "freeze churn in production: été → 🙂" in said
        assert shell("report churn@2", "", PYTHONIOENCODING=encoding).code == 0
