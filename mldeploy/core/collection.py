"""What a collection of garbage may sweep from the log, and what it may delete from the store.

Rules: the folded state alone decides; a listing only says which keys to ask about. A blob is swept when no
version that is not retired needs it, its push began before the horizon, and the last version that needed it
was retired longer than the grace ago. A key may be deleted once it is not the live key of its blob and its
push began before the horizon of the folded state: no later `publish` can make it live again, because one of
that push is void by then. So neither the clock nor the grace is needed for safety; a longer grace keeps
retired versions restorable, and slow pushes valid, for longer.
Left out: appending and deleting (`store/collect.py`); what a sweep does to the state (`core/lifecycle.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from mldeploy.core.records import Sweep, format_time
from mldeploy.core.state import State, Version
from mldeploy.core.types import ModelRef

#: How long a blob stays that nothing needs any more, and how old a push may be, unless told otherwise.
GRACE = timedelta(days=7)
#: Blobs in one record: about 3.4 MB of the 16 MiB that a record may have.
MAX_SWEPT = 50_000

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_CHARACTERS = 10  # of a ULID: 48 bits of milliseconds, then 16 characters of chance
_KEY = re.compile(r"blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})\.([0-7][0-9a-hjkmnp-tv-z]{25})")


def plan_collection(
    state: State, now_ms: int, grace: timedelta = GRACE, *, orphans: bool = False, limit: int = MAX_SWEPT
) -> Sweep | None:
    """The sweep to append in this state; None where there is nothing to do.

    `now_ms`: milliseconds since the epoch. The horizon is the smallest ULID of the time now - grace, or the
    one the state has where that is later. A grace of 0 does not look at when versions were retired. With
    `orphans` a sweep without blobs is worth its record too, because it moves the horizon on. At most `limit`
    blobs are named: plan again in the state that follows until there is None.
    """
    horizon = horizon_at(state, now_ms, grace)
    blobs = tuple(sorted(_collectable(state, horizon, now_ms, grace))[:limit])
    if not blobs and not (orphans and horizon > state.horizon):
        return None
    return Sweep(horizon=horizon, blobs=blobs)


def horizon_at(state: State, now_ms: int, grace: timedelta) -> str:
    """The horizon of a collection now: it never goes back behind the one the state has."""
    return max(state.horizon, smallest_ulid(max(now_ms - _milliseconds(grace), 0)))


def smallest_ulid(time_ms: int) -> str:
    """The ULID that no other of the same or a later millisecond is smaller than."""
    digits = [_CROCKFORD[time_ms >> shift & 31] for shift in range(5 * (_TIME_CHARACTERS - 1), -1, -5)]
    return "".join(digits) + "0" * 16


def push_id(fresh: str, horizon: str) -> str:
    """The id of a push that begins now: `fresh`, or where that is below `horizon` one just after it.

    So a machine whose clock is slow can push: its ids would be older than the last horizon for ever. The
    chance in `fresh` is kept, which is what makes the id its own.
    """
    if fresh >= horizon:
        return fresh
    later = horizon[:_TIME_CHARACTERS] + fresh[_TIME_CHARACTERS:]
    return later if later >= horizon else smallest_ulid(_time_of(horizon) + 1)[:10] + fresh[10:]


def began(ulid: str) -> str:
    """When a push of this id began by its own clock, or what a horizon stands for: RFC 3339 in UTC.

    The id as it stands where no calendar goes so far.
    """
    try:
        return format_time(datetime.fromtimestamp(_time_of(ulid) / 1000, UTC))
    except (ValueError, OverflowError, OSError):
        return ulid


def push_of(key: str) -> tuple[str, str] | None:
    """The sha256 and the push id in the key of a blob; None for what is no such key."""
    match = _KEY.fullmatch(key)
    return (match[2], match[3]) if match else None


def deletable(state: State, key: str) -> bool:
    """Whether the object at `key` may be deleted: judged by the folded state, never by a listing."""
    return is_orphan(state, key, state.horizon)


def is_orphan(state: State, key: str, horizon: str) -> bool:
    """Whether `key` is a blob's, was brought by a push below `horizon`, and is not its blob's live key."""
    found = push_of(key)
    if found is None:
        return False
    sha256, push = found
    live = state.blobs.get(sha256)
    return push < horizon and (live is None or live.push != push)


def no_longer_restorable(state: State, blobs: Iterable[str]) -> tuple[ModelRef, ...]:
    """The retired versions that could be restored in this state, and cannot once `blobs` are swept."""
    gone = set(blobs)
    return tuple(
        ModelRef(name, version.version)
        for name, version in _versions(state)
        if version.retired
        and not gone.isdisjoint(version.blobs)
        and all(sha256 in state.blobs for sha256 in version.blobs)
    )


def _collectable(state: State, horizon: str, now_ms: int, grace: timedelta) -> Iterator[str]:
    kept: set[str] = set()
    for _, version in _versions(state):
        if not version.retired or (grace and not _older(version.retired, now_ms - _milliseconds(grace))):
            kept.update(version.blobs)
    return (sha256 for sha256, blob in state.blobs.items() if blob.push < horizon and sha256 not in kept)


def _older(time: str, than_ms: int) -> bool:
    """Whether that time of a record lies before; one that is not on the calendar does not."""
    try:
        return datetime.fromisoformat(time).timestamp() * 1000 <= than_ms
    except ValueError:
        return False


def _versions(state: State) -> Iterator[tuple[str, Version]]:
    for name in sorted(state.models):
        versions = state.models[name].versions
        for number in sorted(versions):
            yield name, versions[number]


def _time_of(ulid: str) -> int:
    value = 0
    for character in ulid[:_TIME_CHARACTERS]:
        value = value << 5 | _CROCKFORD.index(character)
    return value


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
