"""Reports of hosts that are gone, for a collection: nothing else ever deletes one.

Rules: a report may go when its host is no member of that environment and it is older than the grace, and
than a notice is told for: what a host has told (`told`) counts for so long, whatever became of it. A report
that goes too early, on the word of an old listing or while its host comes back, is written anew with the
host's next one. Merged reports go when there is no such group any more.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from mldeploy.core.state import State
from mldeploy.core.types import NAME
from mldeploy.store.fleet import groups_of
from mldeploy.store.objects import ObjectStore

#: Notices are given up after a week, with the turn after it.
TOLD = timedelta(days=8)
_REPORT = re.compile(rf"hosts/({NAME.pattern})/({NAME.pattern})\.json")
_MERGED = re.compile(r"merged-(\d{1,9})")


def old_reports(store: ObjectStore, now: datetime, grace: timedelta) -> dict[str, int]:
    """Reports that nobody has written for so long, with their sizes: to be judged by a state."""
    oldest = (now - max(grace, TOLD)).timestamp()
    return {entry.key: entry.size for entry in store.list("hosts/") if entry.modified < oldest}


def is_gone(state: State, key: str) -> bool:
    """Whether that is the report of a host that is no member there, or of a group that there is not."""
    found = _REPORT.fullmatch(key)
    if found is None:
        return False
    environment, name = found.groups()
    merged = _MERGED.fullmatch(name)
    if merged is not None:
        members = sum(host.environment == environment for host in state.hosts.values())
        return int(merged[1]) >= groups_of(members)
    member = state.hosts.get(name)
    return member is None or member.environment != environment
