"""Open Inference Protocol v2, REST: everything but `infer` itself, as answers computed from the routes.

Health answers are a superset of what the known clients read: some want `live`, some `ready`, some a name,
and one fails on an empty body. Errors carry the same keys beside `error`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from mldeploy.runtime.reading import NOT_JSON
from mldeploy_daemon.front import answers
from mldeploy_daemon.front.exchange import Exchange
from mldeploy_daemon.front.router import Route
from mldeploy_daemon.front.routes import Model, Routes, Version
from mldeploy_daemon.front.select import not_ready
from mldeploy_daemon.table import VersionRoutes

EXTENSIONS = ("model_repository",)
_STATES = {"ready": "READY", "fetching": "LOADING", "installing": "LOADING", "loading": "LOADING"}


class Answer(NamedTuple):
    """What to respond; `extra` is whole header lines."""

    status: int
    body: bytes
    kind: bytes = answers.JSON
    extra: bytes = b""


class _Wanted(msgspec.Struct):
    ready: bool = False


def refusal(status: int, message: str, **more: Any) -> Answer:
    """An error; a 503 says when to try again."""
    extra = answers.RETRY_AFTER if status == 503 else b""
    return Answer(status, answers.error_body(message, **more), extra=extra)


def server(version: str) -> Answer:
    """Server metadata."""
    return Answer(200, answers.json_body({"name": "mldeploy", "version": version, "extensions": EXTENSIONS}))


def live(ready: bool) -> Answer:
    """This process answers."""
    return Answer(200, answers.json_body({"live": True, "ready": ready}))


def ready(is_ready: bool, draining: bool) -> Answer:
    """Whether a load balancer should send requests here."""
    if is_ready:
        return Answer(200, answers.json_body({"live": True, "ready": True}))
    reason = "the host is draining" if draining else "the host has not loaded its models yet"
    return refusal(503, reason, live=True, ready=False)


def metadata(routes: Routes, route: Route) -> Answer:
    """Names, datatypes and shapes of a model's inputs and outputs."""
    found = _find(routes, route)
    if isinstance(found, Answer):
        return found
    model, version = found
    body = {
        "name": model.name,
        "versions": sorted(model.versions, key=int),
        "platform": version.routes.platform,
        "inputs": [_tensor(tensor) for tensor in version.routes.inputs],
        "outputs": [_tensor(tensor) for tensor in version.routes.outputs],
    }
    return Answer(200, answers.json_body(body), extra=version.line)


def model_ready(routes: Routes, route: Route, draining: bool) -> Answer:
    """Whether a model, or one version of it, can be asked."""
    found = _find(routes, route)
    if isinstance(found, Answer):
        return found
    model, version = found
    if draining:
        return refusal(503, "the host is draining", name=model.name, ready=False)
    if not version.workers and not version.routes.wakes:
        return refusal(503, not_ready(model, version).message, name=model.name, ready=False)
    return Answer(200, answers.json_body({"name": model.name, "ready": True}), extra=version.line)


def index(routes: Routes, exchange: Exchange) -> Answer:
    """Every version of every model. The body may be empty, or ask for the ready ones alone."""
    try:
        wanted = msgspec.json.decode(exchange.body, type=_Wanted) if exchange.body else _Wanted()
    except NOT_JSON as error:
        return refusal(400, f"the body is not a repository index request: {error}")
    entries = []
    for name in sorted(routes.models):
        model = routes.models[name]
        for number in sorted(model.versions, key=int):
            state, reason = _state(model.versions[number].routes)
            if state == "READY" or not wanted.ready:
                entries.append({"name": name, "version": number, "state": state, "reason": reason})
        if not model.versions and not wanted.ready:
            reason = model.routes.reason
            entries.append({"name": name, "version": "", "state": "UNAVAILABLE", "reason": reason})
    return Answer(200, answers.json_body(entries))


def manage() -> Answer:
    """Loading and unloading by request: never."""
    return refusal(400, "models are managed from the store: use mldeploy promote, rollback and retire")


def _state(routes: VersionRoutes) -> tuple[str, str]:
    if routes.workers or routes.wakes:
        return "READY", "" if routes.workers else "asleep: the next request wakes it"
    state = _STATES.get(routes.state, "UNAVAILABLE")
    return ("LOADING" if state == "READY" else state), routes.reason or routes.state


def _find(routes: Routes, route: Route) -> tuple[Model, Version] | Answer:
    model = routes.models.get(route.model)
    if model is None:
        return refusal(404, f"there is no model {route.model!r}")
    if route.version is None:
        served = model.stable or model.candidate  # with nothing stable a rollout on some hosts has all of it
        if served is None:
            reason = model.routes.reason or "no version serves"
            return refusal(503, f"model {model.name!r} is not ready: {reason}", name=model.name, ready=False)
        return model, served
    version = model.parts.get(route.version) or model.versions.get(route.version)
    if version is None:
        return refusal(404, f"model {model.name!r} has no version {route.version!r} here")
    return model, version


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
