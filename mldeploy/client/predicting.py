"""`predict`: an Open Inference Protocol v2 request over HTTP, from a request, from rows or from the packed
sample.

Rules: rows become the one input of the model's signature, with the shape they have; numbers are sent as they
stand and judged by the daemon. Left out: the binary extension, and choosing among hosts (the first live one
that is ready is asked).
"""

from __future__ import annotations

import http.client
import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from mldeploy.bundle.published import fetch_manifest, fetch_sample
from mldeploy.client import fleet, intents
from mldeploy.client.connection import Connection
from mldeploy.client.environments import looked_at
from mldeploy.client.hints import command, daemon
from mldeploy.client.types import Prediction
from mldeploy.core.manifest import Manifest
from mldeploy.core.state import State
from mldeploy.core.types import ModelRef
from mldeploy.errors import NotFoundError, PredictionError, UsageError

#: Seconds to wait for an answer where the caller does not say.
TIMEOUT = 30.0
#: Bytes of an answer that are read.
MAX_ANSWER = 1 << 28
_ROLES = ("stable", "candidate", "previous")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, ready to send."""

    model: str
    url: str
    body: bytes


def prepare(at: Connection, model: str, data: Any, url: str | None, version: str | int | None) -> Call:
    """Find the daemon and make the body. Raises UsageError and NotFoundError."""
    request = _given(data)
    if not isinstance(request, Mapping):
        ref = _ref(at, model, version)
        if request is None:
            request = json.loads(fetch_sample(at.store, at.log.state, ref.name, ref.version))
        else:
            manifest = fetch_manifest(at.store, at.log.state, ref.name, ref.version)
            request = _from_rows(model, manifest, request)
    base = (url or _live_url(at, model)).rstrip("/")
    pinned = f"/versions/{quote(str(version), safe='')}" if version is not None else ""
    return Call(
        model, f"{base}/v2/models/{quote(model, safe='')}{pinned}/infer", json.dumps(request).encode()
    )


def send(call: Call, timeout: float) -> Prediction:
    """Ask. `timeout` in seconds. Raises PredictionError with the daemon's own words."""
    parts = _split(call.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout)
    started = time.monotonic()
    try:
        connection.request("POST", parts.path, call.body, {"content-type": "application/json"})
        response = connection.getresponse()
        body = response.read(MAX_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        why = str(error) or type(error).__name__
        raise PredictionError(
            f"{parts.netloc} did not answer: {why}",
            "is mldeployd running there? `mldeploy host list` shows the live hosts",
        ) from error
    finally:
        connection.close()
    seconds = time.monotonic() - started
    answer = _decoded(body, response.status, parts.netloc)
    return Prediction(
        model=call.model,
        version=str(answer.get("model_version", "")),
        url=call.url,
        response=answer,
        request_id=response.headers.get("x-request-id") or str(answer.get("id", "")),
        seconds=round(seconds, 6),
    )


def curl(call: Call, timeout: float | None = None) -> str:
    """The same request as a line for a shell, with the `timeout` if there is one."""
    limit = f"--max-time {timeout:g} " if timeout is not None else ""
    head = f"{limit}-H 'content-type: application/json'"
    return f"curl -sS {head} -d {shlex.quote(call.body.decode())} {shlex.quote(call.url)}"


def _given(data: Any) -> Any:
    """The request or rows that were given; None for none."""
    if data is None or isinstance(data, Mapping | list | tuple):
        return data
    if hasattr(data, "tolist"):
        return data.tolist()
    if hasattr(data, "to_numpy"):
        return data.to_numpy().tolist()
    name = str(data)
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no {name}", "--data takes a JSON file, or - for standard input"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{name} cannot be read: {error}", "--data takes a JSON file, or - for standard input"
        ) from error
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"{'standard input' if name == '-' else name} is not JSON: {error}", "give a request or rows"
        ) from error
    if not isinstance(found, dict | list):
        raise UsageError(
            "the data is neither a request nor a list of rows", "write for example [[1, 2], [3, 4]]"
        )
    return found


def _from_rows(model: str, manifest: Manifest, rows: Any) -> dict[str, Any]:
    inputs = manifest.signature.inputs
    if len(inputs) != 1:
        names = ", ".join(tensor.name for tensor in inputs)
        raise UsageError(
            f"{model} takes {len(inputs)} inputs ({names}), so rows alone do not say enough",
            'give a whole request: {"inputs": [{"name": …, "datatype": …, "shape": …, "data": …}, …]}',
        )
    shape, flat = _flatten(rows)
    tensor = inputs[0]
    return {"inputs": [{"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "data": flat}]}


def _flatten(rows: Any) -> tuple[list[int], list[Any]]:
    """Shape and values of nested lists. Raises UsageError where they are ragged."""
    if not isinstance(rows, list | tuple):
        return [], [rows]
    parts = [_flatten(row) for row in rows]
    shapes = {tuple(shape) for shape, _ in parts}
    if len(shapes) > 1:
        raise UsageError("the rows are not of one length", "give every row as many values")
    inner = list(shapes.pop()) if shapes else []
    return [len(rows), *inner], [value for _, flat in parts for value in flat]


def _ref(at: Connection, model: str, version: str | int | None) -> ModelRef:
    number = _number(looked_at(at), at.environment, model, version)
    if number is None:
        where = f"{version} version" if version else "version that serves"
        raise NotFoundError(
            f"{model} has no {where} in {at.environment}",
            f"{command(f'status {model}', at.environment)} shows what there is",
        )
    return ModelRef(model, number)


def _number(state: State, environment: str, model: str, version: str | int | None) -> int | None:
    intents.find_model(state, model)
    now = intents.serving(state, environment, model)
    if version is None or version == "stable":
        return now.stable if now.stable is not None or now.ramp is None else now.ramp.version
    if version == "candidate":
        return now.ramp.version if now.ramp else None
    if version == "previous":
        return now.previous
    if not str(version).isdecimal():
        raise UsageError(f"{version!r} is not a version", f"give a number, or one of {', '.join(_ROLES)}")
    return int(version)


def _live_url(at: Connection, model: str) -> str:
    looked_at(at)
    live = [host for host in fleet.hosts(at, at.environment) if host.live and host.report.listen]
    live.sort(key=lambda host: (not host.report.ready, model not in host.report.models))
    if not live:
        raise NotFoundError(
            f"no live host of {at.environment} has reported an address",
            f"start one with {daemon(at.settings.store, at.environment)}, or give --url",
        )
    return f"http://{reachable(live[0].report.listen, live[0].report.hostname)}"


def reachable(listen: str, hostname: str) -> str:
    """HOST:PORT to connect to, of what a daemon listens on: every address means its hostname."""
    host, _, port = listen.rpartition(":")
    return f"{hostname}:{port}" if host in ("", "0.0.0.0", "[::]", "::") and hostname else listen


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isascii()
    except ValueError:  # a port or an address that is none
        known = False
    if not known:
        raise UsageError(f"{url!r} is not the address of a daemon", "write for example http://127.0.0.1:8080")
    return parts


def _decoded(body: bytes, status: int, where: str) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if status == 200 and isinstance(answer, dict):
        return answer
    said = answer.get("error") if isinstance(answer, dict) else None
    hint = "the request does not fit the model" if status == 400 else "`mldeploy status` shows what serves"
    raise PredictionError(f"{where} answered {status}: {said or body[:200].decode('utf-8', 'replace')}", hint)
