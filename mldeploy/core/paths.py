"""Paths inside a bundle: relative, with forward slashes, the same on every system.

Rules: no absolute path, no `..` or `.`, no empty part, no backslash, no control character; no two paths that
differ by case alone or where one is a folder of the other.
Left out: links and what is on the disk (`bundle/validate.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

#: Bytes in UTF-8; room is left below Linux's 4,096 for the folder it is put in.
MAX_PATH = 1024
#: Bytes in UTF-8 of one part of a path: what Linux file systems take.
MAX_PART = 255

_SLASHES = "write a path relative to the bundle's folder, with forward slashes"


def path_problem(path: str) -> tuple[str, str] | None:
    """What is wrong with one path, as (message, hint); None if it may stand in a bundle."""
    parts = path.split("/")
    if not path:
        return "the path is empty", _SLASHES
    if "\\" in path:
        return f"{path!r} holds a backslash", _SLASHES
    if any(character < " " or character == "\x7f" for character in path):
        return f"{path!r} holds a control character", "rename the file"
    if path.startswith("/") or (len(parts[0]) == 2 and parts[0][1] == ":"):
        return f"{path!r} is an absolute path", _SLASHES
    if ".." in parts:
        return f"{path!r} leaves the bundle", "a path may not hold '..'"
    if "" in parts or "." in parts:
        return f"{path!r} holds an empty part or '.'", _SLASHES
    if len(path.encode(errors="replace")) > MAX_PATH or any(
        len(part.encode(errors="replace")) > MAX_PART for part in parts
    ):
        return f"{path[:60]!r}… is too long", f"at most {MAX_PATH} bytes, {MAX_PART} for each part"
    return None


def clashes(paths: Iterable[str]) -> list[tuple[int, str, str]]:
    """The paths that cannot stand beside an earlier one, as (index, message, hint)."""
    seen: dict[str, str] = {}  # folded path -> how it was written, for files and for the folders above them
    files: set[str] = set()
    found = []
    for index, path in enumerate(paths):
        problem = _clash(path, seen, files)
        if problem:
            found.append((index, *problem))
            continue
        files.add(path.casefold())
        for prefix in _prefixes(path):
            seen.setdefault(prefix.casefold(), prefix)
    return found


def _clash(path: str, seen: dict[str, str], files: set[str]) -> tuple[str, str] | None:
    if path in files and seen.get(path.casefold()) == path:
        return f"{path!r} is listed twice", "list every file once"
    for prefix in _prefixes(path):
        before = seen.get(prefix.casefold())
        if before is not None and before != prefix:
            return f"{path!r} and {before!r} differ by case alone", "rename one of them"
        if prefix.casefold() in files:
            if prefix == path:
                return f"{path!r} is listed twice", "list every file once"
            return f"{path!r} lies below the file {prefix!r}", "a path is a file or a folder, not both"
    if path.casefold() in seen:
        return f"{path!r} is a folder of another file", "a path is a file or a folder, not both"
    return None


def _prefixes(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]
