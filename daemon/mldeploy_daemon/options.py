"""The options of `mldeployd`: command line over configuration file over defaults.

Standard library only, like the keeper that reads them. The file is TOML with the same names as the options
and a few more (FILE_ONLY); an unknown one is refused with the nearest valid name.
Left out: what the options mean to the agent and the fronts (`config.py`, `front/config.py`).
"""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mldeploy_daemon.file_tables import table_problem, unknown
from mldeploy_daemon.system import memory_limit

DEFAULTS: dict[str, Any] = {
    "listen": "127.0.0.1:8080",
    "environment": "production",
    "fronts": 0,  # min(2, processors)
    "drain": 0.0,
    "labels": {},
    "confine": "best-effort",
    "memory": "",  # 90 % of what this machine, or its cgroup, has
    "poll": 1.0,
    "report": 10.0,
    "log_level": "info",
}
#: Keys of the file that are no options: seconds, and the fronts' own limits.
FILE_ONLY: dict[str, type] = {
    "grace": float,
    "hang": float,
    "load_timeout": float,
    "drain_deadline": float,
    "idle": float,
    "awake": float,
    "limits": dict,
    "pause": dict,
    "access_log": bool,
}
_NUMBERS = ("drain", "poll", "report", "grace", "hang", "load_timeout", "drain_deadline", "idle", "awake")
#: Seconds at the most. Looks at the log: three of them within the lease of rollouts, so that one may fail.
#: Reports: merged or not they are to be fresh for those who steer, which is two minutes in a small fleet.
_AT_MOST = {"poll": 30.0, "report": 60.0}
#: Options that are one of a few words.
_WORDS = {
    "confine": ("require", "best-effort", "off"),
    "log_level": ("debug", "info", "warning", "error"),
}
#: As `mldeploy.core.types` has it.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

EPILOG = """\
The daemon follows the log of the store and serves what its environment says. It keeps everything in the
state folder, so it can be killed at any moment and started again; with the store out of reach it goes on
serving what it last knew. One state folder has one daemon.

exit codes: 0 stopped as asked, 1 cannot start or go on, 2 wrong usage, 130 interrupted twice

examples:
  mldeployd --store s3://models/prod --state /var/lib/mldeploy
  mldeployd --store ./store --state ./host --listen 127.0.0.1:0 --environment staging
  mldeployd --config /etc/mldeploy/mldeployd.toml"""


class Refused(Exception):  # noqa: N818 - it is how the keeper says no
    """What an operator has to mend: shown as `error:` and `hint:`; `code` is the exit code."""

    def __init__(self, message: str, hint: str, code: int = 1) -> None:
        super().__init__(message)
        self.message, self.hint, self.code = message, hint, code


def read(argv: Sequence[str] | None) -> dict[str, Any]:
    """All options by name, checked. Raises Refused; argparse itself exits with 2, or 0 for --help."""
    given = {key: value for key, value in vars(_parser().parse_args(argv)).items() if value is not None}
    file = given.pop("config", None)
    labels = dict(_label(text) for text in given.pop("label", None) or [])
    options = {**DEFAULTS, **(_read_file(Path(file)) if file else {}), **given}
    if labels:
        options["labels"] = {**options["labels"], **labels}
    return _checked(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mldeployd",
        description="Serve the models that a store's log asks this host to serve.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--store", metavar="URL", help="the store: a folder, file:///…, s3://bucket/prefix")
    add("--state", metavar="DIR", help="the folder of this daemon; made if it is not there")
    add(
        "--listen",
        metavar="HOST:PORT",
        help="where to answer (127.0.0.1:8080); port 0 takes a free one (see STATE/run/listen)",
    )
    add("--environment", metavar="NAME", help="the environment this host serves (production)")
    add("--config", metavar="FILE", help="TOML with the same names; options given here win")
    add("--fronts", metavar="N", type=int, help="HTTP processes (2, or 1 on one processor)")
    add("--drain", metavar="SECONDS", type=float, help="not ready for so long before stopping (0)")
    add("--label", metavar="K=V", action="append", help="a label of this host; may be repeated")
    add(
        "--confine",
        choices=_WORDS["confine"],
        help="what to do where workers cannot be confined (best-effort)",
    )
    add(
        "--memory",
        metavar="SIZE",
        help="of all workers together, such as 8GiB; 0 for no limit (90 %% of the machine's)",
    )
    add("--poll", metavar="SECONDS", type=float, help="between looks at the log (1; at most 30)")
    add("--report", metavar="SECONDS", type=float, help="between reports of this host (10; at most 60)")
    add("--log-level", choices=_WORDS["log_level"], help="what is logged (info)")
    add("--version", action=_Version, nargs=0, help="print the version and exit")
    return parser


