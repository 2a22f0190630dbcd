"""`gc`: a collection of garbage with the store's time, and what to tell of it.

Rules: the time is the earlier of this machine's and the store's, so that one wrong clock does not make pushes
begin again. A dry run asks the store nothing but reads. Left out: what may go (`core/collection.py`) and how
it goes (`store/collect.py`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mldeploy.client import fleet
from mldeploy.client.connection import Connection
from mldeploy.client.types import Collected
from mldeploy.core.types import format_duration, parse_duration
from mldeploy.errors import UsageError
from mldeploy.progress import Reporter
from mldeploy.store.collect import Collection
from mldeploy.store.collect import collect as run


def collect(at: Connection, grace: str | timedelta, dry_run: bool, reporter: Reporter) -> Collected:
    """See Client.collect."""
    kept = parse_grace(grace)
    # the store's clock is asked by writing a hint
    now = at.now() if dry_run else _now(at)
    done = run(at.store, at.log, now=now, actor=at.actor, grace=kept, dry_run=dry_run, progress=reporter)
    return Collected(
        store=at.settings.store,
        seq=done.seqs[-1] if done.seqs else None,
        already=not (done.seqs or _parts(done) or done.kept_reports),
        dry_run=dry_run,
        actions=_parts(done),
        warnings=_warnings(kept, done),
        grace=int(kept.total_seconds()),
        horizon=done.horizon,
        blobs=done.blobs.objects,
        blob_bytes=done.blobs.size,
        orphans=done.orphans.objects,
        orphan_bytes=done.orphans.size,
        leftovers=done.leftovers.objects,
        leftover_bytes=done.leftovers.size,
        checkpoints=done.checkpoints.objects,
        checkpoint_bytes=done.checkpoints.size,
        reports=done.reports.objects,
        report_bytes=done.reports.size,
        no_longer_restorable=tuple(str(ref) for ref in done.versions),
    )


def parse_grace(grace: str | timedelta) -> timedelta:
    """`7d`, `12h`, or `0`. Raises UsageError."""
    if isinstance(grace, str):
        return timedelta(0) if grace.strip() in ("0", "0s", "0d") else parse_duration(grace)
    if grace < timedelta(0):
        raise UsageError(f"a grace of {grace} lies in the future", "give 0 or more, for example 7d")
    return grace


def _now(at: Connection) -> datetime:
    store = fleet.store_time(at, [0.0])
    return min(at.now(), datetime.fromtimestamp(store, UTC)) if store else at.now()


def _parts(done: Collection) -> tuple[str, ...]:
    """What went, or would go, in words."""
    kinds = (
        ("blob", done.blobs),
        ("orphan", done.orphans),
        ("left-over", done.leftovers),
        ("old checkpoint", done.checkpoints),
        ("old report", done.reports),
    )
    return tuple(
        f"delete {found.objects:,} {kind}{'s' if found.objects != 1 else ''} ({found.size:,} bytes)"
        for kind, found in kinds
        if found.objects
    )


def _warnings(grace: timedelta, done: Collection) -> tuple[str, ...]:
    found = []
    if done.kept_reports:
        found.append(f"reports of hosts that are gone stay below hosts/: {done.kept_reports}")
    if grace < timedelta(hours=1):
        told = f"with a grace of {format_duration(grace)}"
        found.append(
            f"{told} a retired version cannot be restored, and a push that is under way starts again"
        )
    return tuple(found)
