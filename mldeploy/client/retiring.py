"""`retire`, `restore` and `extend` by hand: what they break, who still asks, and what becomes of the version.

Left out: what forbids it (`keeping.py`), and retirement without a hand (`core/retirement.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import structs

from mldeploy.client import fleet, intents
from mldeploy.client.connection import Connection
from mldeploy.client.keeping import ExtendTo, RestoreVersion, RetireVersion, breaks
from mldeploy.client.types import Change, Extended
from mldeploy.core.state import State
from mldeploy.core.types import ModelRef, format_age, parse_expiry


def retire(at: Connection, ref: ModelRef, force: bool, reason: str, dry_run: bool) -> Change:
    """See Client.retire."""
    state = at.refresh()
    intents.find_version(state, ref)
    broken = breaks(state, ref)
    written = at.change(RetireVersion(ref, force, reason), dry_run=dry_run)
    live = [host for host in fleet.hosts(at) if host.live] if written.actions else []
    warnings = (*broken, *_used(live, ref), *_left_behind(state, live, ref, force)) if written.actions else ()
    return at.told(written, dry_run, model=ref.name, version=ref.version, environment=None, warnings=warnings)


def _left_behind(state: State, live: Sequence[fleet.Seen], ref: ModelRef, force: bool) -> Iterator[str]:
    """The hosts that answer with it because what came after it is not ready there."""
    for host in live:
        said = host.report.models.get(ref.name)
        after = intents.serving(state, host.report.environment, ref.name).stable
        if said is None or said.stable != ref.version or after in (None, ref.version):
            continue
        if force:
            what = f"{host.report.hostname} stops answering with {ref}"
            yield f"{what}, though {ref.name}@{after} is not ready there"
        else:
            yield f"{host.report.hostname} goes on with {ref} until {ref.name}@{after} is ready there"


def restore(at: Connection, ref: ModelRef, dry_run: bool) -> Change:
    """See Client.restore."""
    written = at.change(RestoreVersion(ref), dry_run=dry_run)
    expires = intents.find_version(at.refresh(), ref).expires
    past = written.actions and expires < at.now().date().isoformat()
    why = (
        f"{ref} expired on {expires}: once nobody has used it for the policy's `idle`, hosts retire it "
        "again; `mldeploy extend` it before"
    )
    warnings = (why,) if past else ()
    return at.told(written, dry_run, model=ref.name, version=ref.version, environment=None, warnings=warnings)


def extend(at: Connection, ref: ModelRef, expires: str, dry_run: bool) -> Extended:
    """See Client.extend."""
    now = at.now()
    day = parse_expiry(expires, now)
    before = intents.find_version(at.refresh(), ref).expires
    written = at.change(ExtendTo(ref, day, now.date()), dry_run=dry_run)
    sooner = written.actions and day.isoformat() < before
    warnings = (f"{ref} was to expire on {before}: this is sooner",) if sooner else ()
    told = at.told(written, dry_run, model=ref.name, version=ref.version, environment=None, warnings=warnings)
    return Extended(**structs.asdict(told), expires=day.isoformat())


def _used(live: Sequence[fleet.Seen], ref: ModelRef) -> tuple[str, ...]:
    """When a live host was last asked for it; nothing where none says so."""
    asked = [
        (host.report.uses[str(ref)] + host.age, host.report.hostname)
        for host in live
        if str(ref) in host.report.uses
    ]
    if not asked:
        return ()
    seconds, hostname = min(asked)
    return (f"{ref} was last asked for {format_age(seconds)} ago, on {hostname}",)
