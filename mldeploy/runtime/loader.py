"""From a bundle's folder to the function that predicts.

Rules: for a Python object, its pickle is read with every large buffer mapped from its own file, private and
copy on write, so that replicas and versions share the pages; for a Python class, its module is imported from
`code/`, made without arguments, and `load(path of model/)` called where it has one. Whatever goes wrong is a
BundleError of stage `load`. This runs the model's code: only in a confined process, after the digests were
verified. Left out: other kinds of model, which come as classes of their own.
"""

from __future__ import annotations

import importlib
import mmap
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import BundleError
from .spec import Entry

KINDS = ("python-object", "python-class")


def load(bundle: str, entry: Entry) -> Callable[..., Any]:
    """The method to call for a prediction. Raises BundleError; the traceback goes to stderr."""
    code = Path(bundle).absolute() / "code"
    if code.is_dir() and str(code) not in sys.path:
        sys.path.insert(0, str(code))
    try:
        if entry.kind == "python-object":
            model = _unpickle(bundle, entry)
        elif entry.kind == "python-class":
            model = _instantiate(bundle, entry)
        else:
            raise BundleError(
                "load", "manifest.yaml", "entry.kind", f"{entry.kind!r} is none of {', '.join(KINDS)}"
            )
    except BundleError:
        raise
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        raise BundleError(
            "load", _file_of(entry), "", f"{type(error).__name__}: {error}", _hint(error)
        ) from error
    method = getattr(model, entry.method, None)
    if not callable(method):
        raise BundleError(
            "load",
            "manifest.yaml",
            "entry.method",
            f"{type(model).__name__} has no method {entry.method!r}",
            "name the method that predicts",
        )
    return method  # type: ignore[no-any-return]


def _unpickle(bundle: str, entry: Entry) -> object:
    if entry.pickle is None:
        raise BundleError("load", "manifest.yaml", "entry.pickle", "names no file")
    buffers = [_map(_inside(bundle, path, "entry.buffers")) for path in entry.buffers]
    with open(_inside(bundle, entry.pickle, "entry.pickle"), "rb") as file:
        return pickle.load(file, buffers=buffers)


def _map(path: str) -> mmap.mmap | bytearray:
    """A file as writable memory that stays the page cache's until it is written to."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return bytearray()  # nothing cannot be mapped
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _instantiate(bundle: str, entry: Entry) -> object:
    if entry.module is None or entry.name is None:
        raise BundleError("load", "manifest.yaml", "entry.module", "names no module and class")
    model = getattr(importlib.import_module(entry.module), entry.name)()
    if hasattr(model, "load"):
        model.load(Path(bundle).absolute() / "model")
    return model


def _inside(bundle: str, path: str, key: str) -> str:
    """`path` within the bundle. The manifest was checked before; a second look costs nothing."""
    if path.startswith("/") or ".." in path.split("/"):
        raise BundleError("load", "manifest.yaml", key, f"{path!r} leaves the bundle")
    return os.path.join(bundle, path)


def _file_of(entry: Entry) -> str:
    if entry.kind == "python-object":
        return entry.pickle or ""
    return f"code/{(entry.module or '').replace('.', '/')}.py"


def _hint(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"add what provides {error.name!r} to the requirements, or the module to code/"
    if isinstance(error, PermissionError):
        return "a model reads its own bundle and environment alone, and has no network"
    return ""
