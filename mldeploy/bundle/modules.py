"""Which modules a pickle or a piece of code needs, and where each comes from.

Rules: nothing is unpickled and nothing imported to find out: pickles are read opcode by opcode, code is
parsed. A module is of the standard library, of an installed distribution, or local: a file of the user's
own, which travels in `code/`. Editable installs are local. Left out: what functions written by value import
(`pickling.py`).
"""

from __future__ import annotations

import ast
import importlib.util
import pickletools
import site
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mldeploy.bundle.files import JUNK

_GETS = {"GET", "BINGET", "LONG_BINGET"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_SUBIMPORT = ("cloudpickle.cloudpickle", "subimport")  # how cloudpickle writes a module


@dataclass(frozen=True, slots=True)
class Needs:
    """What was found: modules of distributions, local modules' roots, distributions by name and version."""

    imports: tuple[str, ...]  # modules of distributions that were named, for the zygote
    local: Mapping[str, Path]  # top-level name -> file or package folder
    requirements: tuple[str, ...]  # "scikit-learn==1.5.2"


def pickle_modules(path: Path) -> set[str]:
    """The modules that loading a pickle imports, as far as its opcodes name them."""
    found: set[str] = set()
    memo: dict[int, object] = {}
    top: list[object] = [None, None]  # the last two values pushed, as far as they are known

    def push(value: object) -> None:
        top[:] = [top[1], value]

    with path.open("rb") as file:
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name in _STRINGS:
                if top[1] == _SUBIMPORT:
                    found.add(str(argument))
                push(argument)
            elif name == "MEMOIZE":
                memo[len(memo)] = top[1]
            elif name in _PUTS:
                memo[argument or 0] = top[1]
            elif name in _GETS:
                push(memo.get(argument or 0))
            elif name == "GLOBAL":
                module, _, attribute = str(argument).partition(" ")
                found.add(module)
                push((module, attribute))
            elif name == "STACK_GLOBAL":
                found.update([top[0]] if isinstance(top[0], str) else [])
                push(tuple(top))
            elif opcode.stack_after:
                push(None)
    return found - {"__main__", "builtins", "__builtin__"}


def source_modules(path: Path) -> set[str]:
    """The absolute imports of a Python file; none where it does not parse."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


def find_needs(modules: Iterable[str]) -> Needs:
    """Where `modules` come from, and what the local ones among them import in turn."""
    imports: set[str] = set()
    local: dict[str, Path] = {}
    distributions: set[str] = set()
    by_module = metadata.packages_distributions()
    pending, seen = sorted(modules), set()
    while pending:
        name = pending.pop()
        top = name.partition(".")[0]
        if name in seen or top in sys.stdlib_module_names or not top:
            continue
        seen.add(name)
        root = _local_root(top)
        if root is not None:
            if top not in local:
                local[top] = root
                pending.extend(_imports_below(root))
        elif top in by_module:
            imports.add(name)
            distributions.update(by_module[top])
    pins = tuple(sorted(f"{name}=={metadata.version(name)}" for name in distributions))
    return Needs(tuple(sorted(imports)), local, pins)


def _imports_below(root: Path) -> set[str]:
    found: set[str] = set()
    for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
        if not any(part in JUNK for part in path.parts):
            found |= source_modules(path)
    return found


def _local_root(top: str) -> Path | None:
    """The file or folder of a top-level module that no distribution installed; None for any other."""
    spec = _spec(top)
    if spec is None or spec.origin in ("built-in", "frozen"):
        return None
    if spec.submodule_search_locations:
        folders = [Path(folder) for folder in spec.submodule_search_locations]
        return next((folder for folder in folders if folder.is_dir() and not _installed(folder)), None)
    path = Path(spec.origin) if spec.origin else None
    return path if path and path.suffix == ".py" and not _installed(path) else None


def _spec(top: str) -> Any:
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):  # ValueError: a module without a spec, as __main__ in some shells
        return None


def _installed(path: Path) -> bool:
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sysconfig.get_path("stdlib")}
    places.update([*site.getsitepackages(), site.getusersitepackages()])
    path = path.resolve()
    return any(path.is_relative_to(Path(place).resolve()) for place in places if place)
