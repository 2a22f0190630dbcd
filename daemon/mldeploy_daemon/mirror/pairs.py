"""Pairs of answers kept for study, where a shadow asks for it: JSON lines in pairs/<shadow>/.

    {"time", "version", "request", "answer", "shadow_status", "shadow_answer", "within"}

Rules: at most so many pairs of a shadow as it asks for, over restarts and kills too; of those that agree at
most one a second, of the others PER_SECOND; nothing while MAX_BYTES lie here that the agent has not taken
away. A file is finished after LINES lines, FILE_BYTES or SECONDS seconds, and only then has its name. What
cannot be written is not kept.
Left out: bringing them to the store (`mldeploy_daemon/pairs.py`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from pathlib import Path
from typing import IO

import msgspec

from mldeploy.runtime.reading import NOT_JSON

FOLDER = Path("pairs")
#: Pairs that differ, a second; lines, seconds and bytes of one file; bytes of all files of a shadow.
PER_SECOND, LINES, SECONDS, FILE_BYTES, MAX_BYTES = 10, 500, 30.0, 8 << 20, 64 << 20
_RAW = msgspec.Raw
# the id comes from the log, and names a folder here
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", re.ASCII)

log = logging.getLogger(__name__)


class Pair(msgspec.Struct):
    """One line. Bodies are those that were sent and given, to the last digit."""

    time: float  # unix seconds
    version: int  # that answered
    request: msgspec.Raw
    answer: msgspec.Raw
    shadow_status: int
    shadow_answer: msgspec.Raw
    within: bool


class Pairs:
    """Those of one shadow. Nothing is opened before the first is kept."""

    def __init__(self, shadow: str, most: int) -> None:
        self._folder = FOLDER / shadow
        self.most = most if _ID.fullmatch(shadow) else 0
        self._kept: int | None = None
        self._file: IO[bytes] | None = None
        self._lines = self._bytes = 0
        self._opened = 0.0
        self._second, self._same, self._other = 0, 0, 0

    def keep(self, pair: Pair, now: float) -> None:
        """Keep it, if it is its turn. `now` in seconds of any clock that goes on."""
        if not self.most or not self._turn(pair, now):
            return
        try:
            self._write(pair, now)
        except OSError as error:
            log.warning("a pair is not kept: %s", error)

    def _turn(self, pair: Pair, now: float) -> bool:
        if int(now) != self._second:
            self._second, self._same, self._other = int(now), 0, 0
        if pair.within:
            self._same += 1
            return self._same == 1
        self._other += 1
        return self._other <= PER_SECOND

    def _write(self, pair: Pair, now: float) -> None:
        if self._kept is None:
            self._kept = self._begin()
        if self._kept >= self.most or (self._file is None and self._full()):
            return
        if self._file is None:
            self._file = (self._folder / f"{time.time_ns():020d}.part").open("ab")
            self._lines, self._bytes, self._opened = 0, 0, now
        self._bytes += self._file.write(msgspec.json.encode(pair) + b"\n")
        self._lines += 1
        self._kept += 1
        if self._lines >= LINES or self._bytes >= FILE_BYTES or self._kept >= self.most:
            self.finish()

    def _begin(self) -> int:
        """How many were kept before; what a former mirror left is finished, and counts."""
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = 0
        with contextlib.suppress(OSError, ValueError):
            kept = int((self._folder / "kept").read_text())
        left = sum(_finished(path) for path in self._folder.glob("*.part"))
        if left:
            self._note(kept + left)
        return kept + left

    def _note(self, kept: int) -> None:
        staged = self._folder / ".kept"
        staged.write_text(str(kept))
        staged.replace(self._folder / "kept")

    def _full(self) -> bool:
        return sum(path.stat().st_size for path in self._folder.glob("*.jsonl")) > MAX_BYTES

    def tick(self, now: float) -> None:
        """Finish a file that has been open for long."""
        if self._file is not None and now - self._opened > SECONDS:
            self.finish()

    def finish(self) -> None:
        """Give the open file its name."""
        if self._file is None:
            return
        try:
            self._file.close()
            path = Path(self._file.name)
            self._note(self._kept or 0)
            path.replace(path.with_suffix(".jsonl"))
        except OSError as error:
            log.warning("pairs: %s", error)
        self._file = None


def _finished(left: Path) -> int:
    """Give a file its name that was open when a mirror was killed; how many lines are whole."""
    data = left.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(left, whole)
    left.replace(left.with_suffix(".jsonl"))
    return data.count(b"\n")


def raw(body: bytes) -> msgspec.Raw:
    """A body as it stands in a line: JSON without the blanks and new lines around its values, anything else
    as text.
    """
    with contextlib.suppress(*NOT_JSON):
        return _RAW(msgspec.json.format(body.decode(), indent=-1))
    return _RAW(msgspec.json.encode(body.decode("utf-8", "replace")))