class _Version(argparse.Action):
    """Prints the version that is installed; asked for only then, since that takes a while."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"mldeployd {version('mldeploy')}")
        parser.exit()


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise Refused(f"--label {text!r} is not KEY=VALUE", "write for example --label zone=a", 2)
    return key, value


def _read_file(path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}", "check --config", 2) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"{path} is not TOML: {error}", "mend the file", 2) from error
    known = [*DEFAULTS, *FILE_ONLY, "store", "state"]
    options = {}
    for key, value in data.items():
        name = key.replace("-", "_")
        if name not in known:
            raise Refused(f"{path}: unknown key {key!r}", unknown(name, known), 2)
        wanted = FILE_ONLY.get(name, type(DEFAULTS.get(name, "")))
        if name == "memory" and type(value) is int:
            value = str(value)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not wanted:
            raise Refused(f"{path}: {key} is not a {wanted.__name__}", f"it is {value!r}", 2)
        problem = table_problem(name, value) if isinstance(value, dict) else None
        if problem:
            raise Refused(f"{path}: {problem[0]}", problem[1], 2)
        options[name] = value
    return options


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    for name in ("store", "state"):
        if not options.get(name):
            raise Refused(f"--{name} is missing", f"give --{name}, or {name} in the configuration file", 2)
    if not _NAME.fullmatch(options["environment"]):
        raise Refused(
            f"{options['environment']!r} is not a valid environment name",
            "use 1 to 100 of a-z, 0-9, '.', '_' and '-', and start with a letter or a digit",
            2,
        )
    for name, words in _WORDS.items():
        if options[name] not in words:
            raise Refused(f"{name} is {options[name]!r}", f"write one of {', '.join(words)}", 2)
    for name in _NUMBERS:
        if name in options and not 0 <= options[name] < 1e9:
            raise Refused(f"{name} is {options[name]:g}", "give a number of seconds, 0 or more", 2)
    if options["poll"] <= 0 or options["report"] <= 0:
        raise Refused("poll and report must be more than 0 seconds", "leave them out for the defaults", 2)
    for name, most in _AT_MOST.items():
        if options[name] > most:
            hint = f"give at most {most:g} seconds: rollouts wait for what is heard more rarely"
            raise Refused(f"{name} is {options[name]:g}", hint, 2)
    if options["fronts"] < 0 or options["fronts"] > 64:
        raise Refused(f"--fronts {options['fronts']} is out of range", "give 1 to 64", 2)
    options["memory"] = _size(options["memory"]) if options["memory"] else memory_limit() * 9 // 10
    options["fronts"] = options["fronts"] or min(2, os.cpu_count() or 1)
    if "://" not in options["store"]:
        options["store"] = str(Path(options["store"]).expanduser().absolute())
    options["state"] = str(Path(options["state"]).expanduser().absolute())
    split_address(options["listen"])
    return options


def _size(text: str) -> int:
    """Bytes of `8GiB`, `512M` or `123456`. Units are powers of 1024. Raises Refused."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise Refused(f"--memory {text!r} is not a size", "write for example 8GiB, 512MiB or 0", 2)
    return int(float(found[1]) * _UNITS[found[2].upper()])


def split_address(text: str) -> tuple[str, int]:
    """HOST:PORT or [HOST]:PORT. Raises Refused."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise Refused(f"--listen {text!r} is not HOST:PORT", "write for example 127.0.0.1:8080", 2)
    return host.removeprefix("[").removesuffix("]"), int(port)
