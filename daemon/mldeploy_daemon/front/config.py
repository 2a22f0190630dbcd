"""What a front is told when it starts: the JSON in the environment variable MLDEPLOYD.

Unknown keys are ignored: the keeper gives the same document to the agent and the fronts.
Every limit has a default that suits a machine with a few gigabytes; none of them can be switched off.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mldeploy.errors import DaemonError

VARIABLE = "MLDEPLOYD"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on what clients and workers may take. Sizes in bytes, times in seconds."""

    connections: int = 10_000  # open at once; one more is answered 503
    header_bytes: int = 32_768  # request line and headers, names and values: more is 431
    header_count: int = 100  # headers, trailers included: more is 431
    header_seconds: float = 10.0  # from the first byte of a head to its end: then 408
    body_bytes: int = 64 << 20  # counted on what arrives: more is 413
    body_seconds: float = 10.0  # a body may be silent that long, and starts with that much credit: then 408
    body_rate: int = 4_096  # bytes a second a body must keep up beyond its credit
    idle_seconds: float = 75.0  # a kept-alive connection between requests
    write_seconds: float = 30.0  # a client that reads nothing of its answer is cut off
    linger_seconds: float = 2.0  # reading on after a refusal, so that the client sees the answer
    pipeline: int = 64  # requests waiting on one connection; beyond, it is closed after those
    buffered_bytes: int = 512 << 20  # bodies held by this front in total: more is 503
    request_seconds: float = 30.0  # a prediction's, from its turn: then 504; a client may only lower it
    worker_inflight: int = 512  # unanswered requests at one worker: more is 503
    waiting: int = 256  # requests that wait for one sleeping version: more is 503
    worker_buffer: int = 64 << 20  # bytes a worker has not taken yet: more is 503
    key_bytes: int = 65_536  # a longer body is not looked into for a routing key: the request id is the key
    mirror_buffer: int = 8 << 20  # bytes of copies the mirror has not taken: more are dropped
    mirror_body: int = 1 << 20  # a request and its answer, in bytes: longer ones are not copied
    mirror_samples: float = 50.0  # requests a second and version, of all fronts, counted for drift
    stop_seconds: float = 30.0  # after SIGTERM, for what is in flight
    stats_seconds: float = 0.5  # to hear the sibling fronts for /metrics


class FrontConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One front: the inherited listening socket, its number, and the state folder it lives in."""

    listen_fd: int
    front: int = 0
    fronts: int = 1  # how many this host has
    state: str = "."
    access_log: bool = False
    log_level: str = "info"
    limits: Limits = Limits()


def read_config(environ: Mapping[str, str]) -> FrontConfig:
    """The configuration in `environ`. Raises DaemonError where it is missing or wrong."""
    text = environ.get(VARIABLE)
    hint = "fronts are started by mldeployd, not by hand"
    if not text:
        raise DaemonError(f"{VARIABLE} is not set", hint)
    try:
        return msgspec.json.decode(text, type=FrontConfig)
    except msgspec.MsgspecError as error:
        raise DaemonError(f"{VARIABLE} cannot be read: {error}", hint) from error
