"""What a host serves, as lines of the agent's log: who takes what traffic, what cannot start, drains.

Rules: one line for each change, and none for what stays; a reason why a version cannot start is told once,
until there is another. Left out: what was started and failed, which the book tells (`book.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence

from mldeploy.core.host import ModelRoute
from mldeploy.core.standing import Standing
from mldeploy.core.types import format_share

logger = logging.getLogger(__name__)


class Chronicle:
    """Remembers what it has told."""

    def __init__(self) -> None:
        self._cannot: dict[str, str] = {}
        self._drained = False

    def routed(self, before: Mapping[str, ModelRoute], after: Mapping[str, ModelRoute]) -> None:
        """The fronts are told `after` where `before` counted."""
        for line in changes(before, after):
            logger.info("%s", line)

    def stand(self, standings: Mapping[str, Sequence[Standing]], told: Collection[str]) -> None:
        """How the versions stand; of those in `told` (`churn@7`) the book has told why they failed."""
        cannot = {
            f"{model}@{each.version}": each.reason
            for model, versions in standings.items()
            for each in versions
            if each.state == "failed"
        }
        for ref, reason in cannot.items():
            if ref not in told and self._cannot.get(ref) != reason:
                logger.warning("%s cannot start here: %s", ref, reason)
        self._cannot = cannot

    def drained(self, drained: bool, reason: str = "") -> None:
        """Whether this host is to take no traffic."""
        if drained != self._drained:
            because = f": {reason}" if reason else ""
            logger.info("%s", f"drained{because}" if drained else "undrained: it takes traffic again")
        self._drained = drained


def changes(before: Mapping[str, ModelRoute], after: Mapping[str, ModelRoute]) -> Iterator[str]:
    """What is routed otherwise, one line for each version that it concerns."""
    for model in sorted({*before, *after}):
        old, new = before.get(model, ModelRoute()), after.get(model, ModelRoute())
        if old.stable != new.stable or (old.stable in old.workers) != (new.stable in new.workers):
            yield _stable(model, old, new)
        if (old.candidate, old.share) != (new.candidate, new.share):
            if new.candidate is not None:
                share = format_share(new.share) if new.share else "no"
                yield f"{model}@{new.candidate} takes {share} of the traffic"
            elif old.candidate != new.stable:
                yield f"{model}@{old.candidate} takes no traffic any more"
        copied, no_more = _copied(new) - _copied(old), _copied(old) - _copied(new)
        yield from (f"{model}@{version} gets copies of requests" for version in sorted(copied))
        yield from (f"{model}@{version} gets no copies any more" for version in sorted(no_more))


def _stable(model: str, old: ModelRoute, new: ModelRoute) -> str:
    if new.stable is None or new.stable not in new.workers:
        return f"nothing answers {model}"
    instead = f", instead of {model}@{old.stable}" if old.stable not in (None, new.stable) else ""
    return f"{model}@{new.stable} takes traffic{instead}"


def _copied(route: ModelRoute) -> set[int]:
    return {shadow.version.version for shadow in route.shadows}
