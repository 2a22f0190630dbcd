"""The project's checks. `nox` runs what every change must pass; `full` and `bench` are asked for by name.

The sessions run in the environment nox itself is installed in (`pip install -e '.[dev]'`), so a check sees
what a developer sees and nothing is installed twice.
"""

import sys
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "imports", "tests"]
nox.options.stop_on_first_error = True

PYTHON = sys.executable
BIN = Path(sys.executable).parent
_S3_TESTS = [
    "tests/store/test_conformance.py",
    "tests/store/ceph_policies.py",
    *sorted(map(str, Path("tests/store").glob("test_s3_*.py"))),
]


@nox.session(python=False)
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.run(PYTHON, "-m", "ruff", "check", ".")
    session.run(PYTHON, "-m", "ruff", "format", "--check", ".")


@nox.session(python=False)
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    session.run(PYTHON, "-m", "mypy")


@nox.session(python=False)
def imports(session: nox.Session) -> None:
    """Which package may import which."""
    session.run(str(BIN / "lint-imports"))


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """Everything that runs in minutes, with warnings as errors."""
    # by file: what a file prepares once serves all its tests
    session.run(PYTHON, "-m", "pytest", "-m", "not full", "-n", "2", "--dist", "loadfile", *session.posargs)


@nox.session(python=False)
def full(session: nox.Session) -> None:
    """Every test, those that take long included, and what is tested with Ceph."""
    _on_ceph(session, _S3_TESTS)
    session.run(PYTHON, "-m", "pytest", *session.posargs)


@nox.session(python=False)
def ceph(session: nox.Session) -> None:
    """The tests of S3 against Ceph's gateway, started here from Debian's packages (as root: installed)."""
    _on_ceph(session, session.posargs or _S3_TESTS)


def _on_ceph(session: nox.Session, tests: list[str]) -> None:
    session.run(PYTHON, "-m", "tests.support.ceph", PYTHON, "-m", "pytest", *tests)


@nox.session(python=False)
def bench(session: nox.Session) -> None:
    """Speed, as ratios measured side by side in one run. Decides nothing."""
    session.run(PYTHON, "-m", "pip", "install", "--quiet", "-e", ".[dev,bench]")
    session.run(PYTHON, "-m", "bench", *session.posargs)
