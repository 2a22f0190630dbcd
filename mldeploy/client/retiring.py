"""`retire` by hand: what it breaks, and who still asks for the version, said before and after.

Left out: what forbids it (`keeping.py`), and retirement without a hand (`core/retirement.py`).
"""

from __future__ import annotations

from mldeploy.client import fleet, intents
from mldeploy.client.connection import Connection
from mldeploy.client.keeping import RetireVersion, breaks
from mldeploy.client.types import Change
from mldeploy.core.types import ModelRef


def retire(at: Connection, ref: ModelRef, force: bool, reason: str, dry_run: bool) -> Change:
    """See Client.retire."""
    state = at.refresh()
    intents.find_version(state, ref)
    broken = breaks(state, ref)
    written = at.change(RetireVersion(ref, force, reason), dry_run=dry_run)
    warnings = (*broken, *_used(at, ref)) if written.actions else ()
    return at.told(written, dry_run, model=ref.name, version=ref.version, environment=None, warnings=warnings)


def _used(at: Connection, ref: ModelRef) -> tuple[str, ...]:
    """When a live host was last asked for it; nothing where none says so."""
    asked = [
        (host.report.uses[str(ref)] + host.age, host.report.hostname)
        for host in fleet.hosts(at)
        if host.live and str(ref) in host.report.uses
    ]
    if not asked:
        return ()
    seconds, hostname = min(asked)
    return (f"{ref} was last asked for {seconds:.0f} s ago, on {hostname}",)
