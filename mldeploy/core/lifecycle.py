"""What the actions on versions, blobs and hosts do to a Draft: publish, retire, restore, extend, sweep, join,
leave, forget, drain, undrain.

Each function changes the draft, or raises NotAllowedError or NotFoundError and the whole record is void.
Left out: traffic (`core/traffic.py`).
"""

from __future__ import annotations

import math
import re
from datetime import date
from typing import NamedTuple, NoReturn

import msgspec

from mldeploy.core import records
from mldeploy.core.draft import Draft
from mldeploy.core.past import without_rollout, without_shadow
from mldeploy.core.state import Blob, Host, Serving, Version
from mldeploy.core.types import ModelRef, check_digest, check_name
from mldeploy.errors import NotAllowedError, NotFoundError, UsageError

_ULID = re.compile(r"[0-7][0-9a-hjkmnp-tv-z]{25}")
_MAX_SIZE = 2**53  # bytes of a blob


class Context(NamedTuple):
    """The record an action stands in."""

    seq: int
    time: str
    actor: str


def refuse(message: str, hint: str) -> NoReturn:
    """The state forbids it."""
    raise NotAllowedError(message, hint)


def find_version(draft: Draft, model: str, version: int) -> Version:
    """The version, retired or not; NotFoundError if it never was."""
    table = draft.versions(model)
    found = table.get(version)
    if found is None:
        newest = draft.next_version(model) - 1
        if not newest:
            raise NotFoundError(f"there is no model {model!r}", "push it first, or see `mldeploy status`")
        raise NotFoundError(f"there is no {model}@{version}", f"its newest version is {model}@{newest}")
    return found


def find_live(draft: Draft, model: str, version: int) -> Version:
    """The version; NotFoundError if it never was, NotAllowedError if it is retired."""
    found = find_version(draft, model, version)
    if found.retired:
        refuse(f"{model}@{version} is retired", f"run `mldeploy restore {model}@{version}` first")
    return found


def valid_name(text: str, what: str) -> None:
    """NotAllowedError unless `text` may name a `what`."""
    try:
        check_name(text, what)
    except UsageError as error:
        refuse(error.message, error.hint)


def publish(draft: Draft, action: records.Publish, told: Context) -> None:
    """The next version of its model; its blobs are live from now on."""
    _check_publish(draft, action)
    for sha256, size in action.brought.items():
        # two pushes may bring the same bytes at the same time: the key that came first stays the live one
        if sha256 not in draft.blobs:
            draft.blobs.put(sha256, Blob(push=action.push, size=size))
    blobs = (*action.brought, *action.reused)
    version = draft.next_version(action.model)
    draft.put_version(
        action.model,
        Version(
            version=version,
            digest=action.digest,
            push=action.push,
            blobs=blobs,
            size=sum(blob.size for blob in map(draft.blobs.get, blobs) if blob),
            owner=action.owner,
            expires=action.expires,
            python=action.python,
            platform=action.platform,
            actor=told.actor,
            published=told.time,
            seq=told.seq,
            packed=action.packed,
            metrics=action.metrics,
            measured=action.measured,
        ),
    )
    draft.published.append(ModelRef(action.model, version))


def _check_publish(draft: Draft, action: records.Publish) -> None:
    valid_name(action.model, "model name")
    try:
        for sha256 in (action.digest, *action.brought, *action.reused):
            check_digest(sha256)
    except UsageError as error:
        refuse(error.message, error.hint)
    _check_ulid(action.push, "push")
    _check_day(action.expires)
    if not all(map(math.isfinite, (*action.metrics.values(), *action.measured.values()))):
        refuse("a metric is not a finite number", "leave it out")
    blobs = [*action.brought, *action.reused]
    if len(set(blobs)) != len(blobs) or action.digest not in blobs:
        refuse("the blobs are listed twice or without the manifest", "push it again")
    live = draft.live_version(action.model, action.digest)
    if live is not None:
        refuse(f"this bundle is already {action.model}@{live}", "there is nothing to publish")
    if action.push < draft.horizon:
        refuse("the push began before the last collection of garbage", "push it again")
    for sha256, size in action.brought.items():
        known = draft.blobs.get(sha256)
        if not 0 <= size <= _MAX_SIZE or (known is not None and known.size != size):
            refuse(f"blob {sha256[:12]} has a wrong size", "push it again")
    for sha256 in action.reused:
        if sha256 not in draft.blobs:
            refuse(f"blob {sha256[:12]} is no longer in the store", "push it again")


def retire(draft: Draft, action: records.Retire, told: Context) -> None:
    """No traffic any more. One in traffic is retired with force only, and then its routes are gone.

    Retired without force it goes on where its successor is not ready yet; force cuts that off as well, and
    fits a version that is retired already.
    """
    model, number = action.model, action.version
    version = find_version(draft, model, number)
    if version.retired and (version.cut or not action.force):
        refuse(f"{model}@{number} is already retired", "there is nothing to do")
    for environment in draft.environments():
        serving = draft.serving(environment, model)
        candidate = serving.ramp is not None and serving.ramp.version == number
        if not action.force and (candidate or serving.stable == number):
            role = "taking traffic" if candidate else "stable"
            refuse(
                f"{model}@{number} is {role} in {environment}", "promote another version first, or --force"
            )
        left = _without(serving, action, told)
        if left != serving:
            draft.put_serving(environment, model, msgspec.structs.replace(left, seq=told.seq))
    when = version.retired or told.time
    draft.put_version(model, msgspec.structs.replace(version, retired=when, cut=action.force))


