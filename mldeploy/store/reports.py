"""What each host says of itself: hosts/<environment>/<host>.json, overwritten by that host alone.

Rules: a report is a statement, not a truth; readers take what they can read and leave out the rest, also
fields that a newer daemon adds. The store's own time of a report is the only clock that is compared.
Left out: what follows from the reports, and what steering reads of them (`store/fleet.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from mldeploy.core.evidence import Measure, plausible
from mldeploy.core.types import check_name
from mldeploy.store.objects import Fetched, ObjectStore
from mldeploy.store.tail import reads_ahead

FORMAT = 1
_MERGED = re.compile(r"merged-\d+\.json")


class _Report(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    pass


class WorkerReport(_Report, frozen=True, omit_defaults=True, kw_only=True):
    """One process that serves a version."""

    pid: int
    private_bytes: int = 0
    pss_bytes: int = 0  # its share of the pages it shares included


class VersionReport(_Report, frozen=True, omit_defaults=True, kw_only=True):
    """One version on one host."""

    state: str  # "absent", "fetching", "installing", "loading", "ready", "failed" or "sleeping"
    reason: str = ""
    stage: str = ""  # where it failed: "fetch", "install", "load", "samples", "warmup" …
    attempts: int = 0
    retry_at: float = 0.0  # unix seconds of the host's clock; 0: not waiting
    workers: tuple[WorkerReport, ...] = ()
    requests: int = 0
    failures: int = 0
    last_used: float = 0.0  # unix seconds of the host's clock
    log_tail: tuple[str, ...] = ()  # the last words of a failed worker


class ModelReport(_Report, frozen=True, omit_defaults=True, kw_only=True):
    """One model on one host: what is routed, and how its versions are."""

    stable: int | None = None
    candidate: int | None = None
    previous: int | None = None
    serving: dict[int, VersionReport] = {}
    next: str = ""  # what the plan does next, in words


class HostReport(_Report, frozen=True, omit_defaults=True, kw_only=True):
    """All that a host says of itself."""

    format: int = FORMAT
    host: str
    environment: str
    hostname: str = ""
    labels: dict[str, str] = {}
    version: str = ""  # of the daemon
    boot: str = ""  # boot id
    pid: int = 0  # of the agent
    listen: str = ""  # HOST:PORT
    head: int = 0  # the last record it has folded
    time: str = ""  # RFC 3339, the host's own clock: shown, never compared
    ready: bool = False
    pythons: tuple[str, ...] = ()  # minor versions of the interpreters it found
    platform: str = ""
    models: dict[str, ModelReport] = {}
    errors: tuple[str, ...] = ()  # the last ones, newest last
    measures: tuple[Measure, ...] = ()  # of scopes under way, and of those that ended within the hour
    failed: tuple[str, ...] = ()  # versions (`churn@7`) that do not come up here: more than once, or for good
    up: tuple[str, ...] | None = None  # those of rollouts that have come up here; None: an older daemon's
    watched: float = 0.0  # seconds for which it has counted use, over all its runs
    uses: dict[str, float] = {}  # seconds, of those, since each `churn@7` was last asked for; none: never
    told: dict[str, tuple[str, ...]] = {}  # pending notice -> the targets of the policy that it has reached


def report_key(environment: str, host: str) -> str:
    """hosts/<environment>/<host>.json"""
    return f"hosts/{check_name(environment, 'environment')}/{check_name(host, 'host')}.json"


def write_report(store: ObjectStore, report: HostReport) -> None:
    """Overwrite this host's report. Raises StoreError, DiskError or OutcomeUnknownError."""
    store.put(report_key(report.environment, report.host), msgspec.json.encode(report))


def read_reports(
    store: ObjectStore, environment: str, hosts: Iterable[str] | None = None
) -> list[tuple[HostReport, float]]:
    """The readable reports of an environment and when the store says each was written (unix seconds): of
    these hosts, by their keys; without `hosts`, of all that ever reported there, by a listing.

    Sorted by host id. What is garbage, or under another host's key, is left out. Raises StoreError.
    """
    prefix = f"hosts/{check_name(environment, 'environment')}/"
    if hosts is not None:
        keys = [report_key(environment, host) for host in hosts]
    else:
        keys = [entry.key for entry in store.list(prefix)]
        keys = [key for key in keys if not _MERGED.fullmatch(key.removeprefix(prefix))]
    found = []
    for key, fetched in zip(keys, _all(store, keys), strict=True):
        if fetched is None:
            continue
        try:
            report = msgspec.json.decode(fetched.data, type=HostReport)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            continue
        rightful = key == f"{prefix}{report.host}.json" and report.environment == environment
        if rightful and plausible(report.measures):
            found.append((report, fetched.modified))
    return sorted(found, key=lambda pair: pair[0].host)


def _all(store: ObjectStore, keys: list[str]) -> list[Fetched | None]:
    """Several at a time where the store is far: a fleet has thousands."""
    width = min(reads_ahead(store), len(keys))
    if width <= 1:
        return [store.get(key) for key in keys]
    with ThreadPoolExecutor(width) as pool:
        return list(pool.map(store.get, keys))
