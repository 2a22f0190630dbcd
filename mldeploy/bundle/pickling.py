"""A Python object as a pickle, its large buffers in files of their own.

Rules: protocol 5; a buffer of 64 KiB or more goes straight from the object's memory to
`model/buffers/NNN.bin` and is hashed on the way, so that an array is never held twice and is mapped where it
is served; smaller ones stay in the pickle. cloudpickle writes functions and classes of `__main__` by value:
their bytes depend on the folder and the hash seed, so such a pickle may differ from one run to the next;
objects of imported classes do not. Left out: reading pickles, which happens in a confined worker alone.
"""

from __future__ import annotations

import dis
import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import IO, Any

from mldeploy.bundle.files import CHUNK, disk_errors
from mldeploy.core.manifest import File
from mldeploy.errors import UsageError

PICKLE = "model/model.pkl"
#: Bytes from which a buffer gets a file of its own.
OUT_OF_BAND = 64 * 1024
_HINT = "keep locks, open files and connections out of the model, or pack a folder with a model.yaml"


@dataclass(frozen=True, slots=True)
class Pickled:
    """What was written: the files (hashed) and the buffers in order; modules imported inside functions.

    `by_value`: the pickle holds bytecode, which one minor version of Python reads and no other.
    """

    files: tuple[File, ...]
    buffers: tuple[str, ...]
    imports: frozenset[str]
    by_value: bool


def dump(model: object, folder: Path, advance: Callable[[int], None] = lambda _: None) -> Pickled:
    """Pickle `model` into `folder`/model. `advance` is told the bytes written.

    Raises UsageError where it cannot be pickled, DiskError where it cannot be written.
    """
    buffers: list[File] = []
    imports: set[str] = set()
    (folder / "model" / "buffers").mkdir(parents=True)

    def keep(buffer: pickle.PickleBuffer) -> bool:
        with buffer.raw() as view:
            if view.nbytes < OUT_OF_BAND:
                return True  # stays in the pickle
            path = f"model/buffers/{len(buffers):03}.bin"
            buffers.append(_write_buffer(folder, path, view, advance))
        return False

    with disk_errors(folder), (folder / PICKLE).open("wb") as raw:
        file = _Hashing(raw, advance)
        _pickler(file, keep, imports.add).dump(model)
    if not buffers:
        (folder / "model" / "buffers").rmdir()
    whole = File(path=PICKLE, sha256=file.digest.hexdigest(), size=file.size)
    return Pickled(
        (whole, *buffers), tuple(buffer.path for buffer in buffers), frozenset(imports - {""}), bool(imports)
    )


class _Hashing:
    """A file that hashes what it writes."""

    def __init__(self, raw: IO[bytes], advance: Callable[[int], None]) -> None:
        self._raw, self._advance = raw, advance
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data)
        self.digest.update(view)
        self._raw.write(view)
        self.size += view.nbytes
        self._advance(view.nbytes)
        return view.nbytes


def _write_buffer(folder: Path, path: str, view: memoryview, advance: Callable[[int], None]) -> File:
    with (folder / path).open("wb", buffering=0) as raw:
        file = _Hashing(raw, advance)
        for start in range(0, view.nbytes, CHUNK):
            file.write(view[start : start + CHUNK])
    return File(path=path, sha256=file.digest.hexdigest(), size=file.size)


def _pickler(file: _Hashing, keep: Callable[[Any], bool], note: Callable[[str], None]) -> Any:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        """Notes the modules that functions written by value import in their bodies."""

        def reducer_override(self, value: Any) -> Any:
            if type(value) is CodeType:
                for name in ("", *_imported(value)):
                    note(name)
            return super().reducer_override(value)

        def dump(self, value: object) -> None:
            try:
                super().dump(value)
            except (OSError, KeyboardInterrupt):
                raise
            except Exception as error:  # whatever the object's own __reduce__ raises
                what = f"{type(error).__name__}: {error}"
                raise UsageError(f"the model cannot be pickled: {what}", _HINT) from error

    return Pickler(file, protocol=5, buffer_callback=keep)


def _imported(code: CodeType) -> list[str]:
    return [
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname == "IMPORT_NAME" and instruction.argval
    ]
