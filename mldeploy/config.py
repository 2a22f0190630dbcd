"""Which store and environment a command means, and where local state lives.

The store comes from the argument, MLDEPLOY_STORE, or the nearest `mldeploy.toml` (or `[tool.mldeploy]` of a
`pyproject.toml`) going up from the working folder; a local folder where none names one. The environment comes
the same way (MLDEPLOY_ENVIRONMENT), and is `production` where nothing names it. Paths in a file are
relative to that file. Left out: the daemon's configuration, which is its own.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mldeploy.core.types import PRODUCTION, check_name
from mldeploy.errors import UsageError

KEYS = ("store", "environment")


@dataclass(frozen=True, slots=True)
class Settings:
    """What was chosen, and what chose it (shown in errors)."""

    store: str  # a URL
    store_from: str
    environment: str


def load_settings(
    store: str | None = None,
    environment: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Choose store and environment. Raises UsageError for a file that cannot be read or has unknown keys."""
    env = os.environ if environ is None else environ
    path, table = nearest_file(folder or Path.cwd())
    if store is not None:
        chosen, source = store_url(store), "--store"
    elif env.get("MLDEPLOY_STORE"):
        chosen, source = store_url(env["MLDEPLOY_STORE"]), "MLDEPLOY_STORE"
    elif path and "store" in table:
        chosen, source = store_url(table["store"], path.parent), str(path)
    else:
        chosen, source = store_url(str(data_folder(env) / "store")), "the default"
    named = environment if environment is not None else _environment(env, table)
    return Settings(chosen, source, check_name(named, "environment name"))


def default_environment() -> str:
    """The environment that is meant where a command names none."""
    return _environment(os.environ, nearest_file(Path.cwd())[1])


def surrounding_environment() -> tuple[str, str] | None:
    """The environment that MLDEPLOY_ENVIRONMENT or a file names, and which of them does; None: neither."""
    if os.environ.get("MLDEPLOY_ENVIRONMENT"):
        return os.environ["MLDEPLOY_ENVIRONMENT"], "MLDEPLOY_ENVIRONMENT"
    path, table = nearest_file(Path.cwd())
    return (table["environment"], str(path)) if "environment" in table else None


def _environment(env: Mapping[str, str], table: Mapping[str, str]) -> str:
    # a variable that is set to nothing counts as unset, as everywhere; a key of a file says what it says
    return env.get("MLDEPLOY_ENVIRONMENT") or table.get("environment", PRODUCTION)


def store_url(text: str, base: Path | None = None) -> str:
    """A URL as it stands; a path as `file://` and its absolute form."""
    if not text.strip():
        raise UsageError("the store is named by an empty string", "give a URL such as s3://bucket/prefix")
    if "://" in text:
        return text
    path = (base or Path.cwd()) / Path(text).expanduser()
    return f"file://{os.path.normpath(path)}"


def nearest_file(folder: Path) -> tuple[Path | None, dict[str, str]]:
    """The nearest configuration going up from `folder`, and its table."""
    for place in (folder.resolve(), *folder.resolve().parents):
        own = place / "mldeploy.toml"
        if own.is_file():
            return own, _checked(own, _read(own))
        project = place / "pyproject.toml"
        if project.is_file():
            table = _read(project).get("tool", {}).get("mldeploy")
            if table is not None:
                return project, _checked(project, table)
    return None, {}


def data_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where local data lives: $XDG_DATA_HOME/mldeploy, by default ~/.local/share/mldeploy."""
    return _xdg("XDG_DATA_HOME", ".local/share", environ)


def state_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where local daemons keep their state: $XDG_STATE_HOME/mldeploy, by default ~/.local/state/mldeploy."""
    return _xdg("XDG_STATE_HOME", ".local/state", environ)


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """What may be lost at any time: $XDG_CACHE_HOME/mldeploy, by default ~/.cache/mldeploy."""
    return _xdg("XDG_CACHE_HOME", ".cache", environ)


def _xdg(name: str, default: str, environ: Mapping[str, str] | None) -> Path:
    value = (os.environ if environ is None else environ).get(name, "")
    # the XDG specification: a path that is not absolute is to be ignored
    base = Path(value) if value.startswith("/") else Path.home() / default
    return base / "mldeploy"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}", "mend the file, or name the store with --store"
        ) from error


def _checked(path: Path, table: Any) -> dict[str, str]:
    if not isinstance(table, dict):
        raise UsageError(
            f"{path}: [tool.mldeploy] is not a table", 'write for example store = "s3://bucket/prefix"'
        )
    for key, value in table.items():
        if key not in KEYS:
            near = get_close_matches(key, KEYS, 1, 0.4)
            raise UsageError(
                f"{path}: unknown key {key!r}",
                f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(KEYS)}",
            )
        if not isinstance(value, str):
            raise UsageError(f"{path}: {key} is not a string", f'write {key} = "…"')
    return table
