"""From a request's address to what it asks for. Pure; it does not know which models there are.

Names are percent-decoded after the path is cut at its slashes, so that no encoded slash makes a segment.
"""

from __future__ import annotations

from urllib.parse import unquote

import msgspec

GET = ("GET", "HEAD")
POST = ("POST",)

INFER = "infer"
METADATA = "metadata"
MODEL_READY = "model_ready"
SERVER = "server"
LIVE = "live"
READY = "ready"
INDEX = "index"
MANAGE = "manage"
METRICS = "metrics"
PAGE = "page"
UNKNOWN = "unknown"


class Route(msgspec.Struct, frozen=True):
    """What an address asks for, and the methods it may be asked with (none: it does not exist)."""

    kind: str
    methods: tuple[str, ...] = ()
    model: str = ""
    version: str | None = None  # as it stands in the path: a number, stable, candidate or previous
    path: str = ""

    @property
    def allow(self) -> bytes:
        """The Allow header, a whole line."""
        return b"allow: %b\r\n" % ", ".join(self.methods).encode()


_FIXED = {
    ("",): Route(PAGE, GET),
    ("metrics",): Route(METRICS, GET),
    ("v2",): Route(SERVER, GET),
    ("v2", "health", "live"): Route(LIVE, GET),
    ("v2", "health", "ready"): Route(READY, GET),
    ("v2", "repository", "index"): Route(INDEX, POST),
}
_MODEL = {(): (METADATA, GET), ("ready",): (MODEL_READY, GET), ("infer",): (INFER, POST)}


def path_of(url: bytes) -> str:
    """The path of a request target: without query, and without scheme and host if it came with them."""
    path = url.partition(b"?")[0].decode("ascii", "replace")
    if not path.startswith("/"):
        _, scheme, rest = path.partition("://")
        path = "/" + rest.partition("/")[2] if scheme else path
    return path


def resolve(url: bytes) -> Route:
    """The route of a request target; kind UNKNOWN where there is none."""
    path = path_of(url)
    parts = tuple(path[1:].split("/")) if path.startswith("/") else ()
    if len(parts) > 1 and parts[-1] == "":
        parts = parts[:-1]
    if route := _FIXED.get(parts):
        return route
    names = tuple(unquote(part) for part in parts)
    if len(names) >= 3 and names[:2] == ("v2", "models"):
        model, rest = names[2], names[3:]
        version = None
        if len(rest) >= 2 and rest[0] == "versions":
            version, rest = rest[1], rest[2:]
        if found := _MODEL.get(rest):
            return Route(found[0], found[1], model, version, path)
    if len(names) == 5 and names[:3] == ("v2", "repository", "models") and names[4] in ("load", "unload"):
        return Route(MANAGE, POST, names[3])
    return Route(UNKNOWN, path=path[:200])
