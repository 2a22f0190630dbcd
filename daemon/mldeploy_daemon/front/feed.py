"""Who gets a copy of a request, decided by what a front sees without decoding: headers and the routing key.

Made once for every table. A criterion that names an input is decided by the mirror, as far as the headers
leave it open. Left out: sending the copy (`mirror.py`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mldeploy.core.criterion import Criterion, by_headers, headers_of, needs_inputs
from mldeploy.core.routing import Split
from mldeploy.core.where import parse
from mldeploy.errors import UsageError
from mldeploy_daemon.table import ShadowRoute, VersionRoutes

if TYPE_CHECKING:
    from mldeploy_daemon.front.exchange import Exchange
    from mldeploy_daemon.front.inputs import KeyOf
    from mldeploy_daemon.front.metrics import Count, Series

log = logging.getLogger(__name__)


class Shadow:
    """One shadow of a model, and how many requests were chosen for it."""

    def __init__(self, route: ShadowRoute, count: Count) -> None:
        self.id = route.id
        self.count = count
        fraction = route.fraction
        self._criterion: Criterion | None = None
        try:
            self._criterion = parse(route.where) if route.where else None
        except UsageError as error:  # of a newer agent: nothing is better than the wrong thing
            log.error("shadow %s: %s", route.id, error)
            fraction = 0
        self.takes = Split(route.salt or route.id, fraction).takes  # by the routing key
        #: Headers the mirror needs to decide the rest.
        self.headers = (
            headers_of(self._criterion) if self._criterion and needs_inputs(self._criterion) else frozenset()
        )

    def wants(self, exchange: Exchange) -> bool | None:
        """Whether the headers are right for it; None where the inputs decide."""
        return True if self._criterion is None else by_headers(self._criterion, exchange.header_text)


class Feed:
    """What of one version's requests is copied."""

    def __init__(
        self, model: str, version: int, key: KeyOf, series: Series, shadows: tuple[Shadow, ...], sampled: bool
    ) -> None:
        self.model, self.version, self.key = model, version, key
        self.series = series
        self.shadows = shadows
        self.sampled = sampled
        self.due = 0.0  # monotonic seconds: not sampled before
        self.skipped = 0  # requests of pauses


def make_feed(
    model: str, version: int, key: KeyOf, routes: VersionRoutes, series: Series, shadows: tuple[Shadow, ...]
) -> Feed | None:
    """The feed of a version; None where nothing of it is copied."""
    if not shadows and not routes.baseline:
        return None
    return Feed(model, version, key, series, shadows, bool(routes.baseline))
