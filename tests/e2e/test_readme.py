"""The README's walk-through is run as it stands, so that it cannot rot.

Its `sh` blocks run in one shell, in order; a block with `file=NAME` in its info string is written where the
shell then stands. Only the port is another, and `.venv` is an environment made for the test that sees this
one's packages: the walk-through installs into it.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Seconds: it installs packages, and the machine may be busy.
DEADLINE = 600


@pytest.mark.full  # scikit-learn is installed, and once more for the host
@pytest.mark.timeout(DEADLINE + 60)
def test_the_walk_through_works_as_it_is_written(tmp_path: Path) -> None:
    _environment(tmp_path / ".venv")
    script = _script((ROOT / "README.md").read_text("utf-8")).replace("8080", str(_free_port()))
    result = _run(script, tmp_path)
    assert result.returncode == 0, result.stdout
    said = result.stdout
    # pushed twice, and the second time it was there already
    assert said.count("\ntumour@1\n") == 2
    assert "tumour@2" in said
    assert '"name":"tumour"' in said.replace(" ", "")
    assert '"outputs"' in said
    assert "curl" in said


def test_the_readme_names_commands_that_exist() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    helped = subprocess.run(
        [_script_path("mldeploy"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    for command in set(re.findall(r"^mldeploy ([a-z]+)", text, re.MULTILINE)):
        assert re.search(rf"^\s+{command}\b", helped, re.MULTILINE), command


def test_the_readme_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text("utf-8")):
        assert (ROOT / target).exists(), target


def _script(text: str) -> str:
    """One shell script out of all blocks of the walk-through."""
    walk = text.split("## Ten minutes", 1)[1].split("\n## ", 1)[0]
    parts = ["set -euo pipefail"]
    for language, file, body in BLOCK.findall(walk):
        if file:
            parts.append(f"cat > {file} <<'END-OF-{file}'\n{body}END-OF-{file}")
        elif language == "sh":
            # what ends the daemon ends it with its own exit code, which `wait` hands on
            parts.append(body)
    return "\n".join(parts)


def _run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it in a session of its own; whatever it leaves behind ends with it."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MLDEPLOY")}
    environ |= {"HOME": str(folder), "NO_COLOR": "1"}
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=DEADLINE)
    finally:
        _end(process.pid)
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def _end(group: int) -> None:
    try:
        os.killpg(group, 15)
    except ProcessLookupError:
        return


def _environment(folder: Path) -> None:
    """A virtual environment that sees the packages of the one that runs the tests."""
    venv.create(folder, with_pip=True, symlinks=True)
    inner = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    outer = sysconfig.get_path("purelib")
    # `addsitedir` and not a bare path: the project itself may be there as an editable install
    (inner / "outer.pth").write_text(f"import site; site.addsitedir({outer!r})\n")
    for name in ("mldeploy", "mldeployd"):
        text = Path(_script_path(name)).read_text("utf-8").split("\n", 1)[1]
        command = folder / "bin" / name
        command.write_text(f"#!{folder}/bin/python\n{text}")
        command.chmod(0o755)


def _script_path(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
