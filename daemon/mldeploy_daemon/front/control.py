"""The control socket of a front, `run/front-<k>.sock`: JSON lines, one answer a line.

    {"op":"table","generation":N}  read run/routes.json again, answer {"ok","generation","inflight"};
                                   with "table", which could not be written, go by that
    {"op":"stats"}                 {"ok","front","pid","generation","draining","mirrored","inflight",
                                    "oldest_ms","connections","buffered","counters":[Series.dump],
                                    "measures":[Measure],"http","accepted","refused","started"}
    {"op":"drain"}                 not ready from now on, but still serving

Siblings ask for stats here when one of them is asked for /metrics.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any, Protocol

import msgspec

from mldeploy_daemon.table import LONGEST_LINE

#: Where the mirror listens, relative to the state folder.
MIRROR = Path("run/mirror.sock")

log = logging.getLogger(__name__)


def socket_path(front: int) -> Path:
    """Where front `front` listens, relative to the state folder."""
    return Path(f"run/front-{front}.sock")


class Controlled(Protocol):
    """What the control socket needs of its front."""

    def reload(self, told: Any = None) -> dict[str, Any]:
        """Read the table again, or take the one that came along; the answer to `table`."""

    def stats(self) -> dict[str, Any]:
        """The answer to `stats`."""

    def drain(self) -> None:
        """Not ready from now on."""


class Control:
    """The server side."""

    def __init__(self, front: Controlled, path: Path) -> None:
        self._front = front
        self._path = path
        self._server: asyncio.Server | None = None
        self._inode = 0

    async def start(self) -> None:
        """Listen, in place of whoever had the name before. Raises OSError."""
        staged = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        staged.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, staged, limit=LONGEST_LINE)
        staged.chmod(0o600)
        self._inode = staged.stat().st_ino
        staged.replace(self._path)

    def close(self) -> None:
        """Stop listening, and take the name away if it is still ours."""
        if self._server:
            self._server.close()
            try:
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()
            except FileNotFoundError:
                pass

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(msgspec.json.encode(self._answer(line)) + b"\n")
                await writer.drain()
        except asyncio.CancelledError:
            return  # the front stops; raised on, asyncio would log it as an error of ours
        except (OSError, ValueError) as error:  # ValueError: a line beyond the limit
            log.warning("control connection: %s", error)
        finally:
            writer.close()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            return {"ok": False, "error": f"not a request: {error}"}
        match request.get("op"):
            case "table":
                return self._front.reload(request.get("table"))
            case "stats":
                return {"ok": True, **self._front.stats()}
            case "drain":
                self._front.drain()
                return {"ok": True}
            case other:
                return {"ok": False, "error": f"unknown op {other!r}"}


async def ask(path: Path, request: dict[str, Any], seconds: float) -> dict[str, Any] | None:
    """One request to the control socket at `path`; None where there is no answer within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(path, limit=LONGEST_LINE)
            try:
                writer.write(msgspec.json.encode(request) + b"\n")
                return msgspec.json.decode(await reader.readline(), type=dict[str, Any])
            finally:
                writer.close()
    except (OSError, ValueError, msgspec.MsgspecError) as error:  # TimeoutError is an OSError
        log.info("%s did not answer: %s", path, error or "no answer in time")
        return None


async def ask_siblings(own: Path, seconds: float) -> dict[str, dict[str, Any] | None]:
    """The stats of every other front, by its number; None where it did not answer."""
    paths = [path for path in sorted(own.parent.glob("front-*.sock")) if path != own]
    answers = await asyncio.gather(*(ask(path, {"op": "stats"}, seconds) for path in paths))
    return {path.stem.removeprefix("front-"): answer for path, answer in zip(paths, answers, strict=True)}