def _without(serving: Serving, action: records.Retire, told: Context) -> Serving:
    """`serving` with nothing of the version that is retired."""
    number = action.version
    reason = f"version retired: {action.reason}" if action.reason else "version retired"
    if serving.ramp is not None and serving.ramp.version == number:
        serving = without_rollout(serving, "halted", reason, told.seq)
    for shadow in serving.shadows:
        if shadow.version == number:
            serving = without_shadow(serving, shadow, reason, told.seq)
        elif serving.stable == number:
            serving = without_shadow(
                serving, shadow, "nobody is left to answer: stable was retired", told.seq
            )
    return msgspec.structs.replace(
        serving,
        # the previous version does not come back by itself: nobody asked for it
        stable=None if serving.stable == number else serving.stable,
        previous=None if serving.previous == number else serving.previous,
    )


def restore(draft: Draft, action: records.Restore, told: Context) -> None:
    """A retired version may be promoted again, if all its blobs are still live."""
    model = action.model
    version = find_version(draft, model, action.version)
    if not version.retired:
        refuse(f"{model}@{action.version} is not retired", "there is nothing to do")
    twin = draft.live_version(model, version.digest)
    if twin is not None:
        refuse(f"the same bundle is live as {model}@{twin}", "use that version")
    if not all(blob in draft.blobs for blob in version.blobs):
        refuse(f"files of {model}@{action.version} have been collected", "push the bundle again")
    draft.put_version(model, msgspec.structs.replace(version, retired="", cut=False, restored=told.seq))


def extend(draft: Draft, action: records.Extend, told: Context) -> None:
    """A new expiry."""
    version = find_live(draft, action.model, action.version)
    _check_day(action.expires)
    if version.expires == action.expires:
        refuse(f"{action.model}@{action.version} already expires then", "there is nothing to do")
    draft.put_version(action.model, msgspec.structs.replace(version, expires=action.expires))


def sweep(draft: Draft, action: records.Sweep, told: Context) -> None:
    """These blobs are live no more; pushes begun before the horizon are void from now on."""
    _check_ulid(action.horizon, "horizon")
    if action.horizon < draft.horizon or (action.horizon == draft.horizon and not action.blobs):
        refuse("another collection has gone further", "there is nothing to do")
    draft.horizon = action.horizon
    for sha256 in action.blobs:
        blob = draft.blobs.get(sha256)
        if blob is None:
            refuse(f"blob {sha256[:12]} is not live", "read the log again and decide anew")
        if blob.push >= action.horizon:
            refuse(f"blob {sha256[:12]} is younger than the horizon", "read the log again and decide anew")
        if draft.is_needed(sha256):
            refuse(f"blob {sha256[:12]} is needed", "read the log again and decide anew")
        draft.blobs.drop(sha256)


def join(draft: Draft, action: records.Join, told: Context) -> None:
    """A host is a member, or one that is says something new of itself."""
    valid_name(action.host, "host")
    valid_name(action.environment, "environment")
    if action.host.startswith("merged-"):
        refuse(f"{action.host!r} cannot be a host", "reports are merged under such names")
    known = draft.hosts.get(action.host)
    said = (action.environment, action.hostname, action.labels)
    if known is not None and said == (known.environment, known.hostname, known.labels):
        refuse(f"host {action.host} is already a member", "there is nothing to do")
    draft.hosts.put(
        action.host,
        Host(
            id=action.host,
            environment=action.environment,
            hostname=action.hostname,
            labels=action.labels,
            seq=told.seq,
            joined=told.time,
        ),
    )


def leave(draft: Draft, action: records.Leave | records.Forget, told: Context) -> None:
    """The host is no member any more (`leave` and `forget`)."""
    if action.host not in draft.hosts:
        raise NotFoundError(f"there is no host {action.host!r}", "see `mldeploy status`")
    draft.hosts.drop(action.host)


def drain(draft: Draft, action: records.Drain, told: Context) -> None:
    """A member is to take no traffic."""
    if action.host not in draft.hosts:
        raise NotFoundError(f"there is no host {action.host!r}", "see `mldeploy host list`")
    if draft.drained.get(action.host) == action.reason:
        refuse(f"host {action.host} is already drained", "there is nothing to do")
    draft.drained.put(action.host, action.reason)


def undrain(draft: Draft, action: records.Undrain, told: Context) -> None:
    """A host takes traffic again."""
    if action.host not in draft.drained:
        refuse(f"host {action.host} is not drained", "there is nothing to do")
    draft.drained.drop(action.host)


def _check_ulid(text: str, what: str) -> None:
    if not _ULID.fullmatch(text):
        refuse(f"{text[:40]!r} does not identify a {what}", "give a ULID in lower case")


def _check_day(text: str) -> None:
    try:
        if date.fromisoformat(text).isoformat() == text:
            return
    except ValueError:
        pass
    refuse(f"{text[:40]!r} is not a date", "write YYYY-MM-DD")
